//! Association: verdicts that no payload shows, by a known peer or, when switched on, by behaviour.
//!
//! A flow is labelled by **association** if all of this holds:
//! * it is TCP or UDP between ports that peers choose; the first payload of one direction looks random, and that of the
//!   other has no recognisable structure (TLS, text, repeated headers);
//! * one of its endpoints is known to speak the protocol; over UDP, the subscriber's own one. Or a server referred the
//!   subscriber that opened the flow to the remote endpoint (`source_requests.rs`);
//! * each of its subscribers is known to speak the protocol, by a certain flow of its own.
//!
//! The flow is compared as soon as both sides look random, when its inspection ends, and again every few seconds while
//! it has packets, since its peer may be learned later. Earlier packets keep their label: nothing is subtracted.
//!
//! The **heuristic** tier counts, for each subscriber, the remote endpoints to which it opened MSE-like connections. If
//! there are enough within the window, and the subscriber has a certain BitTorrent flow within it, these connections
//! count as BitTorrent.

use super::{account, charge, known_peers, peer_keys, records, subscribers};
use crate::{
    abi::{
        event::KernelEvent,
        limits::{MSE_CANDIDATE_BUCKETS, WAYS},
        protocol::{Confidence, Protocol},
        rule::{self, Rule},
        settings::{Heuristic, Settings},
    },
    tables::{
        context::{NO_POOL, PacketContext, Task},
        conversation::mark,
        flow_table::{FlowState, Phase, with_slots},
        maps::Maps,
        peer_cache::{self, PeerEntry},
        progress::evidence,
    },
};

/// Associates the flow of the packet, which showed no signature, with a protocol; returns whether it has a verdict now,
/// which is then in the context.
#[inline(never)]
pub(super) fn associate<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext) -> bool {
    if ctx.flow.task == Task::INSPECT && ctx.flow.protocol != Protocol::Unclassified as u32 {
        return false;
    }
    if ctx.flow.task == Task::ASSOCIATE {
        // The inspection stored the flow's evidence.
        let Some(cold) = maps.cold_set(ctx.flow.set_index) else { return false };
        ctx.inspection.evidence = cold.flow(ctx.flow.way).progress().evidence;
    }
    // An obfuscated side may be silent or send too little; neither side may have a structure of its own.
    let random =
        ctx.inspection.evidence & evidence::HIGH_ENTROPY != 0 && ctx.inspection.evidence & evidence::LOW_ENTROPY == 0;
    if !random || !ctx.has_peer_ports() || !subscribers::find_subscribers(maps, ctx) {
        return false;
    }
    let mut known = known_peers::protocol_at(maps, settings, ctx, 0);
    if known == 0 {
        known = known_peers::protocol_at(maps, settings, ctx, 1);
    }
    if known == 0 {
        known = referred_protocol(maps, settings, ctx);
    }
    if known != 0
        && known_peers::subscriber_speaks(maps, settings, ctx, 0, known as u8)
        && known_peers::subscriber_speaks(maps, settings, ctx, 1, known as u8)
    {
        let kad = known == Protocol::EDonkey as u32 && !ctx.is_tcp();
        ctx.flow.protocol = if kad { Protocol::Kademlia as u32 } else { known };
        ctx.flow.confidence = Confidence::Association as u32;
        ctx.flow.rule = u32::from(rule::ASSOCIATION) + ctx.flow.protocol;
        return true;
    }
    if settings.heuristic.load() == 0 || ctx.inspection.evidence & evidence::MSE != evidence::MSE {
        return false;
    }
    if ctx.flow.task == Task::INSPECT && ctx.inspection.ended == 0 {
        // A signature may still come.
        return false;
    }
    if ctx.flow.task == Task::INSPECT {
        maps.count_event(KernelEvent::MseCandidate);
    }
    if count_mse_candidate(maps, settings, ctx, 0) | count_mse_candidate(maps, settings, ctx, 1) {
        ctx.flow.protocol = Protocol::BitTorrent as u32;
        ctx.flow.confidence = Confidence::Heuristic as u32;
        ctx.flow.rule = Rule::MseHeuristic as u32;
        return true;
    }
    false
}

/// Whether a flow is associated before its inspection ends, which needs both sides to look random.
///
/// A whole conversation may be a datagram or two each way (Kad), a connection one request and one answer. Over TCP it
/// happens once, with the payload that made both sides look random. Peers learned until the inspection ends are found
/// then.
///
/// The verdict is provisional: MSE allows a clear handshake after such an opening.
#[inline(always)]
pub(super) fn is_early(ctx: &PacketContext) -> bool {
    let both = ctx.inspection.evidence & evidence::HIGH_ENTROPY == evidence::HIGH_ENTROPY;
    both & (!ctx.is_tcp() | (ctx.inspection.first != 0))
}

