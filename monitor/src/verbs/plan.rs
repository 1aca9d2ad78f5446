//! `peertally plan`: the memory that a configuration will take, before anything is loaded, and the size of a box.
//!
//! The kernel's part comes from the object that would be loaded ([`peertally_datapath::table_memory`]). The agent's
//! part was measured (`cargo xtask bench`, row "agent with .. tallies") and is an estimate for tables in which every
//! tally is in use. [`sizing`] has the arithmetic for a load.

pub mod args;
mod show;
mod show_sizing;
pub mod sizing;

use std::{collections::HashSet, fs};

use monitor_common::{
    abi::{
        limits::WAYS,
        tally::{SlotKey, Tally},
    },
    tables::flow_table::{ColdSet, FlowSet},
};
use peertally_core::{
    exit::{Exit, ExitCause},
    snapshot::TallyChange,
};
use peertally_datapath::{
    TableSizes,
    table_memory::{ParseError, TableMemory, tables},
};
use serde::Serialize;

pub use show::{json, show};

use crate::config::{self, ConfigError, Resolved};
use args::PlanArgs;
use sizing::{LoadError, Sizing, bucket::Bucket};

/// The agent without a tally: program, threads, runtime.
const AGENT_BYTES: u64 = 18 << 20;
/// Bytes that the agent keeps for each flow there is room for: whether it moved since the drain before.
const AGENT_BYTES_PER_FLOW: u64 = 2;
/// Bytes that the agent keeps for each tally, including the current drain: 185 were measured, and 8 are its remotes.
const AGENT_BYTES_PER_TALLY: u64 = 193;
/// Bytes of a drain for each tally that moved.
const AGENT_BYTES_PER_CHANGE: u64 = size_of::<TallyChange>() as u64;
/// Bytes for each tally that a policy covers, for each metric and direction: place, limit, sum and a spare bucket.
const AGENT_BYTES_PER_TALLY_AND_GROUP: u64 = 52;
/// Further bytes for each tally that a policy covers, for each window of a metric and direction: at most sixteen
/// buckets of 32 bytes.
const AGENT_BYTES_PER_TALLY_AND_WINDOW: u64 = 512;

/// Tallies of a subscriber with traffic of one P2P protocol, and other traffic.
pub const TALLIES_EACH: u64 = 2;

/// Memory of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Flows there is room for.
    pub flows: u64,
    /// Tallies there is room for.
    pub tallies: u64,
    /// Subscribers there is room for, with [`TALLIES_EACH`] tallies each.
    pub subscribers: u64,
    /// Tables in the kernel, largest first.
    pub tables: Vec<TableMemory>,
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
    /// The bound of the slow path, if there is one.
    pub shedding: Option<Bucket>,
    /// The size of a box, if a load was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sizing: Option<LoadPlan>,
}

/// The size of a box, and the memory that its recommended tables take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoadPlan {
    /// Capacities, turnover and cores.
    #[serde(flatten)]
    pub sizing: Sizing,
    /// Memory of the recommended flow table.
    pub flows_bytes: u64,
    /// Memory of the recommended tallies and their index.
    pub tallies_bytes: u64,
    /// Memory of the recommended peer cache.
    pub peers_bytes: u64,
    /// The bound of the slow path with the configured flow table, if there is one.
    #[serde(skip)]
    pub shedding: Option<Bucket>,
    /// All tables in the kernel at the recommended capacities.
    pub kernel_bytes: u64,
    /// The agent with every tally in use and moving.
    pub agent_bytes: u64,
}

/// Errors of a plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The object.
    #[error("the built-in object cannot be read: {0}; rebuild it with `cargo xtask build-ebpf`")]
    Object(#[from] ParseError),
    /// More than the machine has.
    #[error(
        "the tables of this configuration take {} MiB and this machine has {} MiB of memory; lower `capacity.flows`, `capacity.tallies` \
         or `capacity.peers` (`peertally plan` shows what each takes)", kernel_bytes >> 20, memory_bytes >> 20
    )]
    TooLarge {
        /// Bytes of the tables.
        kernel_bytes: u64,
        /// Bytes of the machine's memory.
        memory_bytes: u64,
    },
}

impl ExitCause for PlanError {
    fn exit(&self) -> Exit {
        match self {
            Self::Config(error) => error.exit(),
            Self::Load(error) => error.exit(),
            Self::Object(_) => Exit::Bug,
            Self::TooLarge { .. } => Exit::Unavailable,
        }
    }
}

