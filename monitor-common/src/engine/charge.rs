//! Charge: which subscribers a flow counts for.
//!
//! Anybody can send a subscriber whatever they like, so packets alone charge nobody. A flow counts for a subscriber
//! once it is **answered** (`tables/conversation.rs`) and, if its verdict is a P2P protocol, the subscriber itself took
//! part in that:
//! * UDP: the subscriber sent a message of the protocol;
//! * TCP from its SYN: the subscriber's stream began as the protocol, or the one that it dialled did and the subscriber
//!   began as no other protocol. What comes later in a stream may be the work of a web page;
//! * TCP joined midway: both sides acknowledge each other, and two messages of the protocol came, one of them from the
//!   subscriber. A page cannot know when a program starts;
//! * a request that a web page can make a browser send charges nobody, and neither does an answer to it;
//! * association and behaviour: their own conditions say that the subscriber speaks the protocol (`associate.rs`).
//!   Under these conditions, a flow with a certain label charges a subscriber who says nothing in it, too.
//!
//! The label does not depend on any of this. Until all its subscribers are charged, a flow's counts are **pending**, at
//! most for [`crate::abi::limits::ANSWER_SECONDS`] after its first packet. Then they count for those who are charged by
//! then, or for the interface alone, and stay there; what is proved later charges what follows.

use super::{account, flow_entry::FlowEntry, known_peers, records, subscribers, watchlist};
use crate::{
    abi::{
        limits::{ACKNOWLEDGED_BYTES, WAYS},
        protocol::{Confidence, Protocol},
        settings::Settings,
    },
    bpf::shared_u64::SharedU64,
    dissect::rule_state::rule_flags,
    parse::tcp_flag,
    tables::{
        context::{Lookup, NO_POOL, PacketContext},
        conversation::{Conversation, mark},
        flow_table::{ColdFlow, FlowState, Phase, unpack, with_slots},
        maps::Maps,
        progress::{Progress, evidence},
    },
};

/// Whether a packet with a subscriber's source, which came from the core, counts for no flow.
///
/// No subscriber behind this router sends from there. But the pools of several routers may be one, so the sender may be
/// a subscriber of another router. Then the packet counts for its receiver, if that is a subscriber, in a flow that
/// charges the sender nothing. In a flow that already charges its sender, it must be forged.
#[inline(always)]
pub(super) fn is_forged<M: Maps>(maps: &M, ctx: &mut PacketContext) -> bool {
    if !subscribers::find_subscribers(maps, ctx) || ctx.subscribers.block_lens[ctx.sender() & 1] == NO_POOL {
        // Its inner addresses alone are a subscriber's: nobody is charged by them.
        return false;
    }
    if ctx.subscribers.block_lens[ctx.receiver() & 1] == NO_POOL {
        return true;
    }
    let (Some(set), Some(cold)) = (maps.flow_set(ctx.flow.set_index), maps.cold_set(ctx.flow.set_index)) else {
        return false;
    };
    // Without a flow, `way` is past the last one.
    let way = ctx.flow.way as usize & (WAYS - 1);
    let known = ctx.flow.way < WAYS as u32 && set.tags[way].load() == ctx.flow.tag;
    known && with_slots(cold.flow(ctx.flow.way).slots.load()) >> ctx.sender() & 1 != 0
}

/// The conversation of a flow after the packet that opens it.
#[inline(always)]
pub(super) fn begin(settings: &Settings, ctx: &PacketContext) -> Conversation {
    let mut marks = 0;
    if !ctx.is_tcp() || ctx.frame.headers.transport_len != 0 {
        marks |= mark::of(mark::SEEN_LOWER, ctx.sender()) | first_syn(ctx);
    }
    if ctx.flow.lookup == Lookup::RESTARTED && !ctx.frame.headers.opens_connection() {
        marks |= mark::RESUMED;
    }
    if ctx.subscribers.unvouched != 0 {
        marks |= mark::UNVOUCHED;
    }
    if ctx.inspection.spoofed != 0 {
        marks |= mark::of(mark::FOREIGN_LOWER, ctx.sender());
    }
    if settings.one_way.load() != 0 {
        marks |= mark::ANSWERED;
    }
    let first = Conversation::new(ctx.frame.now_s, ctx.is_tcp()).with(marks);
    if ctx.is_tcp() { first } else { first.after_packet(u64::from(ctx.flow.from_lower)) }
}

/// The mark of a direction whose first packet is its SYN.
#[inline(always)]
fn first_syn(ctx: &PacketContext) -> u64 {
    let syn = u64::from(ctx.frame.headers.tcp_flags) >> tcp_flag::SYN.trailing_zeros() & 1;
    mark::of(mark::SYN_LOWER, ctx.sender()) * syn
}

