//! Flow table: look-up, victim selection and installation of flows in the ways of a set.

use super::{account, charge, crowding, flow_entry::FlowEntry, subscribers};
use crate::{
    abi::{
        event::KernelEvent,
        key::FlowKey,
        limits::{INSPECTED_PER_DIRECTION, WAYS},
        settings::Settings,
    },
    tables::{
        context::{Lookup, PacketContext},
        flow_table::{FREE, FlowState, IDLE, NO_SLOTS, Phase},
        maps::Maps,
        progress::{Progress, evidence},
    },
};

/// The packet's flow, if it is in the table and can continue. Sets `state` and `lookup`.
#[inline(always)]
pub(super) fn lookup<'a, M: Maps>(maps: &'a M, ctx: &mut PacketContext) -> Option<FlowEntry<'a>> {
    ctx.flow.lookup = Lookup::NEW;
    if ctx.flow.way >= WAYS as u32 {
        return None;
    }
    let flow = FlowEntry::of(maps, ctx)?;
    let state = FlowState(flow.state_word().load());
    ctx.flow.state = state.0;
    if flow.set.tags[flow.way].load() != ctx.flow.tag {
        // Another flow was installed in the way meanwhile.
        ctx.flow.way = WAYS as u32;
        return None;
    }
    if matches!(state.phase(), Phase::Empty | Phase::Locked) {
        return None;
    }
    if state.is_claimed() || state.is_charging() {
        // Another CPU is writing this flow's verdict or charge: even a SYN counts with it, and the next one restarts.
        ctx.flow.lookup = Lookup::KNOWN;
        return Some(flow);
    }
    // A SYN on a flow that was settled, carried payload or began with another segment: the ports are in use again, and
    // the old verdict must not be inherited. A repeated first SYN is no restart.
    let progress = flow.cold.progress();
    let used = state.phase() == Phase::Settled
        || (progress.inspected_lower | progress.inspected_higher) != 0
        || progress.evidence & evidence::OPENED == 0;
    // A pause ended the inspection early (see `settle_idle`): later packets are inspected like those of a new flow,
    // after the inactive timeout of flow metering (RFC 7011 section 2, RFC 5470 section 5.1.1).
    let resumes = state.has_paused(ctx.frame.now_s)
        && progress.inspected_lower < INSPECTED_PER_DIRECTION
        && progress.inspected_higher < INSPECTED_PER_DIRECTION;
    if (ctx.frame.headers.opens_connection() && used) || resumes {
        ctx.flow.lookup = Lookup::RESTARTED;
        return None;
    }
    ctx.flow.lookup = Lookup::KNOWN;
    Some(flow)
}

/// Selects a way for the packet's new flow; `false` (and a counted event) when no way of both sets can be evicted.
///
/// The second set is searched when the first has no empty way and no idle flow. With two sets to choose from, sets of
/// four ways fill up to three quarters before flows compete.
#[inline(always)]
pub(super) fn select_victim<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext) -> bool {
    if ctx.flow.lookup == Lookup::RESTARTED {
        maps.count_event(KernelEvent::FlowRestarted);
        return true;
    }
    if ctx.flow.way < WAYS as u32 {
        // Another CPU is installing or ending this flow.
        maps.count_event(KernelEvent::FlowBusy);
        return false;
    }
    let mut best = 0;
    for index in [
        FlowKey::set_index(ctx.flow.tag, settings.set_mask),
        FlowKey::second_set_index(ctx.flow.tag, settings.set_mask),
    ] {
        if best < IDLE {
            best = best_in(maps, ctx, index, best);
        }
    }
    if best == 0 {
        if !crowding::select_victim(maps, settings, ctx) {
            maps.count_event(KernelEvent::FlowRefused);
            return false;
        }
        maps.count_event(KernelEvent::FlowNew);
        maps.count_event(KernelEvent::EvictedCrowding);
        return true;
    }
    maps.count_event(KernelEvent::FlowNew);
    if best != FREE {
        maps.count_event(if best >= IDLE { KernelEvent::EvictedIdle } else { KernelEvent::EvictedUnclassified });
    }
    true
}