/// The plan of what `run` would be given, and the size of a box for the load.
///
/// # Errors
/// [`PlanError`].
pub fn main(args: &PlanArgs) -> Result<Plan, PlanError> {
    let resolved = config::load(args.run.config.as_deref(), &args.run.overrides())?;
    let (plan, load) = (Plan::new(&resolved)?, args.load());
    if load.is_empty() {
        return Ok(plan);
    }
    let sizing = Sizing::new(load, &resolved.datapath.sizes)?;
    Ok(Plan { sizing: Some(LoadPlan::new(sizing, &resolved)?), ..plan })
}

impl LoadPlan {
    /// The recommended tables of `sizing`, beside all other settings of a configuration.
    ///
    /// # Errors
    /// [`PlanError::Object`].
    pub fn new(sizing: Sizing, resolved: &Resolved) -> Result<Self, PlanError> {
        let plan = Plan::of(resolved, &sizing.recommended())?;
        let bytes = |names: &[&str]| -> u64 {
            plan.tables.iter().filter(|table| names.contains(&&*table.name)).map(|table| table.bytes).sum()
        };
        Ok(Self {
            flows_bytes: bytes(&["FLOWS", "COLD_FLOWS"]),
            tallies_bytes: bytes(&["TALLIES", "TALLY_KEYS", "TALLY_SLOTS", "TALLY_CACHE", "FREE_SLOTS"]),
            peers_bytes: bytes(&["PEERS"]),
            shedding: resolved.datapath.shedding.map(|shedding| Bucket::new(shedding, &resolved.datapath.sizes)),
            kernel_bytes: plan.kernel_bytes,
            agent_bytes: plan.agent_bytes,
            sizing,
        })
    }
}

impl Plan {
    /// The plan of a configuration on this machine.
    ///
    /// # Errors
    /// [`PlanError::Object`].
    pub fn new(resolved: &Resolved) -> Result<Self, PlanError> {
        Self::of(resolved, &resolved.datapath.sizes)
    }

    fn of(resolved: &Resolved, sizes: &TableSizes) -> Result<Self, PlanError> {
        let data_path = &resolved.datapath;
        let tables = tables(sizes, data_path.watchlist.count() as u32, data_path.record_bytes)?;
        let (flows, tallies) = (sizes.flows, u64::from(sizes.tallies));
        let groups: HashSet<_> = resolved.policies.iter().map(|policy| (policy.metric, policy.direction)).collect();
        let windows: HashSet<_> =
            resolved.policies.iter().map(|policy| (policy.metric, policy.direction, policy.window)).collect();
        let per_tally = AGENT_BYTES_PER_TALLY
            + AGENT_BYTES_PER_CHANGE
            + AGENT_BYTES_PER_TALLY_AND_GROUP * groups.len() as u64
            + AGENT_BYTES_PER_TALLY_AND_WINDOW * windows.len() as u64;
        let index: u64 = tables
            .iter()
            .filter(|table| ["TALLY_SLOTS", "TALLY_CACHE", "FREE_SLOTS"].contains(&table.name.as_str()))
            .map(|table| table.bytes)
            .sum();
        Ok(Self {
            flows: u64::from(flows),
            tallies,
            subscribers: tallies.saturating_sub(1) / TALLIES_EACH,
            kernel_bytes: tables.iter().map(|table| table.bytes).sum(),
            bytes_per_flow: ((size_of::<FlowSet>() + size_of::<ColdSet>()) / WAYS) as u64,
            bytes_per_tally: (size_of::<Tally>() + size_of::<SlotKey>()) as u64 + index / tallies.max(1),
            agent_bytes: AGENT_BYTES + AGENT_BYTES_PER_FLOW * u64::from(flows) + per_tally * tallies,
            memory_bytes: memory("MemTotal"),
            available_bytes: memory("MemAvailable"),
            shedding: resolved.datapath.shedding.map(|shedding| Bucket::new(shedding, sizes)),
            sizing: None,
            tables,
        })
    }

    /// Refuses a plan larger than this machine's memory; warns if too little memory is available now.
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
        assert_eq!(one.bytes_per_flow, 96);
        let (flows, default) = (plan("[capacity]\nflows = 1048576\n"), plan(""));
        assert_eq!(flows.kernel_bytes - default.kernel_bytes, 96 << 19);
        assert_eq!(flows.agent_bytes - default.agent_bytes, AGENT_BYTES_PER_FLOW << 19);
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
