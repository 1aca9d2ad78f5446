//! Inspection: joins the segments of a payload, copies it, and classifies it.

use super::scratch;
use crate::{
    abi::{
        limits::{MSE_OPENING, SHALLOW, WINDOW},
        settings::{InspectionDepth, Settings},
        stage::StageProgram,
    },
    bpf::branchless::{is_equal, neg},
    dissect::{
        classify,
        entropy::{self, Entropy},
        http, is_shallow, outer_header,
        rule_state::{RuleState, rule_flags},
    },
    engine::{associate, budget, reassembly},
    parse::{
        packet::Packet,
        payload::{Payload, Transport},
    },
    tables::{
        context::{PacketContext, Scratch, Task},
        conversation::mark,
        flow_table::FlowState,
        maps::Maps,
        progress::evidence,
    },
};

/// First bytes of a TLS record with a handshake message (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u64 = 0x1603;

/// Inspects a segment with payload.
#[inline(always)]
pub fn inspect_tcp<P: Packet, M: Maps>(packet: &P, maps: &M, settings: &Settings) -> Option<StageProgram> {
    let scratch = &mut *scratch(maps)?;
    if reassembly::skip_segment(packet, maps, scratch) {
        let ctx = &mut scratch.ctx;
        if ctx.inspection.exhausted != 0 {
            ctx.inspection.ended = 1;
            return Some(StageProgram::Verdict);
        }
        if ctx.flow.task == Task::INSPECT {
            ctx.report_pending(maps);
        }
        return (ctx.flow.charge_due != 0).then_some(StageProgram::Charge);
    }
    inspect_payload::<P, M, true>(packet, maps, settings, scratch);
    if scratch.ctx.inspection.hold != 0 {
        reassembly::hold(maps, scratch);
    }
    record_opening(maps, scratch);
    after_rules(maps, scratch)
}

/// Inspects a datagram with payload.
#[inline(always)]
pub fn inspect_udp<P: Packet, M: Maps>(packet: &P, maps: &M, settings: &Settings) -> Option<StageProgram> {
    let scratch = &mut *scratch(maps)?;
    inspect_payload::<P, M, false>(packet, maps, settings, scratch);
    after_rules(maps, scratch)
}

/// The verdict stage for a payload that decides or teaches something. Else the inspection goes on with the next one.
#[inline(always)]
fn after_rules<M: Maps>(maps: &M, scratch: &mut Scratch) -> Option<StageProgram> {
    let ctx = &mut scratch.ctx;
    let inspecting = ctx.flow.task == Task::INSPECT;
    // A payload that may charge somebody goes there, too: a branch of its own doubles what the verifier walks.
    let due = ctx.inspection.found | ctx.inspection.exhausted | ctx.flow.charge_due;
    if !inspecting || due != 0 || associate::is_early(ctx) {
        return Some(StageProgram::Verdict);
    }
    scratch.payload.wipe();
    ctx.store_evidence(maps);
    ctx.report_pending(maps);
    None
}

/// Chooses the bytes to copy: few if the first byte starts no rule, as in most ciphertext.
///
/// The whole window is copied if the flow has a verdict, a message goes on in this payload, or content is compared with
/// the watchlist.
#[inline(always)]
fn choose_depth<P: Packet, M: Maps, const TCP: bool>(packet: &P, maps: &M, settings: &Settings, scratch: &mut Scratch) {
    let (ctx, payload) = (&scratch.ctx, &mut scratch.payload);
    payload.depth = WINDOW as u32;
    if ctx.flow.task != Task::INSPECT || payload.captured != 0 {
        return;
    }
    let offset = ctx.frame.headers.payload_offset as usize;
    let Some([first]) = packet.read::<1>(offset) else { return };
    if !TCP && matches!(packet.read::<2>(offset), Some(head) if outer_header::may_start(head)) {
        return;
    }
    if !is_shallow(if TCP { Transport::Tcp } else { Transport::Udp }, first)
        || settings.inspection.load() == InspectionDepth::Watchlist as u64
    {
        return;
    }
    let Some(cold) = maps.cold_set(ctx.flow.set_index) else { return };
    let flags = cold.flow(ctx.flow.way).progress().rule_flags;
    if !TCP || flags & rule_flags::OWED == 0 {
        payload.depth = SHALLOW as u32;
    }
}

