//! Whether an interface merges received packets before generic XDP sees them.
//!
//! Generic XDP runs behind generic and large receive offload (GRO, LRO; `netif_receive_generic_xdp` in net/core/dev.c):
//! the program then counts one merged packet where several arrived. Native XDP runs before both.
//!
//! Asks by generic netlink (`ETHTOOL_MSG_FEATURES_GET`, Documentation/networking/ethtool-netlink.rst). Needs no rights,
//! and changes nothing.

use std::{io, sync::Arc};

use netlink_packet_core::NlasIterator;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use peertally_core::snapshot::Attachment;

/// Room for one answer: the names of some sixty features, four times.
const ANSWER_BYTES: usize = 64 * 1024;
/// Bytes of the headers of a message: `struct nlmsghdr` and `struct genlmsghdr`.
const HEADER_BYTES: usize = 20;
/// `NLM_F_REQUEST` of include/uapi/linux/netlink.h.
const REQUEST: u16 = 1;
/// `NLMSG_ERROR` of include/uapi/linux/netlink.h.
const ERROR: u16 = 2;
/// `NLA_F_NESTED` of include/uapi/linux/netlink.h.
const NESTED: u16 = 1 << 15;

/// The family of families, include/uapi/linux/genetlink.h.
mod control {
    pub(super) const FAMILY: u16 = 0x10;
    pub(super) const GET_FAMILY: u8 = 3;
    pub(super) const FAMILY_ID: u16 = 1;
    pub(super) const FAMILY_NAME: u16 = 2;
}

/// The family `ethtool`, include/uapi/linux/ethtool_netlink.h.
mod ethtool {
    pub(super) const NAME: &[u8] = b"ethtool\0";
    pub(super) const FEATURES_GET: u8 = 11;
    pub(super) const FEATURES_HEADER: u16 = 1;
    pub(super) const HEADER_DEVICE_NAME: u16 = 2;
    pub(super) const FEATURES_ACTIVE: u16 = 4;
    pub(super) const BITSET_BITS: u16 = 3;
    pub(super) const BIT_NAME: u16 = 2;
}

/// Features that merge packets (`netdev_features_strings` in net/ethtool/common.c).
const MERGING: [&[u8]; 4] = [b"rx-gro", b"rx-lro", b"rx-gro-hw", b"rx-gro-list"];

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len() as u16;
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The values of attributes of one kind.
fn values(attributes: &[u8], kind: u16) -> impl Iterator<Item = Vec<u8>> {
    NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .filter(move |attribute| attribute.kind() == kind)
        .map(|attribute| attribute.value().to_vec())
}

/// Sends a request and returns the attributes of the answer.
fn ask(socket: &Socket, family: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let length = (HEADER_BYTES + attributes.len()) as u32;
    let mut request = length.to_ne_bytes().to_vec();
    request.extend([family, REQUEST].map(u16::to_ne_bytes).concat());
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend_from_slice(attributes);
    socket.send(&request, 0)?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    socket.recv(&mut answer, 0)?;
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes).ok_or_else(invalid)?;
    if kind == ERROR {
        let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
        return Err(io::Error::from_raw_os_error(-code.ok_or_else(invalid)?));
    }
    answer.get(HEADER_BYTES..).map(<[u8]>::to_vec).ok_or_else(invalid)
}

/// Whether the interface merges packets that it receives.
///
/// # Errors
/// The kernel cannot be asked, or does not say.
pub fn merges(interface: &str) -> io::Result<bool> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let name = attribute(control::FAMILY_NAME, ethtool::NAME);
    let family = ask(&socket, control::FAMILY, control::GET_FAMILY, &name)?;
    let id = values(&family, control::FAMILY_ID).next().and_then(|value| value.try_into().ok());
    let id = id.map(u16::from_ne_bytes).ok_or(io::ErrorKind::Unsupported)?;
    let device = attribute(ethtool::HEADER_DEVICE_NAME, &[interface.as_bytes(), b"\0"].concat());
    let header = attribute(ethtool::FEATURES_HEADER | NESTED, &device);
    let features = ask(&socket, id, ethtool::FEATURES_GET, &header)?;
    let active = values(&features, ethtool::FEATURES_ACTIVE).next().ok_or(io::ErrorKind::Unsupported)?;
    // A set without a mask lists the bits that are set, each with its name.
    let bits = values(&active, ethtool::BITSET_BITS).next().unwrap_or_default();
    let mut names = NlasIterator::new(&bits[..])
        .filter_map(Result::ok)
        .flat_map(|bit| values(bit.value(), ethtool::BIT_NAME).collect::<Vec<_>>());
    Ok(names.any(|name| MERGING.contains(&name.strip_suffix(b"\0").unwrap_or(&name))))
}

/// Interfaces that the program is attached to, each with whether packets are merged before it counts them.
/// Interfaces in generic mode that the kernel does not tell of are left out.
#[must_use]
pub fn merging(attachments: &[Attachment]) -> Vec<(Arc<str>, bool)> {
    let attached = attachments.iter().filter(|each| each.is_on());
    let answered = attached.filter_map(|each| {
        let merges = if each.mode == "generic" { merges(&each.interface).ok()? } else { false };
        Some((Arc::clone(&each.interface), merges))
    });
    answered.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_and_an_interface_that_is_not_there_is_an_error() {
        // Loopback hands packets on as they were sent, and has the feature GRO on.
        assert!(merges("lo").is_ok());
        assert_eq!(merges("nowhere7").expect_err("not there").raw_os_error(), Some(19), "ENODEV");
    }
}
