//! Flow: finds the packet's flow or installs it, counts the packet, and decides whether its payload is inspected.

use super::scratch;
use crate::{
    abi::{
        event::KernelEvent,
        limits::{INSPECTED_PER_DIRECTION, PENDING_PACKETS},
        outcome::PacketOutcome,
        protocol::Verdict,
        reason::Reason,
        settings::{InspectionDepth, Settings},
        stage::StageProgram,
    },
    dissect::{
        early_exit::{HEAD, is_known_non_p2p},
        rule_state::rule_flags,
    },
    engine::{
        account, associate, budget, charge, flow_entry::FlowEntry, flow_table, reassembly, server_flow, shedding,
        spoofing, subscribers,
    },
    parse::{self, ip_protocol, packet::Packet},
    tables::{
        context::{Lookup, PacketContext, Task},
        flow_table::{FlowState, NO_SLOTS, unpack},
        maps::Maps,
        progress::{Progress, evidence},
        token_bucket::TokenBucket,
    },
};

/// Counts a packet that [`entry`](super::entry()) did not count.
#[inline(always)]
pub fn flow<P: Packet, M: Maps>(packet: &P, maps: &M, settings: &Settings) -> Option<StageProgram> {
    let scratch = &mut *scratch(maps)?;
    let (ctx, bucket, sweep) = (&mut scratch.ctx, &mut scratch.bucket, &mut scratch.sweep);
    if let Err(reason) = read_headers(packet, ctx) {
        maps.count_skip(reason);
        maps.report_outcome(PacketOutcome::skipped(reason));
        return None;
    }
    reset_context(ctx, maps, settings);
    reassembly::sweep(maps, sweep, ctx);
    ctx.inspection.spoofed = u32::from(spoofing::is_spoofed(maps, ctx));
    if ctx.inspection.spoofed != 0 && charge::is_forged(maps, ctx) {
        account::count_flowless(maps, ctx, NO_SLOTS);
        spoofing::count(maps, ctx);
        return None;
    }
    let flow = if let Some(flow) = flow_table::lookup(maps, ctx) {
        flow
    } else {
        if !subscribers::find_subscribers(maps, ctx) {
            account::transit(maps, ctx.interface(), ctx.frame.headers.ip_bytes, account::flowless_verdict(ctx));
            return None;
        }
        // A restarted flow is never shed: the verdict before must not be inherited.
        if ctx.flow.lookup == Lookup::NEW && !shedding::may_open(settings, ctx, bucket) {
            account::count_flowless(maps, ctx, NO_SLOTS);
            maps.count_shed(ctx.interface(), u64::from(ctx.frame.headers.ip_bytes));
            return None;
        }
        if ctx.subscribers.unvouched != 0 {
            maps.count_event(KernelEvent::TunnelUnvouched);
        }
        if !flow_table::select_victim(maps, settings, ctx) || !flow_table::install(maps, settings, ctx) {
            account::count_uncached(maps, settings, ctx);
            return None;
        }
        FlowEntry::of(maps, ctx)?
    };
    account::count(maps, ctx, flow);
    if ctx.flow.lookup == Lookup::KNOWN {
        charge::record(settings, ctx, flow);
    } else {
        ctx.flow.charge_due = u32::from(settings.one_way.load() != 0);
    }
    let task = ctx.flow.task;
    let next = if task == Task::ASSOCIATE {
        Some(StageProgram::Verdict)
    } else if task == Task::NONE {
        None
    } else {
        inspection_of(packet, maps, settings, ctx, bucket, flow)
    };
    next.or_else(|| (ctx.flow.charge_due != 0).then_some(StageProgram::Charge))
}

/// The stage that a counted packet needs, whose flow is inspected or still teaches.
#[inline(always)]
fn inspection_of<P: Packet, M: Maps>(
    packet: &P,
    maps: &M,
    settings: &Settings,
    ctx: &mut PacketContext,
    bucket: &mut TokenBucket,
    flow: FlowEntry<'_>,
) -> Option<StageProgram> {
    if ctx.inspection.spoofed != 0 {
        record_spoofed(maps, ctx);
    }
    let inspecting = ctx.flow.task == Task::INSPECT;
    if inspecting {
        if let Some(verdict) = verdict_of_headers(settings, ctx) {
            if verdict != Verdict::UNCLASSIFIED {
                ctx.set_verdict(verdict);
            }
            ctx.inspection.ended = 1;
            return Some(StageProgram::Verdict);
        }
        budget::judge(maps, ctx, flow);
        if ctx.inspection.skipped != 0 {
            if ctx.inspection.ended != 0 {
                return Some(StageProgram::Verdict);
            }
            ctx.report_pending(maps);
            return None;
        }
        if ctx.inspection.spared == 0 && starts_known_non_p2p(packet, ctx) {
            if record_non_p2p(ctx, flow) {
                ctx.inspection.ended = 1;
                return Some(StageProgram::Verdict);
            }
            ctx.report_pending(maps);
            return associate::is_early(ctx).then_some(StageProgram::Verdict);
        }
    }
    if !inspecting && ctx.is_tcp() && starts_known_non_p2p(packet, ctx) {
        note_non_p2p(ctx, flow);
    }
    if ctx.frame.headers.payload_len == 0 {
        if has_only_acks(ctx, flow) {
            ctx.inspection.exhausted = 1;
            ctx.inspection.ended = 1;
            return Some(StageProgram::Verdict);
        }
        return None;
    }
    // A packet that opened its flow has paid.
    if ctx.flow.lookup != Lookup::NEW && !shedding::may_inspect(maps, settings, ctx, bucket) {
        shedding::skip_inspection(maps, ctx);
        if inspecting {
            ctx.report_pending(maps);
        }
        return None;
    }
    Some(if ctx.is_tcp() { StageProgram::InspectTcp } else { StageProgram::InspectUdp })
}

