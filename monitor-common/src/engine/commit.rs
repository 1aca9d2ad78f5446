//! Commits the verdict of a flow, once.

use super::{account, charge, reassembly, records, subscribers};
use crate::{
    abi::{event::KernelEvent, limits::WAYS, protocol::Protocol, settings::Settings},
    bpf::shared_u64::SharedU64,
    tables::{
        context::PacketContext,
        flow_table::{FlowState, NO_SLOTS, Phase, with_slots},
        maps::Maps,
    },
};

/// Commits a flow's verdict, once: the first CPU to claim it wins.
///
/// A verdict found before the inspection has ended is provisional: a certain one may still come.
#[inline(never)]
pub(super) fn commit_verdict<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext) {
    let (protocol, confidence) = (ctx.flow.protocol as u8, ctx.flow.confidence as u8);
    let way = ctx.flow.way as usize & (WAYS - 1);
    let (Some(set), Some(cold)) = (maps.flow_set(ctx.flow.set_index), maps.cold_set(ctx.flow.set_index)) else {
        maps.count_event(KernelEvent::InternalError);
        return;
    };
    let (word, cold) = (&set.states[way], &cold.flows[way]);
    maps.report_outcome(ctx.outcome(protocol, confidence));
    let generation = cold.claims();
    if set.tags[way].load() != ctx.flow.tag {
        // Another flow was installed in the way meanwhile; the counts of this one were flushed then.
        return;
    }
    if protocol != Protocol::Unclassified as u8 {
        let before = claim_verdict(word, protocol, confidence);
        if before == FlowState::EMPTY {
            return;
        }
        if set.tags[way].load() != ctx.flow.tag || cold.claims() != generation {
            // Another flow took the way before the claim, in an equal state, or this one was charged or restarted.
            unclaim_verdict(word, before);
            return;
        }
        let rule = ctx.flow.rule;
        if rule != 0 {
            maps.count_rule(rule);
        }
        cold.set_rule(rule);
        // New pools may have been loaded since the flow started; without a subscriber it keeps its tallies.
        if subscribers::find_subscribers(maps, ctx) {
            let charged = charge::charged_ends(settings, FlowState(word.load()), cold);
            let slots = subscribers::slots(maps, settings, ctx, (protocol, confidence), charged);
            let held = cold.slots.load();
            if with_slots(slots) & !with_slots(held) != 0 && cold.conversation().is_late(ctx.frame.now_s) {
                // What was counted before a late proof stays where it belongs without it.
                account::flush(maps, set, held, way, FlowState(word.load()), ctx.frame.now_s);
            }
            cold.slots.store(slots);
            cold.set_remotes(ctx.remotes(settings));
            // Whom the flow charges under a provisional verdict already has a record.
            let recorded = if before.is_provisional() { with_slots(held) } else { 0 };
            records::note(maps, ctx, with_slots(slots) & !recorded, (protocol, confidence), rule);
            maps.report_outcome(ctx.outcome(protocol, confidence).with_charge(slots != NO_SLOTS));
        }
    }
    if ctx.inspection.ended == 0 {
        mark_provisional(word);
        return;
    }
    if ctx.is_tcp() {
        // Bytes held from earlier segments are of no more use.
        cold.rule_value.store(0);
        reassembly::release(maps, ctx, cold);
    }
    account::settle(maps, word, cold, generation, (protocol, confidence));
}

/// Marks the verdict of a flow that this CPU has claimed as provisional, so that other CPUs can go on.
#[inline(always)]
fn mark_provisional(word: &SharedU64) {
    let mut attempt = 0;
    // Other CPUs only refresh the last-seen second meanwhile. If this still fails, the claim becomes the verdict
    // (`settle_idle`).
    while attempt < 4 {
        let state = FlowState(word.load());
        if !state.is_claimed() || word.replace(state.0, state.provisional().0) {
            return;
        }
        attempt += 1;
    }
}

/// Claims the verdict of a flow under inspection for this CPU; returns the state before, or [`FlowState::EMPTY`] if
/// this CPU may not write the verdict.
#[inline(always)]
fn claim_verdict(word: &SharedU64, protocol: u8, confidence: u8) -> FlowState {
    let mut attempt = 0;
    // Retry: another CPU may refresh the last-seen second in between, or charge the flow, which takes as long as a
    // few loads that miss the caches.
    while attempt < 32 {
        let state = FlowState(word.load());
        if state.phase() != Phase::Inspecting || state.is_claimed() {
            return FlowState::EMPTY;
        }
        if !state.is_charging() && word.replace(state.0, state.claimed_by(protocol, confidence).0) {
            return state;
        }
        attempt += 1;
    }
    FlowState::EMPTY
}

/// Takes the claim of [`claim_verdict`] back.
#[inline(always)]
fn unclaim_verdict(word: &SharedU64, before: FlowState) {
    let mut attempt = 0;
    // Other CPUs only refresh the last-seen second meanwhile.
    while attempt < 4 {
        let state = FlowState(word.load());
        if word.replace(state.0, state.unclaimed(before).0) {
            return;
        }
        attempt += 1;
    }
    word.swap(before.0);
}
