//! Accounting: flushes a flow's counters into tallies, and counts packets without a flow.

use super::{flow_entry::FlowEntry, server_flow, subscribers};
use crate::{
    abi::{
        event::KernelEvent,
        interface::InterfaceEntry,
        limits::WAYS,
        outcome::PacketOutcome,
        protocol::{Confidence, Protocol, Verdict},
        remotes::RemoteNumbers,
        settings::Settings,
        tally::{Direction, NodeTally, node_index},
    },
    bpf::shared_u64::SharedU64,
    tables::{
        context::{PacketContext, Task},
        conversation::{Conversation, mark},
        flow_table::{
            ColdFlow, ColdSet, FlowSet, FlowState, NO_SLOT, NO_SLOTS, Phase, counter_index, is_full_of_bytes, pack,
            unpack, unpack_slots, with_slots,
        },
        maps::{CounterMaps, Maps},
        progress::evidence,
    },
};

/// Adds to a subscriber's tally.
#[inline(always)]
fn credit<M: CounterMaps>(maps: &M, slot: u32, up: (u64, u64), down: (u64, u64), now_s: u64) {
    let Some(tally) = maps.tally(slot) else {
        maps.count_event(KernelEvent::InternalError);
        return;
    };
    // Most short flows have packets of one direction only, and an atomic addition of zero costs as much as any.
    if up.0 != 0 {
        tally.packets_up.add(up.0);
        tally.bytes_up.add(up.1);
    }
    if down.0 != 0 {
        tally.packets_down.add(down.0);
        tally.bytes_down.add(down.1);
    }
    tally.last_seen_s.store(now_s);
}

/// Adds to the tallies of both ends of a flow.
#[inline(always)]
fn credit_ends<M: CounterMaps>(maps: &M, slots: u64, from_lower: u64, from_higher: u64, now_s: u64) {
    let (lower, higher) = unpack_slots(slots);
    let (from_lower, from_higher) = (unpack(from_lower), unpack(from_higher));
    if lower != NO_SLOT {
        credit(maps, lower, from_lower, from_higher, now_s);
    }
    if higher != NO_SLOT {
        credit(maps, higher, from_higher, from_lower, now_s);
    }
}

/// Counts one flow for the tallies in `slots`.
#[inline(always)]
pub(super) fn count_flow<M: CounterMaps>(maps: &M, slots: u64) {
    let (lower, higher) = unpack_slots(slots);
    if lower != NO_SLOT
        && let Some(tally) = maps.tally(lower)
    {
        tally.flows.add(1);
    }
    if higher != NO_SLOT
        && let Some(tally) = maps.tally(higher)
    {
        tally.flows.add(1);
    }
}

/// Adds the remotes of a flow to the tallies of its ends.
#[inline(always)]
fn add_remotes<M: CounterMaps>(maps: &M, slots: u64, remotes: RemoteNumbers) {
    let (lower, higher) = unpack_slots(slots);
    if lower != NO_SLOT
        && let Some(tally) = maps.tally(lower)
    {
        tally.add_remotes(remotes.of_lower());
    }
    if higher != NO_SLOT
        && let Some(tally) = maps.tally(higher)
    {
        tally.add_remotes(remotes.of_higher());
    }
}

/// Which node-level tally of a verdict counts.
#[derive(Clone, Copy)]
struct NodeOf {
    interface: InterfaceEntry,
    direction: Direction,
    /// 1 for a subscriber's flow that is charged to nobody, else 0.
    uncharged: u32,
}

/// A node-level tally; a missing one counts as an internal error.
#[inline(always)]
fn node<M: CounterMaps>(maps: &M, of: NodeOf, verdict: (u8, u8)) -> Option<&NodeTally> {
    let node = maps.node(node_index(of.interface.shared_number(), of.direction, of.uncharged, verdict.0, verdict.1));
    if node.is_none() {
        maps.count_event(KernelEvent::InternalError);
    }
    node
}

