//! Sources that a server names to a subscriber who asked for them.
//!
//! An obfuscated flow to a source is the only trace of some clients, and the server's answer the only clear word about it. What
//! keeps that from being used against a subscriber:
//! * the **subscriber asks**: a payload of its own, which may teach (`learn.rs`), in a flow that is certain by then and in which the
//!   other side has sent packets. A forged one asks nothing, nor does a request by a browser's name (see `listen_port.rs`);
//! * the **answer answers**, and comes from the other side: by UDP it repeats the transaction id of the question. By TCP its acknowledgement number is within
//!   [`ANSWER_BYTES`] of the question's end, and its sequence number as far behind what the question acknowledged: what TCP itself
//!   demands of a segment (RFC 5961 section 5). Somebody off the path has to guess both, and the port;
//! * it is learned **for that subscriber alone**, and counts for nothing but flows that it opens itself to the named endpoint, that
//!   look random, and only while it speaks the protocol (`associate.rs`).
//!
//! So a server can mislabel random-looking flows of those who ask it, to addresses that it named. DHT answers (BEP 5 `values`)
//! are not read for that reason: there, any stranger is a server.
//!
//! Questions come late in a long session, and a server's flow is quiet. So it goes on teaching, by a budget of
//! [`SERVER_FLOW_PACKETS`] a direction that is renewed every [`crate::abi::limits::ASSOCIATION_SECONDS`].

use super::{
    Scratch,
    context::PacketContext,
    inspect, learn,
    subscribers::{self, NO_POOL},
};
use crate::{
    abi::{
        key,
        limits::{FIRST_PEER_PORT, SERVER_FLOW_PACKETS, SOURCES_PER_PACKET},
        settings::Settings,
    },
    bpf::shared_u64::SharedU64,
    dissect::{
        peer_list::{self, Context, requests},
        rule_state::rule_flags,
    },
    parse::packet::Packet,
    tables::{
        flow_table::{FlowState, Progress},
        maps::Maps,
    },
};

/// An answer's numbers lie within so many bytes of those of its question: what TCP lets a sender have unacknowledged without
/// window scaling (RFC 9293 section 3.1).
const ANSWER_BYTES: u32 = 0xffff;

/// Reads questions, and the sources of answers, from a payload of a flow with this certain verdict.
#[inline(never)]
pub(super) fn read_sources<P: Packet, M: Maps>(
    packet: &P,
    maps: &M,
    settings: &Settings,
    scratch: &mut Scratch,
    protocol: u8,
) {
    let (ctx, payload) = (&mut scratch.ctx, &mut scratch.payload);
    let requested = FlowState(ctx.state).is_server_flow();
    if !requested && ctx.spoke == 0 {
        return;
    }
    let context = Context {
        transport: inspect::transport(ctx),
        protocol,
        ipv6: !key::both_ipv4(ctx.headers.source, ctx.headers.destination),
        announces: ctx.named_port != 0,
        requested,
    };
    peer_list::begin(&context, payload, &mut ctx.sources);
    if ctx.is_tcp() {
        read_numbers(packet, ctx);
    }
    let answers = requested && answers_request(maps, ctx) && is_for_subscriber(maps, settings, ctx);
    // Whether it answers is not known to the verifier here, nor learned in the loop: it walks the loop once.
    let answers = payload.verifier_barrier(u64::from(answers));
    let mut step = 0;
    while step < SOURCES_PER_PACKET {
        if ctx.sources.is_over() {
            break;
        }
        peer_list::next(payload, &mut ctx.sources);
        if payload.verifier_barrier(answers) != 0 && ctx.sources.port >= u32::from(FIRST_PEER_PORT) {
            learn::insert_referred(maps, settings, ctx);
        }
        step += 1;
    }
}

/// Sequence and acknowledgement number of the segment, into the work.
#[inline(never)]
pub(super) fn read_numbers<P: Packet>(packet: &P, ctx: &mut PacketContext) {
    let header = ctx.headers.payload_offset.wrapping_sub(u32::from(ctx.headers.transport_len));
    // RFC 9293 section 3.1: offsets 4 and 8.
    ctx.numbers = packet.read::<8>(header as usize + 4).map_or(0, u64::from_be_bytes);
}

