//! Gnutella 0.6: handshake, downloads and pushes over TCP, messages over UDP.
//!
//! Source: "RFC Gnutella 0.6" (rfc-gnutella.sourceforge.net), the HUGE proposal for `/uri-res/N2R`, Mojito for the DHT.
//! Matched, on any port:
//! - "GNUTELLA CONNECT/", "GNUTELLA/" and a digit (either side), version 0.4's "GNUTELLA OK" and a line feed;
//! - "GET /uri-res/N2R?urn:sha1:" and the other services and hashes of HUGE and THEX (also HEAD);
//! - the paths "/gnutella/push-proxy?", "/gnet/push-proxy?", "/gnutella/tigertree/" and those of Shareaza's services;
//!   "PUSH guid:";
//! - requests and answers with a header of Gnutella (in `http.rs`);
//! - "GIV ", a file index, ":", the servent's identifier as 32 hexadecimal digits, "/";
//! - UDP: the 23-byte message header with a payload length at offset 19 that agrees with the datagram, a known message
//!   type and at least the bytes of a message of this type.
//!
//! Guard: literals. For UDP: the 32-bit length, type, least length and plausible hop counts; ports below 1024 are
//! excluded.

use super::{
    content::base32,
    dissector::{Dissector, prefix},
};
use crate::{
    abi::{limits::HELD_BYTES, protocol::Protocol, rule::Rule, watch::ContentHash},
    bpf::branchless::{EACH_BYTE, TOP_BITS},
    dissect::rule_state::RuleState,
    parse::payload::Payload,
};

/// First bytes, and prefixes that may be held.
pub(super) const DISSECTOR: Dissector = Dissector {
    prefixes: &[
        prefix(b"GET /uri", HELD_BYTES),
        prefix(b"GET /gnu", HELD_BYTES),
        prefix(b"GET /gne", HELD_BYTES),
        prefix(b"GET /get", 9),
        prefix(b"HEAD /ur", HELD_BYTES),
        prefix(b"HEAD /gn", HELD_BYTES),
        prefix(b"GNUTELLA", 16),
        prefix(b"GIV ", 50),
        prefix(b"PUSH gui", 45),
    ],
    ..Dissector::new(Protocol::Gnutella)
};

/// The start of the names of headers, the header of a queued download, and clients by the first eight characters of
/// their names.
pub(super) const HTTP_HEADER: &[u8; 8] = b"X-Gnutel";
pub(super) const QUEUE: &[u8; 8] = b"X-Queue:";
const AGENTS: [&[u8; 8]; 8] =
    [b"LimeWire", b"Morpheus", b"Shareaza", b"gtk-gnut", b"Gnucleus", b"Gnutella", b"giFT-Gnu", b"BearShar"];

/// Start of the name of a file by its hash (HUGE); nothing is held from there on.
pub(super) const URN: &[u8; 4] = b"urn:";
/// Message header, in bytes: 16 identifier, 1 type, 1 time to live, 1 hops, 4 payload length.
const HEADER: u32 = 23;
/// Type of the DHT's messages (Mojito), which have a version where others have time to live and hops.
const DHT: u8 = 0x44;
/// Length of a "PUSH guid:" segment, in bytes (nDPI).
const PUSH_LEN: u32 = 46;
/// No servent lets a message live for longer, or travel further.
const MAX_HOPS: u8 = 16;

/// Handshake, downloads and pushes.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    let head = payload.le32(0);
    let gnutella = head == u32::from_le_bytes(*b"GNUT");
    let get = (head == u32::from_le_bytes(*b"GET ")) || (head == u32::from_le_bytes(*b"HEAD"));
    let push = head == u32::from_le_bytes(*b"GIV ");
    if head == u32::from_le_bytes(*b"PUSH") {
        return (payload.len == PUSH_LEN && payload.has(4, b" guid:")).then_some(Rule::GnutellaPush);
    }
    if !(gnutella | get | push) {
        return None;
    }
    if gnutella {
        let status = payload.has(4, b"ELLA/") && payload.byte(9).is_ascii_digit();
        (status | payload.has(4, b"ELLA CONNECT/") | payload.has(4, b"ELLA OK\n")).then_some(Rule::GnutellaHandshake)
    } else if get {
        download(payload).then_some(Rule::GnutellaRequest)
    } else {
        giv(payload).then_some(Rule::GnutellaGiv)
    }
}

