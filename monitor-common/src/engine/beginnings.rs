//! What the first segments of a stream held, for the next one: see `beginning.rs` and `dissect/hold_rules.rs`.

use super::{Scratch, ask, work::Work};
use crate::{
    beginning::{self, Beginning, Next},
    bpf::shared_u64::SharedU64,
    dissect::{hold_rules, rule_state::rule_flags},
    flow::{FlowState, Progress},
    limits::{INSPECTED_PER_DIRECTION, SERVER_FLOW_PACKETS},
    parse::{packet::Packet, payload::Payload},
    store::{KernelEvent, Maps},
};

/// Whether the packet's payload is passed over: its direction began as something else, or it does not continue what was kept. Else
/// what it continues is in the payload's window. Passed over, it counts as looked into.
#[inline(never)]
pub(super) fn skip_segment<P: Packet, M: Maps>(packet: &P, maps: &M, scratch: &mut Scratch, inspecting: bool) -> bool {
    let (work, payload) = (&mut scratch.work, &mut scratch.payload);
    let Some(cold) = maps.cold_set(work.set_index) else { return false };
    let cell = &cold.flow(work.way).progress;
    let mut progress = Progress::from_bits(cell.load());
    let from_lower = work.from_lower;
    let of = |flag| rule_flags::of(flag, from_lower);
    if progress.rule_flags & of(rule_flags::HELD) != 0 {
        match recall(packet, maps, work, payload) {
            Next::Continues | Next::Replaces => {
                progress.rule_flags &= !of(rule_flags::HELD);
                cell.store(progress.to_bits());
                return false;
            }
            Next::Beside => {}
            // What this segment is a part of is not known any more.
            Next::Lost => {
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

/// Takes up what was kept of the packet's direction.
#[inline(never)]
fn recall<P: Packet, M: Maps>(packet: &P, maps: &M, work: &mut Work, payload: &mut Payload) -> Next {
    ask::read_numbers(packet, work);
    let Some(entry) = entry(maps, work, work.from_lower) else { return Next::Lost };
    if work.forged != 0 {
        // Somebody else's bytes are not put behind what the subscriber began.
        return Next::Beside;
    }
    let tag = beginning::tag(work.tag, work.from_lower);
    entry.take(tag, (work.numbers >> 32) as u32, work.headers.payload_len, work.now_s, payload)
}

/// Keeps the packet's payload, and what it continued, until the next one of its direction.
#[inline(never)]
pub(super) fn keep<P: Packet, M: Maps>(packet: &P, maps: &M, scratch: &mut Scratch) {
    let (work, payload) = (&mut scratch.work, &scratch.payload);
    ask::read_numbers(packet, work);
    let Some(entry) = entry(maps, work, work.from_lower) else { return };
    let tag = beginning::tag(work.tag, work.from_lower);
    let next = ((work.numbers >> 32) as u32).wrapping_add(work.headers.payload_len);
    if entry.keep(tag, next, hold_rules::held_len(payload), work.now_s, payload) {
        maps.count_event(KernelEvent::BeginningOverwritten);
    }
}

/// Zeroes what is kept of the packet's flow, which is settled, and takes back that it is.
#[inline(never)]
pub(super) fn forget<M: Maps>(maps: &M, work: &Work, progress: &SharedU64) {
    let now = Progress::from_bits(progress.load());
    let both = rule_flags::HELD | rule_flags::of(rule_flags::HELD, 0);
    if now.rule_flags & both == 0 {
        return;
    }
    progress.store(Progress { rule_flags: now.rule_flags & !both, ..now }.to_bits());
    for from_lower in [0, 1] {
        if let Some(entry) = entry(maps, work, from_lower) {
            entry.forget(beginning::tag(work.tag, from_lower));
        }
    }
}

#[inline(always)]
fn entry<'a, M: Maps>(maps: &'a M, work: &Work, from_lower: u32) -> Option<&'a Beginning> {
    maps.beginning(beginning::index(work.tag, from_lower))
}
