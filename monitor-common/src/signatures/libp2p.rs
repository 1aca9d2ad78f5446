//! libp2p, the transport of IPFS, Filecoin, Ethereum and others: a class of its own, not file sharing.
//!
//! Source: multistream-select 1.0 and the WebSocket transport of the libp2p specifications, RFC 6455 for frames. Matched:
//! - 0x13 "/multistream/1.0.0\n" at the start of a stream, whole or (in `split.rs`) cut over segments;
//! - the same in a binary WebSocket frame, masked or not, with the length byte or, when that had its own frame, without;
//! - UDP: discovery over multicast DNS, the name "_p2p._udp.local" on port 5353. It stays on the LAN.
//!
//! Guard: 19-byte literals.

use super::websocket;
use crate::{
    payload::{FlowState, Payload},
    protocol::Confidence,
};

/// Multicast DNS (RFC 6762).
const MDNS_PORT: u16 = 5353;

/// Streams and WebSockets.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut FlowState) -> Option<Confidence> {
    if payload.has(0, b"\x13/multistream/1.0.0\n") {
        return Some(Confidence::Signature);
    }
    (payload.byte(0) == websocket::BINARY && framed(payload)).then_some(Confidence::Signature)
}

/// Whether a binary frame starts with the greeting.
#[inline(never)]
fn framed(payload: &Payload) -> bool {
    let Some((start, key)) = websocket::content(payload) else { return false };
    let mask = u64::from(key) | u64::from(key) << 32;
    let first = payload.le64(start) ^ mask;
    let second = payload.le64(start + 8) ^ mask;
    let whole = first == u64::from_le_bytes(*b"\x13/multis") && second == u64::from_le_bytes(*b"tream/1.");
    let rest = first == u64::from_le_bytes(*b"/multist") && second == u64::from_le_bytes(*b"ream/1.0");
    whole || rest
}

/// Discovery.
#[inline(always)]
pub fn udp(payload: &Payload, _state: &mut FlowState) -> Option<Confidence> {
    let mdns = payload.source_port == MDNS_PORT || payload.destination_port == MDNS_PORT;
    (mdns && payload.has(12, b"\x04_p2p\x04_udp\x05local\0")).then_some(Confidence::Signature)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Flow, Label, every_bit_counts, hex, tcp};
    use crate::protocol::{Confidence, Protocol};

    const SIGNATURE: Label = Some((Protocol::LibP2p, Confidence::Signature));
    const GREETING: &[u8; 20] = b"\x13/multistream/1.0.0\n";

    #[test]
    fn greetings_match_whole_and_cut() {
        assert_eq!(tcp(GREETING), SIGNATURE);
        assert_eq!(tcp([GREETING.as_slice(), b"\x07/noise\n"].concat()), SIGNATURE);
        every_bit_counts(GREETING, 0..20, |bytes| tcp(bytes));
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
    fn near_misses_do_not_match() {
        assert_eq!(tcp(b"/multistream/1.0.0\n"), None, "without its length");
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
