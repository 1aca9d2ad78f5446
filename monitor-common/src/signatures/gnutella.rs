//! Gnutella 0.6: handshake, downloads and pushes over TCP, messages over UDP.
//!
//! Source: "RFC Gnutella 0.6" (rfc-gnutella.sourceforge.net), the HUGE proposal for `/uri-res/N2R`, Mojito for the DHT.
//! Matched, on any port:
//! - "GNUTELLA CONNECT/", "GNUTELLA/" and a digit (either side);
//! - "GET /uri-res/N2R?urn:sha1:" (also HEAD); "GET /get/" with a header of Gnutella's in the segment;
//! - "GIV ", a file index, ":", the servent's identifier as 32 hexadecimal digits, "/";
//! - UDP: the 23-byte message header whose payload length at offset 19 agrees with the datagram, with a known message type.
//!
//! Guard: literals; for UDP the 32-bit length, type, hop counts that a live message has.

use super::text;
use crate::{
    payload::{FlowState, Payload},
    protocol::Confidence,
};

/// Message header, in bytes: 16 identifier, 1 type, 1 time to live, 1 hops, 4 payload length.
const HEADER: u32 = 23;
/// Type of the DHT's messages (Mojito), which have a version where others have time to live and hops.
const DHT: u8 = 0x44;
/// No servent lets a message live for longer, or travel further.
const MAX_HOPS: u8 = 16;

/// Handshake, downloads and pushes.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut FlowState) -> Option<Confidence> {
    let head = payload.le32(0);
    let gnutella = head == u32::from_le_bytes(*b"GNUT");
    let get = (head == u32::from_le_bytes(*b"GET ")) || (head == u32::from_le_bytes(*b"HEAD"));
    let push = head == u32::from_le_bytes(*b"GIV ");
    if !(gnutella | get | push) {
        return None;
    }
    let found = if gnutella {
        let status = payload.has(4, b"ELLA/") && payload.byte(9).is_ascii_digit();
        status | payload.has(4, b"ELLA CONNECT/")
    } else if get {
        payload.has(4, b"/uri-res/N2R?urn:sha1:")
            || payload.has(4, b" /uri-res/N2R?urn:sha1:")
            || (payload.has(4, b"/get/")
                && (text::has_header(payload, b"X-Gnute") || text::has_header(payload, b"X-Queue")))
    } else {
        giv(payload)
    };
    found.then_some(Confidence::Signature)
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
    const EACH: u64 = 0x0101_0101_0101_0101;
    const TOP: u64 = 0x80 * EACH;
    (word | word.wrapping_add((0x7f - b'f' as u64) * EACH) | !((word | TOP) - b'0' as u64 * EACH)) & TOP
}

/// Messages over UDP.
#[inline(always)]
pub fn udp(payload: &Payload, _state: &mut FlowState) -> Option<Confidence> {
    // The length first: it is the strongest and rejects nearly everything.
    if (payload.le32(19) != payload.len.wrapping_sub(HEADER)) || (payload.len < HEADER) {
        return None;
    }
    let kind = payload.byte(16);
    let (ttl, hops) = (payload.byte(17) & 0x7f, payload.byte(18));
    // Ping, pong, bye, QRP, vendor (standard and other), push, query, hit.
    let known = (kind <= 0x02) || (kind.wrapping_sub(0x30) <= 2) || (kind == 0x40) || (kind.wrapping_sub(0x80) <= 2);
    let lives = (ttl <= MAX_HOPS) && (hops <= MAX_HOPS) && (ttl | hops != 0);
    // An identifier of zeros is no message but a zero-filled one of another protocol.
    let identified = (payload.le64(0) | payload.le64(8)) != 0;
    (((known && lives) || ((kind == DHT) && (ttl <= MAX_HOPS))) & identified).then_some(Confidence::Structural)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Flow, Label, every_bit_counts, every_byte_counts, hex, tcp, udp};
    use crate::protocol::{Confidence, Protocol};
    use proptest::prelude::*;

    const SIGNATURE: Label = Some((Protocol::Gnutella, Confidence::Signature));
    const STRUCTURAL: Label = Some((Protocol::Gnutella, Confidence::Structural));

    #[test]
    fn handshakes_downloads_and_pushes_match() {
        for frame in [
            "GNUTELLA CONNECT/0.6\r\nUser-Agent: gtk-gnutella/1.2\r\n",
            "GNUTELLA/0.6 200 OK\r\n",
            "GET /uri-res/N2R?urn:sha1:PLSTHIPQGSSZTS5FJUPAKUZWUGYQYPFB HTTP/1.1\r\n",
            "HEAD /uri-res/N2R?urn:sha1:PLSTHIPQGSSZTS5FJUPAKUZWUGYQYPFB HTTP/1.1\r\n",
            "GET /get/2468/Foobar.mp3 HTTP/1.1\r\nHost: 192.0.2.1\r\nX-Gnutella-Content-URN: urn:sha1:A\r\n",
            "GET /get/2468/Foobar.mp3 HTTP/1.1\r\nHost: 192.0.2.1\r\nX-Queue: 0.1\r\n",
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
            assert_eq!(udp(message(kind, 1, 0, &[5; 14])), STRUCTURAL, "{kind:02x}");
        }
        assert_eq!(udp(message(DHT, 0, 0, &[5; 60])), STRUCTURAL);
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
    }

    proptest! {
        #[test]
        fn random_payloads_never_match(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(tcp(&bytes), None);
            prop_assert_eq!(Flow::udp().ask(&bytes), None);
        }
    }
}
