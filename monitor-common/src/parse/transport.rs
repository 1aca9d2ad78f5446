//! Transport layer: ports, TCP flags and the place of the payload (TCP: RFC 9293, UDP: RFC 768).

use super::{Headers, ip_protocol};
use crate::{abi::limits::MAX_HEADER_OFFSET, parse::packet::Packet};

/// Bytes of a TCP header without options.
pub(super) const TCP_LEN: usize = 20;
/// Bytes of a UDP header.
const UDP_LEN: usize = 8;

/// Fills in ports, flags and payload of the transport header at `offset`, inside an IP packet that ends at `end`.
///
/// Bytes after the IP packet are not read: padding never turns into ports.
#[inline(always)]
pub(super) fn parse<P: Packet>(packet: &P, offset: usize, end: usize, headers: &mut Headers) {
    if offset > MAX_HEADER_OFFSET || offset + UDP_LEN > end {
        return;
    }
    if headers.protocol == ip_protocol::TCP {
        if let Some([a, b, c, d]) = packet.read::<4>(offset) {
            headers.source_port = u16::from_be_bytes([a, b]);
            headers.destination_port = u16::from_be_bytes([c, d]);
        }
        // RFC 9293 section 3.1: offsets 4 and 8 the numbers, 12 the data offset, 13 the flags.
        let Some([s0, s1, s2, s3, a0, a1, a2, a3, data_offset, flags]) = packet.read::<10>(offset + 4) else { return };
        let header_len = usize::from(data_offset >> 4) * 4;
        let payload = offset + header_len;
        if offset + TCP_LEN > end {
            return;
        }
        headers.tcp_flags = flags;
        headers.sequence = u32::from_be_bytes([s0, s1, s2, s3]);
        headers.acknowledgement = u32::from_be_bytes([a0, a1, a2, a3]);
        if header_len >= TCP_LEN && payload <= end {
            headers.payload_offset = payload as u32;
            headers.payload_len = (end - payload) as u32;
            headers.transport_len = header_len as u8;
        }
    } else if headers.protocol == ip_protocol::UDP
        && let Some([a, b, c, d, e, f, _, _]) = packet.read::<UDP_LEN>(offset)
    {
        headers.source_port = u16::from_be_bytes([a, b]);
        headers.destination_port = u16::from_be_bytes([c, d]);
        let claimed = usize::from(u16::from_be_bytes([e, f]));
        let held = end - offset;
        // A UDP length of 0 is a jumbogram (RFC 2675) or segmentation offload: then the IP length counts.
        let length = if claimed == 0 || claimed > held { held } else { claimed };
        if length > UDP_LEN {
            headers.payload_offset = (offset + UDP_LEN) as u32;
            headers.payload_len = (length - UDP_LEN) as u32;
        }
    }
}
