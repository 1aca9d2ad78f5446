//! `peertally plan`: what memory a configuration will take, before anything is loaded.
//!
//! The tables come from the object that would be loaded, with the capacities that the agent would give them, so a new table is in
//! the plan by itself. How the kernel lays them out: kernel/bpf/{arraymap,hashtab,lpm_trie}.c, `map_mem_usage` of each; a test
//! compares with what the kernel says of the loaded object. What the agent itself takes was measured (`cargo xtask bench`, row
//! "agent with .. tallies") and is an estimate for tables in which every tally is in use.

mod show;

use std::{collections::HashSet, fs};

use aya::util::nr_cpus;
use aya_obj::Object;
use monitor_common::{
    limits::WAYS,
    tables::flow_table::{ColdSet, FlowSet},
    tally::{SlotKey, Tally},
};
use peertally_core::exit::{Exit, ExitCause};
use serde::Serialize;

pub use show::{json, show};

use crate::{
    config::{self, ConfigError, Resolved, RunArgs},
    datapath::{TableSizes, object::OBJECT},
};

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Bytes of a hash table's element in addition to key and value (`struct htab_elem`).
const HASH_ELEMENT: u64 = 48;
/// A hash table's bucket (`struct bucket`).
const HASH_BUCKET: u64 = 16;
/// A trie's node without its key's address and its value (`struct lpm_trie_node`).
const TRIE_NODE: u64 = 40;

/// The agent without a tally: program, threads, runtime.
const AGENT_BYTES: u64 = 18 << 20;
/// What the agent keeps for each tally, the drain under way included.
const AGENT_BYTES_PER_TALLY: u64 = 185;
/// What a drain says of each tally that moved (`snapshot::TallyChange`).
const AGENT_BYTES_PER_CHANGE: u64 = 48;
/// What it keeps for each tally that a policy covers, for each metric and direction: place, limit and sum, and a bucket's memory at hand.
const AGENT_BYTES_PER_TALLY_AND_QUANTITY: u64 = 28;
/// Further bytes for each tally that a policy covers, for each window of a metric and direction: at most sixteen buckets.
const AGENT_BYTES_PER_TALLY_AND_WINDOW: u64 = 128;

/// One table in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TablePlan {
    /// Name in the object.
    pub name: String,
    /// The kernel's number of its type (`enum bpf_map_type`).
    #[serde(skip)]
    pub map_type: u32,
    /// Bytes of a key.
    #[serde(skip)]
    pub key_bytes: u32,
    /// Bytes of a value.
    #[serde(skip)]
    pub value_bytes: u32,
    /// Entries it has room for.
    pub entries: u32,
    /// Bytes it takes.
    pub bytes: u64,
}

/// What a configuration takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Flows there is room for.
    pub flows: u64,
    /// Tallies there is room for.
    pub tallies: u64,
    /// Tables in the kernel, largest first.
    pub tables: Vec<TablePlan>,
    /// Their sum: taken at the start, and kept while they are pinned.
    pub kernel_bytes: u64,
    /// The kernel's part of one flow.
    pub bytes_per_flow: u64,
    /// The kernel's part of one tally.
    pub bytes_per_tally: u64,
    /// The agent with every tally in use and moving.
    pub agent_bytes: u64,
    /// Memory of this machine, if it says so.
    pub memory_bytes: Option<u64>,
    /// Memory that is available here now.
    pub available_bytes: Option<u64>,
}

/// Why there is no plan, or it cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The object.
    #[error("the built-in object cannot be read: {0}; rebuild it with `cargo xtask build-ebpf`")]
    Object(#[from] aya_obj::ParseError),
    /// More than the machine has.
    #[error(
        "the tables of this configuration take {} MiB and this machine has {} MiB of memory; lower `capacity.flows`, `capacity.tallies` \
         or `capacity.peers` (`peertally plan` shows what each takes)", kernel_bytes >> 20, memory_bytes >> 20
    )]
    TooLarge {
        /// What the tables take.
        kernel_bytes: u64,
        /// What there is.
        memory_bytes: u64,
    },
}