/// Copies the payload and classifies it with the state that the flow's earlier payloads left; stores the new state.
#[inline(always)]
fn inspect_payload<P: Packet, M: Maps, const TCP: bool>(
    packet: &P,
    maps: &M,
    settings: &Settings,
    scratch: &mut Scratch,
) {
    choose_depth::<P, M, TCP>(packet, maps, settings, scratch);
    let (ctx, payload) = (&mut scratch.ctx, &mut scratch.payload);
    let Some(cold) = maps.cold_set(ctx.flow.set_index) else { return };
    let cold = cold.flow(ctx.flow.way);
    let mut progress = cold.progress();
    // In a TCP server flow the rule value holds the request, and values that rules store there are dropped. Without a
    // branch: the verifier would walk all rules twice.
    let state = FlowState(ctx.flow.state);
    let has_request = if TCP { neg(state.server_flow_bit()) } else { 0 };
    let owed = rule_flags::OWED & has_request as u32;
    let mut rule_state = RuleState {
        rule_value: cold.rule_value.load(),
        rule_flags: progress.rule_flags & !rule_flags::OF_PAYLOAD & !owed,
    };
    let offset = ctx.frame.headers.payload_offset as usize;
    let outer = match packet.read(offset) {
        Some(head) if !TCP => outer_header::len(head, ctx.frame.headers.payload_len, &rule_state, ctx.flow.from_lower),
        _ => 0,
    };
    payload.len = ctx.frame.headers.payload_len - outer + payload.captured;
    payload.source_port = ctx.frame.headers.source_port;
    payload.destination_port = ctx.frame.headers.destination_port;
    payload.from_lower = ctx.flow.from_lower;
    if !TCP {
        payload.destination_low = ctx.frame.headers.destination.low as u32;
    }
    packet.copy_payload(offset + outer as usize, payload);
    let found = classify(if TCP { Transport::Tcp } else { Transport::Udp }, payload, &mut rule_state);
    let found = if TCP { found } else { outer_header::resolve(outer, found, payload) };
    ctx.inspection.classified = 1;
    if let Some(found) = found {
        ctx.inspection.found_protocol = found.protocol as u32;
        ctx.inspection.found_confidence = found.confidence as u32;
        ctx.inspection.found = 1;
    }
    ctx.inspection.evidence = progress.evidence;
    // A SYN of one side restarts a flow, even on a connection that lives on: the other side's stream did not start
    // then. A router that sees one direction takes the weaker evidence, and keeps no marks of flows it has charged.
    let syn_seen = (cold.conversation().0 / mark::of(mark::SYN_LOWER, ctx.sender())) | settings.one_way.load();
    ctx.inspection.may_start = may_start::<TCP>(ctx, syn_seen, progress.rule_flags);
    let inspected = progress.inspect(ctx.is_from_lower(), ctx.inspection.cost());
    ctx.inspection.first = is_equal(u64::from(inspected), 1) as u32 & (1 ^ ctx.inspection.spared);
    if ctx.inspection.found == 0 && ctx.inspection.first != 0 && ctx.has_peer_ports() {
        record_entropy::<TCP>(ctx, payload);
    }
    if ctx.inspection.spoofed | ctx.inspection.ahead != 0 {
        // A later packet must not count as an answer to a spoofed one, nor continue what is ahead of its stream.
        rule_state =
            RuleState { rule_value: cold.rule_value.load(), rule_flags: progress.rule_flags & !rule_flags::OF_PAYLOAD };
    }
    if rule_state.rule_flags & rule_flags::ECHOED != 0 {
        ctx.inspection.evidence |= evidence::BOTH_SPOKE | evidence::of(evidence::PROVED_LOWER, ctx.flow.from_lower);
        cold.note(mark::ANSWERED);
        ctx.flow.charge_due = 1;
    }
    // The requester opened the flow, so nobody can have made it send or repeat such bytes. Without a branch.
    let answered = (rule_state.rule_flags >> rule_flags::ANSWERED.trailing_zeros())
        & (state.first_bit() as u32 ^ ctx.flow.from_lower)
        & 1;
    ctx.inspection.evidence |= evidence::BOTH_SPOKE & neg(u64::from(answered)) as u32;
    ctx.inspection.exhausted = budget::is_used_up(ctx, progress, state.inspection_budget());
    progress.rule_flags =
        rule_state.rule_flags & !(rule_flags::of(rule_flags::HELD, ctx.flow.from_lower) & has_request as u32);
    if TCP {
        let kept = progress.rule_flags & rule_flags::of(rule_flags::HELD, ctx.flow.from_lower) != 0;
        ctx.inspection.hold = u32::from(ctx.inspection.found == 0 && kept);
    }
    cold.rule_value.store(rule_state.rule_value & !has_request | cold.rule_value.load() & has_request);
    cold.set_progress(progress);
}