/// Whether this is a request that the client with this name sends: for a file, or BearShare's for the bare path.
#[inline(always)]
pub(super) fn is_client_request(payload: &Payload, name: u64) -> bool {
    let bearshare = name == u64::from_le_bytes(*b"BearShar") && payload.has(0, b"GET / HTTP/1.");
    let mut known = name & 0xff_ffff_ffff == u64::from_le_bytes(*b"Phex \0\0\0");
    let mut index = 0;
    while index < AGENTS.len() {
        known |= name == u64::from_le_bytes(*AGENTS[index]);
        index += 1;
    }
    bearshare || known && is_file_request(payload)
}

/// Whether this is a request for a file by its index.
#[inline(always)]
pub(super) fn is_file_request(payload: &Payload) -> bool {
    payload.has(0, b"GET /get/") && payload.byte(9).is_ascii_digit()
}

/// Whether a request is for a path that only servents serve.
#[inline(never)]
fn download(payload: &Payload) -> bool {
    // The path is one byte further in a HEAD request.
    let path = if payload.byte(4) == b' ' { 5 } else { 4 };
    if payload.has(path, b"/uri-res/N2") {
        // N2R, N2X for a hash tree, N2XS. Libraries resolve other names than hashes of files (RFC 2169).
        let name = if payload.byte(path + 12) == b'?' { path + 13 } else { path + 14 };
        return payload.byte(name - 1) == b'?'
            && (payload.has(name, b"urn:sha1:")
                || payload.has(name, b"urn:bitprint:")
                || payload.has(name, b"urn:tree:tiger/:")
                || payload.has(name, b"urn:ed2k:"));
    }
    if !payload.has(path, b"/gnutella/") {
        return payload.has(path, b"/gnet/push-proxy?");
    }
    payload.has(path + 10, b"push-proxy?")
        || payload.has(path + 10, b"tigertree/")
        || payload.has(path + 10, b"thex/v")
        || payload.has(path + 10, b"preview/v")
        || payload.has(path + 10, b"metadata/v")
}

/// Whether the segment is a push: a decimal index of up to ten digits, a colon, 32 hexadecimal digits, a slash.
#[inline(never)]
fn giv(payload: &Payload) -> bool {
    let mut digits = 4;
    while digits < 15 {
        if !payload.counted(digits).is_ascii_digit() {
            break;
        }
        digits += 1;
    }
    if (digits == 4) || (payload.byte(digits) != b':') {
        return false;
    }
    let start = digits + 1;
    let words = [payload.le64(start), payload.le64(start + 8), payload.le64(start + 16), payload.le64(start + 24)];
    let outside = outside_hex(words[0]) | outside_hex(words[1]) | outside_hex(words[2]) | outside_hex(words[3]);
    (outside == 0) && (payload.byte(digits + 33) == b'/')
}

/// Zero when all eight bytes lie between '0' and 'f': one test without branches in place of eight with six each.
#[inline(always)]
const fn outside_hex(word: u64) -> u64 {
    (word | word.wrapping_add((0x7f - b'f' as u64) * EACH_BYTE) | !((word | TOP_BITS) - b'0' as u64 * EACH_BYTE))
        & TOP_BITS
}

/// Messages over UDP.
#[inline(always)]
pub fn udp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    // The length first: it is the strongest and rejects nearly everything.
    if (payload.le32(19) != payload.len.wrapping_sub(HEADER)) || (payload.len < HEADER) || !payload.has_peer_ports() {
        return None;
    }
    message(payload).then_some(Rule::GnutellaUdp)
}