/// Adds packets and bytes to a node-level tally.
#[inline(always)]
fn credit_node<M: CounterMaps>(maps: &M, of: NodeOf, verdict: (u8, u8), (packets, bytes): (u64, u64)) {
    if let Some(node) = node(maps, of, verdict) {
        node.packets.add(packets);
        node.bytes.add(bytes);
    }
}

/// Counts one flow at node level, in the direction of its first packet; `slots` are those of its tallies.
#[inline(always)]
pub(super) fn count_node_flow<M: CounterMaps>(maps: &M, state: FlowState, slots: u64, verdict: (u8, u8)) {
    if let Some(node) = node(maps, node_of(state, slots, state.first_from_lower()), verdict) {
        node.flows.add(1);
    }
}

/// The node-level tally for packets of one direction of a flow.
#[inline(always)]
fn node_of(state: FlowState, slots: u64, from_lower: bool) -> NodeOf {
    NodeOf {
        interface: state.interface(from_lower),
        direction: state.ends().direction(from_lower),
        uncharged: u32::from(slots == NO_SLOTS),
    }
}

/// Moves a flow's counters into its tallies. Safe at any time: each count is swapped out exactly once.
#[inline(always)]
pub(super) fn flush<M: CounterMaps>(maps: &M, set: &FlowSet, slots: u64, way: usize, state: FlowState, now_s: u64) {
    let from_lower = set.counters[counter_index(way, 1)].swap(0);
    let from_higher = set.counters[counter_index(way, 0)].swap(0);
    if from_lower | from_higher == 0 {
        return;
    }
    credit_ends(maps, slots, from_lower, from_higher, now_s);
    let verdict = state.verdict_numbers();
    if from_lower != 0 {
        credit_node(maps, node_of(state, slots, true), verdict, unpack(from_lower));
    }
    if from_higher != 0 {
        credit_node(maps, node_of(state, slots, false), verdict, unpack(from_higher));
    }
}

/// Ends a flow whose way the caller has locked: flushes its counters, and counts it if it had no final verdict yet, as
/// unclassified unless it had a provisional one. If it moved since the agent's latest drain, its remotes are kept: the
/// drain itself adds those of flows that are still there.
#[inline(always)]
pub(super) fn end_flow<M: CounterMaps>(
    maps: &M,
    settings: &Settings,
    (set, cold): (&FlowSet, &ColdFlow),
    way: usize,
    state: FlowState,
    now_s: u64,
) {
    let slots = cold.slots.load();
    if state.phase() == Phase::Inspecting {
        count_flow(maps, slots);
    }
    if cold.note(mark::COUNTED) {
        count_node_flow(maps, state, slots, state.verdict_numbers());
    }
    leave_subscribers(maps, settings, (set, cold), way, state, now_s);
}

/// Flushes the counters of a flow whose way the caller has locked, and keeps its remotes, for the subscribers that it
/// is charged to, and will not be charged to any more.
#[inline(always)]
pub(super) fn leave_subscribers<M: CounterMaps>(
    maps: &M,
    settings: &Settings,
    (set, cold): (&FlowSet, &ColdFlow),
    way: usize,
    state: FlowState,
    now_s: u64,
) {
    let slots = cold.slots.load();
    flush(maps, set, slots, way, state, now_s);
    if slots != NO_SLOTS && u64::from(state.age_s(now_s)) <= now_s.saturating_sub(settings.drained_s.load()) {
        add_remotes(maps, slots, cold.remotes());
    }
}

