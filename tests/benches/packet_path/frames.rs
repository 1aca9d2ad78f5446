//! Template frames. The prologue programs rewrite their addresses and ports.
//!
//! Payloads are the smallest that each protocol's first packets may have: BEP 3, RFC 8446, RFC 9000.

use monitor_common::parse::payload::Transport;

/// Encapsulation of the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Framing {
    /// Ethernet and IPv4.
    Ipv4,
    /// Ethernet and IPv6.
    Ipv6,
    /// Ethernet, two VLAN tags, PPPoE session and IPv4.
    QinqPppoe,
}

impl Framing {
    /// The prologue program of the benchmark object that rewrites this framing.
    pub(crate) fn prologue(self) -> &'static str {
        match self {
            Self::Ipv4 => "prologue_ipv4",
            Self::Ipv6 => "prologue_ipv6",
            Self::QinqPppoe => "prologue_qinq_pppoe",
        }
    }
}

/// A frame with this payload, the first of its direction.
pub(crate) fn frame(framing: Framing, transport: Transport, payload: &[u8]) -> Vec<u8> {
    frame_behind(framing, transport, 0, payload)
}

/// Bytes of a frame's TCP payload; 0 for other frames than plain IPv4.
pub(crate) fn tcp_payload_len(frame: &[u8]) -> u32 {
    let plain_tcp = frame[12..14] == [0x08, 0x00] && frame[23] == number(Transport::Tcp);
    if plain_tcp { frame.len() as u32 - (14 + 20 + 20) } else { 0 }
}

/// Sequence number of the first payload of each direction.
pub(crate) const FIRST_SEQUENCE: u32 = 1;

/// A frame with this payload, after so many bytes of its direction.
pub(crate) fn frame_behind(framing: Framing, transport: Transport, before: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let segment = segment(transport, before, payload);
    match framing {
        Framing::Ipv4 => {
            frame.extend([0x08, 0x00]);
            frame.extend(ipv4(transport, segment.len()));
        }
        Framing::Ipv6 => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((segment.len() as u16).to_be_bytes());
            frame.extend([number(transport), 64]);
            frame.extend([0; 32]);
        }
        Framing::QinqPppoe => {
            // Service tag 100, customer tag 200, PPPoE session 0x1234 (RFC 2516), PPP protocol IPv4 (RFC 1332).
            frame.extend([0x88, 0xa8, 0x00, 100, 0x81, 0x00, 0x00, 200, 0x88, 0x64, 0x11, 0x00, 0x12, 0x34]);
            frame.extend((segment.len() as u16 + 22).to_be_bytes());
            frame.extend([0x00, 0x21]);
            frame.extend(ipv4(transport, segment.len()));
        }
    }
    frame.extend(segment);
    frame
}

/// Number in the IP header.
fn number(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
    }
}

/// An IPv4 header without addresses and checksum.
fn ipv4(transport: Transport, segment_len: usize) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((segment_len as u16 + 20).to_be_bytes());
    header.extend([0, 1, 0x40, 0, 64, number(transport)]);
    header.extend([0; 10]);
    header
}

/// A transport header without ports and checksum, and the payload.
fn segment(transport: Transport, before: u32, payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0; 4];
    match transport {
        Transport::Tcp => {
            segment.extend((FIRST_SEQUENCE + before).to_be_bytes());
            segment.extend([0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
        }
        Transport::Udp => {
            segment.extend((payload.len() as u16 + 8).to_be_bytes());
            segment.extend([0, 0]);
        }
    }
    segment.extend(payload);
    segment
}

/// The BitTorrent handshake (BEP 3): name, reserved bytes, info hash, peer id.
pub(crate) fn bittorrent_handshake() -> Vec<u8> {
    let mut payload = b"\x13BitTorrent protocol".to_vec();
    payload.extend([0, 0, 0, 0, 0, 0x10, 0, 5]);
    payload.extend([0xaa; 20]);
    payload.extend(b"-TR4000-abcdefghijkl");
    payload
}

/// The start of a TLS ClientHello record (RFC 8446 section 5.1), 517 bytes as browsers send it.
pub(crate) fn tls_client_hello() -> Vec<u8> {
    let mut payload = vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    payload.extend(noise(517 - payload.len()));
    payload
}

/// A request for a page, as browsers send it (RFC 9112).
pub(crate) const HTTP_REQUEST: &[u8] = b"GET /news/2026/index.html HTTP/1.1\r\nHost: www.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nCookie: session=0123456789abcdef0123456789abcdef\r\n\
    Upgrade-Insecure-Requests: 1\r\n\r\n";

/// A full segment of a protocol without a face of its own.
pub(crate) fn ciphertext() -> Vec<u8> {
    noise(1400)
}

/// A QUIC version 1 Initial packet (RFC 9000 section 17.2.2), padded to 1200 bytes.
pub(crate) fn quic_initial() -> Vec<u8> {
    let mut payload = vec![0xc3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x44, 0x9e];
    payload.extend(noise(1200 - payload.len()));
    payload
}

/// Bytes that look encrypted: a linear congruential generator's high bytes.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}