/// Protocol number for which a server referred the subscriber that opened the flow to its other end; 0 for none.
#[inline(never)]
fn referred_protocol<M: Maps>(maps: &M, settings: &Settings, ctx: &PacketContext) -> u32 {
    let opener = usize::from(!FlowState(ctx.flow.state).first_from_lower());
    let opened = !ctx.is_tcp() || ctx.inspection.evidence & evidence::OPENED != 0;
    if !opened || ctx.inspection.evidence & evidence::SPOOFED != 0 || ctx.subscribers.block_lens[opener] == NO_POOL {
        return 0;
    }
    let requester = peer_keys::requester_tag(settings, ctx, opener);
    let tag = peer_keys::referred_tag(settings, requester, ctx.address(1 - opener), ctx.port(1 - opener));
    let known = peer_keys::find(maps, settings, tag, ctx.frame.now_s).protocol_number();
    // In eDonkey, a peer's TCP port says nothing about its UDP traffic; BitTorrent has one port for both.
    if !ctx.is_tcp() && known == Protocol::EDonkey as u8 { 0 } else { u32::from(known) }
}

/// Adds the flow's other end to the MSE candidates of one end's subscriber, if the flow is new; returns whether the
/// subscriber has enough of them.
#[inline(never)]
fn count_mse_candidate<M: Maps>(maps: &M, settings: &Settings, ctx: &PacketContext, end: usize) -> bool {
    let rule = Heuristic::from_bits(settings.heuristic.load());
    if ctx.subscribers.block_lens[end & 1] == NO_POOL {
        return false;
    }
    let tag = peer_keys::mse_candidate_tag(settings, ctx, end);
    let Some(set) = maps.peer_set(peer_cache::set_index(tag, settings.peer_mask)) else {
        maps.count_event(KernelEvent::InternalError);
        return false;
    };
    let held = set.find(tag, ctx.frame.now_s);
    // The entry holds the second in which its window started.
    let current = held.is_used() && held.age_s(ctx.frame.now_s) < u32::from(rule.window_s);
    let mut entry = if current { held } else { PeerEntry::new(Protocol::BitTorrent as u8, true, ctx.frame.now_s) };
    if ctx.flow.task == Task::INSPECT {
        let remote = peer_keys::endpoint_tag(settings, ctx, 1 - end, ctx.port(1 - end));
        entry = entry.with_endpoints(entry.endpoints() | 1 << ((remote >> 40) & u64::from(MSE_CANDIDATE_BUCKETS - 1)));
        set.insert(tag, entry, ctx.frame.now_s);
    }
    let subscriber_entry = known_peers::subscriber_entry(maps, settings, ctx, end, Protocol::BitTorrent as u8);
    entry.endpoints().count_ones() >= rule.endpoints
        && subscriber_entry.is_used()
        && subscriber_entry.age_s(ctx.frame.now_s) < u32::from(rule.window_s)
}

/// Relabels a flow that had ended as unclassified: later packets count under the verdict in the context.
#[inline(never)]
pub(super) fn relabel<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext) {
    let way = ctx.flow.way as usize & (WAYS - 1);
    let (Some(set), Some(cold)) = (maps.flow_set(ctx.flow.set_index), maps.cold_set(ctx.flow.set_index)) else {
        maps.count_event(KernelEvent::InternalError);
        return;
    };
    let verdict = (ctx.flow.protocol as u8, ctx.flow.confidence as u8);
    let (word, cold) = (&set.states[way], &cold.flows[way]);
    let state = FlowState(word.load());
    // The subscribers are known to speak the protocol; what is charged to them is the conversation's to say.
    let charged = charge::proved_ends(settings, state, cold.conversation());
    let slots = subscribers::slots(maps, settings, ctx, verdict, charged);
    let relabels = state.phase() == Phase::Settled && state.protocol_number() == 0 && !state.is_charging();
    if !relabels || !word.replace(state.0, FlowState::LOCKED.0) {
        return;
    }
    if set.tags[way].load() != ctx.flow.tag {
        // Another flow took the way before it was locked.
        word.swap(state.0);
        return;
    }
    account::flush(maps, set, cold.slots.load(), way, state, ctx.frame.now_s);
    cold.generation.add(1);
    cold.slots.store(slots);
    cold.set_remotes(ctx.remotes(settings));
    cold.set_rule(ctx.flow.rule);
    records::note(maps, ctx, with_slots(slots), verdict, ctx.flow.rule);
    let labelled = state.settled(verdict.0, verdict.1);
    word.swap(labelled.0);
    account::count_flow(maps, slots);
    account::count_node_flow(maps, labelled, slots, verdict);
    cold.note(mark::COUNTED);
    maps.count_event(KernelEvent::FlowRelabelled);
    maps.count_rule(ctx.flow.rule);
    maps.report_outcome(ctx.outcome(verdict.0, verdict.1));
}
