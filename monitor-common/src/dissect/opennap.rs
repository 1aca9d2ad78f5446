//! OpenNap (Napster): a client's login at an index server.
//!
//! Source: "Napster Messages" (opennap.sourceforge.net). A message is a four-byte head (little-endian length of the
//! rest, and a type) and text. Matched, on any port from 1024: login (2), new user login (6) and nick check (7) that
//! fill their segment with printable text, which has the client's name: one string in quotes after a blank.
//!
//! Guard: the length, the type, printable ASCII only, exactly one quoted string, and in a login three words before it
//! (name, password, port). JSON and similar formats have more quotation marks, or none after a blank.

use super::dissector::Dissector;
use crate::{
    abi::{protocol::Protocol, rule::Rule},
    bpf::branchless::{bytes_equal, count, printable_bytes},
    dissect::rule_state::RuleState,
    parse::payload::Payload,
};

/// First bytes, and prefixes that may be held.
pub(super) const DISSECTOR: Dissector = Dissector::new(Protocol::OpenNap);

/// Bits that are clear in the length and type of every message that is matched: such a head, sent in a segment of its
/// own, is held.
pub(super) const HEAD_CLEAR: u32 = 0xfff8_ff00;
/// Longest login that is inspected, in bytes; real ones have nick, password, port, client, speed.
const MAX_TEXT: u32 = 160;

/// Logins at index servers.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    let head = payload.le32(0);
    let (length, kind) = (head & 0xffff, head >> 16);
    let known = kind == 2 || kind == 6 || kind == 7;
    if !known || length.wrapping_sub(12) > MAX_TEXT - 12 || payload.len != length + 4 || !payload.has_peer_ports() {
        return None;
    }
    login(payload, length, if kind == 7 { 1 } else { 3 }).then_some(Rule::OpennapLogin)
}

/// Whether the text is printable and has one string in quotes with at least `words` words ahead of it.
///
/// Eight bytes at once: a loop over bytes that counts would have the verifier walk the rest of it for each outcome of
/// each.
#[inline(never)]
fn login(payload: &Payload, length: u32, words: u64) -> bool {
    let (mut printables, mut quotes, mut blanks, mut opened) = (0, 0, 0, 0);
    let (mut before, mut carry, mut index) = (u64::MAX, 0, 0);
    while index < (4 + MAX_TEXT as usize).div_ceil(8) {
        // The head is no text; bytes after the text are zero.
        let word = payload.counted_word(index) & if index == 0 { u64::MAX << 32 } else { u64::MAX };
        let (quote, blank) = (bytes_equal(word, b'"'), bytes_equal(word, b' '));
        printables += count(printable_bytes(word));
        quotes += count(quote);
        // Every bit below the lowest quotation mark, as long as there was none.
        blanks += count(blank & quote.wrapping_sub(1) & !quote & before);
        opened |= (blank << 8 | carry) & quote & quote.wrapping_neg() & before;
        if quote != 0 {
            before = 0;
        }
        carry = blank >> 56;
        index += 1;
    }
    let object = payload.byte(4) == b'{' || payload.byte(4) == b'[';
    (printables == u64::from(length)) & (quotes == 2) & (opened != 0) & (blanks >= words) & !object
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Flow, Label, every_bit_counts, every_byte_counts, hex, tcp};
    use crate::abi::protocol::{Confidence, Protocol};

    const STRUCTURAL: Label = Some((Protocol::OpenNap, Confidence::Structural));

    fn message(kind: u16, text: &str) -> Vec<u8> {
        [&(text.len() as u16).to_le_bytes(), kind.to_le_bytes().as_slice(), text.as_bytes()].concat()
    }

    #[test]
    fn logins_match() {
        let login = message(2, "user pass 6699 \"nap v0.8\" 8");
        assert_eq!(tcp(&login), STRUCTURAL);
        assert_eq!(tcp(message(6, "user pass 6699 \"nap v0.8\" 8 a@example.org")), STRUCTURAL);
        assert_eq!(tcp(message(7, "nick \"client\" abcdef")), STRUCTURAL);
        assert_eq!(Flow::tcp().ports(40_000, 443).ask(&login), None, "a service's port");
        every_bit_counts(&login, 0..2, |bytes| tcp(bytes));
        every_byte_counts(&login, |bytes| tcp(bytes));
    }

    #[test]
    fn bytes_of_a_word_are_told_apart() {
        for byte in 0..=u8::MAX {
            let word = u64::from_le_bytes([b' ', byte, b' ', 0xff, byte, 0, byte, b' ']);
            let is = |yes: bool| if yes { 0x0080_0080_0000_8000 } else { 0u64 };
            assert_eq!(super::bytes_equal(word, b'"') & 0x00ff_00ff_0000_ff00, is(byte == b'"'));
            let printable_bytes = super::printable_bytes(word);
            assert_eq!(printable_bytes, is((b' '..=b'~').contains(&byte)) | 0x8000_0000_0080_0080, "{byte:02x}");
            assert_eq!(super::count(printable_bytes), u64::from(printable_bytes.count_ones()));
        }
    }

    #[test]
    fn near_misses_do_not_match() {
        for frame in [
            message(2, "user pass 6699 no client 8"),
            message(2, "user pass 6699 \"one mark 8"),
            message(2, "user pass \"nap v0.8\" 8"),
            message(2, "user pass 6699\"nap v0.8\" 8"),
            message(2, "user pass 6699 \"nap\" \"v0.8\" 8"),
            message(2, "{\"op\":\"login\",\"user\":\"a\"}"),
            message(6, "{\"op\":\"ping\"}"),
            message(2, "{ a b c \"ping\" : 1 }"),
            message(7, "[ 1, 2, \"a\" ]"),
            message(7, "nick without a client"),
            message(3, "user pass 6699 \"nap v0.8\" 8"),
            message(4, "user pass 6699 \"nap v0.8\" 8"),
            message(3, "user pass 6699 \"nap v0.8\" 8"),
            message(2, "user pass 6699 \"nap\x01v0.8\" 8"),
            [message(2, "user pass 6699 \"nap v0.8\" 8"), vec![b' ']].concat(),
            hex("0000 0200"),
        ] {
            assert_eq!(tcp(&frame), None, "{frame:02x?}");
        }
    }
}
