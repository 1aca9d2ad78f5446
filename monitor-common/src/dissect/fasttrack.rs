//! FastTrack (Kazaa, Grokster, iMesh).
//!
//! Source: giFT-FastTrack's reverse engineering (`PROTOCOL`, `crypt/`). Matched, on any port:
//! - the clear head of a link to a supernode, 12 bytes, the first four of them fixed; the rest is encrypted;
//! - downloads: "GET /.hash="; "GIVE " with a decimal identifier and nothing else; and, in `http.rs`, other requests
//!   and answers with an "X-Kazaa-" header;
//! - UDP: ping (27) and pong (28) with the network's name at its place.
//!
//! Guard: exact lengths and literals. Ports below 1024 are excluded for UDP and for the text "GIVE 100", which a chat
//! may contain.

use super::dissector::{Dissector, prefix};
use crate::{
    abi::{limits::HELD_BYTES, protocol::Protocol, rule::Rule},
    dissect::rule_state::RuleState,
    parse::payload::Payload,
};

/// First bytes, and prefixes that may be held.
pub(super) const DISSECTOR: Dissector = Dissector {
    prefixes: &[prefix(b"GET /.ha", HELD_BYTES), prefix(b"GIVE ", 18), prefix(b"\xfa\x00\xb6\x2b", 11)],
    udp: b"\x27\x28",
    ..Dissector::new(Protocol::FastTrack)
};

/// The start of the names of headers, and of the client that has none of them (nDPI: "PeerEnabler/").
pub(super) const HTTP_HEADER: &[u8; 8] = b"X-Kazaa-";
pub(super) const AGENT: &[u8; 8] = b"PeerEnab";

/// The clear head of a link: random seed's mask and encryption type as clients send them.
const LINK: u32 = u32::from_be_bytes([0xfa, 0x00, 0xb6, 0x2b]);
/// Length of a link's first segment and of a ping, in bytes.
const LEN: u32 = 12;

/// Links to supernodes and downloads.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    let head = payload.be32(0);
    if head == u32::from_be_bytes(*b"GIVE") {
        return give(payload).then_some(Rule::FasttrackGive);
    }
    let link = head == LINK && payload.len == LEN;
    if link {
        return Some(Rule::FasttrackLink);
    }
    payload.has(0, b"GET /.hash=").then_some(Rule::FasttrackRequest)
}

/// Whether the segment is a push: a decimal identifier of up to ten digits between a blank and the line's end, at most
/// an empty line behind it.
#[inline(never)]
fn give(payload: &Payload) -> bool {
    let mut index = 5;
    while index < 15 {
        if !payload.counted(index).is_ascii_digit() {
            break;
        }
        index += 1;
    }
    let behind = payload.len.wrapping_sub(index as u32);
    let ends = behind == 2 || (behind == 4 && payload.has(index, b"\r\n\r\n"));
    payload.byte(4) == b' ' && index > 5 && payload.has(index, b"\r\n") && ends && payload.has_peer_ports()
}

/// Pings and pongs between supernodes and clients.
#[inline(always)]
pub fn udp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    let ping = payload.byte(0) == 0x27 && payload.len == LEN && payload.has(6, b"KaZaA\0");
    let name = u64::from_be_bytes(*b"\0\0KaZaA\0");
    let pong = payload.byte(0) == 0x28 && u64::from_be_bytes(payload.tail) & 0xffff_ffff_ffff == name;
    ((ping || pong) && payload.has_peer_ports()).then_some(Rule::FasttrackUdp)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Flow, Label, every_bit_counts, every_byte_counts, hex, tcp, udp};
    use crate::abi::protocol::{Confidence, Protocol};

    const SIGNATURE: Label = Some((Protocol::FastTrack, Confidence::Signature));

    #[test]
    fn links_and_downloads_match() {
        let link = hex("fa00b62b 07716acf c991489b");
        every_bit_counts(&link, 0..4, |bytes| tcp(bytes));
        every_byte_counts(&link, |bytes| tcp(bytes));
        for request in [
            "GET /.hash=ea97adc32b795a9ab45937c5e151dfda397a5d0f HTTP/1.1\r\n",
            "GET /1234/a%20song.mp3 HTTP/1.1\r\nHost: 192.0.2.1:1214\r\nX-Kazaa-Username: someone\r\n",
            "GET /My%20Music/a%20song.mp3 HTTP/1.1\r\nHost: 192.0.2.1:1214\r\nX-Kazaa-Username: someone\r\n",
            "GET /a.mp3 HTTP/1.1\r\nHost: 192.0.2.1:1214\r\nUser-Agent: PeerEnabler/1.0\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Kazaa-Username: someone\r\n",
        ] {
            assert_eq!(tcp(request), SIGNATURE, "{request}");
        }
    }

    #[test]
    fn pushes_are_a_whole_segment_between_peers() {
        for push in ["GIVE 1234567\r\n\r\n", "GIVE 1234567890\r\n"] {
            assert_eq!(tcp(push), Some((Protocol::FastTrack, Confidence::Structural)), "{push}");
            assert_eq!(Flow::tcp().ports(40_000, 23).ask(push), None, "a service's port");
        }
        for text in ["GIVE 100\r\nto someone\r\n", "GIVE 100\r\n..", "GIVE 100\r\n\r\n."] {
            assert_eq!(tcp(text), None, "{text}");
        }
    }

    #[test]
    fn pings_and_pongs_match() {
        let ping = hex("27 00000029 80 4b615a614100");
        assert_eq!(udp(&ping), SIGNATURE);
        assert_eq!(Flow::udp().ports(40_000, 53).ask(&ping), None, "a service's port");
        every_bit_counts(&ping, 6..12, |bytes| udp(bytes));
        assert_eq!(udp(hex("28 00000029 00 0000000010 4b615a614100")), SIGNATURE);
        assert_eq!(udp(hex("27 00000029 80 4b615a614100 00")), None);
        assert_eq!(udp(hex("27 00000029 80 4b615a614101")), None);
        assert_eq!(udp(hex("28 00000029 00 0000000010 4b615a6141")), None);
    }

    #[test]
    fn near_misses_do_not_match() {
        for text in [
            "GIVE me the file\r\n",
            "GIVE 12345678901\r\n",
            "GIVE \r\n",
            "GIVEN 123\r\n",
            "GET /hash=ea97 HTTP/1.1\r\n",
            "GET /1234/a.mp3 HTTP/1.1\r\nHost: example.org\r\n\r\n",
        ] {
            assert_eq!(tcp(text), None, "{text}");
        }
        assert_eq!(tcp(hex("fa00b62b 07716acf c991489b 00")), None);
    }
}