/// Records what the packet proves of the ends of its flow while that is pending. Sets `charge_due` if it may charge
/// somebody.
#[inline(always)]
pub(super) fn record(settings: &Settings, ctx: &mut PacketContext, flow: FlowEntry<'_>) {
    if !FlowState(ctx.flow.state).is_pending() {
        return;
    }
    let (word, cold) = (flow.state_word(), flow.cold);
    let before = cold.conversation();
    let mut conversation = if ctx.is_tcp() {
        before.with(numbers_prove(flow, before, ctx))
    } else {
        before.after_packet(u64::from(ctx.flow.from_lower)).with(mark::of(mark::SEEN_LOWER, ctx.sender()))
    };
    let inspecting = FlowState(ctx.flow.state).phase() == Phase::Inspecting;
    let unusual =
        u64::from(ctx.inspection.spoofed) | settings.one_way.load() | before.0 & (mark::FOREIGN | mark::ANSWERED);
    if inspecting && conversation == before && unusual == 0 {
        // Most first payloads of one side prove nothing yet.
        return;
    }
    let foreign = mark::of(mark::FOREIGN_LOWER, ctx.sender());
    conversation = if ctx.inspection.spoofed != 0 {
        conversation.with(foreign).without(mark::of(mark::ACKNOWLEDGED_LOWER, ctx.sender()))
    } else {
        // The subscriber is here, after all. What was proved before was not proved by all subscribers.
        let stale = if conversation.has(foreign) { mark::ANSWERED } else { 0 };
        conversation.without(foreign | stale)
    };
    let subscribers = conversation.own(FlowState(ctx.flow.state).subscribers());
    if conversation.is_proved(subscribers) || settings.one_way.load() != 0 {
        conversation = conversation.with(mark::ANSWERED);
    }
    // If another CPU was first, a later packet proves as much.
    if conversation != before && !cold.conversation.replace(before.0, conversation.0) {
        return;
    }
    let state = FlowState(word.load());
    if state.phase() == Phase::Settled && state.is_pending() {
        let midway = account::is_midway(state.verdict_numbers(), cold);
        let waiting = state.waiting_for(conversation.awaited(subscribers, midway));
        if waiting != state {
            word.replace(state.0, waiting.0);
        }
    }
    ctx.flow.charge_due = u32::from(uncharged(settings, state, cold) != 0);
}

/// What the sequence numbers of a segment prove: flags to set.
#[inline(always)]
fn numbers_prove(flow: FlowEntry<'_>, before: Conversation, ctx: &PacketContext) -> u64 {
    if ctx.frame.headers.transport_len == 0 {
        return 0;
    }
    let (sender, receiver) = (ctx.sender(), ctx.receiver());
    let firsts = flow.cold.first_sequences.load();
    let mut proved = 0;
    if !before.has(mark::of(mark::SEEN_LOWER, sender)) {
        let shift = 32 * (sender as u32 & 1);
        flow.cold
            .first_sequences
            .store(firsts & !(0xffff_ffff << shift) | u64::from(ctx.frame.headers.sequence) << shift);
        proved |= mark::of(mark::SEEN_LOWER, sender) | first_syn(ctx);
    }
    const KIND: u8 = tcp_flag::SYN | tcp_flag::RST | tcp_flag::ACK;
    if before.has(mark::of(mark::SEEN_LOWER, receiver)) && ctx.frame.headers.tcp_flags & KIND == tcp_flag::ACK {
        let first = (firsts >> (32 * (receiver as u32 & 1))) as u32;
        let acknowledged = ctx.frame.headers.acknowledgement.wrapping_sub(first);
        // The packets' bytes, headers included, are more than what they hold of the stream.
        let sent = unpack(flow.counter(1 - receiver as u64).load()).1;
        let plausible = (acknowledged != 0) & (acknowledged <= ACKNOWLEDGED_BYTES) & (u64::from(acknowledged) <= sent);
        if plausible {
            proved |= mark::of(mark::ACKNOWLEDGED_LOWER, sender);
        }
    }
    proved
}

/// The subscribers of a flow (bit 0 lower, bit 1 higher) whom an answered flow without a P2P verdict charges.
#[inline(always)]
pub(super) fn proved_ends(settings: &Settings, state: FlowState, conversation: Conversation) -> u64 {
    let answered = conversation.has(mark::ANSWERED) || settings.one_way.load() != 0;
    if answered && !conversation.has(mark::UNVOUCHED) { conversation.own(state.subscribers()) } else { 0 }
}

