//! One level of tunnel: 6in4 and IPIP (RFC 2003, RFC 4213), DS-Lite (RFC 6333), GRE (RFC 2784, RFC 2890), GTP-U (3GPP
//! TS 29.281).
//!
//! The inner packet gives the flow's 5-tuple and payload; bytes stay those of the outer packet. If the inside is not an
//! IP packet, the outer packet is counted as an ordinary flow.

use super::{Headers, ip_protocol, network, transport};
use crate::{
    abi::{
        key::tunnel_digest,
        limits::{MAX_GTPU_EXTENSIONS, MAX_HEADER_OFFSET},
        reason::Reason,
    },
    parse::packet::Packet,
};

/// UDP port of GTP-U (TS 29.281 section 4.4.2.3).
pub(super) const GTPU_PORT: u16 = 2152;
/// GTP-U message type of user data (TS 29.281 section 6.1).
const GTPU_T_PDU: u8 = 255;

/// Whether these headers can open a tunnel: a cheap test for the common packet.
#[inline(always)]
pub(super) const fn may_start(headers: &Headers) -> bool {
    match headers.protocol {
        ip_protocol::UDP => headers.destination_port == GTPU_PORT,
        ip_protocol::IPV4 | ip_protocol::IPV6 | ip_protocol::GRE => true,
        _ => false,
    }
}

/// Replaces the outer 5-tuple by the inner one, if there is an inner IP packet.
#[inline(never)]
pub(super) fn parse<P: Packet>(packet: &P, offset: usize, end: usize, headers: &mut Headers) {
    if offset > MAX_HEADER_OFFSET {
        return;
    }
    let start = match headers.protocol {
        ip_protocol::GRE => gre(packet, offset),
        ip_protocol::UDP => gtpu(packet, offset + 8),
        _ => Some(offset),
    };
    let Some(start) = start else { return };
    let start = packet.verifier_barrier(start);
    if start > MAX_HEADER_OFFSET {
        return;
    }
    let Some([first]) = packet.read::<1>(start) else { return };
    let inner = match first >> 4 {
        4 => network::ipv4(packet, start, end, false),
        6 => network::ipv6(packet, start, end, false),
        _ => Err(Reason::NotIp),
    };
    let Ok(mut inner) = inner else { return };
    network::extensions(packet, &mut inner);
    headers.tunnel = tunnel_digest(headers.outer_source, headers.outer_destination);
    headers.source = inner.source;
    headers.destination = inner.destination;
    headers.protocol = inner.protocol;
    headers.fragment = inner.fragment;
    headers.hop_limit = inner.hop_limit;
    headers.cut = inner.cut;
    headers.source_port = 0;
    headers.destination_port = 0;
    headers.payload_len = 0;
    headers.tcp_flags = 0;
    if inner.fragment == 0 {
        transport::parse(packet, packet.verifier_barrier(inner.offset), inner.end, headers);
    }
}

/// Offset of the packet in a version 0 GRE header, if it is IPv4 or IPv6.
#[inline(always)]
fn gre<P: Packet>(packet: &P, offset: usize) -> Option<usize> {
    let [flags, version, high, low] = packet.read::<4>(offset)?;
    let protocol = u16::from_be_bytes([high, low]);
    if version & 7 != 0 || flags & 0x40 != 0 || (protocol != 0x0800 && protocol != 0x86dd) {
        return None;
    }
    // Checksum (bit 0), key (bit 2) and sequence number (bit 3) are four bytes each.
    let optional = usize::from(flags >> 7) + usize::from((flags >> 5) & 1) + usize::from((flags >> 4) & 1);
    Some(offset + 4 + 4 * optional)
}

/// Offset of the user packet of a GTP-U message.
#[inline(always)]
fn gtpu<P: Packet>(packet: &P, offset: usize) -> Option<usize> {
    let [flags, message, _, _, _, _, _, _] = packet.read::<8>(offset)?;
    // Version 1, protocol type GTP (TS 29.281 section 5.1).
    if flags >> 4 != 3 || message != GTPU_T_PDU {
        return None;
    }
    if flags & 7 == 0 {
        return Some(offset + 8);
    }
    let [_, _, _, mut next] = packet.read::<4>(offset + 8)?;
    let mut inner = offset + 12;
    if flags & 4 == 0 {
        return Some(inner);
    }
    let mut walked = 0;
    while walked < MAX_GTPU_EXTENSIONS && next != 0 {
        if inner > MAX_HEADER_OFFSET {
            return None;
        }
        // Length in units of four bytes, the next type in the last byte (section 5.2.1).
        let [units] = packet.read::<1>(inner)?;
        if units == 0 {
            return None;
        }
        inner = packet.verifier_barrier(inner + usize::from(units) * 4);
        // `max` changes nothing: the barrier hides from the verifier that `inner` is not 0.
        [next] = packet.read::<1>(inner.max(1) - 1)?;
        walked += 1;
    }
    (next == 0).then_some(inner)
}