/// Parses the frame unless its headers are in the context.
///
/// # Errors
/// The reason why it is skipped: the entry has read only the headers by which a settled flow is found.
#[inline(always)]
fn read_headers<P: Packet>(packet: &P, ctx: &mut PacketContext) -> Result<(), Reason> {
    if ctx.frame.headers_parsed == 0 {
        ctx.frame.headers = parse::plain_headers(packet)?;
    }
    Ok(())
}

/// Resets the context for a packet, except for its headers.
#[inline(always)]
fn reset_context<M: Maps>(ctx: &mut PacketContext, maps: &M, settings: &Settings) {
    ctx.frame.now_s = maps.now_s(settings, &mut ctx.frame.clock);
    ctx.clear();
}

/// The verdict of a packet that needs no inspection of its payload.
#[inline(always)]
fn verdict_of_headers(settings: &Settings, ctx: &PacketContext) -> Option<Verdict> {
    if ctx.frame.headers.fragment != 0 {
        return Some(Verdict::FRAGMENT);
    }
    let has_ports = ctx.is_tcp() || ctx.frame.headers.protocol == ip_protocol::UDP;
    if !has_ports || settings.inspection.load() == InspectionDepth::Headers as u64 {
        return Some(Verdict::UNCLASSIFIED);
    }
    None
}

/// Whether this direction of a flow that teaches has sent too many packets without payload (acknowledgements) to wait
/// for one any longer.
#[inline(always)]
fn has_only_acks(ctx: &PacketContext, flow: FlowEntry<'_>) -> bool {
    if FlowState(ctx.flow.state).is_server_flow() {
        return server_flow::count_empty(flow.cold, ctx);
    }
    unpack(flow.counter(u64::from(ctx.flow.from_lower)).load()).0 >= PENDING_PACKETS
}

/// Records that a packet of the flow may be spoofed.
#[inline(never)]
fn record_spoofed<M: Maps>(maps: &M, ctx: &PacketContext) {
    if let Some(cold) = maps.cold_set(ctx.flow.set_index) {
        let cold = cold.flow(ctx.flow.way);
        let progress = cold.progress();
        cold.set_progress(Progress { evidence: progress.evidence | evidence::SPOOFED, ..progress });
    }
}

/// Whether the payload certainly belongs to a common other protocol: then the packet is not inspected further.
#[inline(always)]
fn starts_known_non_p2p<P: Packet>(packet: &P, ctx: &PacketContext) -> bool {
    if (ctx.frame.headers.payload_len as usize) < HEAD {
        return false;
    }
    let Some(head) = packet.read::<HEAD>(ctx.frame.headers.payload_offset as usize) else { return false };
    let ports = (ctx.frame.headers.source_port, ctx.frame.headers.destination_port);
    is_known_non_p2p(ctx.transport(), head, ctx.frame.headers.payload_len, ports)
}

/// Records that the packet's sender began as another protocol, in a flow that the other side's payload has labelled.
#[inline(always)]
fn note_non_p2p(ctx: &PacketContext, flow: FlowEntry<'_>) {
    let progress = flow.cold.progress();
    if progress.inspected(ctx.sender()) == 0 {
        let other = evidence::of(evidence::NON_P2P_LOWER, ctx.flow.from_lower);
        flow.cold.set_progress(Progress { evidence: progress.evidence | other, ..progress });
    }
}

/// Counts a known non-P2P payload as inspected; `true` if the first payloads of both sides are, which ends inspection.
///
/// Both sides are needed: eight bytes of one side must not hide its later payloads.
#[inline(always)]
fn record_non_p2p(ctx: &mut PacketContext, flow: FlowEntry<'_>) -> bool {
    let cold = flow.cold;
    let mut progress = cold.progress();
    let inspected = progress.inspect(ctx.is_from_lower(), 1);
    let exhausted = budget::is_used_up(ctx, progress, INSPECTED_PER_DIRECTION) != 0;
    if inspected == 1 {
        progress.evidence |= evidence::LOW_ENTROPY | evidence::of(evidence::NON_P2P_LOWER, ctx.flow.from_lower);
        if ctx.is_tcp() {
            progress.rule_flags |= rule_flags::of(rule_flags::PAST_START, ctx.flow.from_lower);
        }
    }
    let both = progress.evidence & evidence::NON_P2P == evidence::NON_P2P;
    if both {
        progress.inspected_lower = INSPECTED_PER_DIRECTION;
        progress.inspected_higher = INSPECTED_PER_DIRECTION;
    }
    ctx.inspection.evidence = progress.evidence;
    cold.set_progress(progress);
    both || exhausted
}