/// The subscribers whom the flow charges by its verdict, its conversation and its evidence.
#[inline(always)]
pub(super) fn charged_ends(settings: &Settings, state: FlowState, cold: &ColdFlow) -> u64 {
    let conversation = cold.conversation();
    let proved = proved_ends(settings, state, conversation);
    let (protocol, confidence) = state.verdict_numbers();
    let certain = protocol > Protocol::Fragment as u8 && confidence >= Confidence::Structural as u8;
    if proved == 0 || !certain || settings.one_way.load() != 0 {
        return proved;
    }
    proved & speakers(state, conversation, cold.progress())
}

/// Ends whose own doing the flow's certain verdict is.
#[inline(always)]
fn speakers(state: FlowState, conversation: Conversation, progress: Progress) -> u64 {
    const _: () = assert!(evidence::BOTH_SPOKE == 3);
    let evidence = progress.evidence;
    let spoke = u64::from(evidence & evidence::BOTH_SPOKE);
    if !conversation.has(mark::TCP) {
        return spoke;
    }
    if conversation.has(mark::BROWSER) {
        return 0;
    }
    if evidence & evidence::OPENED != 0 {
        return spoke | dialler(state, progress);
    }
    let agreed = conversation.has_all(mark::ACKNOWLEDGED | mark::SAID_TWICE);
    if agreed && !conversation.has(mark::RESUMED) { (conversation.0 / mark::SAID_LOWER) & 3 } else { 0 }
}

/// The end that opened the connection, if the side that it dialled speaks the protocol, and what it sent itself first
/// is of no other protocol. Any server may answer a browser's request, or a TLS hello, with the start of a P2P
/// protocol.
#[inline(always)]
fn dialler(state: FlowState, progress: Progress) -> u64 {
    let opener = 2 - state.first_bit();
    let from_lower = state.first_bit() as u32;
    let spoke = u64::from(progress.evidence & evidence::BOTH_SPOKE);
    let other = progress.rule_flags & (rule_flags::of(rule_flags::OTHER | rule_flags::TEXT, from_lower)) != 0;
    let known = evidence::of(evidence::NON_P2P_LOWER, from_lower) | evidence::SPOOFED | evidence::OPENED_AS_BROWSER;
    let known = progress.evidence & known != 0;
    let end = 1 - state.first_bit() as usize;
    let said = progress.inspected(end) != 0;
    if spoke & !opener != 0 && said && !other && !known { opener } else { 0 }
}

/// Subscribers whom the flow charges from now on, and did not so far.
#[inline(always)]
fn uncharged(settings: &Settings, state: FlowState, cold: &ColdFlow) -> u64 {
    charged_ends(settings, state, cold) & !with_slots(cold.slots.load())
}

/// Subscribers whom an answered flow does not charge only because they have said nothing of its certain protocol.
#[inline(always)]
fn silent(settings: &Settings, state: FlowState, cold: &ColdFlow) -> u64 {
    let conversation = cold.conversation();
    let certain = state.confidence_number() >= Confidence::Structural as u8;
    if !certain || conversation.has(mark::BROWSER) {
        return 0;
    }
    proved_ends(settings, state, conversation) & !with_slots(cold.slots.load())
}

/// Ends whose subscribers are known to speak the flow's protocol, if one of its endpoints is known, too: what an
/// association demands (`associate.rs`). A client that sends a file may say nothing of its protocol in that connection.
#[inline(always)]
fn known_speakers<M: Maps>(maps: &M, settings: &Settings, ctx: &PacketContext, state: FlowState) -> u64 {
    let protocol = state.protocol_number();
    let family = u32::from(Protocol::family_number(protocol));
    if known_peers::protocol_at(maps, settings, ctx, 0) != family
        && known_peers::protocol_at(maps, settings, ctx, 1) != family
    {
        return 0;
    }
    let speaks = |end| u64::from(known_peers::subscriber_speaks(maps, settings, ctx, end, protocol));
    speaks(0) | speaks(1) << 1
}

/// Whether the flow is pending, and may charge a subscriber whom it did not charge so far.
#[inline(always)]
pub(super) fn is_due<M: Maps>(maps: &M, settings: &Settings, ctx: &PacketContext) -> bool {
    let (Some(set), Some(cold)) = (maps.flow_set(ctx.flow.set_index), maps.cold_set(ctx.flow.set_index)) else {
        return false;
    };
    let state = FlowState(set.states[ctx.flow.way as usize & (WAYS - 1)].load());
    let cold = cold.flow(ctx.flow.way);
    state.is_pending() && uncharged(settings, state, cold) | silent(settings, state, cold) != 0
}

