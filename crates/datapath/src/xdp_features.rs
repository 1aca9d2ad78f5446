//! What a driver can do with an XDP program, asked before one is attached: the family `netdev` of generic netlink
//! (Documentation/netlink/specs/netdev.yaml), in Linux 6.3 and newer.

use std::io;

use crate::generic_netlink::{Family, attribute, values};

/// include/uapi/linux/netdev.h.
mod netdev {
    pub(super) const NAME: &str = "netdev";
    pub(super) const DEV_GET: u8 = 1;
    pub(super) const DEV_IFINDEX: u16 = 1;
    pub(super) const DEV_XDP_FEATURES: u16 = 3;
    /// `NETDEV_XDP_ACT_BASIC`.
    pub(super) const BASIC: u64 = 1;
    /// `NETDEV_XDP_ACT_RX_SG`.
    pub(super) const RX_SG: u64 = 32;
}

/// What the driver of an interface says of XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpFeatures {
    /// It runs programs itself: native mode.
    pub native: bool,
    /// It hands frames of several buffers to them, which large MTUs need.
    pub multi_buffer: bool,
}

/// Asks for the XDP features of the interface with this index.
///
/// # Errors
/// The kernel is older than 6.3, or there is no such interface.
pub fn xdp_features(index: u32) -> io::Result<XdpFeatures> {
    let question = attribute(netdev::DEV_IFINDEX, &index.to_ne_bytes());
    let answer = Family::find(netdev::NAME)?.ask(netdev::DEV_GET, &question)?;
    let bits = values(&answer, netdev::DEV_XDP_FEATURES).next().and_then(|value| value.try_into().ok());
    let bits = u64::from_ne_bytes(bits.ok_or(io::ErrorKind::Unsupported)?);
    Ok(XdpFeatures { native: bits & netdev::BASIC != 0, multi_buffer: bits & netdev::RX_SG != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_runs_no_program_in_its_driver() {
        match xdp_features(1) {
            Ok(features) => assert_eq!(features, XdpFeatures { native: false, multi_buffer: false }),
            // Before Linux 6.3, the family is not there.
            Err(error) => assert_eq!(error.raw_os_error(), Some(2), "{error}"),
        }
    }

    #[test]
    fn an_index_without_an_interface_is_an_error() {
        xdp_features(0x7fff_fff0).expect_err("no such interface");
    }
}