/// Whether the payload answers what the other side asked latest.
#[inline(never)]
fn answers_request<M: Maps>(maps: &M, ctx: &PacketContext) -> bool {
    let Some(cold) = maps.cold_set(ctx.set_index) else { return false };
    let cold = cold.flow(ctx.way);
    let kept = Progress::from_bits(cold.progress.load()).rule_flags;
    if !ctx.is_tcp() {
        return kept & rule_flags::ECHOED != 0;
    }
    if (kept & rule_flags::REQUEST_FROM_LOWER != 0) == ctx.is_from_lower() {
        // Nobody answers itself.
        return false;
    }
    let question = cold.rule_value.load();
    let sequence = ((ctx.numbers >> 32) as u32).wrapping_sub(question as u32);
    let acknowledged = (ctx.numbers as u32).wrapping_sub((question >> 32) as u32);
    // Behind the end of the latest question when an earlier one is answered, beyond it when the client said more meanwhile.
    (question != 0) & (sequence <= ANSWER_BYTES) & (acknowledged.wrapping_add(ANSWER_BYTES) <= 2 * ANSWER_BYTES)
}

/// Whether the packet goes to a subscriber, whose tag is then in the work.
#[inline(never)]
fn is_for_subscriber<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext) -> bool {
    let receiver = ctx.from_lower as usize & 1;
    if !subscribers::find_subscribers(maps, ctx) || ctx.block_lens[receiver] == NO_POOL {
        return false;
    }
    ctx.requester = learn::requester_key(settings, ctx, receiver);
    true
}

/// Keeps what the packet's sender, a subscriber, asked: the flow is a session from now on, and knows what an answer has to
/// match. By UDP the transaction id was kept already.
#[inline(never)]
pub(super) fn store_request<M: Maps>(maps: &M, ctx: &PacketContext, cell: &SharedU64) {
    let Some(cold) = maps.cold_set(ctx.set_index) else { return };
    let cold = cold.flow(ctx.way);
    let (state, rule_value) = (FlowState(cell.load()), &cold.rule_value);
    if ctx.is_tcp() && ctx.sources.requests & requests::SOURCES != 0 {
        let end = ((ctx.numbers >> 32) as u32).wrapping_add(ctx.headers.payload_len);
        let mut progress = Progress::from_bits(cold.progress.load());
        progress.rule_flags &= !rule_flags::REQUEST_FROM_LOWER;
        if ctx.is_from_lower() {
            progress.rule_flags |= rule_flags::REQUEST_FROM_LOWER;
        }
        cold.progress.store(progress.to_bits());
        rule_value.store(u64::from(end) << 32 | u64::from(ctx.numbers as u32));
    } else if ctx.is_tcp() && !state.is_server_flow() {
        // What signatures kept is no question.
        rule_value.store(0);
    }
    // If another CPU refreshes the last-seen second at this very moment, the next question tries again.
    if state != state.server_flow() {
        cell.replace(state.0, state.server_flow().0);
    }
}

/// Counts a session's packet without payload; whether its budget is used up.
#[inline(never)]
pub(super) fn count_bare<M: Maps>(maps: &M, ctx: &PacketContext) -> bool {
    let Some(cold) = maps.cold_set(ctx.set_index) else { return true };
    let cell = &cold.flow(ctx.way).progress;
    let mut progress = Progress::from_bits(cell.load());
    let exhausted = progress.inspect(ctx.is_from_lower()) >= SERVER_FLOW_PACKETS;
    cell.store(progress.to_bits());
    exhausted
}

/// Gives a session a new budget.
#[inline(never)]
pub(super) fn renew<M: Maps>(maps: &M, ctx: &PacketContext) {
    if let Some(cold) = maps.cold_set(ctx.set_index) {
        let cell = &cold.flow(ctx.way).progress;
        let progress = Progress::from_bits(cell.load());
        cell.store(Progress { inspected_lower: 0, inspected_higher: 0, ..progress }.to_bits());
    }
}
