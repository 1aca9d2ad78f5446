//! Ends flows on behalf of the agent: an idle flow in the table keeps the slots of its tallies from being used again.

use super::release::{end_locked, is_free, lock};
use crate::{
    abi::{limits::WAYS, settings::Settings},
    tables::{
        flow_table::{ColdSet, FlowSet, FlowState},
        maps::CounterMaps,
    },
};

/// Ends the flow in a way if it has been idle for `idle_s` seconds, at least
/// [`IDLE_SECONDS`](crate::abi::limits::IDLE_SECONDS): its counters go into its tallies, and the way is empty.
pub fn end_idle<M: CounterMaps>(
    maps: &M,
    settings: &Settings,
    (set, cold): (&FlowSet, &ColdSet),
    way: usize,
    now_s: u64,
    idle_s: u16,
) -> bool {
    let way = way & (WAYS - 1);
    let state = FlowState(set.states[way].load());
    if !is_free(state) || state.age_s(now_s) < idle_s || !lock(set, way, state) {
        return false;
    }
    end_locked(maps, settings, (set, &cold.flows[way]), way, state, now_s);
    true
}
