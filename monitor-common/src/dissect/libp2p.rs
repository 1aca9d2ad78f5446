//! libp2p, the transport of IPFS, Filecoin, Ethereum and others: class `transport`, not file sharing.
//!
//! Source: multistream-select 1.0 and the WebSocket transport of the libp2p specifications, RFC 6455 for frames.
//! Matched:
//! - 0x13 "/multistream/1.0.0\n" at the start of a stream, whole or split across segments (`hold_rules.rs`); also
//!   without its first byte, if a segment of its own with that byte was lost;
//! - this greeting in a binary WebSocket frame, masked or not, with the length byte, or without it if that had its own
//!   frame, which may be in the same segment;
//! - UDP: discovery over multicast DNS, the name "_p2p._udp.local" on port 5353. It stays on the LAN.
//!
//! Guard: 19-byte literals.

use super::{
    dissector::{Dissector, prefix},
    websocket,
};
use crate::{
    abi::{protocol::Protocol, rule::Rule},
    dissect::rule_state::RuleState,
    parse::payload::Payload,
};

/// First bytes, and prefixes that may be held.
pub(super) const DISSECTOR: Dissector = Dissector {
    prefixes: &[prefix(b"\x13/multis", 19)],
    frames: &[websocket::BINARY],
    unsplit: b"/",
    ..Dissector::new(Protocol::LibP2p)
};

/// Multicast DNS (RFC 6762).
const MDNS_PORT: u16 = 5353;

/// Streams and WebSockets.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    if payload.has(0, b"\x13/multistream/1.0.0\n") || payload.has(0, b"/multistream/1.0.0\n") {
        return Some(Rule::Libp2pMultistream);
    }
    (payload.byte(0) == websocket::BINARY && framed(payload)).then_some(Rule::Libp2pWebsocket)
}

/// Whether a binary frame starts with the greeting.
#[inline(never)]
fn framed(payload: &Payload) -> bool {
    let Some((mut start, mut key)) = websocket::content(payload, 0) else { return false };
    // A frame of the length byte alone, followed by the next one.
    if payload.byte(1) & 0x7f == 1 && payload.byte(start) ^ key as u8 == 0x13 {
        (start, key) = match websocket::content(payload, start + 1) {
            Some(next) if payload.byte(start + 1) == websocket::BINARY => next,
            _ => return false,
        };
    }
    let mask = u64::from(key) | u64::from(key) << 32;
    let first = payload.le64(start) ^ mask;
    let second = payload.le64(start + 8) ^ mask;
    let whole = first == u64::from_le_bytes(*b"\x13/multis") && second == u64::from_le_bytes(*b"tream/1.");
    let rest = first == u64::from_le_bytes(*b"/multist") && second == u64::from_le_bytes(*b"ream/1.0");
    whole || rest
}

/// Whether a binary frame of which these two bytes were captured may start with the greeting.
#[inline(always)]
pub(super) const fn may_start_frame(content: u16) -> bool {
    matches!(content as u8, 0x13 | b'/')
}

/// Discovery.
#[inline(always)]
pub fn udp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    let mdns = payload.source_port == MDNS_PORT || payload.destination_port == MDNS_PORT;
    (mdns && payload.has(12, b"\x04_p2p\x04_udp\x05local\0")).then_some(Rule::Libp2pMdns)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Flow, Label, every_bit_counts, hex, tcp};
    use crate::abi::protocol::{Confidence, Protocol};

    const SIGNATURE: Label = Some((Protocol::LibP2p, Confidence::Signature));
    const GREETING: &[u8; 20] = b"\x13/multistream/1.0.0\n";

    #[test]
    fn greetings_match_whole_and_cut() {
        assert_eq!(tcp(GREETING), SIGNATURE);
        assert_eq!(tcp([GREETING.as_slice(), b"\x07/noise\n"].concat()), SIGNATURE);
        assert_eq!(tcp(&GREETING[1..]), SIGNATURE, "the length byte was lost");
        every_bit_counts(GREETING, 0..20, |bytes| tcp(bytes));
        every_bit_counts(&GREETING[1..], 0..19, |bytes| tcp(bytes));
        for cut in 1..20 {
            let mut flow = Flow::tcp();
            assert_eq!(flow.ask(&GREETING[..cut]), None);
            assert_eq!(flow.ask(&GREETING[cut..]), SIGNATURE, "cut at {cut}");
        }
    }

    #[test]
    fn frames_match_masked_and_not() {
        let key = hex("3e56c38f");
        for greeting in [&GREETING[..], &GREETING[1..]] {
            let masked: Vec<u8> = greeting.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
            let length = greeting.len() as u8;
            assert_eq!(tcp([&[0x82, 0x80 | length], key.as_slice(), &masked].concat()), SIGNATURE);
            assert_eq!(tcp([&[0x82, length], greeting].concat()), SIGNATURE);
            assert_eq!(tcp([&[0x81, length], greeting].concat()), None, "text");
        }
    }

    #[test]
    fn two_frames_in_one_segment_match() {
        let key = hex("3e56c38f");
        let masked: Vec<u8> = GREETING[1..].iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        let first = [&[0x82, 0x81], key.as_slice(), &[0x13 ^ key[0]]].concat();
        let first = first.as_slice();
        assert_eq!(tcp([first, &[0x82, 0x93], key.as_slice(), &masked].concat()), SIGNATURE);
        assert_eq!(tcp([first, &[0x81, 0x93], key.as_slice(), &masked].concat()), None, "text");
        assert_eq!(tcp([&[0x82, 1, 0x13, 0x82, 0x13], &GREETING[1..]].concat()), SIGNATURE);
        assert_eq!(tcp([&[0x82, 1, 0x12, 0x82, 0x13], &GREETING[1..]].concat()), None);
    }

    #[test]
    fn near_misses_do_not_match() {
        assert_eq!(tcp(b"GET /multistream/1.0.0 HTTP/1.1\r\n"), None);
        assert_eq!(tcp(b"\x13/multistream/2.0.0\n"), None);
    }

    #[test]
    fn discovery_matches_on_its_port_only() {
        let query =
            [hex("0000 0000 0001 0000 0000 0000"), b"\x04_p2p\x04_udp\x05local\0".to_vec(), hex("000c 0001")].concat();
        assert_eq!(Flow::udp().ports(5353, 5353).ask(&query), SIGNATURE);
        assert_eq!(Flow::udp().ask(&query), None);
        let other =
            [hex("0000 0000 0001 0000 0000 0000"), b"\x04_ipp\x04_tcp\x05local\0".to_vec(), hex("000c 0001")].concat();
        assert_eq!(Flow::udp().ports(5353, 5353).ask(&other), None);
    }
}
