//! Ends flows on behalf of the agent: an idle flow in the table keeps the slots of its tallies from being used again.

use super::account;
use crate::{
    abi::{limits::WAYS, settings::Settings},
    tables::{
        flow_table::{ColdSet, FlowSet, FlowState, NO_SLOTS, Phase},
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
    let (word, cold) = (&set.states[way], &cold.flows[way]);
    let state = FlowState(word.load());
    let live = matches!(state.phase(), Phase::Inspecting | Phase::Settled);
    if !live || state.is_claimed() || state.is_charging() || state.age_s(now_s) < idle_s {
        return false;
    }
    if !word.replace(state.0, FlowState::LOCKED.0) {
        return false;
    }
    account::end_flow(maps, settings, (set, cold), way, state, now_s);
    // Whoever read the flow before finds another one.
    cold.generation.add(1);
    cold.slots.store(NO_SLOTS);
    set.tags[way].store(0);
    word.swap(FlowState::EMPTY.0);
    true
}
