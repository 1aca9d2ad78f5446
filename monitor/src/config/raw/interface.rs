//! Interfaces of the configuration file.

use peertally_core::words::Role;
use serde::Deserialize;

use crate::config::values::{Prefix, VlanText, tables};

/// One interface.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RawInterface {
    /// Name, as `ip link` shows it.
    #[cfg_attr(test, schemars(example = &"eth0"))]
    pub name: String,
    /// Which side it faces. Direction comes from the addresses. A packet that arrives on a `core` interface with a
    /// subscriber's source address may be forged: it never charges that subscriber.
    #[serde(default = "access")]
    pub role: Role,
    /// Number of its realm, for example one per VRF. Equal addresses of two realms are two subscribers. All interfaces
    /// that carry one subscriber's packets, access and core, need one realm.
    #[serde(default)]
    pub realm: u32,
    /// Prefixes of the subscribers behind an `access` interface. A packet with another subscriber's source counts as
    /// spoofed: it never charges that subscriber. At most 1,024 on all interfaces together. Default: all pools.
    #[serde(default)]
    #[cfg_attr(test, schemars(example = ["100.64.0.0/16"]))]
    pub prefixes: Vec<Prefix>,
    /// VLANs of the interface for which another role, realm or list of prefixes holds: of a one-armed router, or of
    /// several VRFs. All other frames, tagged or not, are those of the interface. Metrics show the interface only. The
    /// network card must leave the tags in the frames: `ethtool -K NAME rxvlan off`. At most 1,024 on all interfaces
    /// together, no two of which may have a frame in common.
    #[serde(default, deserialize_with = "tables")]
    pub vlans: Vec<RawVlan>,
}

/// VLANs of an interface.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RawVlan {
    /// VLAN of the outer tag, or of the only one: a number, or a range.
    #[cfg_attr(test, schemars(example = &"100-199"))]
    pub outer: VlanText,
    /// VLAN of the inner tag. Default: any, and frames with one tag. At most 96 outer VLANs may have inner VLANs of
    /// their own; those with the same inner ones count once.
    #[serde(default)]
    #[cfg_attr(test, schemars(example = 7))]
    pub inner: Option<VlanText>,
    /// Which side they face. Default: that of the interface.
    #[serde(default)]
    #[cfg_attr(test, schemars(example = &"access"))]
    pub role: Option<Role>,
    /// Number of their realm. Default: that of the interface.
    #[serde(default)]
    #[cfg_attr(test, schemars(example = 0))]
    pub realm: Option<u32>,
    /// Prefixes of the subscribers behind `access` VLANs, as for an interface. A tagged packet of such a VLAN costs two
    /// look-ups more. Default: all pools.
    #[serde(default)]
    #[cfg_attr(test, schemars(example = ["100.64.0.0/16"]))]
    pub prefixes: Vec<Prefix>,
}

fn access() -> Role {
    Role::Access
}
