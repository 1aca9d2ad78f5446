//! Tables that others took the place of: their flows end, and what they have counted goes into the books.
//!
//! No program counts into them any more. Counters that do not depend on the capacity are shared with the tables that
//! took their place, so only the tallies are left to be booked.

use monitor_common::{
    abi::{limits::WAYS, tally::Totals},
    engine::release,
    tables::flow_table::{FlowState, Phase},
};
use peertally_core::booked::{BookedTally, ReplacedTables};

use crate::{
    ageing::tables_number,
    released_flows,
    view::{MappedCounters, View},
};

/// Flows that ended with their tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EndedFlows {
    /// Flows whose counts are in their tallies.
    pub(crate) ended: u64,
    /// Flows that a CPU or an agent left in the middle of a change; 0 unless there is a bug. Their counts are missing.
    pub(crate) stuck: u64,
}

/// Ends every flow: its counts go into the tallies and into the counters of its interfaces.
pub(crate) fn end_flows(view: &View<'_>, now_s: u64) -> EndedFlows {
    let counters = MappedCounters::new(*view);
    // An agent that died may hold a way. No packet does.
    let mut done = EndedFlows { ended: released_flows::release_abandoned(view, || {}), stuck: 0 };
    for (set, cold) in view.flows.iter().zip(view.cold) {
        for way in 0..WAYS {
            if FlowState(set.states[way].load()).phase() == Phase::Empty {
                continue;
            }
            match release::end_flow(&counters, view.settings, (set, cold), way, now_s) {
                Some(_) => done.ended += 1,
                None => done.stuck += 1,
            }
        }
    }
    done
}

/// What the tallies have counted.
pub(crate) fn totals(view: &View<'_>) -> ReplacedTables {
    let mut replaced = ReplacedTables { number: tables_number(view), ..ReplacedTables::default() };
    for (slot, (tally, slot_key)) in view.tallies.iter().zip(view.keys).take(view.slots_in_use()).enumerate() {
        let Some(key) = slot_key.read() else { continue };
        let totals = tally.totals();
        if totals == Totals::default() {
            continue;
        }
        let tallies = if slot_key.is_retiring() { &mut replaced.leaving } else { &mut replaced.tallies };
        tallies.push(BookedTally { slot: slot as u32, key, totals });
    }
    replaced
}

/// Whether nothing was counted in these tables.
pub(crate) fn is_unused(view: &View<'_>) -> bool {
    let empty = |state: &monitor_common::bpf::shared_u64::SharedU64| FlowState(state.load()).phase() == Phase::Empty;
    let replaced = totals(view);
    view.flows.iter().flat_map(|set| &set.states).all(empty)
        && replaced.tallies.is_empty()
        && replaced.leaving.is_empty()
}
