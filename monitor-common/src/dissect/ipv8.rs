//! IPv8: overlays of Tribler and other programs, with messages between peers over UDP.
//!
//! Source: py-ipv8, the programs' public source. Matched: 00 02 @0, a community's identifier of 20 bytes @2, a message
//! number @22. The communities of Tribler's discovery, DHT and tunnels by their identifiers; those of other programs by
//! the key that signed messages begin with: its length 74 @23, "LibNaCLPK:" @25.
//!
//! The cells of the tunnels are ciphertext behind the community's identifier, and are found by it. What they carry is
//! hidden.
//!
//! Guard, in bits against random bytes: 176 with a known community, 112 with a key.

use super::dissector::Dissector;
use crate::{
    abi::{protocol::Protocol, rule::Rule},
    dissect::rule_state::RuleState,
    parse::payload::Payload,
};

/// First bytes.
pub(super) const DISSECTOR: Dissector = Dissector { udp: &[0], ..Dissector::new(Protocol::Ipv8) };

/// Version of all messages.
const VERSION: u16 = 2;
/// Bytes in front of a message's content.
const HEADER: u32 = 23;
/// Length and start of the key of a signed message.
const KEY: &[u8; 12] = b"\x00\x4aLibNaCLPK:";
/// Identifiers of communities.
const DISCOVERY: &[u8; 20] = b"\x7e\x31\x36\x85\xc1\x91\x2a\x14\x12\x79\xf8\x24\x8f\xc8\xdb\x58\x99\xc5\xdf\x5a";
const DHT: &[u8; 20] = b"\x8d\x0b\xe1\x84\x5d\x74\xd1\x75\xf1\x78\x19\x7c\xad\x00\x15\x91\xd0\x4d\x73\xcc";
const TUNNELS: &[u8; 20] = b"\x81\xde\xd0\x73\x32\xbd\xc7\x75\xaa\x5a\x46\xf9\x6d\xe9\xf8\xf3\x90\xbb\xc9\xf3";

/// Messages of a community.
#[inline(always)]
pub fn udp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    if payload.be16(0) != VERSION {
        return None;
    }
    let known = payload.has(2, DISCOVERY) | payload.has(2, DHT) | payload.has(2, TUNNELS);
    if known && payload.len >= HEADER {
        return Some(Rule::Ipv8Community);
    }
    payload.has(HEADER as usize, KEY).then_some(Rule::Ipv8Signed)
}

#[cfg(test)]
mod tests {
    use super::{DHT, DISCOVERY, KEY, TUNNELS};
    use crate::{
        abi::protocol::{Confidence, Protocol},
        dissect::testing::{Flow, Label, every_bit_counts, every_byte_counts, hex, udp},
    };

    const SIGNATURE: Label = Some((Protocol::Ipv8, Confidence::Signature));

    fn message(community: &[u8], number: u8, content: &[u8]) -> Vec<u8> {
        [&[0, 2][..], community, &[number], content].concat()
    }

    #[test]
    fn messages_of_known_communities_match() {
        for community in [DISCOVERY, DHT, TUNNELS] {
            let cell = message(community, 0, &[0xd3; 400]);
            every_bit_counts(&cell, 0..22, |bytes| udp(bytes));
            every_byte_counts(&cell[..23], |bytes| udp(bytes));
            assert_eq!(Flow::udp().answer(&cell), SIGNATURE);
            assert_eq!(Flow::udp().ports(7759, 443).ask(&cell), SIGNATURE, "on any port");
        }
    }

    #[test]
    fn signed_messages_of_other_communities_match() {
        let signed = message(&[0x5a; 20], 0xf6, &[&KEY[..], &[7; 64], &[9; 30]].concat());
        assert_eq!(udp(&signed), SIGNATURE);
        every_bit_counts(&signed, 0..2, |bytes| udp(bytes));
        every_bit_counts(&signed, 23..35, |bytes| udp(bytes));
        every_byte_counts(&signed[..35], |bytes| udp(bytes));
    }

    #[test]
    fn near_misses_do_not_match() {
        let other = hex("5b313685c1912a141279f8248fc8db5899c5df5a");
        assert_eq!(udp(message(&other, 0xf6, &[0x5a; 100])), None, "another community, unsigned");
        assert_eq!(udp(message(&other, 0xf6, b"\x00\x4bLibNaCLPK:0123456789")), None, "another length");
        assert_eq!(udp([&[0, 2][..], b"DISCOVERY7e313685c1912a141279f8248fc8db"].concat()), None);
        assert_eq!(udp([&[0, 1][..], DHT, &[0xf6]].concat()), None, "another version");
        // STUN with a long transaction, a TFTP write request.
        assert_eq!(udp(hex("0002 0008 2112a442 b7e7a701bc34d686fa87dfae 0020 0004 0001a147")), None);
        assert_eq!(udp(b"\x00\x02image.bin\0octet\0tsize\x001024\0blksize\x001428\0"), None);
    }
}
