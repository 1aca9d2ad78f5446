//! Interfaces as an operator names them: an entry of the configuration, or `NAME[:access|core]`.

use std::str::FromStr;

use ipnet::IpNet;

use crate::{vlan::Vlan, words::Role};

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name, as `ip link` shows it.
    pub name: String,
    /// Which side it faces.
    pub role: Role,
    /// Number of its realm.
    pub realm: u32,
    /// Prefixes of the subscribers behind an access interface; empty for all pools.
    pub prefixes: Vec<IpNet>,
    /// VLANs for which something else holds.
    pub vlans: Vec<Vlan>,
}

impl FromStr for Interface {
    type Err = String;

    /// `NAME[:access|core]`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, role) = match text.rsplit_once(':') {
            None => (text, Role::Access),
            Some((name, role)) => {
                (name, role.parse().map_err(|_| format!("`{role}` is not a role; write NAME:access or NAME:core"))?)
            }
        };
        valid_name(name)?;
        Ok(Self { name: name.to_owned(), role, realm: 0, prefixes: Vec::new(), vlans: Vec::new() })
    }
}

/// Checks that Linux accepts an interface name (`dev_valid_name` of `net/core/dev.c`: below `IFNAMSIZ`, no `/`, `:` or
/// space).
///
/// # Errors
/// A message with the name and where to look.
pub fn valid_name(name: &str) -> Result<(), String> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > 15 || matches!(name, "." | "..") || name.chars().any(bad) {
        return Err(format!("`{name}` is not an interface name; see `ip link`"));
    }
    Ok(())
}