/// Charges the flow to those of its subscribers who have taken part by now.
#[inline(always)]
pub(super) fn update<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext) {
    let way = ctx.flow.way as usize & (WAYS - 1);
    let (Some(set), Some(cold)) = (maps.flow_set(ctx.flow.set_index), maps.cold_set(ctx.flow.set_index)) else {
        return;
    };
    let (word, cold) = (&set.states[way], cold.flow(ctx.flow.way));
    let claims = cold.claims();
    let state = FlowState(word.load());
    let live = matches!(state.phase(), Phase::Inspecting | Phase::Settled) && !state.is_claimed();
    if !live || state.is_charging() || !state.is_pending() || set.tags[way].load() != ctx.flow.tag {
        return;
    }
    if !subscribers::find_subscribers(maps, ctx) {
        return;
    }
    let mut added = uncharged(settings, state, cold);
    if added == 0 {
        added = known_speakers(maps, settings, ctx, state) & silent(settings, state, cold);
    }
    if added != 0 {
        charge(maps, settings, ctx, added, claims);
    }
}

/// Charges the flow to the subscribers in `added` (bit 0 lower, bit 1 higher) as well, if it is still the one with
/// `claims`. If another CPU changes the flow, a later packet tries again.
///
/// Looks the flow up again: what the caller still needs would make the verifier walk all of this once for each of its
/// values.
#[inline(always)]
fn charge<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext, added: u64, claims: u64) {
    let way = ctx.flow.way as usize & (WAYS - 1);
    let (Some(set), Some(cold)) = (maps.flow_set(ctx.flow.set_index), maps.cold_set(ctx.flow.set_index)) else {
        return;
    };
    let (word, cold) = (&set.states[way], cold.flow(ctx.flow.way));
    let state = FlowState(word.load());
    let verdict = state.verdict_numbers();
    // Each half is a slot or all ones.
    let new = subscribers::slots(maps, settings, ctx, verdict, added);
    if !begin_charging(word, state) {
        return;
    }
    // From here on, this CPU alone changes the slots.
    let before = cold.slots.load();
    let other = set.tags[way].load() != ctx.flow.tag || cold.claims() != claims;
    if other || with_slots(before) & with_slots(new) != 0 {
        end_charging(word, 0, false);
        return;
    }
    if cold.conversation().is_late(ctx.frame.now_s) {
        // What the flow has counted so far stays where it belongs without the new slots.
        account::flush(maps, set, before, way, state, ctx.frame.now_s);
        if state.phase() == Phase::Settled && cold.note(mark::COUNTED) {
            account::count_node_flow(maps, state, before, verdict);
        }
        cold.generation.add(1);
    }
    let (slots, rule) = (before & new, cold.rule());
    cold.slots.store(slots);
    cold.set_remotes(ctx.remotes(settings));
    if state.phase() == Phase::Settled {
        account::count_flow(maps, new);
        if cold.note(mark::COUNTED) {
            account::count_node_flow(maps, state, slots, verdict);
        }
    }
    end_charging(word, with_slots(new), account::slots_complete(slots, state, cold.conversation()));
    maps.report_outcome(ctx.outcome(verdict.0, verdict.1).with_charge(true));
    records::note(maps, ctx, with_slots(new), verdict, rule);
    watchlist::release(maps, settings, ctx, cold, with_slots(slots));
}

/// Begins to charge a flow, for this CPU alone; `false` if its phase, verdict or charge is another than in `seen`.
#[inline(never)]
fn begin_charging(word: &SharedU64, seen: FlowState) -> bool {
    let mut attempt = 0;
    // Other CPUs may refresh the last-seen second and the interfaces meanwhile.
    while attempt < 4 {
        let state = FlowState(word.load());
        if !state.is_charged_as(seen) || state.is_claimed() || state.is_charging() {
            return false;
        }
        if word.replace(state.0, state.charging().0) {
            return true;
        }
        attempt += 1;
    }
    false
}

/// Lets other CPUs change the flow again, after it was charged to `ends`. With `complete`, its charge is final: nothing
/// more is to be proved.
#[inline(never)]
fn end_charging(word: &SharedU64, ends: u64, complete: bool) {
    let mut attempt = 0;
    // Other CPUs only refresh the last-seen second meanwhile.
    while attempt < 4 {
        let charging = FlowState(word.load());
        if word.replace(charging.0, charging.charged(ends, complete).0) {
            return;
        }
        attempt += 1;
    }
    word.swap(FlowState(word.load()).charged(ends, complete).0);
}