/// The best way of a set, if it beats `best`: sets `set_index`, `way` and `state`.
#[inline(always)]
fn best_in<M: Maps>(maps: &M, ctx: &mut PacketContext, index: u32, best: u32) -> u32 {
    let Some(set) = maps.flow_set(index) else { return best };
    let mut best = best;
    let mut way = 0;
    while way < WAYS {
        let state = FlowState(set.states[way].load());
        let value = state.eviction_priority(ctx.frame.now_s);
        if value > best {
            best = value;
            ctx.flow.set_index = index;
            ctx.flow.way = way as u32;
            ctx.flow.state = state.0;
        }
        way += 1;
    }
    best
}

/// Ways of both sets of the packet's flow that carry its tag.
#[inline(always)]
fn entries<M: Maps>(maps: &M, settings: &Settings, ctx: &PacketContext) -> u32 {
    let first = FlowKey::set_index(ctx.flow.tag, settings.set_mask);
    let second = FlowKey::second_set_index(ctx.flow.tag, settings.set_mask);
    // With a single set, both are equal.
    entries_of(maps, ctx, first) + if second == first { 0 } else { entries_of(maps, ctx, second) }
}

/// Ways of one set that carry the packet's tag.
#[inline(always)]
fn entries_of<M: Maps>(maps: &M, ctx: &PacketContext, index: u32) -> u32 {
    let Some(set) = maps.flow_set(index) else { return 0 };
    let mut entries = 0;
    let mut way = 0;
    while way < WAYS {
        entries += u32::from(set.tags[way].load() == ctx.flow.tag);
        way += 1;
    }
    entries
}

/// Installs the packet's flow in the selected way: locks the way, flushes its counters, and writes the new flow.
///
/// `false` when another CPU was first, with the way or with the flow.
#[inline(always)]
pub(super) fn install<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext) -> bool {
    let way = ctx.flow.way as usize & (WAYS - 1);
    let (Some(set), Some(cold)) = (maps.flow_set(ctx.flow.set_index), maps.cold_set(ctx.flow.set_index)) else {
        return false;
    };
    let word = &set.states[way];
    let state = FlowState(ctx.flow.state);
    if !word.replace(state.0, FlowState::LOCKED.0) {
        maps.count_event(KernelEvent::FlowBusy);
        return false;
    }
    let cold = &cold.flows[way];
    if state.phase() != Phase::Empty {
        account::end_flow(maps, settings, (set, cold), way, state, ctx.frame.now_s);
    }
    cold.generation.add(1);
    cold.rule_value.store(0);
    let opened = if ctx.frame.headers.opens_connection() { evidence::OPENED } else { 0 };
    cold.set_progress(Progress { evidence: opened, ..Progress::default() });
    cold.slots.store(NO_SLOTS);
    cold.conversation.store(charge::begin(settings, ctx).0);
    cold.first_sequences.store(u64::from(ctx.frame.headers.sequence) << (32 * (ctx.sender() as u32 & 1)));
    cold.watched.store(0);
    cold.streams.store(0);
    // A full barrier: if two CPUs install one flow at once, at least one sees the other's tag and yields.
    set.tags[way].swap(ctx.flow.tag);
    if entries(maps, settings, ctx) > 1 {
        set.tags[way].store(0);
        word.store(FlowState::EMPTY.0);
        maps.count_event(KernelEvent::FlowBusy);
        return false;
    }
    let which = subscribers::subscriber_ends(ctx);
    let fresh = FlowState::inspecting(ctx.frame.now_s as u16, ctx.is_from_lower(), which, ctx.interface());
    word.swap(fresh.pending().0);
    true
}
