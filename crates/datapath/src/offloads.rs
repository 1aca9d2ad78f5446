//! Offloads of an interface, and whether it merges received packets before generic XDP sees them.
//!
//! Generic XDP runs behind generic and large receive offload (GRO, LRO; `netif_receive_generic_xdp` in net/core/dev.c):
//! the program then counts one merged packet where several arrived. Native XDP runs before both.
//!
//! Asks by generic netlink (`ETHTOOL_MSG_FEATURES_GET`, Documentation/networking/ethtool-netlink.rst). Needs no rights,
//! and changes nothing.

use std::{collections::BTreeSet, io, sync::Arc};

use netlink_packet_core::NlasIterator;
use peertally_core::snapshot::Attachment;

use crate::generic_netlink::{Family, NESTED, attribute, values};

/// The family `ethtool`, include/uapi/linux/ethtool_netlink.h.
mod ethtool {
    pub(super) const NAME: &str = "ethtool";
    pub(super) const FEATURES_GET: u8 = 11;
    pub(super) const FEATURES_HEADER: u16 = 1;
    pub(super) const HEADER_DEVICE_NAME: u16 = 2;
    pub(super) const FEATURES_ACTIVE: u16 = 4;
    pub(super) const BITSET_BITS: u16 = 3;
    pub(super) const BIT_NAME: u16 = 2;
}

/// Features that merge packets (`netdev_features_strings` in net/ethtool/common.c).
const MERGING: [&str; 4] = ["rx-gro", "rx-lro", "rx-gro-hw", "rx-gro-list"];

/// Offloads of the interface that are on, by their names in `ethtool --show-features` (`netdev_features_strings`).
///
/// # Errors
/// The kernel cannot be asked, or does not say.
pub fn active(interface: &str) -> io::Result<BTreeSet<String>> {
    let device = attribute(ethtool::HEADER_DEVICE_NAME, &[interface.as_bytes(), b"\0"].concat());
    let header = attribute(ethtool::FEATURES_HEADER | NESTED, &device);
    let features = Family::find(ethtool::NAME)?.ask(ethtool::FEATURES_GET, &header)?;
    let active = values(&features, ethtool::FEATURES_ACTIVE).next().ok_or(io::ErrorKind::Unsupported)?;
    // A set without a mask lists the bits that are set, each with its name.
    let bits = values(&active, ethtool::BITSET_BITS).next().unwrap_or_default();
    let names = NlasIterator::new(&bits[..])
        .filter_map(Result::ok)
        .flat_map(|bit| values(bit.value(), ethtool::BIT_NAME).collect::<Vec<_>>());
    Ok(names.map(|name| String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()).collect())
}

/// Whether offloads that are on merge packets.
#[must_use]
pub fn merge(active: &BTreeSet<String>) -> bool {
    MERGING.iter().any(|name| active.contains(*name))
}

/// Whether the interface merges packets that it receives.
///
/// # Errors
/// The kernel cannot be asked, or does not say.
pub fn merges(interface: &str) -> io::Result<bool> {
    Ok(merge(&active(interface)?))
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
