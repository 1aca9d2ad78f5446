//! Link layer: Ethernet II, up to two VLAN tags (802.1Q, 802.1ad), PPPoE sessions (RFC 2516), MPLS labels (RFC 3032).

use crate::{
    abi::{
        limits::{MAX_MPLS_LABELS, MAX_VLAN_TAGS},
        reason::Reason,
        vlan,
    },
    parse::packet::Packet,
};

/// Ethertypes (IEEE registry).
mod ethertype {
    pub(super) const IPV4: u16 = 0x0800;
    pub(super) const IPV6: u16 = 0x86dd;
    pub(super) const VLAN: u16 = 0x8100;
    pub(super) const SERVICE_VLAN: u16 = 0x88a8;
    pub(super) const QINQ_LEGACY: u16 = 0x9100;
    pub(super) const MPLS: u16 = 0x8847;
    pub(super) const MPLS_MULTICAST: u16 = 0x8848;
    pub(super) const PPPOE_SESSION: u16 = 0x8864;
}

/// PPP protocol numbers (RFC 1661; IPv6: RFC 5072).
mod ppp {
    pub(super) const IPV4: u16 = 0x0021;
    pub(super) const IPV6: u16 = 0x0057;
}

/// Bytes of an Ethernet II header.
pub(super) const ETHERNET_LEN: usize = 14;

/// Place and version of the IP header.
pub(super) struct Link {
    /// Offset of the IP header.
    pub(super) offset: usize,
    /// 4 or 6.
    pub(super) version: u8,
    /// VLANs ([`crate::abi::vlan`]).
    pub(super) vlans: u32,
}

#[inline(always)]
const fn is_vlan(ethertype: u16) -> bool {
    matches!(ethertype, ethertype::VLAN | ethertype::SERVICE_VLAN | ethertype::QINQ_LEGACY)
}

/// The IP version of an untagged frame; `None` for anything else.
#[inline(always)]
pub(super) fn plain_version<P: Packet>(packet: &P) -> Option<u8> {
    version(u16::from_be_bytes(packet.read::<2>(ETHERNET_LEN - 2)?))
}

/// The IP version of an ethertype.
#[inline(always)]
pub(super) const fn version(ethertype: u16) -> Option<u8> {
    match ethertype {
        ethertype::IPV4 => Some(4),
        ethertype::IPV6 => Some(6),
        _ => None,
    }
}

/// Parses the link layer of any frame.
#[inline(always)]
pub(super) fn parse<P: Packet>(packet: &P) -> Result<Link, Reason> {
    let mut ethertype = u16::from_be_bytes(packet.read::<2>(ETHERNET_LEN - 2).ok_or(Reason::ShortFrame)?);
    let mut offset = ETHERNET_LEN;
    let (mut tags, mut vlans) = (0, 0);
    while tags < MAX_VLAN_TAGS && is_vlan(ethertype) {
        let [high, low, next_high, next_low] = packet.read::<4>(offset).ok_or(Reason::ShortFrame)?;
        vlans = vlan::with_tag(vlans, u16::from_be_bytes([high, low]));
        ethertype = u16::from_be_bytes([next_high, next_low]);
        offset += 4;
        tags += 1;
    }
    let (offset, version) = match ethertype {
        ethertype::IPV4 => (offset, 4),
        ethertype::IPV6 => (offset, 6),
        ethertype::PPPOE_SESSION => pppoe(packet, offset)?,
        ethertype::MPLS | ethertype::MPLS_MULTICAST => mpls(packet, offset)?,
        _ if is_vlan(ethertype) => return Err(Reason::VlanDepth),
        _ => return Err(Reason::NotIp),
    };
    Ok(Link { offset, version, vlans })
}

/// Place and version of the IP header in a PPPoE session.
///
/// RFC 2516 section 4: version 1, type 1, code 0 for session data; then a PPP protocol number.
#[inline(always)]
fn pppoe<P: Packet>(packet: &P, offset: usize) -> Result<(usize, u8), Reason> {
    let [version_type, code, _, _, _, _, high, low] = packet.read::<8>(offset).ok_or(Reason::ShortFrame)?;
    if version_type != 0x11 || code != 0 {
        return Err(Reason::BadPppoe);
    }
    match u16::from_be_bytes([high, low]) {
        ppp::IPV4 => Ok((offset + 8, 4)),
        ppp::IPV6 => Ok((offset + 8, 6)),
        _ => Err(Reason::NotIp),
    }
}

/// Place and version of the IP header behind MPLS labels.
///
/// RFC 3032: labels until the bottom-of-stack bit; the IP version nibble names the content (RFC 4928 section 3).
#[inline(always)]
fn mpls<P: Packet>(packet: &P, start: usize) -> Result<(usize, u8), Reason> {
    let mut offset = start;
    let mut labels = 0;
    while labels < MAX_MPLS_LABELS {
        let [_, _, bottom, _] = packet.read::<4>(offset).ok_or(Reason::ShortFrame)?;
        offset += 4;
        labels += 1;
        if bottom & 1 == 1 {
            let [first] = packet.read::<1>(offset).ok_or(Reason::ShortFrame)?;
            return match first >> 4 {
                4 => Ok((offset, 4)),
                6 => Ok((offset, 6)),
                _ => Err(Reason::NotIp),
            };
        }
    }
    Err(Reason::MplsDepth)
}
