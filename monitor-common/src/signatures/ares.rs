//! Ares Galaxy: the first message of a link between two nodes.
//!
//! Source: published reverse engineering of Ares (libprotoident, nDPI traces). Matched: a message of six bytes that is a
//! little-endian length of 3, type 0x5a, two bytes, and 05 or 06; or its answer of 138 bytes, which is built alike.
//!
//! Guard: the lengths in the message and of the segment agree, which with type and last byte makes 31 bits of evidence.

use crate::{
    payload::{FlowState, Payload},
    protocol::Confidence,
};

/// Length field and type of the greeting.
const GREETING: u32 = u32::from_le_bytes([0x03, 0x00, 0x5a, 0]);

/// Links between nodes.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut FlowState) -> Option<Confidence> {
    if payload.len != 6 || payload.le32(0) & 0x00ff_ffff != GREETING {
        return None;
    }
    let last = payload.byte(5);
    (last == 5 || last == 6).then_some(Confidence::Structural)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Label, every_bit_counts, every_byte_counts, hex, tcp};
    use crate::protocol::{Confidence, Protocol};

    const STRUCTURAL: Label = Some((Protocol::Ares, Confidence::Structural));

    #[test]
    fn greetings_match() {
        let greeting = hex("03005a 0606 05");
        assert_eq!(tcp(&greeting), STRUCTURAL);
        assert_eq!(tcp(hex("03005a 1234 06")), STRUCTURAL);
        every_bit_counts(&greeting, 0..3, |bytes| tcp(bytes));
        every_byte_counts(&greeting, |bytes| tcp(bytes));
    }

    #[test]
    fn near_misses_do_not_match() {
        for frame in [hex("03005a 0606 07"), hex("03005a 0606 05 00"), hex("04005a 0606 05"), hex("03005b 0606 05")] {
            assert_eq!(tcp(&frame), None, "{frame:02x?}");
        }
    }
}
