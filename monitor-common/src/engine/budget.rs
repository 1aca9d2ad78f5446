//! Budget: which payloads of a flow under inspection are inspected, and when its inspection ends.
//!
//! Each direction has a budget of [`INSPECTED_PER_DIRECTION`] payloads, so neither side can spend the other's:
//! * **junk** (`tables/streams.rs`) and datagrams too short for any rule are not inspected and cost no budget;
//! * segments ahead of their stream, and first fragments, are inspected and cost none;
//! * a direction may have [`JUNK_PER_DIRECTION`] of both, then its budget is used up;
//! * packets without payload cost none.
//!
//! Inspection ends when both directions have used up their budgets, or after a bounded wait for one of them: a flow
//! must leave the slow path.
//!
//! [`JUNK_PER_DIRECTION`]: crate::abi::limits::JUNK_PER_DIRECTION

use super::flow_entry::FlowEntry;
use crate::{
    abi::{
        event::KernelEvent,
        limits::{INSPECTED_PER_DIRECTION, PENDING_PACKETS, PENDING_PACKETS_MAX, SHORTEST_DATAGRAM},
    },
    bpf::branchless::{is_equal, is_less},
    dissect::rule_state::rule_flags,
    parse::tcp_flag,
    tables::{
        context::{PacketContext, Task},
        conversation::mark,
        flow_table::{ColdFlow, FlowState, unpack},
        maps::Maps,
        progress::Progress,
        streams::{Fate, Segment, Streams},
    },
};

/// Judges a packet of a flow under inspection. Sets in the context whether its payload is skipped, whether it costs no
/// budget (`spared`) or is `ahead` of its stream, and whether the inspection has `ended`.
#[inline(always)]
pub(super) fn judge<M: Maps>(maps: &M, ctx: &mut PacketContext, flow: FlowEntry<'_>) {
    let cold = flow.cold;
    let before = Streams(cold.streams.load());
    let (sender, len) = (ctx.sender(), ctx.frame.headers.payload_len);
    let mut streams = before;
    let mut fate = Fate::Counts;
    if ctx.frame.headers.transport_len != 0 {
        (streams, fate) = follow(cold, ctx, before);
    } else if len < SHORTEST_DATAGRAM && !ctx.is_tcp() {
        fate = Fate::Junk;
    }
    let mut progress = cold.progress();
    let used = progress.inspected(sender) >= INSPECTED_PER_DIRECTION;
    let spared = fate != Fate::Counts || ctx.frame.headers.cut != 0;
    let mut skipped = len == 0 || used || fate == Fate::Junk;
    if len != 0 && !used && spared {
        if fate == Fate::Junk {
            maps.count_event(KernelEvent::JunkSegment);
        }
        match streams.of(sender).spare() {
            Some(stream) => streams = streams.with(sender, stream),
            None => {
                progress.use_up(sender);
                cold.set_progress(progress);
                maps.count_event(KernelEvent::ExhaustedJunk);
                skipped = true;
            }
        }
    }
    if streams != before {
        // If another CPU was first, this packet tells nothing.
        cold.streams.replace(before.0, streams.0);
    }
    ctx.inspection.spared = u32::from(spared);
    ctx.inspection.ahead = u32::from(fate == Fate::Ahead);
    ctx.inspection.skipped = u32::from(skipped);
    if skipped {
        ctx.inspection.evidence = progress.evidence;
        ctx.inspection.ended = u32::from(is_over(flow, ctx, progress));
    }
}

