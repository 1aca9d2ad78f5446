//! Early exit: payloads that certainly belong to TLS, QUIC or DNS, by their first bytes.
//!
//! Most new flows of a network are one of these. Such a first payload is not even copied. If the first payloads of both
//! sides are, inspection of the flow ends. No P2P rule matches them, and their content is encrypted or of no interest.

use crate::parse::payload::Transport;

/// Bytes that are read.
pub const HEAD: usize = 8;
/// The port of DNS (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;
/// Datagrams with an Initial packet are at least this long, in bytes (RFC 9000 section 14.1).
const QUIC_INITIAL: u32 = 1200;
/// Longest TLS record (RFC 8446 section 5.1).
const MAX_RECORD: u16 = 1 << 14;

/// Whether a payload that starts with `head` certainly belongs to TLS, QUIC or DNS. `ports`: source and destination.
#[inline(always)]
#[must_use]
pub fn is_known_non_p2p(transport: Transport, head: [u8; HEAD], len: u32, ports: (u16, u16)) -> bool {
    match transport {
        Transport::Tcp => tls_hello(head),
        Transport::Udp => {
            (len >= QUIC_INITIAL && quic_initial(head)) || ((ports.0 == DNS_PORT || ports.1 == DNS_PORT) && dns(head))
        }
    }
}

/// A TLS record that holds a ClientHello or ServerHello (RFC 8446 sections 4 and 5.1).
#[inline(always)]
fn tls_hello(head: [u8; HEAD]) -> bool {
    let [kind, major, minor, high, low, message, length, _] = head;
    let record = u16::from_be_bytes([high, low]);
    (kind == 0x16)
        & (major == 3)
        & (minor <= 4)
        & (record.wrapping_sub(4) <= MAX_RECORD - 4)
        & ((message == 1) | (message == 2))
        & (length == 0)
}

/// An Initial packet of QUIC version 1 or 2 (RFC 9000 section 17.2.2, RFC 9369 section 3.2): its type, and the length
/// of the destination's connection id.
#[inline(always)]
fn quic_initial(head: [u8; HEAD]) -> bool {
    let version = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let first = head[0] & 0xf0;
    ((first == 0xc0) & (version == 1) | (first == 0xd0) & (version == 0x6b33_43cf)) & (head[5] <= 20)
}

/// The header of a DNS message with one question and a standard opcode (RFC 1035 section 4.1.1).
#[inline(always)]
fn dns(head: [u8; HEAD]) -> bool {
    (head[2] & 0x78 == 0) & (head[4] == 0) & (head[5] == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(head: [u8; HEAD]) -> bool {
        is_known_non_p2p(Transport::Tcp, head, 517, (50_000, 443))
    }

    fn udp(head: [u8; HEAD], port: u16) -> bool {
        is_known_non_p2p(Transport::Udp, head, if port == 53 { 40 } else { 1200 }, (50_000, port))
    }

    #[test]
    fn hellos_long_headers_and_questions_exit_early() {
        assert!(tcp([0x16, 3, 1, 2, 0, 1, 0, 1]));
        assert!(tcp([0x16, 3, 3, 0, 0x7a, 2, 0, 0]));
        assert!(udp([0xc3, 0, 0, 0, 1, 8, 0x83, 0x94], 443));
        assert!(udp([0xd3, 0x6b, 0x33, 0x43, 0xcf, 8, 0x83, 0x94], 50_001));
        assert!(udp([0x12, 0x34, 1, 0, 0, 1, 0, 0], 53));
        assert!(udp([0x12, 0x34, 0x81, 0x80, 0, 1, 0, 4], 53));
    }

    #[test]
    fn others_are_not() {
        for head in [
            [0x17, 3, 3, 0, 0x7a, 2, 0, 0],
            [0x16, 3, 3, 0, 0x7a, 11, 0, 0],
            [0x16, 3, 3, 0x60, 0, 1, 0, 0],
            [0x16, 3, 9, 0, 0x7a, 1, 0, 0],
            *b"\x13BitTorr",
        ] {
            assert!(!tcp(head), "{head:02x?}");
        }
        assert!(!udp([0x43, 0, 0, 0, 1, 8, 0x83, 0x94], 443), "a short header");
        assert!(!udp([0xc3, 0, 0, 0, 2, 8, 0x83, 0x94], 443), "no such version");
        assert!(!udp([0x12, 0x34, 1, 0, 0, 1, 0, 0], 5353), "another port");
        assert!(!udp(*b"d1:ad2:i", 53), "a DHT node on the port of DNS");
        assert!(!udp([0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80], 53), "a tracker on the port of DNS");
    }
}
