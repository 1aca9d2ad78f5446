//! Joins the first segments of a stream: see `tables/reassembly.rs` and `dissect/hold_rules.rs`.

use super::budget;
use crate::{
    abi::{
        event::KernelEvent,
        limits::{REASSEMBLY_SLOTS, SWEPT_SLOTS},
    },
    dissect::{hold_rules, rule_state::rule_flags},
    parse::{packet::Packet, payload::Payload},
    tables::{
        context::{PacketContext, Scratch, Task},
        flow_table::{ColdFlow, FlowState},
        maps::Maps,
        progress::Progress,
        reassembly::{self, Continuation, ReassemblySlot, Sweep},
    },
};

/// Whether the packet's payload is skipped: its direction started as something else, or it does not continue the held
/// bytes. A skipped payload counts as inspected. Otherwise the bytes that it continues are in the payload's window.
#[inline(always)]
pub(super) fn skip_segment<P: Packet, M: Maps>(packet: &P, maps: &M, scratch: &mut Scratch) -> bool {
    let (ctx, payload) = (&mut scratch.ctx, &mut scratch.payload);
    let Some(cold) = maps.cold_set(ctx.flow.set_index) else { return false };
    let cold = cold.flow(ctx.flow.way);
    let mut progress = cold.progress();
    let from_lower = ctx.flow.from_lower;
    let of = |flag| rule_flags::of(flag, from_lower);
    if progress.rule_flags & of(rule_flags::HELD) != 0 {
        match resume(maps, ctx, payload) {
            Continuation::Continues | Continuation::Replaces => {
                progress.rule_flags &= !of(rule_flags::HELD);
                cold.set_progress(progress);
                return false;
            }
            Continuation::OutOfOrder => {}
            // The message that this segment belongs to is unknown.
            Continuation::Missing => {
                progress.rule_flags =
                    progress.rule_flags & !of(rule_flags::HELD) | of(rule_flags::PAST_START | rule_flags::OTHER)
            }
        }
    } else {
        let Some([first]) = packet.read::<1>(ctx.frame.headers.payload_offset as usize) else { return false };
        if ctx.flow.task != Task::INSPECT || !hold_rules::skip_segment(progress.rule_flags, ctx.flow.from_lower, first)
        {
            return false;
        }
    }
    progress.inspect(ctx.is_from_lower(), ctx.inspection.cost());
    cold.set_progress(progress);
    ctx.inspection.evidence = progress.evidence;
    ctx.inspection.exhausted = budget::is_used_up(ctx, progress, FlowState(ctx.flow.state).inspection_budget());
    true
}

/// Zeroes slots that have expired, a few at each tick of the clock: without an agent, nobody else does.
#[inline(always)]
pub(super) fn sweep<M: Maps>(maps: &M, sweep: &mut Sweep, ctx: &PacketContext) {
    if let Some(first) = sweep.step(ctx.frame.clock.ns) {
        expire_from(maps, first, ctx.frame.now_s);
    }
}

#[inline(never)]
fn expire_from<M: Maps>(maps: &M, first: u32, now_s: u64) {
    let mut index = 0;
    while index < SWEPT_SLOTS {
        if let Some(slot) = maps.reassembly_slot(first.wrapping_add(index) & (REASSEMBLY_SLOTS - 1)) {
            slot.expire(now_s);
        }
        index += 1;
    }
}

/// Puts the bytes held for the packet's direction in front of its payload.
#[inline(never)]
fn resume<M: Maps>(maps: &M, ctx: &mut PacketContext, payload: &mut Payload) -> Continuation {
    let Some(entry) = entry(maps, ctx, ctx.flow.from_lower) else { return Continuation::Missing };
    if ctx.inspection.spoofed != 0 {
        // A spoofed packet must not continue a subscriber's stream.
        return Continuation::OutOfOrder;
    }
    let tag = reassembly::tag(ctx.flow.tag, ctx.flow.from_lower);
    entry.resume(tag, ctx.frame.headers.sequence, ctx.frame.headers.payload_len, ctx.frame.now_s, payload)
}

/// Holds the packet's payload, and what it continued, until the next segment of its direction.
#[inline(never)]
pub(super) fn hold<M: Maps>(maps: &M, scratch: &mut Scratch) {
    let (ctx, payload) = (&mut scratch.ctx, &scratch.payload);
    let Some(entry) = entry(maps, ctx, ctx.flow.from_lower) else { return };
    let tag = reassembly::tag(ctx.flow.tag, ctx.flow.from_lower);
    if entry.hold(tag, ctx.next_sequence(), hold_rules::held_len(payload), ctx.frame.now_s, payload) {
        maps.count_event(KernelEvent::ReassemblyEvicted);
    }
}

/// Zeroes the slots of the packet's flow, which has settled, and clears the flags that say bytes are held.
#[inline(never)]
pub(super) fn release<M: Maps>(maps: &M, ctx: &PacketContext, cold: &ColdFlow) {
    let progress = cold.progress();
    let both = rule_flags::HELD | rule_flags::of(rule_flags::HELD, 0);
    if progress.rule_flags & both == 0 {
        return;
    }
    cold.set_progress(Progress { rule_flags: progress.rule_flags & !both, ..progress });
    for from_lower in [0, 1] {
        if let Some(entry) = entry(maps, ctx, from_lower) {
            entry.release(reassembly::tag(ctx.flow.tag, from_lower));
        }
    }
}

#[inline(always)]
fn entry<'a, M: Maps>(maps: &'a M, ctx: &PacketContext, from_lower: u32) -> Option<&'a ReassemblySlot> {
    maps.reassembly_slot(reassembly::index(ctx.flow.tag, from_lower))
}