/// 1 when a certain payload may be the start of its sender's stream; `before` has the rule flags from before it.
///
/// That is the first payload of a stream seen from its start, or one after an opening that looks random, as MSE allows;
/// none that is ahead of its stream.
/// Any payload may start a UDP flow.
#[inline(always)]
fn may_start<const TCP: bool>(ctx: &PacketContext, syn_seen: u64, before: u32) -> u32 {
    let obfuscated = ctx.inspection.evidence & evidence::of(evidence::HIGH_ENTROPY_LOWER, ctx.flow.from_lower) != 0;
    let first = before & rule_flags::of(rule_flags::PAST_START, ctx.flow.from_lower) == 0;
    let opened = (ctx.inspection.evidence & evidence::OPENED != 0) & (syn_seen & 1 != 0);
    u32::from(!TCP | (opened & (first | obfuscated))) & (1 ^ ctx.inspection.ahead)
}

/// Records [`evidence::OPENED_AS_BROWSER`] when the payload is the first one of the side that opened the connection, no
/// rule matched it, and it is text, which every HTTP request is, or TLS.
///
/// Apart from the rules: the verifier walks it once.
#[inline(always)]
fn record_opening<M: Maps>(maps: &M, scratch: &mut Scratch) {
    let (ctx, payload) = (&mut scratch.ctx, &scratch.payload);
    let Some(cold) = maps.cold_set(ctx.flow.set_index) else { return };
    let flags = cold.flow(ctx.flow.way).progress().rule_flags;
    let higher = 1 ^ ctx.flow.from_lower;
    let first = ctx.inspection.may_start & flags >> (rule_flags::PAST_START.trailing_zeros() + higher);
    let text = flags >> (rule_flags::OTHER.trailing_zeros() + higher) | http::is_request(payload) as u32;
    let tls = is_equal(u64::from(payload.be16(0)), TLS_HANDSHAKE) as u32;
    let opener = higher ^ FlowState(ctx.flow.state).first_bit() as u32;
    let opening = first & opener & (text | tls) & 1;
    ctx.inspection.evidence |= opening << evidence::OPENED_AS_BROWSER.trailing_zeros();
}

/// Records the entropy of a direction's first payload, which no rule matched, and whether it may start an MSE
/// handshake.
#[inline(always)]
fn record_entropy<const TCP: bool>(ctx: &mut PacketContext, payload: &Payload) {
    match entropy::measure(payload) {
        Entropy::High => {
            ctx.inspection.evidence |= evidence::of(evidence::HIGH_ENTROPY_LOWER, ctx.flow.from_lower);
            if TCP && MSE_OPENING.contains(&payload.len) {
                ctx.inspection.evidence |= evidence::of(evidence::MSE_LOWER, ctx.flow.from_lower);
            }
        }
        Entropy::Low => ctx.inspection.evidence |= evidence::LOW_ENTROPY,
        Entropy::TooShort => {}
    }
}
