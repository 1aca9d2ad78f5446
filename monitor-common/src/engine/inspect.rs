//! Looking into a flow's first payload packets, and settling it.

use super::{account, reassembly, server_flow, source_requests, subscribers};
use crate::{
    abi::{
        event::KernelEvent,
        limits::{INSPECTED_PER_DIRECTION, MSE_OPENING, PENDING_PACKETS, SERVER_FLOW_PACKETS, SHALLOW, WAYS, WINDOW},
        protocol::{Protocol, Verdict},
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
        flow_table::{FlowState, Progress, Stage, counter_index, evidence, unpack},
        maps::Maps,
        pool_table,
    },
};

/// Looks at the packet; whether it brings the flow's final verdict, which is then in the work, or something to learn.
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
    } else if ctx.frame.headers.payload_len == 0 && is_waiting_in_vain(maps, ctx) {
        ctx.inspection.exhausted = 1;
        return true;
    }
    if ctx.frame.headers.payload_len != 0 {
        if ctx.is_tcp() && reassembly::skip_segment(packet, maps, scratch, inspecting) {
            return !inspecting || is_over(maps, &mut scratch.ctx);
        }
        choose_depth(packet, maps, settings, scratch);
        // The only call: the verifier walks all signatures once.
        let found = classify_payload(packet, maps, scratch);
        let (ctx, payload) = (&mut scratch.ctx, &mut scratch.payload);
        let protocol = found.map_or(ctx.flow.protocol as u8, |verdict| verdict.protocol as u8);
        if !inspecting || found.is_some() {
            let certain = found.is_some() && (inspecting || u32::from(protocol) == ctx.flow.protocol);
            let began = u32::from(evidence::BEGAN_LOWER) << ((1 - ctx.flow.from_lower) & 1);
            if certain && ctx.inspection.begins != 0 {
                ctx.inspection.evidence |= began;
            }
            ctx.inspection.spoke = u32::from(certain && ctx.inspection.evidence & began != 0);
            listen_port::find_port(ctx.transport(), protocol, payload, &mut ctx.inspection.named_port);
            record_speaker(maps, ctx, protocol);
            source_requests::read_sources(packet, maps, settings, scratch, protocol);
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
            set_verdict(ctx, verdict);
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

/// Whether a payload that was passed over was the last one to be looked into.
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

/// Puts the final verdict into the work, where the flow's provisional one is, or none.
#[inline(always)]
fn set_verdict(ctx: &mut PacketContext, verdict: Verdict) {
    ctx.flow.protocol = verdict.protocol as u32;
    ctx.flow.confidence = verdict.confidence as u32;
}

/// The verdict of a packet whose payload need not be looked into.
#[inline(never)]
fn verdict_of_headers<M: Maps>(maps: &M, settings: &Settings, ctx: &PacketContext) -> Option<Verdict> {
    if ctx.frame.headers.fragment != 0 {
        return Some(Verdict::FRAGMENT);
    }
    let has_ports = ctx.is_tcp() || ctx.frame.headers.protocol == ip_protocol::UDP;
    if !has_ports || settings.inspection.load() == InspectionDepth::Headers as u64 {
        return Some(Verdict::UNCLASSIFIED);
    }
    (ctx.frame.headers.payload_len == 0 && is_waiting_in_vain(maps, ctx)).then_some(Verdict::UNCLASSIFIED)
}

/// Whether so many packets of this direction came that there is no use in waiting for a payload: acknowledgements only.
#[inline(always)]
fn is_waiting_in_vain<M: Maps>(maps: &M, ctx: &PacketContext) -> bool {
    if FlowState(ctx.flow.state).is_server_flow() {
        return server_flow::count_empty(maps, ctx);
    }
    let Some(set) = maps.flow_set(ctx.flow.set_index) else { return false };
    let counter = counter_index(ctx.flow.way as usize & (WAYS - 1), u64::from(ctx.flow.from_lower));
    unpack(set.counters[counter].load()).0 >= PENDING_PACKETS
}

/// Whether the packet has a subscriber's address as its source.
///
/// A call of its own: what it leaves on the stack would make the verifier walk all signatures twice.
#[inline(never)]
fn has_subscribers_source<M: Maps>(maps: &M, ctx: &PacketContext) -> bool {
    pool_table::find(maps, ctx.frame.headers.outer_source).is_some()
        || pool_table::find(maps, ctx.frame.headers.source).is_some()
}

/// Notes that a packet of the flow may be forged.
#[inline(never)]
fn record_spoofed<M: Maps>(maps: &M, ctx: &PacketContext) {
    if let Some(cold) = maps.cold_set(ctx.flow.set_index) {
        let cell = &cold.flow(ctx.flow.way).progress;
        let progress = Progress::from_bits(cell.load());
        cell.store(Progress { evidence: progress.evidence | evidence::SPOOFED, ..progress }.to_bits());
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
/// Both, and no later payload: eight bytes of one side must not hide what follows.
#[inline(never)]
fn record_non_p2p<M: Maps>(maps: &M, ctx: &mut PacketContext) -> bool {
    let Some(cold) = maps.cold_set(ctx.flow.set_index) else { return false };
    let cell = &cold.flow(ctx.flow.way).progress;
    let mut progress = Progress::from_bits(cell.load());
    let inspected = progress.inspect(ctx.is_from_lower());
    let exhausted = inspected >= INSPECTED_PER_DIRECTION;
    if inspected == 1 {
        progress.evidence |= evidence::LOW_ENTROPY | evidence::NON_P2P_LOWER << ((1 - ctx.flow.from_lower) & 1);
        if ctx.is_tcp() {
            progress.rule_flags |= rule_flags::of(rule_flags::BEGUN, ctx.flow.from_lower);
        }
    }
    let both = progress.evidence & evidence::NON_P2P == evidence::NON_P2P;
    if both {
        progress.inspected_lower = INSPECTED_PER_DIRECTION;
        progress.inspected_higher = INSPECTED_PER_DIRECTION;
    }
    ctx.inspection.evidence = u32::from(progress.evidence);
    cell.store(progress.to_bits());
    both || exhausted
}

/// Says how much of the payload is copied: little of one that few rules are for, as ciphertext is.
///
/// Of a flow without a verdict only, outside a message that ends behind that, and without a list of contents to compare with.
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
    let kept = Progress::from_bits(cold.flow(ctx.flow.way).progress.load()).rule_flags;
    if !ctx.is_tcp() || kept & rule_flags::OWED == 0 {
        payload.depth = SHALLOW as u32;
    }
}

/// Copies the payload and classifies it, with what the flow's earlier payloads left behind; keeps what this one leaves.
#[inline(never)]
fn classify_payload<P: Packet, M: Maps>(packet: &P, maps: &M, scratch: &mut Scratch) -> Option<Verdict> {
    let (ctx, payload) = (&mut scratch.ctx, &mut scratch.payload);
    let cold = maps.cold_set(ctx.flow.set_index)?;
    let cold = cold.flow(ctx.flow.way);
    let mut progress = Progress::from_bits(cold.progress.load());
    // In a TCP server flow the rule value holds the request, and what rules store there is dropped. Without a branch, or the verifier
    // would walk all signatures twice.
    let state = FlowState(ctx.flow.state);
    let asks = neg(state.server_flow_bit() & ctx.tcp_bit());
    let owed = rule_flags::OWED & asks as u32;
    let mut rule_state = RuleState {
        rule_value: cold.rule_value.load(),
        rule_flags: progress.rule_flags & !rule_flags::OF_PAYLOAD & !owed,
        reserved: 0,
    };
    payload.len = ctx.frame.headers.payload_len + payload.captured;
    payload.source_port = ctx.frame.headers.source_port;
    payload.destination_port = ctx.frame.headers.destination_port;
    payload.from_lower = ctx.flow.from_lower;
    packet.copy_payload(ctx.frame.headers.payload_offset as usize, payload);
    let found = classify(ctx.transport(), payload, &mut rule_state);
    ctx.inspection.evidence = u32::from(progress.evidence);
    ctx.inspection.begins = begins(ctx, progress.rule_flags);
    let inspected = progress.inspect(ctx.is_from_lower());
    ctx.inspection.first = u32::from(inspected == 1);
    if found.is_none() && inspected == 1 && ctx.has_peer_ports() {
        record_entropy(ctx, payload);
    }
    if ctx.inspection.spoofed != 0 {
        // It must not be what a later packet answers.
        rule_state = RuleState {
            rule_value: cold.rule_value.load(),
            rule_flags: progress.rule_flags & !rule_flags::OF_PAYLOAD,
            reserved: 0,
        };
    }
    if rule_state.rule_flags & rule_flags::ECHOED != 0 {
        let sender = 1 - ctx.flow.from_lower;
        ctx.inspection.evidence |= u32::from(evidence::BOTH_SPOKE) | u32::from(evidence::PROVED_LOWER) << (sender & 1);
    }
    // Whoever asked began the flow: nobody can have made it say, or repeat, what looks like a request. Without a branch.
    let answered = (rule_state.rule_flags >> rule_flags::ANSWERED.trailing_zeros())
        & (state.first_bit() as u32 ^ ctx.flow.from_lower)
        & 1;
    ctx.inspection.evidence |= u32::from(evidence::BOTH_SPOKE) & neg(u64::from(answered)) as u32;
    let budget = if FlowState(ctx.flow.state).is_server_flow() { SERVER_FLOW_PACKETS } else { INSPECTED_PER_DIRECTION };
    ctx.inspection.exhausted = u32::from(inspected >= budget);
    progress.rule_flags =
        rule_state.rule_flags & !(rule_flags::of(rule_flags::HELD, ctx.flow.from_lower) & asks as u32);
    let kept = progress.rule_flags & rule_flags::of(rule_flags::HELD, ctx.flow.from_lower) != 0;
    ctx.inspection.hold = u32::from(ctx.is_tcp() && found.is_none() && kept);
    cold.rule_value.store(rule_state.rule_value & !asks | cold.rule_value.load() & asks);
    cold.progress.store(progress.to_bits());
    found
}

/// 1 when a payload that is certain may be what its sender's stream began with, `before` being the marks from before it: the first
/// one of a stream that was seen from its start, or one behind an opening that looks random, as MSE allows. UDP has no streams.
#[inline(always)]
fn begins(ctx: &PacketContext, before: u32) -> u32 {
    let obfuscated =
        ctx.inspection.evidence & u32::from(evidence::HIGH_ENTROPY_LOWER) << ((1 - ctx.flow.from_lower) & 1) != 0;
    let first = before & rule_flags::of(rule_flags::BEGUN, ctx.flow.from_lower) == 0;
    let opened = ctx.inspection.evidence & u32::from(evidence::OPENED) != 0;
    u32::from(!ctx.is_tcp() | (opened & (first | obfuscated)))
}

/// Records the entropy of a direction's first payload, which no rule matched, and whether it may start an MSE handshake.
#[inline(always)]
fn record_entropy(ctx: &mut PacketContext, payload: &Payload) {
    match entropy::measure(payload) {
        Entropy::High => {
            ctx.inspection.evidence |= u32::from(evidence::HIGH_ENTROPY_LOWER) << ((1 - ctx.flow.from_lower) & 1);
            if ctx.is_tcp() && MSE_OPENING.contains(&payload.len) {
                ctx.inspection.evidence |= u32::from(evidence::MSE_LOWER) << ((1 - ctx.flow.from_lower) & 1);
            }
        }
        Entropy::Low => ctx.inspection.evidence |= u32::from(evidence::LOW_ENTROPY),
        Entropy::TooShort => {}
    }
}

/// Notes that the payload's sender spoke the flow's protocol, unless its address may be forged. An announce to a UDP tracker
/// proves nothing alone, but in a tracker's flow it names a port; nothing else does that without being certain.
#[inline(always)]
fn record_speaker<M: Maps>(maps: &M, ctx: &mut PacketContext, protocol: u8) {
    let listen_port = !ctx.is_tcp() && protocol == Protocol::BitTorrent as u8;
    if ctx.inspection.spoke == 0 && !listen_port {
        ctx.inspection.named_port = 0;
    }
    if ctx.inspection.named_port == listen_port::UNTRUSTED {
        (ctx.inspection.spoke, ctx.inspection.named_port) = (0, 0);
    }
    if (ctx.inspection.spoke | ctx.inspection.named_port) == 0 {
        return;
    }
    if ctx.inspection.spoofed != 0 {
        maps.count_event(KernelEvent::PeerSpoofed);
        (ctx.inspection.spoke, ctx.inspection.named_port) = (0, 0);
    } else {
        ctx.inspection.spoke = 1;
        ctx.inspection.evidence |= u32::from(evidence::SPOKE_LOWER) << ((1 - ctx.flow.from_lower) & 1);
    }
}

/// Keeps what the flow has shown.
#[inline(always)]
fn store_evidence<M: Maps>(maps: &M, ctx: &PacketContext) {
    if let Some(cold) = maps.cold_set(ctx.flow.set_index) {
        let cell = &cold.flow(ctx.flow.way).progress;
        let progress = Progress { evidence: ctx.inspection.evidence as u16, ..Progress::from_bits(cell.load()) };
        cell.store(progress.to_bits());
    }
}

/// Writes a flow's final verdict, once: the first CPU to mark the word wins. One that is found before the inspection has ended is
/// provisional: a certain one may still come.
#[inline(never)]
pub(super) fn commit_verdict<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext) {
    let (protocol, confidence) = (ctx.flow.protocol as u8, ctx.flow.confidence as u8);
    let way = ctx.flow.way as usize & (WAYS - 1);
    let (Some(set), Some(cold)) = (maps.flow_set(ctx.flow.set_index), maps.cold_set(ctx.flow.set_index)) else {
        maps.count_event(KernelEvent::InternalError);
        return;
    };
    let (cell, cold) = (&set.states[way], &cold.flows[way]);
    maps.report_outcome(ctx.outcome(protocol, confidence));
    let generation = cold.generation.load();
    if set.tags[way].load() != ctx.flow.tag {
        // Another flow took the way while this packet was looked into; what was counted was counted when it was taken.
        return;
    }
    if protocol != Protocol::Unclassified as u8 {
        if !claim_verdict(cell, protocol, confidence) {
            return;
        }
        // New pools may have been loaded since the flow began; without a subscriber its tallies stay the ones it has.
        if subscribers::find_subscribers(maps, ctx) {
            cold.slots.store(subscribers::slots(maps, settings, ctx, (protocol, confidence)));
        }
    }
    if ctx.inspection.ended == 0 {
        mark_provisional(cell);
        return;
    }
    if ctx.is_tcp() {
        // What signatures kept of earlier segments is of no more use, and is not kept longer.
        cold.rule_value.store(0);
        reassembly::release(maps, ctx, &cold.progress);
    }
    account::publish(maps, cell, cold, generation, (protocol, confidence));
}

/// Lets others go on with a flow that this CPU has claimed.
#[inline(always)]
fn mark_provisional(cell: &SharedU64) {
    let mut attempt = 0;
    // Others only refresh the last-seen second meanwhile. If this fails all the same, the claim becomes the verdict (`settle_idle`).
    while attempt < 4 {
        let state = FlowState(cell.load());
        if !state.is_claimed() || cell.replace(state.0, state.provisional().0) {
            return;
        }
        attempt += 1;
    }
}

/// Marks a flow under inspection with the verdict that this CPU is about to write; whether it may.
#[inline(always)]
fn claim_verdict(cell: &SharedU64, protocol: u8, confidence: u8) -> bool {
    let mut attempt = 0;
    // Another CPU may refresh the last-seen second in between; that must not cost the verdict.
    while attempt < 4 {
        let state = FlowState(cell.load());
        if state.stage() != Stage::Inspecting || state.is_claimed() {
            return false;
        }
        if cell.replace(state.0, state.claimed_by(protocol, confidence).0) {
            return true;
        }
        attempt += 1;
    }
    false
}
