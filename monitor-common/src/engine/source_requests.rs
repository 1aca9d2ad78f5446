//! Source requests: learns the peers that a server returns to a subscriber who asked for them.
//!
//! For some clients, the server's answer is the only clear message, and an obfuscated flow to a returned peer the only
//! trace. Three rules keep that from being used against a subscriber:
//! * the **subscriber asks**, by a payload of its own that may teach (`learn.rs`), in a flow that is certain by then
//!   and has packets of the other side. A forged payload asks nothing, nor does a request by a browser's name
//!   (`listen_port.rs`);
//! * the **answer matches**, and comes from the other side. Over UDP it repeats the transaction id of the request. Over
//!   TCP its acknowledgement number is within [`ANSWER_BYTES`] of the request's end, and its sequence number within
//!   that distance of the number that the request acknowledged, as TCP itself demands of a segment (RFC 5961 section
//!   5). Somebody off the path has to guess both numbers, and the port;
//! * the peer is learned **for that subscriber alone**. It counts only for random-looking flows that the subscriber
//!   itself opens to the named endpoint, and only while the subscriber speaks the protocol (`associate.rs`).
//!
//! So a server can mislabel random-looking flows of its users to addresses that it named. DHT answers (BEP 5 `values`)
//! are not read for that reason: in the DHT, any stranger is a server.
//!
//! Requests come late in a long connection, and a server's flow is quiet. So it stays under inspection, with a budget
//! of [`crate::abi::limits::SERVER_FLOW_PACKETS`] packets per direction, which is renewed every
//! [`crate::abi::limits::ASSOCIATION_SECONDS`].

use super::{peer_keys, subscribers};
use crate::{
    abi::{
        key,
        limits::{FIRST_PEER_PORT, PEERS_PER_PACKET},
        settings::Settings,
    },
    dissect::{
        peer_list::{self, Context},
        rule_state::rule_flags,
    },
    tables::{
        context::{NO_POOL, PacketContext, Scratch},
        flow_table::FlowState,
        maps::Maps,
    },
};

/// Maximum distance in bytes of an answer's TCP numbers from those of its request: the unacknowledged bytes that TCP
/// allows without window scaling (RFC 9293 section 3.1).
const ANSWER_BYTES: u32 = 0xffff;

/// Reads requests and peer lists from a payload of a flow with this certain verdict.
#[inline(never)]
pub(super) fn read_peer_list<M: Maps>(maps: &M, settings: &Settings, scratch: &mut Scratch, protocol: u8) {
    let (ctx, payload) = (&mut scratch.ctx, &mut scratch.payload);
    let requested = FlowState(ctx.flow.state).is_server_flow();
    if !requested && ctx.inspection.spoke == 0 {
        return;
    }
    let context = Context {
        transport: ctx.transport(),
        protocol,
        ipv6: !key::both_ipv4(ctx.frame.headers.source, ctx.frame.headers.destination),
        announces: ctx.inspection.listen_port != 0,
        requested,
    };
    peer_list::begin(&context, payload, &mut ctx.inspection.peer_list);
    let answers = requested && answers_request(maps, ctx) && is_for_subscriber(maps, settings, ctx);
    // The verifier does not know here whether it is an answer, so it walks the loop once.
    let answers = payload.verifier_barrier(u64::from(answers));
    let mut step = 0;
    while step < PEERS_PER_PACKET {
        if ctx.inspection.peer_list.is_over() {
            break;
        }
        peer_list::next(payload, &mut ctx.inspection.peer_list);
        if payload.verifier_barrier(answers) != 0 && ctx.inspection.peer_list.port >= u32::from(FIRST_PEER_PORT) {
            peer_keys::insert_referred(maps, settings, ctx);
        }
        step += 1;
    }
}

/// Whether the payload answers the other side's latest request.
#[inline(never)]
fn answers_request<M: Maps>(maps: &M, ctx: &PacketContext) -> bool {
    let Some(cold) = maps.cold_set(ctx.flow.set_index) else { return false };
    let cold = cold.flow(ctx.flow.way);
    let flags = cold.progress().rule_flags;
    if !ctx.is_tcp() {
        return flags & rule_flags::ECHOED != 0;
    }
    if (flags & rule_flags::REQUEST_FROM_LOWER != 0) == ctx.is_from_lower() {
        // A side does not answer itself.
        return false;
    }
    let request = cold.rule_value.load();
    let sequence = ctx.frame.headers.sequence.wrapping_sub(request as u32);
    let acknowledged = ctx.frame.headers.acknowledgement.wrapping_sub((request >> 32) as u32);
    // Before the end of the latest request if an earlier one is answered, beyond it if the client has sent more
    // meanwhile.
    (request != 0) & (sequence <= ANSWER_BYTES) & (acknowledged.wrapping_add(ANSWER_BYTES) <= 2 * ANSWER_BYTES)
}

/// Whether the packet goes to a subscriber; the subscriber's tag is then in the context.
#[inline(never)]
fn is_for_subscriber<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext) -> bool {
    let receiver = ctx.receiver();
    if !subscribers::find_subscribers(maps, ctx) || ctx.subscribers.block_lens[receiver] == NO_POOL {
        return false;
    }
    ctx.inspection.requester = peer_keys::requester_tag(settings, ctx, receiver);
    true
}
