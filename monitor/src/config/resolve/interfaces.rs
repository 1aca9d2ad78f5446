//! Interfaces and VLANs: names, roles, realms and allowed prefixes.

use std::collections::HashSet;

use ipnet::IpNet;
use monitor_common::abi::limits::{MAX_ALLOWED_PREFIXES, MAX_INNER_TABLES, MAX_MONITORED_INTERFACES, MAX_VLAN_ENTRIES};
use peertally_core::{
    interface::{Interface, valid_name},
    pool::Pool,
    vlan::{Vlan, VlanTables},
    words::Role,
};

use super::{Checker, Overrides};
use crate::config::{
    raw::{Raw, RawInterface},
    values::Prefix,
};

/// The interfaces of the flags, else those of the file.
pub(super) fn resolve(raw: &Raw, overrides: &Overrides, pools: &[Pool], check: &mut Checker<'_>) -> Vec<Interface> {
    let typed: Vec<Interface> = raw.interfaces.iter().map(interface).collect();
    for (index, interface) in typed.iter().enumerate() {
        let path = format!("interfaces[{index}]");
        prefixes(interface.role, &interface.prefixes, &path, pools, check);
        vlans(&interface.vlans, &path, pools, check);
    }
    let from_flags = !overrides.interfaces.is_empty();
    let interfaces: Vec<Interface> = if from_flags {
        // A flag names a role alone: an interface of the file keeps its other keys.
        let given = overrides.interfaces.iter().cloned();
        given
            .map(|given| match typed.iter().find(|each| each.name == given.name) {
                Some(typed) => Interface { role: given.role, ..typed.clone() },
                None => given,
            })
            .collect()
    } else {
        typed
    };
    let mut seen = HashSet::new();
    for (index, interface) in interfaces.iter().enumerate() {
        let path = if from_flags { "--interface".to_owned() } else { format!("interfaces[{index}].name") };
        if let Err(message) = valid_name(&interface.name) {
            check.problem(&path, message);
        } else if !seen.insert(interface.name.clone()) {
            check.problem(&path, format!("`{}` is given twice; name each interface once", interface.name));
        }
    }
    limits(&interfaces, check);
    if !raw.one_way {
        realms(&interfaces, pools, check);
    }
    interfaces
}

fn interface(raw: &RawInterface) -> Interface {
    let prefixes = |prefixes: &[Prefix]| prefixes.iter().map(|prefix| prefix.0).collect();
    let vlans = raw.vlans.iter().map(|vlan| Vlan {
        outer: vlan.outer.0.clone(),
        inner: vlan.inner.as_ref().map(|inner| inner.0.clone()),
        role: vlan.role.unwrap_or(raw.role),
        realm: vlan.realm.unwrap_or(raw.realm),
        prefixes: prefixes(&vlan.prefixes),
    });
    Interface {
        name: raw.name.clone(),
        role: raw.role,
        realm: raw.realm,
        prefixes: prefixes(&raw.prefixes),
        vlans: vlans.collect(),
    }
}

/// Checks how much the kernel's tables have to hold.
fn limits(interfaces: &[Interface], check: &mut Checker<'_>) {
    if interfaces.len() > MAX_MONITORED_INTERFACES {
        let count = interfaces.len();
        check.problem(
            "interfaces",
            format!("{count} interfaces are given; at most {MAX_MONITORED_INTERFACES} can be monitored at a time"),
        );
    }
    let vlans: usize = interfaces.iter().map(|each| each.vlans.len()).sum();
    if vlans > MAX_VLAN_ENTRIES as usize {
        check.problem(
            "interfaces",
            format!("{vlans} entries of VLANs exceed the maximum of {MAX_VLAN_ENTRIES}; use ranges of VLANs"),
        );
        return;
    }
    let tables = VlanTables::new(interfaces.iter().map(|each| &*each.vlans)).inner.len();
    if tables > MAX_INNER_TABLES {
        let problem = format!(
            "{tables} outer VLANs have inner VLANs of their own, which exceeds the maximum of {MAX_INNER_TABLES}; give \
             outer VLANs with the same inner ones an entry with a range of outer VLANs"
        );
        check.problem("interfaces", problem);
    }
    let of_vlans = |each: &Interface| each.vlans.iter().map(|vlan| vlan.prefixes.len()).sum::<usize>();
    let count: usize = interfaces.iter().map(|each| each.prefixes.len() + of_vlans(each)).sum();
    if count > MAX_ALLOWED_PREFIXES as usize {
        let problem = format!("{count} prefixes on all interfaces exceed the maximum of {MAX_ALLOWED_PREFIXES}");
        check.problem("interfaces", problem);
    }
}

