//! Shedding: which packets of the slow path need a token, and what a packet without one loses.
//!
//! Settled packets and transit need none. Nothing here changes what happens to a packet, or leaves one uncounted.

use crate::{
    abi::{event::KernelEvent, limits::WAYS, settings::Settings, tally::Direction},
    dissect::rule_state::rule_flags,
    tables::{
        context::{NO_POOL, PacketContext},
        conversation::mark,
        flow_table::{FlowState, counter_index, unpack},
        maps::Maps,
        progress::Progress,
        token_bucket::{Claim, TokenBucket},
    },
};

/// Whether the packet may open a flow. Its subscribers have been looked up.
#[inline(always)]
pub(super) fn may_open(settings: &Settings, ctx: &PacketContext, bucket: &mut TokenBucket) -> bool {
    let from_subscriber = ctx.subscribers.block_lens[ctx.sender() & 1] != NO_POOL && ctx.subscribers.unvouched == 0;
    let is_own = from_subscriber && ctx.frame.headers.payload_len > 0;
    let reserved = is_own && ctx.inspection.spoofed == 0;
    bucket.take_opening(settings, ctx.frame.clock.ns, if reserved { Claim::Reserved } else { Claim::Common })
}

/// Whether the payload of a packet, which its flow has counted, may be inspected.
#[inline(always)]
pub(super) fn may_inspect<M: Maps>(
    maps: &M,
    settings: &Settings,
    ctx: &PacketContext,
    bucket: &mut TokenBucket,
) -> bool {
    let direction = FlowState(ctx.flow.state).ends().direction(ctx.is_from_lower());
    let is_own = matches!(direction, Direction::Up | Direction::Local) && ctx.inspection.spoofed == 0;
    let reserved = is_own && is_vouched(maps, ctx) || answers(maps, ctx);
    bucket.take(settings, ctx.frame.clock.ns, if reserved { Claim::Reserved } else { Claim::Common })
}

/// Whether a subscriber may be charged for the packet's flow: not if it is unvouched, since anybody can write such
/// packets.
#[inline(always)]
fn is_vouched<M: Maps>(maps: &M, ctx: &PacketContext) -> bool {
    let Some(cold) = maps.cold_set(ctx.flow.set_index) else { return false };
    !cold.flow(ctx.flow.way).conversation().has(mark::UNVOUCHED)
}

/// Whether the packet is the first of its direction, and the other direction has packets. The packet is counted.
#[inline(always)]
fn answers<M: Maps>(maps: &M, ctx: &PacketContext) -> bool {
    let Some(set) = maps.flow_set(ctx.flow.set_index) else { return false };
    let packets = |from_lower: u32| {
        let counter = counter_index(ctx.flow.way as usize & (WAYS - 1), u64::from(from_lower));
        unpack(set.counters[counter].load()).0
    };
    packets(ctx.flow.from_lower) == 1 && packets(ctx.flow.from_lower ^ 1) != 0
}

/// Records that a payload is not inspected. It costs the flow none of its inspections, but a later TCP payload is not
/// the start of its stream.
#[inline(always)]
pub(super) fn skip_inspection<M: Maps>(maps: &M, ctx: &PacketContext) {
    maps.count_event(KernelEvent::InspectionShed);
    if !ctx.is_tcp() {
        return;
    }
    if let Some(cold) = maps.cold_set(ctx.flow.set_index) {
        let cold = cold.flow(ctx.flow.way);
        let progress = cold.progress();
        let past = rule_flags::of(rule_flags::PAST_START, ctx.flow.from_lower);
        cold.set_progress(Progress { rule_flags: progress.rule_flags | past, ..progress });
    }
}
