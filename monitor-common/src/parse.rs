//! Header parsing: from an Ethernet frame to addresses, ports and the offset of the payload. Keeps no flow state.
//!
//! No length is trusted: the frame's wire length bounds every IP length, and the IP packet bounds every transport
//! length. A frame without an IP packet ends as a numbered [`Reason`]. An IP packet is always counted, even if its
//! transport header cannot be read; it then counts as a flow without ports.

use crate::{
    abi::{
        key::{self, Address, FlowKey},
        limits::MAX_HEADER_OFFSET,
        reason::Reason,
    },
    bpf::branchless::{is_equal, is_less, neg},
    parse::packet::Packet,
};

mod fast;
mod link;
mod network;
pub mod packet;
pub mod payload;
mod transport;
mod tunnel;

pub use fast::{FastHeaders, fast_addresses, fast_headers};

/// IP protocol numbers the parser knows (IANA "Protocol Numbers").
pub mod ip_protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// IPv4 in IP (RFC 2003).
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP (RFC 4213).
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// GRE (RFC 2784).
    pub const GRE: u8 = 47;
    /// Authentication header (RFC 4302).
    pub const AH: u8 = 51;
    /// IPv6 no next header.
    pub const NO_NEXT: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION: u8 = 60;
    /// IPv6 mobility header (RFC 6275).
    pub const MOBILITY: u8 = 135;
}

/// TCP flag bits (RFC 9293 section 3.1).
pub mod tcp_flag {
    /// Synchronise.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Acknowledgement.
    pub const ACK: u8 = 0x10;
}

/// The headers of a frame that carries an IP packet.
///
/// Fields that start as zero are no more than three in a row: of a longer row the compiler makes a call of `memset`,
/// which on the BPF target writes byte after byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Headers {
    /// Sender of the innermost parsed IP packet.
    pub source: Address,
    /// Receiver of the innermost parsed IP packet.
    pub destination: Address,
    /// Sender of the outermost IP packet; equal to `source` outside tunnels.
    pub outer_source: Address,
    /// Receiver of the outermost IP packet.
    pub outer_destination: Address,
    /// Digest of the outer addresses; 0 outside tunnels.
    pub tunnel: u64,
    /// IP bytes of the outermost packet, bounded by the wire.
    pub ip_bytes: u32,
    /// Offset of the transport payload in the frame, or of its place after a TCP header without payload.
    pub payload_offset: u32,
    /// IP protocol number of the innermost parsed packet.
    pub protocol: u8,
    /// TCP flags, 0 for other protocols.
    pub tcp_flags: u8,
    /// 1 for a fragment that is not the first.
    pub fragment: u8,
    /// Bytes of the TCP header, 0 for other protocols and for a header that cannot be read.
    pub transport_len: u8,
    /// Source port, 0 without ports.
    pub source_port: u16,
    /// Destination port, 0 without ports.
    pub destination_port: u16,
    /// Time to live or hop limit of the innermost parsed IP packet.
    pub hop_limit: u8,
    /// 1 for the first fragment of a packet.
    pub cut: u8,
    /// Explicit padding.
    pub reserved: u16,
    /// Sequence number of the segment, 0 if there is none.
    pub sequence: u32,
    /// VLANs of the frame ([`crate::abi::vlan`]), 0 without a tag.
    pub vlans: u32,
    /// Length of the transport payload in bytes; 0 when there is none or its header cannot be read.
    pub payload_len: u32,
    /// Acknowledgement number of the segment, 0 if there is none.
    pub acknowledgement: u32,
    /// Explicit padding.
    pub reserved_end: u32,
}

const _: () = assert!(core::mem::size_of::<Headers>() == 112);

impl Headers {
    /// Headers of an IP packet that starts at `start`, without ports.
    #[inline(always)]
    fn of(network: &network::Network, start: usize, vlans: u32) -> Self {
        Self {
            source: network.source,
            destination: network.destination,
            outer_source: network.source,
            outer_destination: network.destination,
            tunnel: 0,
            ip_bytes: (network.end - start) as u32,
            payload_offset: 0,
            protocol: network.protocol,
            tcp_flags: 0,
            fragment: network.fragment,
            transport_len: 0,
            source_port: 0,
            destination_port: 0,
            hop_limit: network.hop_limit,
            cut: network.cut,
            reserved: 0,
            sequence: 0,
            vlans,
            payload_len: 0,
            acknowledgement: 0,
            reserved_end: 0,
        }
    }

    /// No packet.
    pub(crate) const EMPTY: Self = Self {
        source: Address { high: 0, low: 0 },
        destination: Address { high: 0, low: 0 },
        outer_source: Address { high: 0, low: 0 },
        outer_destination: Address { high: 0, low: 0 },
        tunnel: 0,
        ip_bytes: 0,
        payload_offset: 0,
        protocol: 0,
        tcp_flags: 0,
        fragment: 0,
        transport_len: 0,
        source_port: 0,
        destination_port: 0,
        hop_limit: 0,
        cut: 0,
        reserved: 0,
        sequence: 0,
        vlans: 0,
        payload_len: 0,
        acknowledgement: 0,
        reserved_end: 0,
    };

