//! Inspection: classifies the first payloads of a flow, and commits its verdict.

use super::{account, associate, reassembly, server_flow, source_requests, subscribers};
use crate::{
    abi::{
        event::KernelEvent,
        limits::{INSPECTED_PER_DIRECTION, MSE_OPENING, PENDING_PACKETS, SHALLOW, WAYS, WINDOW},
        protocol::{Confidence, Protocol, Verdict},
        settings::{InspectionDepth, Settings},
    },
    bpf::{branchless::neg, shared_u64::SharedU64},
    dissect::{
        classify, content,
        early_exit::{HEAD, is_known_non_p2p},
        entropy::{self, Entropy},
        is_shallow, listen_port,
        rule_state::{RuleState, rule_flags},
    },
    parse::{ip_protocol, packet::Packet, payload::Payload},
    tables::{
        context::{PacketContext, Scratch, Task},
        flow_table::{FlowState, Stage, counter_index, unpack},
        maps::Maps,
        pool_table,
        progress::{Progress, evidence},
    },
};

/// Inspects the packet; returns whether it brings the flow's final verdict, which is then in the context, or something
/// to learn.
#[inline(never)]
pub(super) fn inspect<P: Packet, M: Maps>(packet: &P, settings: &Settings, maps: &M, scratch: &mut Scratch) -> bool {
    let ctx = &mut scratch.ctx;
    let inspecting = ctx.flow.task == Task::INSPECT;
    ctx.inspection.spoofed = u32::from(maps.is_core(ctx.frame.interface as u16) && has_subscribers_source(maps, ctx));
    if ctx.inspection.spoofed != 0 {
        record_spoofed(maps, ctx);
    }
    if inspecting {
        if let Some(verdict) = verdict_of_headers(maps, settings, ctx) {
            if verdict != Verdict::UNCLASSIFIED {
                set_verdict(ctx, verdict);
            }
            return true;
        }
        if starts_known_non_p2p(packet, ctx) {
            if record_non_p2p(maps, ctx) {
                return true;
            }
            report_pending(maps, ctx);
            return false;
        }
    } else if ctx.frame.headers.payload_len == 0 && has_only_acks(maps, ctx) {
        ctx.inspection.exhausted = 1;
        return true;
    }
    if ctx.frame.headers.payload_len != 0 {
        if ctx.is_tcp() && reassembly::skip_segment(packet, maps, scratch, inspecting) {
            return !inspecting || is_over(maps, &mut scratch.ctx);
        }
        choose_depth(packet, maps, settings, scratch);
        // The only call: the verifier walks all rules once.
        let found = classify_payload(packet, maps, scratch);
        let (ctx, payload) = (&mut scratch.ctx, &mut scratch.payload);
        let protocol = found.map_or(ctx.flow.protocol as u8, |verdict| verdict.protocol as u8);
        if !inspecting || found.is_some() {
            let certain = found.is_some() && (inspecting || u32::from(protocol) == ctx.flow.protocol);
            let started = evidence::of(evidence::STARTED_LOWER, ctx.flow.from_lower);
            if certain && ctx.inspection.may_start != 0 {
                ctx.inspection.evidence |= started;
            }
            ctx.inspection.spoke = u32::from(certain && ctx.inspection.evidence & started != 0);
            listen_port::find_port(ctx.transport(), protocol, payload, &mut ctx.inspection.listen_port);
            record_speaker(maps, ctx, protocol);
            source_requests::read_peer_list(packet, maps, settings, scratch, protocol);
        }
        if scratch.ctx.inspection.hold != 0 {
            reassembly::hold(packet, maps, scratch);
        }
        let (ctx, payload) = (&mut scratch.ctx, &mut scratch.payload);
        if settings.inspection.load() == InspectionDepth::Watchlist as u64 {
            content::find(ctx.transport(), protocol, payload, &mut ctx.inspection.content);
        }
        payload.wipe();
        store_evidence(maps, ctx);
        if !inspecting {
            return true;
        }
        if let Some(verdict) = found {
            if is_of_delivery_optimization(maps, settings, ctx, verdict) {
                return is_over(maps, ctx);
            }
            set_verdict(ctx, verdict);
            ctx.flow.rule = payload.rule();
            return true;
        }
        if ctx.inspection.exhausted != 0 {
            return true;
        }
    }
    if inspecting {
        report_pending(maps, &scratch.ctx);
    }
    false
}