/// The part of [`udp`] after its gate.
#[inline(never)]
fn message(payload: &Payload) -> bool {
    // QUIC's version negotiation (RFC 8999 section 6) repeats the sender's bytes from its seventh byte on: a
    // subscriber's server must not appear to speak Gnutella by it.
    if payload.byte(0) & 0x80 != 0 && payload.be32(1) == 0 {
        return false;
    }
    let kind = payload.byte(16);
    let (ttl, hops) = (payload.byte(17) & 0x7f, payload.byte(18));
    let body = payload.len - HEADER;
    let enough = match kind {
        // A ping is nothing but its header, so that one must not be all zeros.
        0x00 => (body != 0) | (ttl | hops != 0),
        // Pong: port, address, files, kilobytes; bye: code.
        0x01 => body >= 14,
        0x02 => body >= 2,
        // QRP: variant; vendor messages: vendor, selector, version.
        0x30 => body >= 1,
        0x31 | 0x32 => body >= 8,
        // Push: servent, index, address, port; query: speed, text; hit: count, port, address, speed, servent.
        0x40 => body >= 26,
        0x80 => body >= 3,
        0x81 => body >= 27,
        0x82 => body >= 1,
        // Opcode, the sender's contact with an IPv4 address, instance, flags, length of more.
        DHT => body >= 38,
        _ => false,
    };
    let lives = (kind == DHT) | ((ttl <= MAX_HOPS) & (hops <= MAX_HOPS));
    // An identifier of zeros is no message but a zero-filled one of another protocol.
    let identified = (payload.le64(0) | payload.le64(8)) != 0;
    enough & lives & identified
}

