//! Frames of ordinary flows, for tests that play out conversations packet by packet.

use std::net::{IpAddr, SocketAddr};

/// TCP flags (RFC 9293 section 3.1).
pub mod flag {
    /// A connection's first packet.
    pub const SYN: u8 = 0x02;
    /// The answer to it.
    pub const SYN_ACK: u8 = 0x12;
    /// A packet with payload.
    pub const PUSH: u8 = 0x18;
    /// An acknowledgement alone.
    pub const ACK: u8 = 0x10;
}

/// An address and a port, as text.
///
/// # Panics
/// When the text is something else.
#[must_use]
pub fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

/// An Ethernet frame with a UDP datagram.
#[must_use]
pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut datagram = ports(from, to);
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    frame(from, to, 17, &datagram)
}

/// An Ethernet frame with a TCP segment.
#[must_use]
pub fn tcp(from: SocketAddr, to: SocketAddr, flags: u8, payload: &[u8]) -> Vec<u8> {
    tcp_at(from, to, flags, (1, 1), payload)
}

/// An Ethernet frame with a TCP segment with these sequence and acknowledgement numbers.
#[must_use]
pub fn tcp_at(from: SocketAddr, to: SocketAddr, flags: u8, numbers: (u32, u32), payload: &[u8]) -> Vec<u8> {
    let mut segment = ports(from, to);
    segment.extend([numbers.0, numbers.1].map(u32::to_be_bytes).concat());
    segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(payload);
    frame(from, to, 6, &segment)
}

/// The segments of a TCP connection, with the numbers that they have in a real one.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Side that opens the connection.
    pub opener: SocketAddr,
    /// Side that accepts the connection.
    pub other: SocketAddr,
    /// Next sequence numbers of both.
    next: [u32; 2],
}

impl Connection {
    /// A connection, and its first two frames. The opener's numbers wrap soon.
    #[must_use]
    pub fn open(opener: SocketAddr, other: SocketAddr) -> (Self, [Vec<u8>; 2]) {
        let next = [u32::MAX - 9, 0x2000_0000];
        let syn = tcp_at(opener, other, flag::SYN, (next[0].wrapping_sub(1), 0), b"");
        let answer = tcp_at(other, opener, flag::SYN_ACK, (next[1] - 1, next[0]), b"");
        (Self { opener, other, next }, [syn, answer])
    }

    /// The next segment, of the opener if `forth`.
    pub fn says(&mut self, forth: bool, payload: &[u8]) -> Vec<u8> {
        let frame = self.repeats(forth, 0, payload);
        let next = &mut self.next[usize::from(!forth)];
        *next = next.wrapping_add(payload.len() as u32);
        frame
    }

    /// A segment that begins so many bytes before the next one, and moves nothing on.
    #[must_use]
    pub fn repeats(&self, forth: bool, bytes_before: u32, payload: &[u8]) -> Vec<u8> {
        let (from, to) = if forth { (self.opener, self.other) } else { (self.other, self.opener) };
        let (mine, theirs) = (self.next[usize::from(!forth)], self.next[usize::from(forth)]);
        tcp_at(from, to, flag::PUSH, (mine.wrapping_sub(bytes_before), theirs), payload)
    }
}

/// Bytes that look like ciphertext; equal seeds give equal bytes.
#[must_use]
pub fn ciphertext(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

/// How a packet carries another one.
#[derive(Clone, Copy, Debug)]
pub enum Carrier {
    /// GTP-U with so many extension headers of four bytes (3GPP TS 29.281 section 5.2).
    Gtpu(u8),
    /// IP in IP: RFC 2003, RFC 4213.
    Ip,
    /// GRE without optional fields (RFC 2784).
    Gre,
    /// GRE with a checksum, a key and a sequence number (RFC 2890).
    GreFull,
}

impl Carrier {
    /// An Ethernet frame with a packet between two tunnel endpoints, which carries the IP packet of `inner`.
    #[must_use]
    pub fn carry(self, from: IpAddr, to: IpAddr, inner: &[u8]) -> Vec<u8> {
        let (ethernet, packet) = inner.split_at(14);
        let (from, to) = (SocketAddr::new(from, 40_000), SocketAddr::new(to, 2152));
        match self {
            Self::Gtpu(extensions) => udp(from, to, &gtpu(extensions, packet)),
            Self::Ip => frame(from, to, if ethernet[12] == 0x08 { 4 } else { 41 }, packet),
            Self::Gre => frame(from, to, 47, &[&[0, 0], &ethernet[12..], packet].concat()),
            Self::GreFull => {
                let fields = [0xab, 0xcd, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1];
                frame(from, to, 47, &[&[0xb0, 0], &ethernet[12..], &fields, packet].concat())
            }
        }
    }
}

/// A GTP-U message with a user packet.
fn gtpu(extensions: u8, packet: &[u8]) -> Vec<u8> {
    const PDU_SESSION_CONTAINER: u8 = 0x85;
    let mut rest = Vec::new();
    if extensions > 0 {
        // Sequence number and N-PDU number, which are not in use, then the type of each extension header in front of
        // its length.
        rest.extend([0, 0, 0]);
        (0..extensions).for_each(|_| rest.extend([PDU_SESSION_CONTAINER, 1, 0, 0]));
        rest.push(0);
    }
    rest.extend(packet);
    let mut message = vec![if extensions > 0 { 0x34 } else { 0x30 }, 0xff];
    message.extend((rest.len() as u16).to_be_bytes());
    message.extend([0, 0, 0, 1]);
    message.extend(rest);
    message
}

fn ports(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    [from.port().to_be_bytes(), to.port().to_be_bytes()].concat()
}

/// An Ethernet frame with a packet of this IP protocol; ports are not used.
///
/// # Panics
/// When the ends have different IP versions.
#[must_use]
pub fn frame(from: SocketAddr, to: SocketAddr, protocol: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes.extend([0x08, 0x00, 0x45, 0]);
            bytes.extend((20 + content.len() as u16).to_be_bytes());
            bytes.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend((content.len() as u16).to_be_bytes());
            bytes.extend([protocol, 64]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        _ => panic!("both ends have the same IP version"),
    }
    bytes.extend(content);
    bytes
}