    /// The flow's key, and 1 if this packet comes from its lower endpoint, else 0.
    ///
    /// Which end is the lower one is random, so it is computed without a branch. A branch would be mispredicted half of
    /// the time, and the verifier would walk all that follows twice.
    #[inline(always)]
    #[must_use]
    pub fn flow_key(&self) -> (FlowKey, u64) {
        let from_lower = if key::both_ipv4(self.source, self.destination) {
            // An IPv4 address and the port in one word; the bits above are alike.
            let source = self.source.low << 16 | u64::from(self.source_port);
            let destination = self.destination.low << 16 | u64::from(self.destination_port);
            1 ^ (destination.wrapping_add(neg(source)) >> 63)
        } else {
            let (source, destination) = (u64::from(self.source_port), u64::from(self.destination_port));
            let ports = 1 ^ is_less(destination, source);
            let low = is_less(self.source.low, self.destination.low)
                | is_equal(self.source.low, self.destination.low) & ports;
            is_less(self.source.high, self.destination.high) | is_equal(self.source.high, self.destination.high) & low
        };
        // All ones to keep source and destination in their order, zero to swap them.
        let keep = neg(from_lower);
        let swap = |a: u64, b: u64| {
            let difference = (a ^ b) & !keep;
            (a ^ difference, b ^ difference)
        };
        let (lower_high, higher_high) = swap(self.source.high, self.destination.high);
        let (lower_low, higher_low) = swap(self.source.low, self.destination.low);
        let (lower_port, higher_port) = swap(u64::from(self.source_port), u64::from(self.destination_port));
        let key = FlowKey {
            lower: Address { high: lower_high, low: lower_low },
            higher: Address { high: higher_high, low: higher_low },
            lower_port: lower_port as u16,
            higher_port: higher_port as u16,
            protocol: self.protocol,
            fragment: self.fragment,
            tunnel: self.tunnel,
        };
        (key, from_lower)
    }

    /// Whether this packet opens a TCP connection: SYN without ACK.
    #[inline(always)]
    #[must_use]
    pub const fn opens_connection(&self) -> bool {
        self.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN
    }
}

/// Parses the commonest frames: untagged Ethernet, IPv4 without options or IPv6 without extension headers, no fragment,
/// no tunnel.
///
/// # Errors
/// [`Reason::NotIp`] for all others, which [`all_headers`] parses, and the reason why a frame carries no countable IP
/// packet.
#[inline(always)]
pub fn plain_headers<P: Packet>(packet: &P) -> Result<Headers, Reason> {
    let network = match link::plain_version(packet) {
        Some(4) => network::ipv4(packet, link::ETHERNET_LEN, packet.readable(), true)?,
        Some(_) => network::ipv6(packet, link::ETHERNET_LEN, packet.readable(), true)?,
        None => return Err(Reason::NotIp),
    };
    if network.fragment != 0 || !network.is_plain(link::ETHERNET_LEN) {
        return Err(Reason::NotIp);
    }
    let mut headers = Headers::of(&network, link::ETHERNET_LEN, 0);
    transport::parse(packet, network.offset, network.end, &mut headers);
    if tunnel::may_start(&headers) { Err(Reason::NotIp) } else { Ok(headers) }
}

/// Parses any frame.
///
/// # Errors
/// The reason why the frame carries no countable IP packet.
#[inline(never)]
pub fn all_headers<P: Packet>(packet: &P, headers: &mut Headers) -> Result<(), Reason> {
    let link = link::parse(packet)?;
    let start = packet.verifier_barrier(link.offset);
    if start > MAX_HEADER_OFFSET {
        return Err(Reason::ShortIp);
    }
    let mut outer = if link.version == 4 {
        network::ipv4(packet, start, packet.readable(), true)
    } else {
        network::ipv6(packet, start, packet.readable(), true)
    }?;
    network::extensions(packet, &mut outer);
    *headers = Headers::of(&outer, start, link.vlans);
    if outer.fragment == 0 {
        let offset = packet.verifier_barrier(outer.offset);
        transport::parse(packet, offset, outer.end, headers);
        if tunnel::may_start(headers) {
            tunnel::parse(packet, offset, outer.end, headers);
        }
    }
    Ok(())
}

/// Parses any frame, for the host.
///
/// # Errors
/// The reason why the frame carries no countable IP packet.
pub fn headers<P: Packet>(packet: &P) -> Result<Headers, Reason> {
    let mut headers = Headers::EMPTY;
    all_headers(packet, &mut headers)?;
    Ok(headers)
}
