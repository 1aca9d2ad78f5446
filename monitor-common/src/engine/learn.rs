//! Learning endpoints and speakers from flows with a certain verdict.
//!
//! Who may teach what, so that nobody outside can give a subscriber's other traffic a label:
//! * a **subscriber** teaches its own endpoint, and that it speaks the protocol, by a payload of its own that is certainly of
//!   the protocol, in a flow whose other side has sent packets, too. A packet with a subscriber's address that came in on a
//!   core interface may be forged, and teaches nothing;
//! * a **remote endpoint** is learned when it has proved that its address is its own and a subscriber has spoken the protocol
//!   with it: by TCP, or by repeating a value that the subscriber chose (DHT transaction, uTP connection, tracker
//!   transaction). A lone datagram with its address teaches nothing;
//! * by TCP, only the side that accepted the connection is an endpoint: the other's port is of no lasting use;
//! * by TCP, a side speaks only when its stream **began** as the protocol, its first segments taken together, or obfuscated: of what
//!   follows a request, a web page may have written every byte. A stream that was not seen from its start teaches nothing;
//! * a port that framing names (`listen_port.rs`) counts for the sender of the payload, under the same conditions.
//!
//! A server's answer may also name endpoints, to one subscriber alone: `source_requests.rs`.
//!
//! What follows from knowledge, and what else it takes, is in `associate.rs`.

use super::{peer_keys, server_flow, subscribers};
use crate::{
    abi::{
        event::KernelEvent,
        limits::{FIRST_PEER_PORT, WAYS},
        protocol::Protocol,
        settings::{InspectionDepth, Settings},
    },
    bpf::shared_u64::SharedU64,
    tables::{
        context::{NO_POOL, PacketContext},
        flow_table::{FlowState, Stage, counter_index, evidence, unpack},
        maps::Maps,
    },
};

/// Learns from a flow with a certain verdict what its latest payload shows.
#[inline(never)]
pub(super) fn learn<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext) {
    let way = ctx.flow.way as usize & (WAYS - 1);
    let Some(set) = maps.flow_set(ctx.flow.set_index) else { return };
    let cell = &set.states[way];
    let state = FlowState(cell.load());
    if state.stage() != Stage::Settled || !state.is_learning() {
        return;
    }
    let mut complete = false;
    // Many programs share a transport such as libp2p: one program's flow says nothing about another's.
    if ctx.inspection.spoke != 0 && !Protocol::is_shared_by_programs(ctx.flow.protocol) {
        let lower = unpack(set.counters[counter_index(way, 1)].load()).0 != 0;
        let higher = unpack(set.counters[counter_index(way, 0)].load()).0 != 0;
        if subscribers::find_subscribers(maps, ctx) {
            teach(maps, settings, ctx, state, 0, higher);
            teach(maps, settings, ctx, state, 1, lower);
            complete = is_complete(ctx) && !state.is_server_flow();
            let answered = if ctx.is_from_lower() { higher } else { lower };
            if ctx.inspection.sources.requests != 0
                && answered
                && ctx.subscribers.block_lens[1 - (ctx.flow.from_lower as usize & 1)] != NO_POOL
            {
                server_flow::store_request(maps, ctx, cell);
                complete = false;
            }
        }
    }
    let watching = settings.inspection.load() == InspectionDepth::Watchlist as u64;
    if ctx.inspection.exhausted != 0 || (complete && !watching) {
        end_learning(cell);
    }
}

/// Whether a located flow has shown all that it can: both sides spoke, and over UDP the remote one has proved its address.
#[inline(always)]
fn is_complete(ctx: &PacketContext) -> bool {
    let proved = |end: usize| {
        ctx.is_tcp()
            | (ctx.subscribers.block_lens[end] != NO_POOL)
            | (ctx.inspection.evidence & u32::from(evidence::PROVED_LOWER) << end != 0)
    };
    ctx.inspection.evidence & u32::from(evidence::BOTH_SPOKE) == u32::from(evidence::BOTH_SPOKE)
        && proved(0) & proved(1)
}

/// Learns what one end (0 lower, 1 higher) has shown; `answered` when the other end has sent packets.
#[inline(never)]
fn teach<M: Maps>(maps: &M, settings: &Settings, ctx: &PacketContext, state: FlowState, end: usize, answered: bool) {
    let (own, other) = (u32::from(evidence::SPOKE_LOWER) << end, u32::from(evidence::SPOKE_LOWER) << (1 - end));
    if ctx.inspection.evidence & own == 0 {
        return;
    }
    let spoken_to = ctx.inspection.evidence & other != 0;
    let block_len = ctx.subscribers.block_lens[end & 1];
    let subscriber = block_len != NO_POOL;
    if subscriber {
        if !(answered | spoken_to) {
            return;
        }
        if maps.is_core(state.interface(end == 0)) {
            maps.count_event(KernelEvent::PeerSpoofed);
            return;
        }
        let block = ctx.subscribers.addresses[end & 1].block(block_len as u8);
        peer_keys::insert(
            maps,
            settings,
            peer_keys::subscriber_key(&ctx.seed(settings), block, block_len, ctx.flow.protocol as u8),
            ctx,
            peer_keys::entry(ctx, true),
        );
    } else {
        let proved = ctx.is_tcp() || ctx.inspection.evidence & u32::from(evidence::PROVED_LOWER) << end != 0;
        if !(spoken_to && proved) {
            return;
        }
    }
    let accepted = ctx.inspection.evidence & u32::from(evidence::OPENED) != 0 && state.first_from_lower() != (end == 0);
    if !ctx.is_tcp() || accepted {
        insert_endpoint(maps, settings, ctx, end, ctx.port(end), subscriber);
    }
    if ctx.inspection.named_port != 0 && ctx.is_from_lower() == (end == 0) {
        insert_endpoint(maps, settings, ctx, end, ctx.inspection.named_port as u16, subscriber);
    }
}

/// Enters an endpoint on a port that peers choose.
#[inline(never)]
fn insert_endpoint<M: Maps>(maps: &M, settings: &Settings, ctx: &PacketContext, end: usize, port: u16, own: bool) {
    if port >= FIRST_PEER_PORT {
        peer_keys::insert(
            maps,
            settings,
            peer_keys::endpoint_key(settings, ctx, end, port),
            ctx,
            peer_keys::entry(ctx, own),
        );
    }
}

/// Sends the flow's next packets the short way.
#[inline(always)]
fn end_learning(cell: &SharedU64) {
    let mut attempt = 0;
    // Others only refresh the last-seen second meanwhile; if this fails all the same, the next packet tries again.
    while attempt < 2 {
        let state = FlowState(cell.load());
        if state.stage() != Stage::Settled || cell.replace(state.0, state.learned().0) {
            return;
        }
        attempt += 1;
    }
}