/// Whether a stream joined midway, with frames that BitTorrent and Delivery Optimization share, is of the latter: one
/// end is known to speak it.
#[inline(always)]
fn is_of_delivery_optimization<M: Maps>(maps: &M, settings: &Settings, ctx: &PacketContext, verdict: Verdict) -> bool {
    ctx.is_tcp()
        && verdict.protocol == Protocol::BitTorrent
        && verdict.confidence == Confidence::Structural
        && associate::has_peer_of(maps, settings, ctx, Protocol::DeliveryOptimization)
}

/// Whether a skipped payload was the last one to be inspected.
#[inline(always)]
fn is_over<M: Maps>(maps: &M, ctx: &mut PacketContext) -> bool {
    if ctx.inspection.exhausted != 0 {
        return true;
    }
    report_pending(maps, ctx);
    false
}

/// Reports a packet of a flow that is still under inspection.
#[inline(always)]
fn report_pending<M: Maps>(maps: &M, ctx: &PacketContext) {
    maps.report_outcome(ctx.outcome(ctx.flow.protocol as u8, ctx.flow.confidence as u8));
}

/// Writes the final verdict into the context, in place of a provisional one.
#[inline(always)]
fn set_verdict(ctx: &mut PacketContext, verdict: Verdict) {
    ctx.flow.protocol = verdict.protocol as u32;
    ctx.flow.confidence = verdict.confidence as u32;
}

/// The verdict of a packet that needs no inspection of its payload.
#[inline(never)]
fn verdict_of_headers<M: Maps>(maps: &M, settings: &Settings, ctx: &PacketContext) -> Option<Verdict> {
    if ctx.frame.headers.fragment != 0 {
        return Some(Verdict::FRAGMENT);
    }
    let has_ports = ctx.is_tcp() || ctx.frame.headers.protocol == ip_protocol::UDP;
    if !has_ports || settings.inspection.load() == InspectionDepth::Headers as u64 {
        return Some(Verdict::UNCLASSIFIED);
    }
    (ctx.frame.headers.payload_len == 0 && has_only_acks(maps, ctx)).then_some(Verdict::UNCLASSIFIED)
}

/// Whether this direction has sent too many packets without payload (acknowledgements) to wait for one any longer.
#[inline(always)]
fn has_only_acks<M: Maps>(maps: &M, ctx: &PacketContext) -> bool {
    if FlowState(ctx.flow.state).is_server_flow() {
        return server_flow::count_empty(maps, ctx);
    }
    let Some(set) = maps.flow_set(ctx.flow.set_index) else { return false };
    let counter = counter_index(ctx.flow.way as usize & (WAYS - 1), u64::from(ctx.flow.from_lower));
    unpack(set.counters[counter].load()).0 >= PENDING_PACKETS
}