impl ExitCause for PlanError {
    fn exit(&self) -> Exit {
        match self {
            Self::Config(error) => error.exit(),
            Self::Object(_) => Exit::Bug,
            Self::TooLarge { .. } => Exit::Unavailable,
        }
    }
}

/// The plan of what `run` would be given.
///
/// # Errors
/// [`PlanError`].
pub fn main(args: &RunArgs) -> Result<Plan, PlanError> {
    Plan::new(&config::load(args.config.as_deref(), &args.overrides())?)
}

impl Plan {
    /// The plan of a configuration on this machine.
    ///
    /// # Errors
    /// [`PlanError::Object`].
    pub fn new(resolved: &Resolved) -> Result<Self, PlanError> {
        let sizes = resolved.datapath.sizes;
        let tables = tables(&sizes, resolved.datapath.watchlist.entries.len() as u32)?;
        let (flows, tallies) = (sizes.flows, u64::from(sizes.tallies));
        let quantities: HashSet<_> =
            resolved.policies.iter().map(|policy| (policy.metric.label(), policy.direction.label())).collect();
        let windows: HashSet<_> = resolved
            .policies
            .iter()
            .map(|policy| (policy.metric.label(), policy.direction.label(), policy.window))
            .collect();
        let per_tally = AGENT_BYTES_PER_TALLY
            + AGENT_BYTES_PER_CHANGE
            + AGENT_BYTES_PER_TALLY_AND_QUANTITY * quantities.len() as u64
            + AGENT_BYTES_PER_TALLY_AND_WINDOW * windows.len() as u64;
        let index: u64 = tables
            .iter()
            .filter(|table| ["TALLY_SLOTS", "TALLY_CACHE"].contains(&table.name.as_str()))
            .map(|table| table.bytes)
            .sum();
        Ok(Self {
            flows: u64::from(flows),
            tallies,
            kernel_bytes: tables.iter().map(|table| table.bytes).sum(),
            bytes_per_flow: ((size_of::<FlowSet>() + size_of::<ColdSet>()) / WAYS) as u64,
            bytes_per_tally: (size_of::<Tally>() + size_of::<SlotKey>()) as u64 + index / tallies.max(1),
            agent_bytes: AGENT_BYTES + per_tally * tallies,
            memory_bytes: memory("MemTotal"),
            available_bytes: memory("MemAvailable"),
            tables,
        })
    }

    /// Refuses what this machine cannot have; says so when it has no room for it now.
    ///
    /// # Errors
    /// [`PlanError::TooLarge`].
    pub fn check(&self) -> Result<(), PlanError> {
        let kernel_bytes = self.kernel_bytes;
        if let Some(memory_bytes) = self.memory_bytes.filter(|memory| *memory < kernel_bytes) {
            return Err(PlanError::TooLarge { kernel_bytes, memory_bytes });
        }
        let (tables_mib, agent_mib) = (kernel_bytes >> 20, self.agent_bytes >> 20);
        tracing::info!(tables_mib, agent_mib, "memory of this configuration, every tally in use");
        if let Some(available) = self.available_bytes.filter(|available| *available < kernel_bytes) {
            // Tables that are pinned from before are part of what is not available.
            tracing::warn!(
                tables_mib,
                available_mib = available >> 20,
                "the tables take more memory than is available now"
            );
        }
        Ok(())
    }
}

