//! Ares Galaxy: the first message of a link between two nodes.
//!
//! Source: published reverse engineering of Ares (libprotoident, nDPI traces). Matched: a message of six bytes that is
//! a little-endian length of 3, type 0x5a, two bytes, and 05 or 06.
//!
//! Guard: the lengths of message and segment agree. With type and last byte this makes 31 bits of evidence in a segment
//! of six bytes. Ports below 1024 are excluded. The answer (138 bytes, three of them fixed) never counts: many
//! protocols put a 16-bit length before a segment of that length.

use super::dissector::Dissector;
use crate::{
    abi::{protocol::Protocol, rule::Rule},
    dissect::rule_state::RuleState,
    parse::payload::Payload,
};

/// First bytes, and prefixes that may be held.
pub(super) const DISSECTOR: Dissector = Dissector { unsplit: b"\x03", ..Dissector::new(Protocol::Ares) };

/// Length field and type of the greeting.
const GREETING: u32 = u32::from_le_bytes([0x03, 0x00, 0x5a, 0]);

/// Links between nodes.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    let head = payload.le32(0) & 0x00ff_ffff;
    let last = payload.byte(5);
    let greeting = payload.len == 6 && head == GREETING && (last == 5 || last == 6);
    (greeting && payload.has_peer_ports()).then_some(Rule::AresGreeting)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Flow, Label, every_bit_counts, every_byte_counts, hex, tcp};
    use crate::abi::protocol::{Confidence, Protocol};

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
    fn an_answer_alone_proves_too_little() {
        for kind in ["3b", "3c"] {
            assert_eq!(tcp([hex("8700"), hex(kind), vec![0x55; 135]].concat()), None);
        }
    }

    #[test]
    fn near_misses_do_not_match() {
        for frame in [hex("03005a 0606 07"), hex("03005a 0606 05 00"), hex("04005a 0606 05"), hex("03005b 0606 05")] {
            assert_eq!(tcp(&frame), None, "{frame:02x?}");
        }
    }
}