/// Whether the packet has a subscriber's address as its source.
///
/// Not inlined: the values that it leaves on the stack would make the verifier walk all rules twice.
#[inline(never)]
fn has_subscribers_source<M: Maps>(maps: &M, ctx: &PacketContext) -> bool {
    pool_table::find(maps, ctx.frame.headers.outer_source).is_some()
        || pool_table::find(maps, ctx.frame.headers.source).is_some()
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

/// Counts a known non-P2P payload as inspected; `true` if the first payloads of both sides are, which ends inspection.
///
/// Both sides are needed: eight bytes of one side must not hide its later payloads.
#[inline(never)]
fn record_non_p2p<M: Maps>(maps: &M, ctx: &mut PacketContext) -> bool {
    let Some(cold) = maps.cold_set(ctx.flow.set_index) else { return false };
    let cold = cold.flow(ctx.flow.way);
    let mut progress = cold.progress();
    let inspected = progress.inspect(ctx.is_from_lower());
    let exhausted = inspected >= INSPECTED_PER_DIRECTION;
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

/// Chooses the bytes to copy: few if the first byte starts no rule, as in most ciphertext.
///
/// The whole window is copied if the flow has a verdict, a message goes on in this payload, or content is compared with
/// the watchlist.
#[inline(never)]
fn choose_depth<P: Packet, M: Maps>(packet: &P, maps: &M, settings: &Settings, scratch: &mut Scratch) {
    let (ctx, payload) = (&scratch.ctx, &mut scratch.payload);
    payload.depth = WINDOW as u32;
    if ctx.flow.task != Task::INSPECT || payload.captured != 0 {
        return;
    }
    let Some([first]) = packet.read::<1>(ctx.frame.headers.payload_offset as usize) else { return };
    if !is_shallow(ctx.transport(), first) || settings.inspection.load() == InspectionDepth::Watchlist as u64 {
        return;
    }
    let Some(cold) = maps.cold_set(ctx.flow.set_index) else { return };
    let flags = cold.flow(ctx.flow.way).progress().rule_flags;
    if !ctx.is_tcp() || flags & rule_flags::OWED == 0 {
        payload.depth = SHALLOW as u32;
    }
}

/// Copies the payload and classifies it with the state that the flow's earlier payloads left; stores the new state.
#[inline(never)]
fn classify_payload<P: Packet, M: Maps>(packet: &P, maps: &M, scratch: &mut Scratch) -> Option<Verdict> {
    let (ctx, payload) = (&mut scratch.ctx, &mut scratch.payload);
    let cold = maps.cold_set(ctx.flow.set_index)?;
    let cold = cold.flow(ctx.flow.way);
    let mut progress = cold.progress();
    // In a TCP server flow the rule value holds the request, and values that rules store there are dropped. Without a
    // branch: the verifier would walk all rules twice.
    let state = FlowState(ctx.flow.state);
    let has_request = neg(state.server_flow_bit() & ctx.tcp_bit());
    let owed = rule_flags::OWED & has_request as u32;
    let mut rule_state = RuleState {
        rule_value: cold.rule_value.load(),
        rule_flags: progress.rule_flags & !rule_flags::OF_PAYLOAD & !owed,
    };
    payload.len = ctx.frame.headers.payload_len + payload.captured;
    payload.source_port = ctx.frame.headers.source_port;
    payload.destination_port = ctx.frame.headers.destination_port;
    payload.from_lower = ctx.flow.from_lower;
    packet.copy_payload(ctx.frame.headers.payload_offset as usize, payload);
    let found = classify(ctx.transport(), payload, &mut rule_state);
    ctx.inspection.evidence = progress.evidence;
    ctx.inspection.may_start = may_start(ctx, progress.rule_flags);
    let inspected = progress.inspect(ctx.is_from_lower());
    ctx.inspection.first = u32::from(inspected == 1);
    if found.is_none() && inspected == 1 && ctx.has_peer_ports() {
        record_entropy(ctx, payload);
    }
    if ctx.inspection.spoofed != 0 {
        // A later packet must not count as an answer to a spoofed one.
        rule_state =
            RuleState { rule_value: cold.rule_value.load(), rule_flags: progress.rule_flags & !rule_flags::OF_PAYLOAD };
    }
    if rule_state.rule_flags & rule_flags::ECHOED != 0 {
        ctx.inspection.evidence |= evidence::BOTH_SPOKE | evidence::of(evidence::PROVED_LOWER, ctx.flow.from_lower);
    }
    // The requester opened the flow, so nobody can have made it send or repeat such bytes. Without a branch.
    let answered = (rule_state.rule_flags >> rule_flags::ANSWERED.trailing_zeros())
        & (state.first_bit() as u32 ^ ctx.flow.from_lower)
        & 1;
    ctx.inspection.evidence |= evidence::BOTH_SPOKE & neg(u64::from(answered)) as u32;
    ctx.inspection.exhausted = u32::from(inspected >= state.inspection_budget());
    progress.rule_flags =
        rule_state.rule_flags & !(rule_flags::of(rule_flags::HELD, ctx.flow.from_lower) & has_request as u32);
    let kept = progress.rule_flags & rule_flags::of(rule_flags::HELD, ctx.flow.from_lower) != 0;
    ctx.inspection.hold = u32::from(ctx.is_tcp() && found.is_none() && kept);
    cold.rule_value.store(rule_state.rule_value & !has_request | cold.rule_value.load() & has_request);
    cold.set_progress(progress);
    found
}

/// 1 when a certain payload may be the start of its sender's stream; `before` has the rule flags from before it.
///
/// That is the first payload of a stream seen from its start, or one after an opening that looks random, as MSE allows.
/// Any payload may start a UDP flow.
#[inline(always)]
fn may_start(ctx: &PacketContext, before: u32) -> u32 {
    let obfuscated = ctx.inspection.evidence & evidence::of(evidence::HIGH_ENTROPY_LOWER, ctx.flow.from_lower) != 0;
    let first = before & rule_flags::of(rule_flags::PAST_START, ctx.flow.from_lower) == 0;
    let opened = ctx.inspection.evidence & evidence::OPENED != 0;
    u32::from(!ctx.is_tcp() | (opened & (first | obfuscated)))
}

/// Records the entropy of a direction's first payload, which no rule matched, and whether it may start an MSE
/// handshake.
#[inline(always)]
fn record_entropy(ctx: &mut PacketContext, payload: &Payload) {
    match entropy::measure(payload) {
        Entropy::High => {
            ctx.inspection.evidence |= evidence::of(evidence::HIGH_ENTROPY_LOWER, ctx.flow.from_lower);
            if ctx.is_tcp() && MSE_OPENING.contains(&payload.len) {
                ctx.inspection.evidence |= evidence::of(evidence::MSE_LOWER, ctx.flow.from_lower);
            }
        }
        Entropy::Low => ctx.inspection.evidence |= evidence::LOW_ENTROPY,
        Entropy::TooShort => {}
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
    if ctx.inspection.listen_port == listen_port::UNTRUSTED {
        (ctx.inspection.spoke, ctx.inspection.listen_port) = (0, 0);
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

/// Stores the flow's evidence.
#[inline(always)]
fn store_evidence<M: Maps>(maps: &M, ctx: &PacketContext) {
    if let Some(cold) = maps.cold_set(ctx.flow.set_index) {
        let cold = cold.flow(ctx.flow.way);
        cold.set_progress(Progress { evidence: ctx.inspection.evidence, ..cold.progress() });
    }
}

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
    let generation = cold.generation.load();
    if set.tags[way].load() != ctx.flow.tag {
        // Another flow was installed in the way meanwhile; the counts of this one were flushed then.
        return;
    }
    if protocol != Protocol::Unclassified as u8 {
        if !claim_verdict(word, protocol, confidence) {
            return;
        }
        if ctx.flow.rule != 0 {
            maps.count_rule(ctx.flow.rule);
        }
        // New pools may have been loaded since the flow started; without a subscriber it keeps its tallies.
        if subscribers::find_subscribers(maps, ctx) {
            cold.slots.store(subscribers::slots(maps, settings, ctx, (protocol, confidence)));
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

/// Claims the verdict of a flow under inspection for this CPU; returns whether it may write it.
#[inline(always)]
fn claim_verdict(word: &SharedU64, protocol: u8, confidence: u8) -> bool {
    let mut attempt = 0;
    // Retry: another CPU may refresh the last-seen second in between.
    while attempt < 4 {
        let state = FlowState(word.load());
        if state.stage() != Stage::Inspecting || state.is_claimed() {
            return false;
        }
        if word.replace(state.0, state.claimed_by(protocol, confidence).0) {
            return true;
        }
        attempt += 1;
    }
    false
}