/// Checks the VLANs of the interface at `path`.
fn vlans(vlans: &[Vlan], path: &str, pools: &[Pool], check: &mut Checker<'_>) {
    for (index, vlan) in vlans.iter().enumerate() {
        let path = format!("{path}.vlans[{index}]");
        if let Some(other) = vlans.iter().take(index).find(|other| other.overlaps(vlan)) {
            let problem = format!("a frame may belong to VLAN {vlan} and to {other}; give each VLAN one entry");
            check.problem(&format!("{path}.outer"), problem);
        }
        prefixes(vlan.role, &vlan.prefixes, &path, pools, check);
    }
}

/// Checks the prefixes of an interface or VLAN at `path`.
fn prefixes(role: Role, prefixes: &[IpNet], path: &str, pools: &[Pool], check: &mut Checker<'_>) {
    let path = format!("{path}.prefixes");
    if role == Role::Core && !prefixes.is_empty() {
        let problem = "no subscriber is behind the core side; remove the prefixes, or make the role `access`";
        check.problem(&path, problem);
    }
    let mut seen = HashSet::new();
    for (index, prefix) in prefixes.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if !pools.iter().any(|pool| overlap(&pool.prefix(), prefix)) {
            let problem = format!(
                "{prefix} has no address of a pool, so it allows no subscriber; remove it, or add a pool with it"
            );
            check.problem(&path, problem);
        } else if !seen.insert(prefix) {
            check.problem(&path, format!("{prefix} is given twice"));
        }
    }
}

/// Whether two prefixes have an address in common: then one holds the other.
fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Where packets of a realm come from: an interface or some of its VLANs.
struct Side {
    path: String,
    name: String,
    role: Role,
    realm: u32,
}

/// The sides of all interfaces. An access interface with VLANs is none itself: what it carries beside them may be
/// nothing.
fn sides(interfaces: &[Interface]) -> Vec<Side> {
    let mut sides = Vec::new();
    for (index, interface) in interfaces.iter().enumerate() {
        let Interface { name, role, realm, vlans, .. } = interface;
        if vlans.is_empty() || *role == Role::Core {
            let path = format!("interfaces[{index}].realm");
            sides.push(Side { path, name: name.clone(), role: *role, realm: *realm });
        }
        for (number, vlan) in vlans.iter().enumerate() {
            let path = format!("interfaces[{index}].vlans[{number}].realm");
            sides.push(Side { path, name: format!("{name}.{vlan}"), role: vlan.role, realm: vlan.realm });
        }
    }
    sides
}

/// Refuses a realm of subscribers without a core side of its own, if there is one of another realm: that carries the
/// packets of both, and pools hold the same addresses in every realm.
fn realms(interfaces: &[Interface], pools: &[Pool], check: &mut Checker<'_>) {
    let sides = sides(interfaces);
    let mut refused = HashSet::new();
    for access in sides.iter().filter(|side| side.role == Role::Access) {
        let mut core = sides.iter().filter(|side| side.role == Role::Core);
        let Some(other) = core.next().filter(|first| first.realm != access.realm) else { continue };
        if core.any(|side| side.realm == access.realm) || !refused.insert(access.realm) {
            continue;
        }
        let Side { path, name, realm, .. } = access;
        let pool = pools.first().map_or_else(String::new, |pool| format!(", such as {}", pool.prefix()));
        let problem = format!(
            "realm {realm} of {name} has no core interface or VLAN, so {} of realm {} would carry its packets, too, and \
             nothing tells equal addresses of both realms apart there{pool}; give realm {realm} a core VLAN in \
             [[interfaces.vlans]] or a core interface, or use one realm for both",
            other.name, other.realm
        );
        check.problem(path, problem);
    }
}
