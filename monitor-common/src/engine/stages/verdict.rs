//! Verdict: what a payload says beyond its protocol, association, and the verdict's commitment.

use super::scratch;
use crate::{
    abi::{
        event::KernelEvent,
        protocol::{Confidence, Protocol},
        rule::Rule,
        settings::{InspectionDepth, Settings},
        stage::StageProgram,
    },
    bpf::branchless::{is_equal, neg},
    dissect::{acestream, content, http, listen_port},
    engine::{associate, budget, charge, commit, known_peers, learn, records, source_requests},
    tables::{
        context::{PacketContext, Scratch, Task},
        conversation::mark,
        maps::Maps,
        progress::evidence,
    },
};

/// Ends or continues the inspection of a packet's flow.
#[inline(always)]
pub fn verdict<M: Maps>(maps: &M, settings: &Settings) -> Option<StageProgram> {
    let scratch = &mut *scratch(maps)?;
    decide(maps, settings, scratch);
    let ctx = &scratch.ctx;
    let due = charge::is_due(maps, settings, ctx) || ctx.inspection.content.is_some() || records::is_due(ctx);
    due.then_some(StageProgram::Charge)
}

/// Associates, labels or learns from the packet's flow.
#[inline(always)]
fn decide<M: Maps>(maps: &M, settings: &Settings, scratch: &mut Scratch) {
    let task = scratch.ctx.flow.task;
    if task == Task::ASSOCIATE {
        let ctx = &mut scratch.ctx;
        if associate::associate(maps, settings, ctx) {
            associate::relabel(maps, settings, ctx);
        }
        return;
    }
    if scratch.ctx.inspection.classified != 0 {
        read_payload(maps, settings, scratch);
    }
    let ctx = &mut scratch.ctx;
    if task == Task::INSPECT {
        let ended = ctx.inspection.ended != 0;
        if !ended && !associate::is_early(ctx) {
            return;
        }
        if !associate::associate(maps, settings, ctx) && !ended {
            return;
        }
        commit::commit_verdict(maps, settings, ctx);
        if !ended {
            return;
        }
        budget::renew_other(maps, ctx);
    }
    learn::learn(maps, settings, ctx);
}

/// Reads what a classified payload says of its sender and of other peers, and sets the flow's verdict.
#[inline(always)]
fn read_payload<M: Maps>(maps: &M, settings: &Settings, scratch: &mut Scratch) {
    resolve_shared_frames(maps, settings, scratch);
    read_sender(maps, settings, scratch);
    let (ctx, payload) = (&mut scratch.ctx, &mut scratch.payload);
    if settings.inspection.load() == InspectionDepth::Watchlist as u64 {
        content::find(ctx.transport(), protocol_of(ctx), payload, &mut ctx.inspection.content);
    }
    payload.wipe();
    ctx.store_evidence(maps);
    ctx.inspection.ended = ctx.inspection.exhausted;
    if ctx.flow.task != Task::INSPECT {
        return;
    }
    if ctx.inspection.found != 0 {
        ctx.flow.protocol = ctx.inspection.found_protocol;
        ctx.flow.confidence = ctx.inspection.found_confidence;
        ctx.flow.rule = payload.rule();
        ctx.inspection.ended = 1;
    }
    if ctx.inspection.ended == 0 {
        ctx.report_pending(maps);
    }
}

/// Protocol number of the rule that matched the payload, else of the flow.
#[inline(always)]
fn protocol_of(ctx: &PacketContext) -> u8 {
    if ctx.inspection.found != 0 { ctx.inspection.found_protocol as u8 } else { ctx.flow.protocol as u8 }
}

