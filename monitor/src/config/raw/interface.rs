//! Interfaces of the configuration file.

use peertally_core::words::Role;
use serde::Deserialize;

use crate::config::values::Prefix;

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
}

fn access() -> Role {
    Role::Access
}
