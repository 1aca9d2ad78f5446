//! The size of a box for a load: capacities, how long the flow table lasts, and cores.
//!
//! Pure arithmetic: a load and capacities in, values out. It must never read a file or the clock. Costs come from
//! [`costs`], times from `abi/limits.rs`, bounds of a capacity from the configuration's types.

pub mod bucket;
pub mod cores;
pub mod costs;
#[cfg(test)]
mod tests;

use monitor_common::abi::limits::{FRESH_SECONDS, IDLE_SECONDS};
use peertally_core::exit::{Exit, ExitCause};
use peertally_datapath::TableSizes;
use serde::Serialize;

use crate::config::{
    raw::Capacity,
    values::{Range, Ranged},
};
use cores::Cores;
use costs::Cost;

/// Assumption: tallies of a subscriber, which are one for unclassified traffic and two for P2P protocols.
pub const TALLIES_PER_SUBSCRIBER: u64 = 3;
/// Assumption: entries of the peer cache for each subscriber. One subscriber in twenty that runs P2P with 60 peers in
/// 40 minutes needs this.
pub const PEERS_PER_SUBSCRIBER: u64 = 3;
/// Turnover in multiples of the protected time below which some new flows are refused: each of the eight ways that a
/// new flow can take is protected with a probability of 1/2, all of them with 1/256.
const PROTECTED_MULTIPLE: f64 = 2.0;

/// What a box must carry. A value that is not known sizes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Packets a second of all monitored interfaces together, new flows included.
    pub packets_per_second: Option<u64>,
    /// New flows a second.
    pub new_flows_per_second: Option<u64>,
    /// Subscribers: blocks of the pools that ever send or receive.
    pub subscribers: Option<u64>,
}

/// A load that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Each flow begins with a packet.
    #[error(
        "--new-flows-per-second {new_flows} is more than --packets-per-second {packets}, but each new flow has at least \
         one packet; correct one of them"
    )]
    MoreFlowsThanPackets {
        /// New flows a second.
        new_flows: u64,
        /// Packets a second.
        packets: u64,
    },
}

impl ExitCause for LoadError {
    fn exit(&self) -> Exit {
        Exit::Usage
    }
}

/// What follows for flows from the time in which the flow table turns over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Turnover {
    /// Below the protected time: there are more new flows than ways that can be evicted.
    Refuses,
    /// Below twice the protected time: sets fill unevenly, and new flows of full sets are refused.
    RefusesSome,
    /// Below the idle time: flows without a P2P verdict are evicted in a pause.
    EvictsPausing,
    /// At least the idle time: only idle flows are evicted.
    EvictsIdle,
}

/// A flow table under the load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FlowTable {
    /// Ways.
    pub flows: u64,
    /// Ways divided by new flows a second; none without new flows.
    pub turnover_seconds: Option<f64>,
    /// What follows.
    pub turnover: Turnover,
}

/// A tally table under the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TallyTable {
    /// Tallies, the catch-all included.
    pub tallies: u64,
    /// Subscribers that find room.
    pub subscribers: u64,
    /// Whether all subscribers of the load do.
    pub suffices: bool,
}

/// A capacity for the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Recommended {
    /// Value for the configuration.
    pub entries: u64,
    /// Whether the load decides it; else it is the configured value.
    pub by_load: bool,
    /// Whether the load needs more than a configuration may have.
    pub is_limited: bool,
}

/// The size of a box.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sizing {
    /// The load.
    pub load: Load,
    /// The configured flow table, if new flows are given.
    pub flow_table: Option<FlowTable>,
    /// The configured tally table, if subscribers are given.
    pub tally_table: Option<TallyTable>,
    /// `capacity.flows`.
    pub flows: Recommended,
    /// `capacity.tallies`.
    pub tallies: Recommended,
    /// `capacity.peers`.
    pub peers: Recommended,
    /// Turnover of the recommended flow table.
    pub recommended_flow_table: Option<FlowTable>,
    /// Cores, if packets or new flows are given.
    pub cores: Option<Cores>,
    /// Rows that the costs come from.
    pub costs: [Cost; 6],
    /// Where the rows were measured.
    pub measured_on: &'static str,
}