/// Reads what a payload that a rule matched, or one of a flow that still teaches, says of its sender and other peers.
///
/// Not inlined: what the caller still needs would make the verifier walk all of this once for each of its values.
#[inline(never)]
fn read_sender<M: Maps>(maps: &M, settings: &Settings, scratch: &mut Scratch) {
    let (ctx, payload) = (&mut scratch.ctx, &mut scratch.payload);
    let inspecting = ctx.flow.task == Task::INSPECT;
    let found = ctx.inspection.found != 0;
    if inspecting && !found {
        return;
    }
    let protocol = protocol_of(ctx);
    // An answer that gives a flow its label answers a request that no rule knows, such as a browser's.
    let page = inspecting && ctx.is_tcp() && http::is_answer(payload);
    let certain = found && !page && (inspecting || u32::from(protocol) == ctx.flow.protocol);
    let started = evidence::of(evidence::STARTED_LOWER, ctx.flow.from_lower);
    if certain && ctx.inspection.may_start != 0 {
        ctx.inspection.evidence |= started;
    }
    ctx.inspection.spoke = u32::from(certain && ctx.inspection.evidence & started != 0);
    listen_port::find_port(ctx.transport(), protocol, payload, &mut ctx.inspection.listen_port);
    // All ones if any web page can have this sent, else 0: a branch would have the verifier walk what follows twice.
    let untrusted = neg(is_equal(u64::from(ctx.inspection.listen_port), u64::from(listen_port::UNTRUSTED)));
    ctx.inspection.spoke &= !untrusted as u32;
    ctx.inspection.listen_port &= !untrusted as u32;
    if certain && ctx.inspection.spoofed == 0 {
        record_message(maps, ctx, untrusted);
    }
    record_speaker(maps, ctx, protocol);
    source_requests::read_peer_list(maps, settings, scratch, protocol_of(&scratch.ctx));
}

/// Records that the payload's sender sent a message of the flow's protocol, wherever in its stream, or, if it is
/// untrusted, that any web page can have this sent.
#[inline(always)]
fn record_message<M: Maps>(maps: &M, ctx: &PacketContext, untrusted: u64) {
    let Some(cold) = maps.cold_set(ctx.flow.set_index) else { return };
    let cold = cold.flow(ctx.flow.way);
    let again = if cold.conversation().has(mark::SAID) { mark::SAID_TWICE } else { 0 };
    let said = mark::of(mark::SAID_LOWER, ctx.sender()) | again;
    cold.note(said & !untrusted | mark::BROWSER & untrusted);
}

/// Gives frames in the middle of a TCP stream, which BitTorrent shares with other protocols, to the protocol that an
/// end is known for: Ace Stream, also by its port, or none if it is Delivery Optimization, whose handshake alone is
/// certain.
#[inline(never)]
fn resolve_shared_frames<M: Maps>(maps: &M, settings: &Settings, scratch: &mut Scratch) {
    let (ctx, payload) = (&mut scratch.ctx, &mut scratch.payload);
    if !ctx.is_tcp()
        || ctx.inspection.found == 0
        || ctx.inspection.found_protocol != Protocol::BitTorrent as u32
        || ctx.inspection.found_confidence != Confidence::Structural as u32
    {
        return;
    }
    let lower = known_peers::protocol_at(maps, settings, ctx, 0);
    let higher = known_peers::protocol_at(maps, settings, ctx, 1);
    let is_of = |protocol: Protocol| (lower == protocol as u32) | (higher == protocol as u32);
    if is_of(Protocol::DeliveryOptimization) {
        ctx.inspection.found = 0;
    }
    let port = acestream::is_port(ctx.frame.headers.source_port, ctx.frame.headers.destination_port);
    if port | is_of(Protocol::AceStream) | (ctx.flow.protocol == Protocol::AceStream as u32) {
        ctx.inspection.found_protocol = Protocol::AceStream as u32;
        payload.set_rule(Rule::AcestreamMidstream as u32);
    }
}

/// Records that the payload's sender spoke the flow's protocol, unless its address may be spoofed.
///
/// An announce to a UDP tracker alone proves nothing, but in a tracker's flow it names a port. No other payload names a
/// port without being certain.
#[inline(always)]
fn record_speaker<M: Maps>(maps: &M, ctx: &mut PacketContext, protocol: u8) {
    let names_port = !ctx.is_tcp() && protocol == Protocol::BitTorrent as u8;
    if ctx.inspection.spoke == 0 && !names_port {
        ctx.inspection.listen_port = 0;
    }
    if (ctx.inspection.spoke | ctx.inspection.listen_port) == 0 {
        return;
    }
    if ctx.inspection.spoofed != 0 {
        maps.count_event(KernelEvent::PeerSpoofed);
        (ctx.inspection.spoke, ctx.inspection.listen_port) = (0, 0);
    } else {
        ctx.inspection.spoke = 1;
        ctx.inspection.evidence |= evidence::of(evidence::SPOKE_LOWER, ctx.flow.from_lower);
    }
}
