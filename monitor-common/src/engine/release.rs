//! Release: the agent takes flows away from subscribers who no longer exist, because their pool was removed or is cut
//! into other blocks.
//!
//! The agent follows the rules of the flow table: it locks a way by compare-and-swap on its state, as a CPU does that
//! evicts the flow. So nothing is counted twice, and packets that come meanwhile count for their interface.

use super::account;
use crate::{
    abi::{limits::WAYS, settings::Settings},
    tables::{
        flow_table::{ColdFlow, ColdSet, FlowSet, FlowState, NO_SLOTS, Phase},
        maps::CounterMaps,
    },
};

/// A flow that [`end_flow`] took out of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedFlow {
    /// Its last state.
    pub state: FlowState,
    /// Tally slots that it was charged to.
    pub slots: u64,
}

/// Locks the flow in a way, unless another CPU changed it since `seen`.
///
/// The locked state keeps that of the flow, so that [`unlock_abandoned`] can end the flow if the caller dies.
pub(super) fn lock(set: &FlowSet, way: usize, seen: FlowState) -> bool {
    set.states[way].replace(seen.0, seen.locked().0)
}

/// Whether a CPU that is not in the middle of a change could evict the flow.
pub(super) fn is_free(state: FlowState) -> bool {
    matches!(state.phase(), Phase::Inspecting | Phase::Settled) && !state.is_claimed() && !state.is_charging()
}

/// Books what the flow in a way has counted, and empties the way. Its next packet is looked up like that of a new flow.
///
/// `None` if another CPU changes the flow at this moment; try again. A CPU that found the flow before may still count a
/// packet: after all packets in progress are done, the caller calls [`flush_ended`].
pub fn end_flow<M: CounterMaps>(
    maps: &M,
    settings: &Settings,
    (set, cold): (&FlowSet, &ColdSet),
    way: usize,
    now_s: u64,
) -> Option<EndedFlow> {
    let way = way & (WAYS - 1);
    let cold = &cold.flows[way];
    let state = FlowState(set.states[way].load());
    if !is_free(state) {
        return None;
    }
    if !lock(set, way, state) {
        return None;
    }
    let slots = cold.slots.load();
    end_locked(maps, settings, (set, cold), way, state, now_s);
    Some(EndedFlow { state, slots })
}

/// Books what the flow in a way has counted that [`lock`] has locked, and empties the way.
///
/// A caller who dies in between leaves what [`unlock_abandoned`] goes on with. Each step is marked before it is done,
/// so nothing is booked twice; what the caller had taken out of a counter and not booked yet is lost.
pub(super) fn end_locked<M: CounterMaps>(
    maps: &M,
    settings: &Settings,
    (set, cold): (&FlowSet, &ColdFlow),
    way: usize,
    state: FlowState,
    now_s: u64,
) {
    // The flow of a settled state is counted.
    set.states[way].store(state.locked().counted().0);
    account::end_flow(maps, settings, (set, cold), way, state, now_s);
    empty(set, cold, way);
}

/// Empties a way that the caller has locked, and whose counters it has flushed.
fn empty(set: &FlowSet, cold: &ColdFlow, way: usize) {
    // Whoever read the flow before finds another one.
    cold.generation.add(1);
    cold.slots.store(NO_SLOTS);
    set.tags[way].store(0);
    set.states[way].swap(FlowState::EMPTY.0);
}

/// Books what CPUs counted for a flow that [`end_flow`] ended meanwhile, unless another flow has the way.
pub fn flush_ended<M: CounterMaps>(maps: &M, set: &FlowSet, way: usize, ended: EndedFlow, now_s: u64) {
    let way = way & (WAYS - 1);
    // If the caller dies, what is left counts for the interface.
    if set.states[way].replace(FlowState::EMPTY.0, ended.state.locked().counted().0) {
        account::flush(maps, set, ended.slots, way, ended.state, now_s);
        set.states[way].store(FlowState::EMPTY.0);
    }
}

/// Books what the flow in a way has counted, and charges nobody until a packet of it shows who its subscribers are. The
/// verdict stays, and what the flow's packets have proved.
///
/// Returns whether it did: not while another CPU changes the flow; try again.
pub fn uncharge_flow<M: CounterMaps>(
    maps: &M,
    settings: &Settings,
    (set, cold): (&FlowSet, &ColdSet),
    way: usize,
    now_s: u64,
) -> bool {
    let way = way & (WAYS - 1);
    let cold = &cold.flows[way];
    let state = FlowState(set.states[way].load());
    if !is_free(state) {
        return false;
    }
    if !lock(set, way, state) {
        return false;
    }
    account::leave_subscribers(maps, settings, (set, cold), way, state, now_s);
    cold.generation.add(1);
    cold.slots.store(NO_SLOTS);
    // Packets of both directions leave the fast path, and the first one charges.
    set.states[way].store(state.pending().waiting_for(3).0);
    true
}

/// Ends the flow in a way that stayed locked although all packets in progress are done: an agent died while it held the
/// lock.
pub fn unlock_abandoned<M: CounterMaps>(
    maps: &M,
    settings: &Settings,
    (set, cold): (&FlowSet, &ColdSet),
    way: usize,
    now_s: u64,
) -> bool {
    let way = way & (WAYS - 1);
    let state = FlowState(set.states[way].load());
    if state.phase() != Phase::Locked {
        return false;
    }
    let cold = &cold.flows[way];
    match state.kept() {
        Some(kept) => end_locked(maps, settings, (set, cold), way, kept, now_s),
        None => empty(set, cold, way),
    }
    true
}
