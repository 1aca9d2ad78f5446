//! Gnutella2 (G2, "MP2") over UDP.
//!
//! Source: "The Gnutella2 Developers' Network", reliable UDP transport. Matched: the tag "GND", flags, sequence, part
//! number and part count that agree with each other. G2 over TCP starts with the handshake of Gnutella 0.6 and counts
//! as that.
//!
//! Guard: ports below 1024 are excluded. Text that starts with GND has no flags below 0x10 next, and no part number
//! that fits its count.

use super::dissector::Dissector;
use crate::{
    abi::{protocol::Protocol, rule::Rule},
    dissect::rule_state::RuleState,
    parse::payload::Payload,
};

/// First bytes, and prefixes that may be held.
pub(super) const DISSECTOR: Dissector = Dissector { udp: b"G", ..Dissector::new(Protocol::Gnutella2) };

/// Packet header, in bytes: 3 tag, 1 flags, 2 sequence, 1 part, 1 count.
const HEADER: u32 = 8;
/// Flag bits that must be clear: 0x01 deflate, 0x02 acknowledge me; 0x10 occurs in traces.
const RESERVED_FLAGS: u8 = 0xec;

/// Reliable UDP packets.
#[inline(always)]
pub fn udp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    if (payload.le32(0) & 0x00ff_ffff != u32::from_le_bytes(*b"GND\0")) || (payload.len < HEADER) {
        return None;
    }
    let (flags, part, count) = (payload.byte(3), payload.byte(6), payload.byte(7));
    let parts = (part >= 1) && ((count == 0) || (count >= part));
    // An acknowledgement has no count and no content.
    let acknowledgement = (count != 0) || (payload.len == HEADER);
    ((flags & RESERVED_FLAGS == 0) && parts & acknowledgement & payload.has_peer_ports()).then_some(Rule::Gnutella2Udp)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Flow, Label, every_bit_counts, every_byte_counts, hex, udp};
    use crate::abi::protocol::{Confidence, Protocol};

    const STRUCTURAL: Label = Some((Protocol::Gnutella2, Confidence::Structural));

    #[test]
    fn packets_and_acknowledgements_match() {
        let packet = [hex("474e44 03 1234 01 02"), vec![7; 60]].concat();
        assert_eq!(udp(&packet), STRUCTURAL);
        assert_eq!(Flow::udp().ports(40_000, 53).ask(&packet), None, "a service's port");
        every_bit_counts(&packet, 0..3, |bytes| udp(bytes));
        let acknowledgement = hex("474e44 10 1234 01 00");
        assert_eq!(udp(&acknowledgement), STRUCTURAL);
        every_byte_counts(&acknowledgement, |bytes| udp(bytes));
    }

    #[test]
    fn near_misses_do_not_match() {
        for frame in [
            b"GND station report".to_vec(),
            hex("474e44 04 1234 01 02 00"),
            hex("474e44 03 1234 03 02 00"),
            hex("474e44 03 1234 00 02 00"),
            hex("474e44 03 1234 01 00 00"),
            hex("474e44"),
        ] {
            assert_eq!(udp(&frame), None, "{frame:02x?}");
        }
    }
}