/// Adds the packet to its flow's counter and keeps the flow's last-seen second and interface current. What there is
/// more to do is then in the context.
#[inline(always)]
pub(super) fn count<M: Maps>(maps: &M, ctx: &mut PacketContext, flow: FlowEntry<'_>) {
    let (word, from_lower) = (flow.state_word(), u64::from(ctx.flow.from_lower));
    let counter = flow.counter(from_lower);
    let state = FlowState(word.load());
    let settled = state.phase() == Phase::Settled;
    if settled {
        let near_overflow = is_full_of_bytes(counter.load());
        if near_overflow {
            maps.count_event(KernelEvent::FlushedOverflow);
        }
        // Packets counted so far belong to the interface on which they arrived. Those that wait for an answer stay with
        // the flow.
        let waits = state.is_pending() && !flow.cold.conversation().is_late(ctx.frame.now_s);
        if near_overflow || !waits && state.interface(from_lower != 0) != ctx.interface() {
            flush(maps, flow.set, flow.cold.slots.load(), flow.way, state, ctx.frame.now_s);
        }
    }
    let inspecting = state.phase() == Phase::Inspecting;
    let renewed = settled && state.is_server_flow() && state.is_due(ctx.frame.now_s);
    if settled || inspecting {
        let seen = state.seen(ctx.frame.now_s as u16, from_lower, ctx.interface());
        let seen = if renewed { seen.learning() } else { seen };
        if seen != state {
            // If another CPU was first, its state is equally good, and the next packet tries again.
            word.replace(state.0, seen.0);
        }
    }
    counter.add(pack(1, u64::from(ctx.frame.headers.ip_bytes)));
    if renewed {
        server_flow::renew_budget(flow.cold);
    }
    ctx.flow.state = state.0;
    ctx.flow.protocol = u32::from(state.protocol_number());
    ctx.flow.confidence = u32::from(state.confidence_number());
    ctx.flow.task = if inspecting && !state.is_claimed() {
        Task::INSPECT
    } else if renewed || (settled && state.is_learning_from(from_lower)) {
        Task::LEARN
    } else if settled && state.protocol_number() == 0 && ctx.has_peer_ports() && state.is_due(ctx.frame.now_s) {
        Task::ASSOCIATE
    } else {
        Task::NONE
    };
    if ctx.flow.task != Task::INSPECT {
        maps.report_outcome(ctx.outcome(state.protocol_number(), state.confidence_number()));
    }
}

/// Whether a flow is charged to every subscriber who is behind this router.
#[inline(always)]
pub(super) fn slots_complete(slots: u64, state: FlowState, conversation: Conversation) -> bool {
    slots != NO_SLOTS && conversation.own(state.subscribers()) & !with_slots(slots) == 0
}

/// Whether the flow's verdict needs the acknowledgements of both sides: a certain one of a TCP stream that was joined
/// midway.
#[inline(always)]
pub(super) fn is_midway(verdict: (u8, u8), cold: &ColdFlow) -> bool {
    let certain = verdict.0 > Protocol::Fragment as u8 && verdict.1 >= Confidence::Structural as u8;
    certain && cold.progress().evidence & evidence::OPENED == 0
}

/// Makes a verdict final, then counts the flow for it, on the one CPU that wins the compare-and-swap.
///
/// `generation` is the flow's, read before the caller decided: a flow that replaced it meanwhile is left alone.
#[inline(never)]
pub(super) fn settle<M: CounterMaps>(maps: &M, word: &SharedU64, cold: &ColdFlow, generation: u64, verdict: (u8, u8)) {
    let mut attempt = 0;
    // Other CPUs only refresh the last-seen second, once per second each, so this cannot fail eight times.
    while attempt < 8 {
        let state = FlowState(word.load());
        let slots = cold.slots.load();
        // While another CPU charges the flow, its slots are not certain: a later packet, or the drain, settles it.
        if state.phase() != Phase::Inspecting || state.is_charging() || cold.claims() != generation {
            return;
        }
        // Another CPU may have set a provisional verdict meanwhile.
        let stands = state.is_provisional() && verdict.0 == Protocol::Unclassified as u8;
        let verdict = if stands { state.verdict_numbers() } else { verdict };
        let settled = state.settled(verdict.0, verdict.1);
        let settled = if verdict.1 >= Confidence::Structural as u8 { settled.learning() } else { settled };
        let conversation = cold.conversation();
        let settled = if slots_complete(slots, state, conversation) {
            settled.decided()
        } else {
            let subscribers = conversation.own(state.subscribers());
            let midway = is_midway(verdict, cold);
            settled.pending().waiting_for(conversation.awaited(subscribers, midway))
        };
        if word.replace(state.0, settled.0) {
            count_flow(maps, slots);
            // A flow that nobody is charged for yet is counted once that is certain.
            if slots != NO_SLOTS && cold.note(mark::COUNTED) {
                count_node_flow(maps, state, slots, verdict);
            }
            return;
        }
        attempt += 1;
    }
    maps.count_event(KernelEvent::InternalError);
}