impl Load {
    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl FlowTable {
    /// A table of `flows` ways.
    #[must_use]
    pub fn new(flows: u64, new_flows_per_second: u64) -> Self {
        let seconds = flows as f64 / new_flows_per_second as f64;
        let (protected, idle) = (f64::from(FRESH_SECONDS), f64::from(IDLE_SECONDS));
        let turnover = match seconds {
            _ if seconds < protected => Turnover::Refuses,
            _ if seconds < protected * PROTECTED_MULTIPLE => Turnover::RefusesSome,
            _ if seconds < idle => Turnover::EvictsPausing,
            _ => Turnover::EvictsIdle,
        };
        Self { flows, turnover_seconds: seconds.is_finite().then_some(seconds), turnover }
    }
}

impl TallyTable {
    fn new(tallies: u64, subscribers: u64) -> Self {
        // The first tally is the catch-all.
        let room = tallies.saturating_sub(1) / TALLIES_PER_SUBSCRIBER;
        Self { tallies, subscribers: room, suffices: subscribers <= room }
    }
}

impl Recommended {
    fn new(needed: Option<u64>, configured: u32, range: Range, is_power_of_two: bool) -> Self {
        let Some(needed) = needed else {
            return Self { entries: configured.into(), by_load: false, is_limited: false };
        };
        let entries = needed.clamp(range.min, range.max);
        let entries = if is_power_of_two { entries.next_power_of_two() } else { entries };
        Self { entries, by_load: true, is_limited: needed > range.max }
    }
}

impl Sizing {
    /// The size of a box for `load`, and what the `configured` tables do under it.
    ///
    /// # Errors
    /// [`LoadError`] for more new flows than packets.
    pub fn new(load: Load, configured: &TableSizes) -> Result<Self, LoadError> {
        let Load { packets_per_second: packets, new_flows_per_second: new_flows, subscribers } = load;
        if let (Some(packets), Some(new_flows)) = (packets, new_flows)
            && new_flows > packets
        {
            return Err(LoadError::MoreFlowsThanPackets { new_flows, packets });
        }
        let bounds = Capacity::default();
        let ways = new_flows.map(|each| each.saturating_mul(IDLE_SECONDS.into()));
        let tallies = subscribers.map(|each| each.saturating_mul(TALLIES_PER_SUBSCRIBER).saturating_add(1));
        let peers = subscribers.map(|each| each.saturating_mul(PEERS_PER_SUBSCRIBER));
        let flows = Recommended::new(ways, configured.flows, range(&bounds.flows), true);
        Ok(Self {
            load,
            flow_table: new_flows.map(|each| FlowTable::new(configured.flows.into(), each)),
            tally_table: subscribers.map(|each| TallyTable::new(configured.tallies.into(), each)),
            flows,
            tallies: Recommended::new(tallies, configured.tallies, range(&bounds.tallies), false),
            peers: Recommended::new(peers, configured.peers, range(&bounds.peers), true),
            recommended_flow_table: new_flows.map(|each| FlowTable::new(flows.entries, each)),
            cores: Cores::new(packets, new_flows),
            costs: costs::ALL,
            measured_on: costs::MEASURED_ON,
        })
    }

    /// The recommended capacities.
    #[must_use]
    pub fn recommended(&self) -> TableSizes {
        // The bounds of a capacity fit into 32 bits.
        TableSizes {
            flows: self.flows.entries as u32,
            tallies: self.tallies.entries as u32,
            peers: self.peers.entries as u32,
        }
    }
}

fn range<T: Ranged>(_: &T) -> Range {
    T::RANGE
}
