//! Network layer: IPv4 (RFC 791) and IPv6 (RFC 8200) headers, lengths, fragments and extension headers.

use super::ip_protocol;
use crate::{
    abi::{
        key::{self, Address},
        limits::{MAX_HEADER_OFFSET, MAX_IPV6_EXTENSIONS},
        reason::Reason,
    },
    parse::packet::Packet,
};

/// Bytes of an IPv4 header without options (RFC 791 section 3.1).
pub(super) const IPV4_LEN: usize = 20;
/// Bytes of the fixed IPv6 header (RFC 8200 section 3).
pub(super) const IPV6_LEN: usize = 40;
/// Mask of the fragment offset in the IPv4 flags field.
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// Flag of an IPv4 packet that is not the last fragment.
const MORE_FRAGMENTS: u16 = 0x2000;

/// One IP header.
#[derive(Clone, Copy)]
pub(super) struct Network {
    /// 4 or 6.
    version: u8,
    pub(super) source: Address,
    pub(super) destination: Address,
    /// Offset of the byte after the header and extension headers.
    pub(super) offset: usize,
    /// Offset of the end of the IP packet, bounded by `limit` or the wire.
    pub(super) end: usize,
    pub(super) protocol: u8,
    /// 1 for a fragment that is not the first.
    pub(super) fragment: u8,
    /// 1 for a first fragment.
    pub(super) cut: u8,
    pub(super) hop_limit: u8,
}

impl Network {
    /// Whether the header that starts at `start` has no options and no extension headers.
    #[inline(always)]
    pub(super) const fn is_plain(&self, start: usize) -> bool {
        if self.version == 4 { self.offset == start + IPV4_LEN } else { !is_extension(self.protocol) }
    }
}

/// The end of an IP packet that claims `length` bytes from `offset`.
///
/// `limit` is the end of the enclosing packet, or of the readable bytes for the outermost packet. The wire length is
/// read only if the claim exceeds it, because that costs a helper call in the kernel.
#[inline(always)]
fn end_of<P: Packet>(packet: &P, offset: usize, length: usize, limit: usize, outermost: bool) -> usize {
    let claimed = offset + length;
    if length != 0 && claimed <= limit {
        return claimed;
    }
    let bound = if outermost { packet.wire_len() } else { limit };
    if length == 0 || claimed > bound { bound } else { claimed }
}

#[inline(always)]
pub(super) fn ipv4<P: Packet>(packet: &P, offset: usize, limit: usize, outermost: bool) -> Result<Network, Reason> {
    if offset > MAX_HEADER_OFFSET {
        return Err(Reason::ShortIp);
    }
    let header = packet.read::<IPV4_LEN>(offset).ok_or(Reason::ShortIp)?;
    if header[0] >> 4 != 4 {
        return Err(Reason::BadIpVersion);
    }
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header_len < IPV4_LEN {
        return Err(Reason::BadIpLength);
    }
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let end = end_of(packet, offset, total_len, limit, outermost);
    if end < offset + header_len {
        return Err(if total_len != 0 && total_len < header_len { Reason::BadIpLength } else { Reason::ShortIp });
    }
    let fragment_field = u16::from_be_bytes([header[6], header[7]]);
    Ok(Network {
        version: 4,
        source: Address::v4(u32::from_be_bytes([header[12], header[13], header[14], header[15]])),
        destination: Address::v4(u32::from_be_bytes([header[16], header[17], header[18], header[19]])),
        offset: offset + header_len,
        end,
        protocol: header[9],
        fragment: u8::from(fragment_field & FRAGMENT_OFFSET != 0),
        cut: u8::from(fragment_field & (FRAGMENT_OFFSET | MORE_FRAGMENTS) == MORE_FRAGMENTS),
        hop_limit: header[8],
    })
}

/// The fixed IPv6 header; [`extensions`] steps over what follows.
#[inline(always)]
pub(super) fn ipv6<P: Packet>(packet: &P, offset: usize, limit: usize, outermost: bool) -> Result<Network, Reason> {
    if offset > MAX_HEADER_OFFSET {
        return Err(Reason::ShortIp);
    }
    let [version, _, _, _, high, low, next, hop_limit] = packet.read::<8>(offset).ok_or(Reason::ShortIp)?;
    if version >> 4 != 6 {
        return Err(Reason::BadIpVersion);
    }
    let source = Address::v6(packet.read::<16>(offset + 8).ok_or(Reason::ShortIp)?);
    let destination = Address::v6(packet.read::<16>(offset + 24).ok_or(Reason::ShortIp)?);
    if key::any_ipv4(source, destination) {
        return Err(Reason::Ipv4Mapped);
    }
    let payload_len = usize::from(u16::from_be_bytes([high, low]));
    // A payload length of 0 is real for "no next header"; otherwise it is a jumbogram (RFC 2675) or segmentation
    // offload.
    let length = if payload_len == 0 && next != ip_protocol::NO_NEXT { 0 } else { IPV6_LEN + payload_len };
    let end = end_of(packet, offset, length, limit, outermost);
    if end < offset + IPV6_LEN {
        return Err(Reason::ShortIp);
    }
    Ok(Network {
        version: 6,
        source,
        destination,
        offset: offset + IPV6_LEN,
        end,
        protocol: next,
        fragment: 0,
        cut: 0,
        hop_limit,
    })
}

/// Extension headers that the parser steps over (RFC 8200 section 4, RFC 4302, RFC 6275).
#[inline(always)]
const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        ip_protocol::HOP_BY_HOP
            | ip_protocol::ROUTING
            | ip_protocol::FRAGMENT
            | ip_protocol::AH
            | ip_protocol::DESTINATION
            | ip_protocol::MOBILITY
    )
}

/// Steps over at most [`MAX_IPV6_EXTENSIONS`] extension headers. If the chain is longer, or the frame ends in it, the
/// packet counts as a flow without ports.
#[inline(always)]
pub(super) fn extensions<P: Packet>(packet: &P, network: &mut Network) {
    if network.version != 6 {
        return;
    }
    let mut walked = 0;
    while walked < MAX_IPV6_EXTENSIONS {
        if !is_extension(network.protocol) || network.offset + 8 > network.end || network.offset > MAX_HEADER_OFFSET {
            return;
        }
        let Some([next, length, high, low, _, _, _, _]) = packet.read::<8>(network.offset) else { return };
        let current = network.protocol;
        let units = usize::from(length);
        let length = match current {
            ip_protocol::FRAGMENT => 8,
            ip_protocol::AH => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        network.offset = packet.verifier_barrier(network.offset + length);
        network.protocol = next;
        if current == ip_protocol::FRAGMENT {
            let field = u16::from_be_bytes([high, low]);
            if field & 0xfff8 != 0 {
                network.fragment = 1;
                return;
            }
            // RFC 8200 section 4.5: the lowest bit says that more fragments follow.
            network.cut = (field & 1) as u8;
        }
        walked += 1;
    }
}
