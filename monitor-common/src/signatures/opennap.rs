//! OpenNap (Napster): a client's login at an index server.
//!
//! Source: "Napster Messages" (opennap.sourceforge.net). Messages are a little-endian length that counts what follows the
//! four-byte head, a type, and text. Matched: login (2), new user login (6) and nick check (7) that fill their segment with
//! printable text; logins have the client's name in quotes.
//!
//! Guard: the length, the type, and that no byte of the text is outside ASCII's printable range.

use super::text::unequal;
use crate::{
    payload::{FlowState, Payload},
    protocol::Confidence,
};

/// Longest login that is looked into, in bytes; real ones have nick, password, port, client, speed.
const MAX_TEXT: u32 = 160;

/// Logins at index servers.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut FlowState) -> Option<Confidence> {
    let head = payload.le32(0);
    let (length, kind) = (head & 0xffff, head >> 16);
    if kind > 7 || length.wrapping_sub(12) > MAX_TEXT - 12 || payload.len != length + 4 {
        return None;
    }
    // Types 2 and 6; type 7 has no quoted text to tell it from other text.
    ((kind == 2 || kind == 6) && login(payload, length)).then_some(Confidence::Structural)
}

/// Whether the text is printable and has a quotation mark.
#[inline(never)]
fn login(payload: &Payload, length: u32) -> bool {
    let mut quoted = u64::MAX;
    let mut index = 0;
    while index < MAX_TEXT as usize {
        if index >= length as usize {
            break;
        }
        let byte = payload.counted(4 + index);
        if byte.wrapping_sub(b' ') > b'~' - b' ' {
            return false;
        }
        quoted &= unequal(u64::from(byte ^ b'"'));
        index += 1;
    }
    quoted >> 63 == 0
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Label, every_bit_counts, every_byte_counts, hex, tcp};
    use crate::protocol::{Confidence, Protocol};

    const STRUCTURAL: Label = Some((Protocol::OpenNap, Confidence::Structural));

    fn message(kind: u16, text: &str) -> Vec<u8> {
        [&(text.len() as u16).to_le_bytes(), kind.to_le_bytes().as_slice(), text.as_bytes()].concat()
    }

    #[test]
    fn logins_match() {
        let login = message(2, "user pass 6699 \"nap v0.8\" 8");
        assert_eq!(tcp(&login), STRUCTURAL);
        assert_eq!(tcp(message(6, "user pass 6699 \"nap v0.8\" 8 a@example.org")), STRUCTURAL);
        every_bit_counts(&login, 0..2, |bytes| tcp(bytes));
        every_byte_counts(&login, |bytes| tcp(bytes));
    }

    #[test]
    fn near_misses_do_not_match() {
        for frame in [
            message(2, "user pass 6699 no client 8"),
            message(3, "user pass 6699 \"nap v0.8\" 8"),
            message(2, "user pass 6699 \"nap\x01v0.8\" 8"),
            [message(2, "user pass 6699 \"nap v0.8\" 8"), vec![b' ']].concat(),
            hex("0000 0200"),
        ] {
            assert_eq!(tcp(&frame), None, "{frame:02x?}");
        }
    }
}
