//! What the maps hold of the monitored interfaces and of the prefixes that packets may come from: one source for the
//! BPF maps and the host's data path.

use std::sync::Arc;

use ipnet::IpNet;
use monitor_common::abi::{
    interface::InterfaceEntry,
    key::Address,
    spoofing::{IN_SET, SHARED_POOLS},
};
use peertally_core::{
    pool::{Pool, keyed},
    words::Role,
};

/// An interface of this machine that is monitored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitoredInterface {
    /// Name, for messages and metrics.
    pub name: Arc<str>,
    /// Index in the kernel.
    pub index: u32,
    /// Side that the interface faces.
    pub role: Role,
    /// Realm of its packets, 0 on a node without realms.
    pub realm: u32,
    /// Prefixes of the subscribers behind it; empty for all pools.
    pub prefixes: Vec<IpNet>,
}

impl MonitoredInterface {
    /// An interface that subscribers' packets may arrive on, known by its index alone.
    #[must_use]
    pub fn access(index: u32) -> Self {
        Self { name: format!("if{index}").into(), index, role: Role::Access, realm: 0, prefixes: Vec::new() }
    }
}

/// A prefix of a set: number of the set, address and length as [`keyed`] has them, and value.
pub(crate) type SetPrefix = (u32, Address, u8, u32);

/// The tables of all interfaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct InterfaceTables {
    /// Entries by the low 16 bits of the index, without a number.
    pub(crate) entries: Vec<(u16, InterfaceEntry)>,
    /// All sets of prefixes.
    pub(crate) prefixes: Vec<SetPrefix>,
}

impl InterfaceTables {
    /// The tables for these interfaces and pools.
    pub(crate) fn new(interfaces: &[MonitoredInterface], pools: &[Pool]) -> Self {
        let mut tables = Self::default();
        if pools.iter().any(|pool| pool.shared) {
            // A pool within a shared one may be this router's alone.
            let of_pools = pools.iter().map(|pool| (pool.prefix(), u8::from(pool.shared)));
            tables.add_set(SHARED_POOLS, of_pools);
        }
        let mut sets = SHARED_POOLS as u16;
        for interface in interfaces {
            let mut set = 0;
            if !interface.prefixes.is_empty() {
                sets += 1;
                set = sets;
                tables.add_set(set.into(), interface.prefixes.iter().map(|prefix| (*prefix, IN_SET as u8)));
            }
            let entry = InterfaceEntry(0).with_core(interface.role == Role::Core).with_realm(interface.realm);
            tables.entries.push((interface.index as u16, entry.with_prefix_set(set)));
        }
        tables
    }

    fn add_set(&mut self, set: u32, prefixes: impl IntoIterator<Item = (IpNet, u8)>) {
        let keyed = keyed(prefixes).into_iter();
        self.prefixes.extend(keyed.map(|(address, len, value)| (set, address, len, u32::from(value))));
    }
}
