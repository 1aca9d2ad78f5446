//! Joins the first segments of a stream: see `tables/reassembly.rs` and `dissect/hold_rules.rs`.

use super::{Scratch, ask, work::Work};
use crate::{
    bpf::shared_u64::SharedU64,
    dissect::{hold_rules, rule_state::rule_flags},
    limits::{INSPECTED_PER_DIRECTION, SERVER_FLOW_PACKETS},
    parse::{packet::Packet, payload::Payload},
    store::{KernelEvent, Maps},
    tables::{
        flow_table::{FlowState, Progress},
        reassembly::{self, Continuation, ReassemblySlot},
    },
};

/// Whether the packet's payload is skipped: its direction started as something else, or it does not continue the held bytes.
/// A skipped payload counts as inspected. Otherwise the bytes that it continues are in the payload's window.
#[inline(never)]
pub(super) fn skip_segment<P: Packet, M: Maps>(packet: &P, maps: &M, scratch: &mut Scratch, inspecting: bool) -> bool {
    let (work, payload) = (&mut scratch.work, &mut scratch.payload);
    let Some(cold) = maps.cold_set(work.set_index) else { return false };
    let cell = &cold.flow(work.way).progress;
    let mut progress = Progress::from_bits(cell.load());
    let from_lower = work.from_lower;
    let of = |flag| rule_flags::of(flag, from_lower);
    if progress.rule_flags & of(rule_flags::HELD) != 0 {
        match resume(packet, maps, work, payload) {
            Continuation::Continues | Continuation::Replaces => {
                progress.rule_flags &= !of(rule_flags::HELD);
                cell.store(progress.to_bits());
                return false;
            }
            Continuation::OutOfOrder => {}
            // The message that this segment belongs to is unknown.
            Continuation::Missing => {
                progress.rule_flags =
                    progress.rule_flags & !of(rule_flags::HELD) | of(rule_flags::BEGUN | rule_flags::OTHER)
            }
        }
    } else {
        let Some([first]) = packet.read::<1>(work.headers.payload_offset as usize) else { return false };
        if !inspecting || !hold_rules::skip_segment(progress.rule_flags, work.from_lower, first) {
            return false;
        }
    }
    let inspected = progress.inspect(work.is_from_lower());
    cell.store(progress.to_bits());
    work.evidence = u32::from(progress.evidence);
    let budget = if FlowState(work.state).is_server_flow() { SERVER_FLOW_PACKETS } else { INSPECTED_PER_DIRECTION };
    work.exhausted = u32::from(inspected >= budget);
    true
}

/// Puts the bytes held for the packet's direction in front of its payload.
#[inline(never)]
fn resume<P: Packet, M: Maps>(packet: &P, maps: &M, work: &mut Work, payload: &mut Payload) -> Continuation {
    ask::read_numbers(packet, work);
    let Some(entry) = entry(maps, work, work.from_lower) else { return Continuation::Missing };
    if work.forged != 0 {
        // A spoofed packet must not continue a subscriber's stream.
        return Continuation::OutOfOrder;
    }
    let tag = reassembly::tag(work.tag, work.from_lower);
    entry.resume(tag, (work.numbers >> 32) as u32, work.headers.payload_len, work.now_s, payload)
}

/// Holds the packet's payload, and what it continued, until the next segment of its direction.
#[inline(never)]
pub(super) fn hold<P: Packet, M: Maps>(packet: &P, maps: &M, scratch: &mut Scratch) {
    let (work, payload) = (&mut scratch.work, &scratch.payload);
    ask::read_numbers(packet, work);
    let Some(entry) = entry(maps, work, work.from_lower) else { return };
    let tag = reassembly::tag(work.tag, work.from_lower);
    let next = ((work.numbers >> 32) as u32).wrapping_add(work.headers.payload_len);
    if entry.hold(tag, next, hold_rules::held_len(payload), work.now_s, payload) {
        maps.count_event(KernelEvent::ReassemblyEvicted);
    }
}

/// Zeroes the slots of the packet's flow, which has settled, and clears the flags that say bytes are held.
#[inline(never)]
pub(super) fn release<M: Maps>(maps: &M, work: &Work, progress: &SharedU64) {
    let now = Progress::from_bits(progress.load());
    let both = rule_flags::HELD | rule_flags::of(rule_flags::HELD, 0);
    if now.rule_flags & both == 0 {
        return;
    }
    progress.store(Progress { rule_flags: now.rule_flags & !both, ..now }.to_bits());
    for from_lower in [0, 1] {
        if let Some(entry) = entry(maps, work, from_lower) {
            entry.release(reassembly::tag(work.tag, from_lower));
        }
    }
}

#[inline(always)]
fn entry<'a, M: Maps>(maps: &'a M, work: &Work, from_lower: u32) -> Option<&'a ReassemblySlot> {
    maps.reassembly_slot(reassembly::index(work.tag, from_lower))
}
