//! Ares Galaxy: the first message of a link between two nodes.
//!
//! Source: published reverse engineering of Ares (libprotoident, nDPI traces). Matched: a message of six bytes that is a
//! little-endian length of 3, type 0x5a, two bytes, and 05 or 06; or, for links that began earlier, its answer, a message of 138
//! bytes with their length less 3 and type 0x3b or 0x3c.
//!
//! Guard: the lengths in the message and of the segment agree, which with type and last byte makes 31 bits of evidence for a
//! greeting and 23 for an answer of just this length; neither counts on a port below 1024.

use crate::{
    payload::{FlowState, Payload},
    protocol::Confidence,
};

/// Length field and type of the greeting.
const GREETING: u32 = u32::from_le_bytes([0x03, 0x00, 0x5a, 0]);

/// Length field and type of the answer, whose type may be one lower.
const ANSWER: u32 = u32::from_le_bytes([0x87, 0x00, 0x3c, 0]);
/// Length of the whole answer, in bytes.
const ANSWER_LEN: u32 = 138;

/// Links between nodes.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut FlowState) -> Option<Confidence> {
    let head = payload.le32(0) & 0x00ff_ffff;
    let last = payload.byte(5);
    let greeting = payload.len == 6 && head == GREETING && (last == 5 || last == 6);
    let answer = payload.len == ANSWER_LEN && (head == ANSWER || head == ANSWER - 0x0001_0000);
    ((greeting || answer) && payload.high_ports()).then_some(Confidence::Structural)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Flow, Label, every_bit_counts, every_byte_counts, hex, tcp};
    use crate::protocol::{Confidence, Protocol};

    const STRUCTURAL: Label = Some((Protocol::Ares, Confidence::Structural));

    #[test]
    fn greetings_match() {
        let greeting = hex("03005a 0606 05");
        assert_eq!(tcp(&greeting), STRUCTURAL);
        assert_eq!(tcp(hex("03005a 1234 06")), STRUCTURAL);
        every_bit_counts(&greeting, 0..3, |bytes| tcp(bytes));
        every_byte_counts(&greeting, |bytes| tcp(bytes));
        assert_eq!(Flow::tcp().ports(40_000, 25).ask(&greeting), None, "a service's port");
    }

    #[test]
    fn answers_match() {
        for kind in ["3b", "3c"] {
            let mut answer = [hex("8700"), hex(kind)].concat();
            answer.resize(138, 0x55);
            assert_eq!(Flow::tcp().answer(&answer), STRUCTURAL);
            assert_eq!(Flow::tcp().ports(40_000, 443).answer(&answer), None, "a service's port");
            answer.push(0x55);
            assert_eq!(Flow::tcp().answer(&answer), None);
        }
        assert_eq!(tcp([hex("87003d"), vec![0x55; 135]].concat()), None);
    }

    #[test]
    fn near_misses_do_not_match() {
        for frame in [hex("03005a 0606 07"), hex("03005a 0606 05 00"), hex("04005a 0606 05"), hex("03005b 0606 05")] {
            assert_eq!(tcp(&frame), None, "{frame:02x?}");
        }
    }
}