/// Settles a flow under inspection if it has been idle for `idle_s` seconds, as unclassified unless it has a
/// provisional verdict; returns whether it is still pending.
///
/// For the drain and the end of a replay: short flows never reach a verdict on their own.
pub fn settle_idle<M: CounterMaps>(
    maps: &M,
    set: &FlowSet,
    cold: &ColdSet,
    way: usize,
    now_s: u64,
    idle_s: u16,
) -> bool {
    let way = way & (WAYS - 1);
    let generation = cold.flows[way].claims();
    let state = FlowState(set.states[way].load());
    if state.phase() != Phase::Inspecting {
        return false;
    }
    if state.age_s(now_s) < idle_s {
        return true;
    }
    // A provisional verdict becomes final now. So does a claimed one that its CPU has not written for this long.
    let claimed = state.verdict_numbers();
    settle(maps, &set.states[way], &cold.flows[way], generation, claimed);
    false
}

/// Protocol and confidence numbers of a packet that is counted without a flow.
#[inline(always)]
pub(super) fn flowless_verdict(ctx: &PacketContext) -> (u8, u8) {
    if ctx.frame.headers.fragment != 0 { Verdict::FRAGMENT.numbers() } else { Verdict::UNCLASSIFIED.numbers() }
}

/// Counts a packet without a subscriber.
#[inline(always)]
pub(super) fn transit<M: Maps>(maps: &M, interface: InterfaceEntry, ip_bytes: u32, verdict: (u8, u8)) {
    maps.count_event(KernelEvent::Transit);
    let of = NodeOf { interface, direction: Direction::Transit, uncharged: 0 };
    credit_node(maps, of, verdict, (1, u64::from(ip_bytes)));
    maps.report_outcome(PacketOutcome::TRANSIT);
}

/// Counts a packet without a flow entry: no way could be evicted. Without a flow nothing shows that a subscriber takes
/// part, so it counts for the interface alone, unless the router sees one direction only.
#[inline(always)]
pub(super) fn count_uncached<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext) {
    let mut slots = NO_SLOTS;
    if settings.one_way.load() != 0 {
        let counts = pack(1, u64::from(ctx.frame.headers.ip_bytes));
        slots = subscribers::slots(maps, settings, ctx, flowless_verdict(ctx), 3);
        let (from_lower, from_higher) = if ctx.is_from_lower() { (counts, 0) } else { (0, counts) };
        credit_ends(maps, slots, from_lower, from_higher, ctx.frame.now_s);
        add_remotes(maps, slots, ctx.remotes(settings));
    }
    count_flowless(maps, ctx, slots);
}

/// Counts a subscriber's packet that belongs to no flow: at node level, beside the tallies in `slots`.
#[inline(always)]
pub(super) fn count_flowless<M: Maps>(maps: &M, ctx: &PacketContext, slots: u64) {
    let direction = subscribers::subscriber_ends(ctx).direction(ctx.is_from_lower());
    let of = NodeOf { interface: ctx.interface(), direction, uncharged: u32::from(slots == NO_SLOTS) };
    credit_node(maps, of, flowless_verdict(ctx), (1, u64::from(ctx.frame.headers.ip_bytes)));
    maps.report_outcome(PacketOutcome::UNCACHED);
}
