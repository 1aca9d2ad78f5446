//! What the maps hold of the monitored interfaces and of the prefixes that packets may come from: one source for the
//! BPF maps and the host's data path.

use std::sync::Arc;

use ipnet::IpNet;
use monitor_common::{
    abi::{
        interface::InterfaceEntry,
        key::Address,
        limits::{FIRST_INNER_TABLE, VLAN_TABLES},
        spoofing::{IN_SET, SHARED_POOLS},
    },
    tables::vlan_table,
};
use peertally_core::{
    pool::{Pool, keyed},
    vlan::{Vlan, VlanTables},
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
    /// VLANs for which something else holds.
    pub vlans: Vec<Vlan>,
}

impl MonitoredInterface {
    /// An interface that subscribers' packets may arrive on, known by its index alone.
    #[must_use]
    pub fn access(index: u32) -> Self {
        Self {
            name: format!("if{index}").into(),
            index,
            role: Role::Access,
            realm: 0,
            prefixes: Vec::new(),
            vlans: Vec::new(),
        }
    }
}

/// A prefix of a set: number of the set, address and length as [`keyed`] has them, and value.
pub(crate) type SetPrefix = (u32, Address, u8, u32);

/// The tables of all interfaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct InterfaceTables {
    /// Entries by the low 16 bits of the index, without a number.
    pub(crate) entries: Vec<(u16, InterfaceEntry)>,
    /// Entries of VLANs; the first one is not used.
    pub(crate) vlan_entries: Vec<InterfaceEntry>,
    /// Cells of outer VLANs in the order of `entries`, and of inner VLANs.
    pub(crate) vlans: VlanTables,
    /// All sets of prefixes.
    pub(crate) prefixes: Vec<SetPrefix>,
    /// Sets of access interfaces and VLANs among them.
    sets: u16,
}

impl InterfaceTables {
    /// The tables for these interfaces and pools.
    pub(crate) fn new(interfaces: &[MonitoredInterface], pools: &[Pool]) -> Self {
        let mut tables = Self { vlan_entries: vec![InterfaceEntry(0)], ..Self::default() };
        if pools.iter().any(|pool| pool.shared) {
            // A pool within a shared one may be this router's alone.
            let of_pools = pools.iter().map(|pool| (pool.prefix(), u8::from(pool.shared)));
            tables.add_set(SHARED_POOLS, of_pools);
        }
        for MonitoredInterface { index, role, realm, prefixes, vlans, .. } in interfaces {
            let entry = tables.entry(*role, *realm, prefixes).with_vlans(!vlans.is_empty());
            tables.entries.push((*index as u16, entry));
            for Vlan { role, realm, prefixes, .. } in vlans {
                let entry = tables.entry(*role, *realm, prefixes).of_vlan();
                tables.vlan_entries.push(entry);
            }
        }
        tables.vlans = VlanTables::new(interfaces.iter().map(|interface| &*interface.vlans));
        tables
    }

    /// The words of the VLAN tables; `number` gives the number of the interface with these low 16 bits of the index.
    /// An interface without a number of its own has no VLANs.
    pub(crate) fn vlan_words(&self, number: impl Fn(u16) -> Option<u32>) -> Vec<u64> {
        const WORDS_PER_TABLE: usize = vlan_table::WORDS / VLAN_TABLES;
        let mut words = vec![0; vlan_table::WORDS];
        let outer = self.entries.iter().zip(&self.vlans.outer);
        let outer = outer.filter_map(|((index, _), cells)| Some((number(*index)? as usize, cells)));
        for (table, cells) in outer.chain((FIRST_INNER_TABLE..).zip(&self.vlans.inner)) {
            let of_table = words.iter_mut().skip(table * WORDS_PER_TABLE).take(WORDS_PER_TABLE);
            of_table.zip(vlan_table::words(cells)).for_each(|(word, value)| *word = value);
        }
        words
    }

    /// An entry without a number, and the set of its prefixes.
    fn entry(&mut self, role: Role, realm: u32, prefixes: &[IpNet]) -> InterfaceEntry {
        let entry = InterfaceEntry(0).with_core(role == Role::Core).with_realm(realm);
        if prefixes.is_empty() {
            return entry;
        }
        self.sets += 1;
        self.add_set(self.sets.into(), prefixes.iter().map(|prefix| (*prefix, IN_SET as u8)));
        entry.with_prefix_set(self.sets)
    }

    fn add_set(&mut self, set: u32, prefixes: impl IntoIterator<Item = (IpNet, u8)>) {
        let keyed = keyed(prefixes).into_iter();
        self.prefixes.extend(keyed.map(|(address, len, value)| (set, address, len, u32::from(value))));
    }
}