/// The flow's streams after a segment, and its fate.
#[inline(always)]
fn follow(cold: &ColdFlow, ctx: &PacketContext, before: Streams) -> (Streams, Fate) {
    let headers = &ctx.frame.headers;
    let (sender, receiver) = (ctx.sender(), ctx.receiver());
    let (conversation, firsts) = (cold.conversation(), cold.first_sequences.load());
    let syn = u32::from(headers.tcp_flags) >> tcp_flag::SYN.trailing_zeros() & 1;
    let (mut streams, mut fate) = (before, Fate::Counts);
    // The numbers of packets that may be spoofed are not known.
    if ctx.inspection.spoofed == 0 && conversation.has(mark::of(mark::SEEN_LOWER, sender)) {
        let subscribers = FlowState(ctx.flow.state).subscribers();
        let segment = Segment {
            offset: ctx.frame.headers.sequence.wrapping_sub((firsts >> (32 * (sender as u32 & 1))) as u32),
            len: headers.payload_len,
            syn,
            hop_limit: headers.hop_limit,
            trusted: headers.opens_connection() || subscribers >> (sender as u32 & 1) & 1 != 0,
        };
        let (stream, found) = before.of(sender).after(segment);
        (streams, fate) = (streams.with(sender, stream), found);
    }
    const KIND: u8 = tcp_flag::RST | tcp_flag::ACK;
    let acknowledges = headers.tcp_flags & KIND == tcp_flag::ACK;
    if ctx.inspection.spoofed == 0 && acknowledges && conversation.has(mark::of(mark::SEEN_LOWER, receiver)) {
        let offset = ctx.frame.headers.acknowledgement.wrapping_sub((firsts >> (32 * (receiver as u32 & 1))) as u32);
        let (stream, refused) = before.of(receiver).acknowledged(offset, syn != 0);
        streams = streams.with(receiver, stream);
        if refused {
            forget_start(cold, ctx);
        }
    }
    (streams, fate)
}

/// Forgets how the stream of the packet's receiver started: its SYN's payload was refused, and other bytes may come.
#[inline(always)]
fn forget_start(cold: &ColdFlow, ctx: &PacketContext) {
    let mut progress = cold.progress();
    progress.rule_flags &= !rule_flags::of(rule_flags::OF_STREAM, ctx.flow.from_lower ^ 1);
    cold.set_progress(progress);
}

/// Whether the inspection of the packet's flow ends, although the packet's payload is not inspected.
#[inline(always)]
fn is_over(flow: FlowEntry<'_>, ctx: &PacketContext, progress: Progress) -> bool {
    let from_lower = u64::from(ctx.flow.from_lower);
    let own = unpack(flow.counter(from_lower).load()).0;
    let other = unpack(flow.counter(from_lower ^ 1).load()).0;
    let own_used = progress.inspected(ctx.sender()) >= INSPECTED_PER_DIRECTION;
    let other_used = progress.inspected(ctx.receiver()) >= INSPECTED_PER_DIRECTION;
    let waited = (own >= PENDING_PACKETS) & (other_used | (other == 0)) | own_used & (other >= PENDING_PACKETS);
    own_used & other_used | waited | (own >= PENDING_PACKETS_MAX)
}

/// 1 when no more payloads are inspected after one of the packet's direction: of the flow while it is inspected, of the
/// direction while the flow teaches.
#[inline(always)]
pub(super) fn is_used_up(ctx: &PacketContext, progress: Progress, budget: u8) -> u32 {
    // Without a branch, which would double the verifier's work.
    let used = |end| is_less(u64::from(budget) - 1, u64::from(progress.inspected(end)));
    let inspecting = is_equal(u64::from(ctx.flow.task.0), u64::from(Task::INSPECT.0));
    (used(ctx.sender()) & (used(ctx.receiver()) | (1 ^ inspecting))) as u32
}

/// Renews the budget of the packet's receiver if it is used up, for what the flow may still teach: it went to payloads
/// from before the verdict.
#[inline(always)]
pub(super) fn renew_other<M: Maps>(maps: &M, ctx: &PacketContext) {
    let Some(cold) = maps.cold_set(ctx.flow.set_index) else { return };
    let cold = cold.flow(ctx.flow.way);
    let mut progress = cold.progress();
    if ctx.inspection.found != 0 && progress.inspected(ctx.receiver()) >= INSPECTED_PER_DIRECTION {
        progress.renew(ctx.receiver());
        cold.set_progress(progress);
    }
}