/// The SHA-1 in a request for a file by its hash.
#[inline(always)]
pub(super) fn content(payload: &Payload, found: &mut ContentHash) {
    if payload.has(0, b"GET /uri-res/N2R?urn:sha1:") {
        base32(payload, 26, found);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Flow, Label, every_bit_counts, every_byte_counts, hex, tcp, udp};
    use crate::{
        abi::{
            protocol::{Confidence, Protocol},
            watch::ContentHash,
        },
        dissect::content,
        parse::payload::Transport,
    };
    use proptest::prelude::*;

    const SIGNATURE: Label = Some((Protocol::Gnutella, Confidence::Signature));
    const STRUCTURAL: Label = Some((Protocol::Gnutella, Confidence::Structural));

    #[test]
    fn handshakes_downloads_and_pushes_match() {
        for frame in [
            "GNUTELLA CONNECT/0.6\r\nUser-Agent: gtk-gnutella/1.2\r\n",
            "GNUTELLA/0.6 200 OK\r\n",
            "GNUTELLA OK\n\n",
            "GET /uri-res/N2R?urn:sha1:PLSTHIPQGSSZTS5FJUPAKUZWUGYQYPFB HTTP/1.1\r\n",
            "HEAD /uri-res/N2R?urn:sha1:PLSTHIPQGSSZTS5FJUPAKUZWUGYQYPFB HTTP/1.1\r\n",
            "GET /get/2468/Foobar.mp3 HTTP/1.1\r\nHost: 192.0.2.1\r\nX-Gnutella-Content-URN: urn:sha1:A\r\n",
            "GET /get/2468/Foobar.mp3 HTTP/1.1\r\nHost: 192.0.2.1\r\nX-Queue: 0.1\r\n",
            "GET /get/2468/Foobar.mp3 HTTP/1.1\r\nUser-Agent: LimeWire/4.12\r\n",
            "GET /get/1/a.mp3 HTTP/1.1\r\nHost: 192.0.2.1\r\nUser-Agent: BearShare 5.0\r\n",
            "GET /get/1/a.mp3 HTTP/1.1\r\nUser-Agent: Phex 3.4.2\r\n",
            "GET / HTTP/1.1\r\nUser-Agent: BearShare Lite 5.1\r\n",
            "GET / HTTP/1.1\r\nHost: 192.0.2.1\r\nAccept: application/x-gnutella-packets\r\n",
            "HTTP/1.1 200 OK\r\nServer: a\r\nX-Gnutella-Content-URN: urn:sha1:PLSTHIPQGSSZTS5FJUPAKUZWUGYQYPFB\r\n",
            "HTTP/1.1 503 Busy\r\nX-Gnutella-Content-URN: urn:sha1:A\r\nX-Queue: position=2\r\n",
            "GET /uri-res/N2X?urn:sha1:PLSTHIPQGSSZTS5FJUPAKUZWUGYQYPFB HTTP/1.1\r\n",
            "GET /uri-res/N2XS?urn:sha1:PLSTHIPQGSSZTS5FJUPAKUZWUGYQYPFB HTTP/1.1\r\n",
            "GET /uri-res/N2R?urn:bitprint:PLSTHIPQGSSZTS5FJUPAKUZWUGYQYPFB. HTTP/1.1\r\n",
            "GET /uri-res/N2R?urn:tree:tiger/:TDZ3FVGC6DMIG7PGJDOKYKBDRN5ADYBE6JJWPMQ HTTP/1.1\r\n",
            "GET /uri-res/N2R?urn:ed2k:d41d8cd98f00b204e9800998ecf8427e HTTP/1.1\r\n",
            "HEAD /gnutella/push-proxy?ServerId=A HTTP/1.1\r\n",
            "GET /gnet/push-proxy?guid=A HTTP/1.1\r\n",
            "GET /gnutella/thex/v1?urn:tree:tiger/:TDZ3FVGC6DMIG7PGJDOKYKBDRN5ADYBE6JJWPMQ HTTP/1.1\r\n",
            "GET /gnutella/preview/v1?urn:sha1:PLSTHIPQGSSZTS5FJUPAKUZWUGYQYPFB HTTP/1.1\r\n",
            "GET /gnutella/metadata/v1?urn:tree:tiger/:TDZ3FVGC6DMIG7PGJDOKYKBDRN5ADYBE6JJWPMQ HTTP/1.1\r\n",
            "GET /gnutella/tigertree/v2?urn:tree:tiger/:A HTTP/1.1\r\n",
            "PUSH guid:809BC12168A1852CFF5D7A785833F600\r\n\r\n",
            "GIV 36:809BC12168A1852CFF5D7A785833F600/Foobar.mp3\n\n",
        ] {
            assert_eq!(tcp(frame), SIGNATURE, "{frame}");
        }
        every_bit_counts(b"GNUTELLA CONNECT/0.6", 0..17, |bytes| tcp(bytes));
        every_byte_counts(b"GIV 36:809BC12168A1852CFF5D7A785833F600/", |bytes| tcp(bytes));
    }

    #[test]
    fn other_text_does_not_match() {
        for frame in [
            "GNUTELLA is a network",
            "gnutella connect/0.6\r\n",
            "GET /get/2468/Foobar.mp3 HTTP/1.1\r\nHost: example.org\r\n\r\n",
            "GET /uri-res/ HTTP/1.1\r\n",
            "GET /uri-res/N2L?urn:nbn:de:101 HTTP/1.1\r\n",
            "GET /gnutella/ HTTP/1.1\r\n",
            "GET /gnutella/preview.html HTTP/1.1\r\n",
            "GET /gnutella/metadata/ HTTP/1.1\r\n",
            "GNUTELLA OK, what is it?",
            "PUSH guid:809BC12168A1852CFF5D7A785833F600\r\n\r\n.",
            "GET /get/status HTTP/1.1\r\nX-Queue: 7\r\n",
            "GET /get/2468 HTTP/1.1\r\nX-Queue-Id: 7\r\n",
            "GET /get/2468 HTTP/1.1\r\nX-Queued: 7\r\n",
            "GET / HTTP/1.1\r\nUser-Agent: LimeWire/4.12\r\n",
            "HTTP/1.1 200 OK\r\nX-Queue: 7\r\n",
            "GET /?q=X-Gnutella HTTP/1.1\r\n",
            "GIVE me 5",
            "GIV 36:809BC12168A1852CFF5D7A785833F60/Foobar.mp3\n\n",
            "GIV :809BC12168A1852CFF5D7A785833F600/x",
        ] {
            assert_eq!(tcp(frame), None, "{frame}");
        }
    }

    fn message(kind: u8, ttl: u8, hops: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = hex("809bc12168a1852cff5d7a785833f600");
        frame.extend([kind, ttl, hops]);
        frame.extend((body.len() as u32).to_le_bytes());
        frame.extend(body);
        frame
    }

    #[test]
    fn messages_over_udp_match() {
        for kind in [0x00, 0x01, 0x02, 0x30, 0x31, 0x32, 0x40, 0x80, 0x81] {
            assert_eq!(udp(message(kind, 1, 0, &[5; 27])), STRUCTURAL, "{kind:02x}");
            assert_eq!(udp(message(kind, 0, 0, &[5; 27])), STRUCTURAL, "{kind:02x}");
            assert_eq!(Flow::udp().ports(50_123, 53).ask(message(kind, 1, 0, &[5; 27])), None, "a service's port");
        }
        for (kind, least) in [(0x01, 14), (0x02, 2), (0x30, 1), (0x31, 8), (0x32, 8), (0x40, 26), (0x80, 3), (0x81, 27)]
        {
            assert_eq!(udp(message(kind, 1, 0, &vec![5; least])), STRUCTURAL, "{kind:02x}");
            assert_eq!(udp(message(kind, 1, 0, &vec![5; least - 1])), None, "{kind:02x}");
        }
        assert_eq!(udp(message(DHT, 0, 0, &[5; 38])), STRUCTURAL);
        assert_eq!(udp(message(DHT, 0x70, 0x70, &[5; 60])), STRUCTURAL, "a version, no hops");
        assert_eq!(udp(message(DHT, 0, 0, &[5; 37])), None);
        assert_eq!(udp(message(0, 0x81, 0, &[])), STRUCTURAL);
        every_bit_counts(&message(0x80, 4, 1, &[5; 14]), 19..23, |bytes| udp(bytes));
        every_byte_counts(&message(0x80, 4, 1, &[5; 14]), |bytes| udp(bytes));
    }

    const DHT: u8 = super::DHT;

    #[test]
    fn near_misses_over_udp_do_not_match() {
        assert_eq!(udp(message(0x03, 1, 0, &[5; 14])), None, "unknown type");
        assert_eq!(udp(message(0x00, 17, 0, &[5; 14])), None, "lives too long");
        assert_eq!(udp(message(0x00, 1, 17, &[5; 14])), None, "travelled too far");
        assert_eq!(udp([message(0x00, 1, 0, &[5; 14]), vec![0]].concat()), None, "length differs");
        assert_eq!(udp([vec![7; 16], vec![0; 7]].concat()), None, "zeros");
        assert_eq!(udp([vec![0; 17], hex("01 00 00000000")].concat()), None, "no identifier");
        assert_eq!(udp(vec![0; 22]), None);
        let mut negotiation = message(0x80, 1, 0, &[5; 14]);
        negotiation[1..5].fill(0);
        assert_eq!(udp(&negotiation), None, "QUIC repeats what a stranger chose");
        negotiation[0] = 0x09;
        assert_eq!(udp(&negotiation), STRUCTURAL);
    }

    proptest! {
        #[test]
        fn random_payloads_never_match(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(tcp(&bytes), None);
            prop_assert_eq!(Flow::udp().ask(&bytes), None);
        }
    }

    #[test]
    fn a_requested_sha1_is_decoded() {
        // RFC 4648 section 10 has short vectors only; this is coreutils' `base32` of the 20 bytes 0 to 19.
        let text = "AAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQT";
        let expected = ContentHash::from_bytes(&(0..20).collect::<Vec<u8>>());
        let request = format!("GET /uri-res/N2R?urn:sha1:{text} HTTP/1.1");
        assert_eq!(content::named(Transport::Tcp, Protocol::Gnutella, request.as_bytes()), expected);
        let request = format!("GET /uri-res/N2R?urn:sha1:{} HTTP/1.1", text.replace('A', "1"));
        assert!(!content::named(Transport::Tcp, Protocol::Gnutella, request.as_bytes()).is_some());
    }
}
