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

/// Locks the flow in a way, unless another CPU changed it since `seen`; returns the first sequence numbers.
///
/// Their word keeps the state meanwhile, so that [`unlock_abandoned`] can end the flow if the caller dies.
fn lock(set: &FlowSet, cold: &ColdFlow, way: usize, seen: FlowState) -> Option<u64> {
    let firsts = cold.first_sequences.swap(seen.0);
    if set.states[way].replace(seen.0, FlowState::LOCKED.0) {
        return Some(firsts);
    }
    cold.first_sequences.store(firsts);
    None
}

/// Whether a CPU that is not in the middle of a change could evict the flow.
fn is_free(state: FlowState) -> bool {
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
    lock(set, cold, way, state)?;
    let slots = cold.slots.load();
    account::end_flow(maps, settings, (set, cold), way, state, now_s);
    empty(set, cold, way);
    Some(EndedFlow { state, slots })
}

/// Empties a way that the caller has locked, and whose counters it has flushed.
fn empty(set: &FlowSet, cold: &ColdFlow, way: usize) {
    cold.generation.add(1);
    cold.slots.store(NO_SLOTS);
    set.tags[way].store(0);
    set.states[way].store(FlowState::EMPTY.0);
}

/// Books what CPUs counted for a flow that [`end_flow`] ended meanwhile, unless another flow has the way.
pub fn flush_ended<M: CounterMaps>(maps: &M, set: &FlowSet, way: usize, ended: EndedFlow, now_s: u64) {
    let way = way & (WAYS - 1);
    if set.states[way].replace(FlowState::EMPTY.0, FlowState::LOCKED.0) {
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
    let Some(firsts) = lock(set, cold, way, state) else { return false };
    account::leave_subscribers(maps, settings, (set, cold), way, state, now_s);
    cold.generation.add(1);
    cold.slots.store(NO_SLOTS);
    cold.first_sequences.store(firsts);
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
    if FlowState(set.states[way].load()) != FlowState::LOCKED {
        return false;
    }
    let cold = &cold.flows[way];
    let state = FlowState(cold.first_sequences.load());
    if is_free(state) {
        account::end_flow(maps, settings, (set, cold), way, state, now_s);
    }
    empty(set, cold, way);
    true
}