/// The object's tables with these sizes and so many entries of a watchlist, largest first.
///
/// # Errors
/// [`PlanError::Object`].
pub fn tables(sizes: &TableSizes, watched: u32) -> Result<Vec<TablePlan>, PlanError> {
    let object = Object::parse(OBJECT)?;
    let sized = [&sizes.entries()[..], &[("WATCHLIST", watched.max(1))]].concat();
    let cpus = nr_cpus().map_or(1, |cpus| cpus as u64);
    let mut tables: Vec<TablePlan> = object
        .maps
        .iter()
        .map(|(name, map)| {
            let entries =
                sized.iter().find(|(sized, _)| sized == name).map_or(map.max_entries(), |(_, entries)| *entries);
            let (map_type, key_bytes, value_bytes) = (map.map_type(), map.key_size(), map.value_size());
            let bytes = bytes(map_type, map.map_flags(), [key_bytes, value_bytes, entries].map(u64::from), cpus);
            TablePlan { name: name.clone(), map_type, key_bytes, value_bytes, entries, bytes }
        })
        .collect();
    tables.sort_by(|left, right| right.bytes.cmp(&left.bytes).then_with(|| left.name.cmp(&right.name)));
    Ok(tables)
}

/// Types of `enum bpf_map_type`, include/uapi/linux/bpf.h.
mod map_type {
    pub(super) const HASH: u32 = 1;
    pub(super) const ARRAY: u32 = 2;
    pub(super) const PERCPU_ARRAY: u32 = 6;
    pub(super) const LPM_TRIE: u32 = 11;
    pub(super) const RINGBUF: u32 = 27;
}

/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// Bytes of a table with keys, values and entries as given.
fn bytes(kind: u32, flags: u32, [key, value, entries]: [u64; 3], cpus: u64) -> u64 {
    let (key, value) = (key.next_multiple_of(8), value.next_multiple_of(8));
    match kind {
        map_type::ARRAY if flags & MMAPABLE != 0 => PAGE + (value * entries).next_multiple_of(PAGE),
        map_type::ARRAY => value * entries,
        map_type::PERCPU_ARRAY => (8 + value * cpus) * entries,
        map_type::HASH => (HASH_ELEMENT + key + value) * (entries + cpus) + HASH_BUCKET * entries.next_power_of_two(),
        // Its nodes are made as prefixes come: at most two for each.
        map_type::LPM_TRIE => (TRIE_NODE + key + value) * 2 * entries,
        map_type::RINGBUF => entries + 3 * PAGE,
        _ => (key + value) * entries,
    }
}

/// A line of `/proc/meminfo` in bytes (proc(5)).
fn memory(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{self, Overrides};

    fn plan(text: &str) -> Plan {
        Plan::new(&config::parse(Path::new("p.toml"), text, &Overrides::default()).expect("valid")).expect("a plan")
    }

    #[test]
    fn twice_the_tallies_take_twice_their_part() {
        let (one, two) = (plan("[capacity]\ntallies = 262144\n"), plan("[capacity]\ntallies = 524288\n"));
        let more = two.kernel_bytes - one.kernel_bytes;
        assert_eq!(more / 4096, 262_144 * one.bytes_per_tally / 4096, "{} bytes a tally", one.bytes_per_tally);
        assert_eq!(one.bytes_per_flow, 64);
        assert_eq!(plan("[capacity]\nflows = 1048576\n").kernel_bytes - plan("").kernel_bytes, 64 << 19);
        assert_eq!(two.agent_bytes - one.agent_bytes, 262_144 * (AGENT_BYTES_PER_TALLY + AGENT_BYTES_PER_CHANGE));
    }

    #[test]
    fn windows_cost_the_agent() {
        let policy =
            |window: &str| format!("[[policies]]\nname = \"{window}\"\nthreshold = \"1 GiB\"\nwindow = \"{window}\"\n");
        let (one, two) = (plan(&policy("1h")), plan(&(policy("1h") + &policy("2h"))));
        assert_eq!(two.agent_bytes - one.agent_bytes, AGENT_BYTES_PER_TALLY_AND_WINDOW * one.tallies);
        assert_eq!(two.kernel_bytes, one.kernel_bytes);
    }

    #[test]
    fn what_the_machine_has_not_is_refused() {
        let mut plan = plan("");
        plan.check().expect("the default fits any machine that builds this");
        plan.memory_bytes = Some(1 << 20);
        let error = plan.check().expect_err("a mebibyte is not enough");
        assert_eq!(error.exit(), Exit::Unavailable);
        assert!(error.to_string().contains("capacity.tallies"), "{error}");
    }
}
