//! Interfaces: names, roles, realms and allowed prefixes.

use std::collections::HashSet;

use ipnet::IpNet;
use monitor_common::abi::limits::{MAX_ALLOWED_PREFIXES, MAX_MONITORED_INTERFACES};
use peertally_core::{
    interface::{Interface, valid_name},
    pool::Pool,
    words::Role,
};

use super::{Checker, Overrides};
use crate::config::raw::{Raw, RawInterface};

/// The interfaces of the flags, else those of the file.
pub(super) fn resolve(raw: &Raw, overrides: &Overrides, pools: &[Pool], check: &mut Checker<'_>) -> Vec<Interface> {
    let typed: Vec<Interface> = raw.interfaces.iter().map(interface).collect();
    for (index, interface) in typed.iter().enumerate() {
        prefixes(interface, &format!("interfaces[{index}].prefixes"), pools, check);
    }
    let from_flags = !overrides.interfaces.is_empty();
    let interfaces: Vec<Interface> = if from_flags {
        // A flag names no realm and no prefixes: an interface of the file keeps its own.
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
    if interfaces.len() > MAX_MONITORED_INTERFACES {
        let count = interfaces.len();
        check.problem(
            "interfaces",
            format!("{count} interfaces are given; at most {MAX_MONITORED_INTERFACES} can be monitored at a time"),
        );
    }
    let (count, limit) = (interfaces.iter().map(|each| each.prefixes.len()).sum::<usize>(), MAX_ALLOWED_PREFIXES);
    if count > limit as usize {
        check.problem("interfaces", format!("{count} prefixes on all interfaces exceed the maximum of {limit}"));
    }
    interfaces
}

fn interface(raw: &RawInterface) -> Interface {
    Interface {
        name: raw.name.clone(),
        role: raw.role,
        realm: raw.realm,
        prefixes: raw.prefixes.iter().map(|prefix| prefix.0).collect(),
    }
}

/// Checks the prefixes of an interface.
fn prefixes(interface: &Interface, path: &str, pools: &[Pool], check: &mut Checker<'_>) {
    if interface.role == Role::Core && !interface.prefixes.is_empty() {
        let problem = "a core interface has no subscribers behind it; remove the prefixes, or make its role `access`";
        check.problem(path, problem);
    }
    let mut seen = HashSet::new();
    for (index, prefix) in interface.prefixes.iter().enumerate() {
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
