//! HyperDHT: the lookups of Hyperswarm's programs (Pear, Keet), over UDP.
//!
//! Source: dht-rpc and udx-native, the programs' public source, seen on the wire. Matched: 03 (request) or 13 (answer)
//! @0, flags @1, transaction @2, then the IPv4 address @4 and the port @8 (little-endian) where this very datagram
//! goes. The flags say what follows, and the length must fit: an identifier and a token of 32 bytes each, a request's
//! command and target.
//!
//! From the network, a datagram names the address that it was sent to, which an address translation between the
//! program and this node has replaced: then only the other direction matches. IPv6 is not in use.
//!
//! UDX, the streams between two programs, runs over the same sockets with a header of its own (ff 01). Behind a lookup
//! or a hole punch of the same flow it has the flow's label; alone it is not looked for, as its header has too few
//! fixed bytes.
//!
//! Guard, in bits against random bytes: 61: first byte 7, address 32, port 16, unused flags 3, length 3 and more.

use super::dissector::Dissector;
use crate::{
    abi::{protocol::Protocol, rule::Rule},
    dissect::rule_state::RuleState,
    parse::payload::Payload,
};

/// First bytes.
pub(super) const DISSECTOR: Dissector = Dissector { udp: &[REQUEST, ANSWER], ..Dissector::new(Protocol::HyperDht) };

/// First byte of a request: type 0, version 3; and of its answer: type 1.
const REQUEST: u8 = 0x03;
const ANSWER: u8 = 0x13;
/// Flags of both: an identifier, a token, a value.
const ID: u32 = 1;
const TOKEN: u32 = 2;
const VALUE: u32 = 16;
/// Flags of a request: sent to the program itself; with a target.
const INTERNAL: u32 = 4;
const TARGET: u32 = 8;
/// Flags of an answer: with closer nodes; an error.
const NODES: u32 = 4;
const ERROR: u32 = 8;
/// Bytes of the header, and of each identifier, token and target.
const HEADER: u32 = 10;
const FIELD: u32 = 32;

/// Lookups and their answers.
#[inline(always)]
pub fn udp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    let (kind, flags) = (payload.byte(0), u32::from(payload.byte(1)));
    let first = (kind == REQUEST) || (kind == ANSWER);
    if !first || (payload.be32(4) != payload.destination_low) || (payload.le16(8) != payload.destination_port) {
        return None;
    }
    let fields = HEADER + (flags & ID) * FIELD + (flags & TOKEN) / TOKEN * FIELD;
    let fits = if kind == REQUEST {
        let whole = fields + 1 + (flags & TARGET) / TARGET * FIELD;
        (flags & !(ID | TOKEN | INTERNAL | TARGET | VALUE) == 0)
            && ((payload.len == whole) != (flags & VALUE != 0))
            && (payload.len >= whole)
    } else {
        let more = flags & (NODES | ERROR | VALUE) != 0;
        (flags & !(ID | TOKEN | NODES | ERROR | VALUE) == 0)
            && ((payload.len == fields) != more)
            && (payload.len >= fields)
    };
    fits.then_some(Rule::HyperdhtMessage)
}

#[cfg(test)]
mod tests {
    use crate::{
        abi::protocol::{Confidence, Protocol, Verdict},
        dissect::{classify, rule_state::RuleState, testing::hex},
        parse::payload::{Payload, Transport},
    };

    const FOUND: Option<Verdict> = Some(Verdict { protocol: Protocol::HyperDht, confidence: Confidence::Structural });

    /// The verdict of a datagram to 192.0.2.7, port 49737.
    fn udp(bytes: &[u8]) -> Option<Verdict> {
        let mut payload = Payload::from_bytes(bytes, 50_123, 49_737, true);
        payload.destination_low = u32::from_be_bytes([192, 0, 2, 7]);
        classify(Transport::Udp, &mut payload, &mut RuleState::default())
    }

    /// First byte, flags and so many bytes behind the header.
    fn message(kind: u8, flags: u8, behind: usize) -> Vec<u8> {
        [&[kind, flags][..], &hex("3412 c0000207 49c2"), &vec![0x5a; behind]].concat()
    }

    #[test]
    fn messages_to_the_address_that_they_name_match() {
        for (kind, flags, behind) in [
            (0x03, 0, 1),
            (0x03, 4, 1),
            (0x03, 1, 33),
            (0x03, 2, 33),
            (0x03, 4 | 8, 33),
            (0x03, 1 | 2 | 8, 97),
            (0x03, 1 | 8 | 16, 90),
            (0x13, 1, 32),
            (0x13, 1 | 2, 64),
            (0x13, 1 | 4, 32 + 121),
            (0x13, 2 | 4 | 16, 200),
            (0x13, 8, 1),
        ] {
            assert_eq!(udp(&message(kind, flags, behind)), FOUND, "{kind:#x}, {flags:#x}, {behind}");
        }
    }

    #[test]
    fn every_bit_of_the_address_and_of_the_kind_counts() {
        for byte in [0, 4, 5, 6, 7, 8, 9] {
            for bit in 0..8 {
                let mut other = message(0x03, 1 | 8, 65);
                other[byte] ^= 1 << bit;
                // The other kind has such messages, too.
                let kind = (byte == 0) & (bit == 4);
                assert_eq!(udp(&other).is_some(), kind, "bit {bit} of byte {byte}");
            }
        }
        let mut elsewhere = Payload::from_bytes(&message(0x03, 1 | 8, 65), 50_123, 49_737, true);
        elsewhere.destination_low = u32::from_be_bytes([100, 64, 0, 7]);
        assert_eq!(classify(Transport::Udp, &mut elsewhere, &mut RuleState::default()), None, "behind a translation");
    }

    #[test]
    fn lengths_that_do_not_fit_the_flags_do_not_match() {
        for (kind, flags, behind) in [
            (0x03, 0, 0),
            (0x03, 0, 2),
            (0x03, 8, 32),
            (0x03, 1 | 8, 66),
            (0x03, 16, 1),
            (0x03, 32, 1),
            (0x03, 0x80, 1),
            (0x13, 0, 1),
            (0x13, 1, 33),
            (0x13, 1 | 4, 32),
            (0x13, 0x20, 20),
        ] {
            assert_eq!(udp(&message(kind, flags, behind)), None, "{kind:#x}, {flags:#x}, {behind}");
        }
        assert_eq!(udp(&hex("ff01 02 00 00000001 00001000 00000002 00000001")), None, "UDX alone");
    }
}
