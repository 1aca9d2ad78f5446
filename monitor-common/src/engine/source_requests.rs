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

use super::{peer_keys, subscribers};
use crate::{
    abi::{
        key,
        limits::{FIRST_PEER_PORT, SOURCES_PER_PACKET},
        settings::Settings,
    },
    dissect::{
        peer_list::{self, Context},
        rule_state::rule_flags,
    },
    parse::packet::Packet,
    tables::{
        context::{NO_POOL, PacketContext, Scratch},
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
    let requested = FlowState(ctx.flow.state).is_server_flow();
    if !requested && ctx.inspection.spoke == 0 {
        return;
    }
    let context = Context {
        transport: ctx.transport(),
        protocol,
        ipv6: !key::both_ipv4(ctx.frame.headers.source, ctx.frame.headers.destination),
        announces: ctx.inspection.named_port != 0,
        requested,
    };
    peer_list::begin(&context, payload, &mut ctx.inspection.sources);
    if ctx.is_tcp() {
        ctx.read_numbers(packet);
    }
    let answers = requested && answers_request(maps, ctx) && is_for_subscriber(maps, settings, ctx);
    // Whether it answers is not known to the verifier here, nor learned in the loop: it walks the loop once.
    let answers = payload.verifier_barrier(u64::from(answers));
    let mut step = 0;
    while step < SOURCES_PER_PACKET {
        if ctx.inspection.sources.is_over() {
            break;
        }
        peer_list::next(payload, &mut ctx.inspection.sources);
        if payload.verifier_barrier(answers) != 0 && ctx.inspection.sources.port >= u32::from(FIRST_PEER_PORT) {
            peer_keys::insert_referred(maps, settings, ctx);
        }
        step += 1;
    }
}

/// Whether the payload answers what the other side asked latest.
#[inline(never)]
fn answers_request<M: Maps>(maps: &M, ctx: &PacketContext) -> bool {
    let Some(cold) = maps.cold_set(ctx.flow.set_index) else { return false };
    let cold = cold.flow(ctx.flow.way);
    let kept = Progress::from_bits(cold.progress.load()).rule_flags;
    if !ctx.is_tcp() {
        return kept & rule_flags::ECHOED != 0;
    }
    if (kept & rule_flags::REQUEST_FROM_LOWER != 0) == ctx.is_from_lower() {
        // Nobody answers itself.
        return false;
    }
    let question = cold.rule_value.load();
    let sequence = ((ctx.frame.numbers >> 32) as u32).wrapping_sub(question as u32);
    let acknowledged = (ctx.frame.numbers as u32).wrapping_sub((question >> 32) as u32);
    // Behind the end of the latest question when an earlier one is answered, beyond it when the client said more meanwhile.
    (question != 0) & (sequence <= ANSWER_BYTES) & (acknowledged.wrapping_add(ANSWER_BYTES) <= 2 * ANSWER_BYTES)
}

/// Whether the packet goes to a subscriber, whose tag is then in the work.
#[inline(never)]
fn is_for_subscriber<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext) -> bool {
    let receiver = ctx.flow.from_lower as usize & 1;
    if !subscribers::find_subscribers(maps, ctx) || ctx.subscribers.block_lens[receiver] == NO_POOL {
        return false;
    }
    ctx.inspection.requester = peer_keys::requester_key(settings, ctx, receiver);
    true
}
