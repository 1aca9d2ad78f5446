//! Turns packets of other link types into Ethernet frames, so that both engines see one kind of frame.
//!
//! The link-layer header is replaced by an Ethernet header with zero addresses. Payloads without an EtherType (PPP
//! control, other address families) get EtherType 0, which the header parser counts as `not_ip`. A packet shorter than
//! its own link-layer header becomes an empty frame, which counts as `short_frame`. Source:
//! <https://www.tcpdump.org/linktypes.html>.

use std::ops::Range;

use super::source::array;

/// Bytes of an Ethernet header.
pub(super) const ETHERNET_LEN: usize = 14;

mod link_type {
    pub(super) const NULL: u32 = 0;
    pub(super) const ETHERNET: u32 = 1;
    pub(super) const PPP: u32 = 9;
    /// `DLT_RAW`, written by some systems without translation.
    pub(super) const RAW_DLT: u32 = 12;
    /// `DLT_RAW` of OpenBSD.
    pub(super) const RAW_OPENBSD: u32 = 14;
    pub(super) const PPP_HDLC: u32 = 50;
    pub(super) const PPP_ETHER: u32 = 51;
    pub(super) const RAW: u32 = 101;
    pub(super) const CISCO_HDLC: u32 = 104;
    pub(super) const LOOP: u32 = 108;
    pub(super) const LINUX_SLL: u32 = 113;
    pub(super) const IPV4: u32 = 228;
    pub(super) const IPV6: u32 = 229;
    pub(super) const LINUX_SLL2: u32 = 276;
}

mod ethertype {
    pub(super) const NONE: u16 = 0;
    pub(super) const IPV4: u16 = 0x0800;
    pub(super) const IPV6: u16 = 0x86dd;
    pub(super) const MPLS: u16 = 0x8847;
    pub(super) const PPPOE_SESSION: u16 = 0x8864;
}

/// Makes an Ethernet frame of the packet at `packet` of `buffer` and tells where it lies; `None` for an unknown link
/// type.
///
/// At least [`ETHERNET_LEN`] bytes of `buffer` lie before the packet; they are overwritten.
pub(super) fn reframe(link_type: u32, buffer: &mut [u8], packet: Range<usize>) -> Option<Range<usize>> {
    let bytes = buffer.get(packet.clone()).unwrap_or_default();
    let header = match link_type {
        link_type::ETHERNET => return Some(packet),
        link_type::RAW | link_type::RAW_DLT | link_type::RAW_OPENBSD => Some((0, by_version(bytes))),
        link_type::IPV4 => Some((0, ethertype::IPV4)),
        link_type::IPV6 => Some((0, ethertype::IPV6)),
        link_type::PPP_ETHER => Some((0, ethertype::PPPOE_SESSION)),
        link_type::NULL | link_type::LOOP => bytes.first_chunk().map(|family| (4, by_family(*family))),
        link_type::CISCO_HDLC => (bytes.len() >= 4).then(|| (4, u16::from_be_bytes(array(bytes, 2)))),
        link_type::LINUX_SLL => (bytes.len() >= 16).then(|| (16, u16::from_be_bytes(array(bytes, 14)))),
        link_type::LINUX_SLL2 => (bytes.len() >= 20).then(|| (20, u16::from_be_bytes(array(bytes, 0)))),
        link_type::PPP | link_type::PPP_HDLC => ppp(bytes),
        _ => return None,
    };
    let Some((skipped, ethertype)) = header else { return Some(packet.start..packet.start) };
    let payload = packet.start + skipped;
    let start = payload - ETHERNET_LEN;
    buffer[start..payload].fill(0);
    buffer[payload - 2..payload].copy_from_slice(&ethertype.to_be_bytes());
    Some(start..packet.end)
}

/// The EtherType of a bare IP packet. Neither version is left to the header parser, which names the reason.
fn by_version(bytes: &[u8]) -> u16 {
    match bytes.first() {
        Some(first) if first >> 4 == 6 => ethertype::IPV6,
        _ => ethertype::IPV4,
    }
}

/// The EtherType of an address family, in the byte order of the capturing machine (`NULL`) or of the network (`LOOP`).
fn by_family(family: [u8; 4]) -> u16 {
    let number = u32::from_le_bytes(family);
    match if number > 0xffff { number.swap_bytes() } else { number } {
        2 => ethertype::IPV4,
        // Linux; NetBSD, OpenBSD; FreeBSD; macOS.
        10 | 24 | 28 | 30 => ethertype::IPV6,
        _ => ethertype::NONE,
    }
}

/// Length of a PPP header and the EtherType of what follows: RFC 1662 framing may be left out, and RFC 1661 section 6.5
/// shortens the protocol to one byte.
fn ppp(bytes: &[u8]) -> Option<(usize, u16)> {
    let framing = if bytes.starts_with(&[0xff, 0x03]) { 2 } else { 0 };
    let (skipped, protocol) = match bytes.get(framing..)? {
        [short, ..] if short & 1 == 1 => (framing + 1, u16::from(*short)),
        [high, low, ..] => (framing + 2, u16::from_be_bytes([*high, *low])),
        _ => return None,
    };
    let ethertype = match protocol {
        0x0021 => ethertype::IPV4,
        0x0057 => ethertype::IPV6,
        0x0281 => ethertype::MPLS,
        _ => ethertype::NONE,
    };
    Some((skipped, ethertype))
}
