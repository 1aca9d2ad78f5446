//! Builds frames for the packet table, correct by default and wrong where a case asks for it.
//!
//! Written from the standards, not from the parser's code. Checksums are left zero: the data path never reads them.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Headers between Ethernet and IP.
#[derive(Clone, Copy, Debug)]
pub(super) enum Layer {
    /// A VLAN tag with this tag protocol identifier (IEEE 802.1Q).
    Vlan(u16),
    /// A PPPoE session header (RFC 2516) with this code and PPP protocol number.
    Pppoe(u8, u16),
    /// MPLS labels (RFC 3032).
    Mpls(u8),
}

/// EtherType of IPv4.
pub(super) const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub(super) const IPV6: u16 = 0x86dd;

/// An Ethernet frame: layers, then `content` of type `ethertype`.
pub(super) fn ethernet(layers: &[Layer], ethertype: u16, content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    let kind = |layer: Option<&Layer>| match layer {
        Some(Layer::Vlan(identifier)) => *identifier,
        Some(Layer::Pppoe(..)) => 0x8864,
        Some(Layer::Mpls(_)) => 0x8847,
        None => ethertype,
    };
    frame.extend(kind(layers.first()).to_be_bytes());
    for (index, layer) in layers.iter().enumerate() {
        match layer {
            Layer::Vlan(_) => {
                frame.extend([0x00, 0x64]);
                frame.extend(kind(layers.get(index + 1)).to_be_bytes());
            }
            Layer::Pppoe(code, protocol) => {
                let length = content.len() as u16 + 2;
                frame.extend([0x11, *code, 0x12, 0x34]);
                frame.extend(length.to_be_bytes());
                frame.extend(protocol.to_be_bytes());
            }
            Layer::Mpls(labels) => {
                for label in 0..*labels {
                    frame.extend([0x00, 0x10, u8::from(label + 1 == *labels), 0x40]);
                }
            }
        }
    }
    frame.extend(content);
    frame
}

/// IPv4 header fields that cases change.
#[derive(Clone, Debug)]
pub(super) struct Ipv4 {
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    pub(super) protocol: u8,
    /// Words of options after the 20 bytes.
    pub(super) option_words: usize,
    /// Flags and fragment offset (RFC 791 section 3.1).
    pub(super) fragment: u16,
    /// The claimed total length, if it is to lie.
    pub(super) total_len: Option<u16>,
    /// The first byte, if it is to lie.
    pub(super) version_ihl: Option<u8>,
}

impl Ipv4 {
    pub(super) fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) -> Self {
        Self { source, destination, protocol, option_words: 0, fragment: 0, total_len: None, version_ihl: None }
    }

    pub(super) fn packet(&self, content: &[u8]) -> Vec<u8> {
        let header_len = 20 + 4 * self.option_words;
        let total_len = self.total_len.unwrap_or((header_len + content.len()).min(usize::from(u16::MAX)) as u16);
        let mut packet = vec![self.version_ihl.unwrap_or(0x40 | (header_len / 4) as u8), 0];
        packet.extend(total_len.to_be_bytes());
        packet.extend([0, 1]);
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([64, self.protocol, 0, 0]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        // No-operation options (RFC 791 section 3.1), whose bytes must never be taken for ports.
        packet.extend(vec![1; 4 * self.option_words]);
        packet.extend(content);
        packet
    }
}

/// IPv6 header fields that cases change.
#[derive(Clone, Debug)]
pub(super) struct Ipv6 {
    pub(super) source: Ipv6Addr,
    pub(super) destination: Ipv6Addr,
    /// The first next-header number.
    pub(super) next: u8,
    /// The claimed payload length, if it is to lie.
    pub(super) payload_len: Option<u16>,
}

impl Ipv6 {
    pub(super) fn new(source: Ipv6Addr, destination: Ipv6Addr, next: u8) -> Self {
        Self { source, destination, next, payload_len: None }
    }

    pub(super) fn packet(&self, content: &[u8]) -> Vec<u8> {
        let payload_len = self.payload_len.unwrap_or(content.len().min(usize::from(u16::MAX)) as u16);
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(payload_len.to_be_bytes());
        packet.extend([self.next, 64]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(content);
        packet
    }
}

/// An IPv6 extension header of `8 * (units + 1)` bytes (RFC 8200 section 4): next header, length, padding option.
pub(super) fn extension(next: u8, units: u8, content: &[u8]) -> Vec<u8> {
    let mut header = vec![next, units, 1, 4];
    header.resize(8 * (usize::from(units) + 1), 0);
    header.extend(content);
    header
}

/// An IPv6 fragment header (RFC 8200 section 4.5) with the offset in units of eight bytes.
pub(super) fn fragment(next: u8, offset: u16, more: bool, content: &[u8]) -> Vec<u8> {
    let mut header = vec![next, 0];
    header.extend(((offset << 3) | u16::from(more)).to_be_bytes());
    header.extend([0, 0, 0, 1]);
    header.extend(content);
    header
}

/// An authentication header (RFC 4302) of `4 * (units + 2)` bytes.
pub(super) fn authentication(next: u8, units: u8, content: &[u8]) -> Vec<u8> {
    let mut header = vec![next, units];
    header.resize(4 * (usize::from(units) + 2), 0);
    header.extend(content);
    header
}

/// A UDP datagram.
pub(super) fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    udp_claiming(source, destination, (payload.len() + 8).min(usize::from(u16::MAX)) as u16, payload)
}

/// A UDP datagram that claims a length.
pub(super) fn udp_claiming(source: u16, destination: u16, length: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::from(source.to_be_bytes());
    datagram.extend(destination.to_be_bytes());
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// A TCP segment with this many words of options (RFC 9293 section 3.1).
pub(super) fn tcp(source: u16, destination: u16, flags: u8, option_words: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::from(source.to_be_bytes());
    segment.extend(destination.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 1]);
    segment.extend([(5 + option_words) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(vec![1; 4 * usize::from(option_words)]);
    segment.extend(payload);
    segment
}

/// The opening of a BitTorrent peer-wire handshake (BEP 3): 68 bytes.
pub(super) fn bittorrent_handshake() -> Vec<u8> {
    let mut handshake = b"\x13BitTorrent protocol".to_vec();
    handshake.extend([0, 0, 0, 0, 0, 0x10, 0, 5]);
    handshake.extend([0xab; 20]);
    handshake.extend(b"-TR4000-0123456789ab");
    handshake
}
