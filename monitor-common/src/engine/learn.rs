//! Learning: enters endpoints and subscribers into the peer cache, from flows with a certain verdict.
//!
//! These rules keep outsiders from giving a label to a subscriber's other traffic:
//! * a **subscriber** teaches its own endpoint, and that it speaks the protocol, by a payload of its own that is
//!   certainly of the protocol, in a flow with packets of the other side. A packet with a subscriber's address that
//!   arrived on a core interface may be forged, and teaches nothing;
//! * a **remote endpoint** is learned once it has proved its address and a subscriber has spoken the protocol
//!   with it. The proof is TCP, or repeating a value that the subscriber chose (DHT transaction, uTP connection,
//!   tracker transaction). A lone datagram with its address teaches nothing;
//! * over TCP, only the side that accepted the connection is an endpoint: the other side's port is temporary;
//! * over TCP, a side counts as a speaker only if its stream **started** with the protocol (or obfuscated). Later bytes
//!   prove nothing: a web page can make a browser send them. A stream that was not seen from its start teaches nothing;
//! * a port that a payload names (`listen_port.rs`) counts for the sender of the payload, under these conditions;
//! * what a flow teaches for the first time takes a share of its subscriber ([`peer_cache::share`]); beyond that, it is
//!   evicted before what others taught.
//!
//!
//! A server's answer may also refer one subscriber to endpoints: `source_requests.rs`. `associate.rs` uses the entries.
//!
//! [`peer_cache::share`]: crate::tables::peer_cache::share

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
        flow_table::{FlowState, Phase, counter_index, unpack},
        maps::Maps,
        progress::evidence,
    },
};

/// Learns from the latest payload of a flow with a certain verdict.
#[inline(never)]
pub(super) fn learn<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext) {
    let way = ctx.flow.way as usize & (WAYS - 1);
    let Some(set) = maps.flow_set(ctx.flow.set_index) else { return };
    let word = &set.states[way];
    let state = FlowState(word.load());
    if state.phase() != Phase::Settled || !state.is_learning() {
        return;
    }
    let mut complete = false;
    // Many programs share a transport such as libp2p: one program's flow says nothing about another's.
    if ctx.inspection.spoke != 0 && !Protocol::is_shared_by_programs(ctx.flow.protocol) {
        let lower = unpack(set.counters[counter_index(way, 1)].load()).0 != 0;
        let higher = unpack(set.counters[counter_index(way, 0)].load()).0 != 0;
        if subscribers::find_subscribers(maps, ctx) {
            // A subscriber's end first: what the other end teaches takes its share.
            let first = usize::from(ctx.subscribers.block_lens[0] == NO_POOL);
            learn_from_end(maps, settings, ctx, state, first, if first == 0 { higher } else { lower });
            learn_from_end(maps, settings, ctx, state, 1 - first, if first == 0 { lower } else { higher });
            complete = is_complete(ctx) && !state.is_server_flow();
            let answered = if ctx.is_from_lower() { higher } else { lower };
            if ctx.inspection.peer_list.requests != 0 && answered && ctx.subscribers.block_lens[ctx.sender()] != NO_POOL
            {
                server_flow::store_request(maps, ctx, word);
                complete = false;
            }
        }
    }
    let watching = settings.inspection.load() == InspectionDepth::Watchlist as u64;
    if complete && !watching {
        end_learning(word, None);
    } else if ctx.inspection.exhausted != 0 {
        end_learning(word, Some(ctx.flow.from_lower));
    }
}

/// Whether a flow with known subscriber ends has shown all that it can: both sides spoke, and over UDP the remote one
/// has proved its address.
#[inline(always)]
fn is_complete(ctx: &PacketContext) -> bool {
    let proved = |end: usize| {
        ctx.is_tcp()
            | (ctx.subscribers.block_lens[end] != NO_POOL)
            | (ctx.inspection.evidence & evidence::PROVED_LOWER << end != 0)
    };
    ctx.inspection.evidence & evidence::BOTH_SPOKE == evidence::BOTH_SPOKE && proved(0) & proved(1)
}

/// Learns from one end (0 lower, 1 higher); `answered` if the other end has sent packets.
#[inline(never)]
fn learn_from_end<M: Maps>(
    maps: &M,
    settings: &Settings,
    ctx: &PacketContext,
    state: FlowState,
    end: usize,
    answered: bool,
) {
    let (own, other) = (evidence::SPOKE_LOWER << end, evidence::SPOKE_LOWER << (1 - end));
    if ctx.inspection.evidence & own == 0 {
        return;
    }
    let spoken_to = ctx.inspection.evidence & other != 0;
    let subscriber = ctx.subscribers.block_lens[end & 1] != NO_POOL;
    if subscriber {
        if !(answered | spoken_to) {
            return;
        }
        if state.interface(end == 0).is_core() {
            maps.count_event(KernelEvent::PeerSpoofed);
            return;
        }
        let tag = peer_keys::subscriber_tag(settings, ctx, end, ctx.flow.protocol as u8);
        let held = peer_keys::find(maps, settings, tag, ctx.frame.now_s);
        peer_keys::insert(maps, settings, tag, ctx, peer_keys::entry(ctx, true).with_counts_of(held));
    } else {
        let proved = ctx.is_tcp() || ctx.inspection.evidence & evidence::PROVED_LOWER << end != 0;
        if !(spoken_to && proved) {
            return;
        }
    }
    let accepted = ctx.inspection.evidence & evidence::OPENED != 0 && state.first_from_lower() != (end == 0);
    if !ctx.is_tcp() || accepted {
        insert_endpoint(maps, settings, ctx, end, ctx.port(end), subscriber);
    }
    if ctx.inspection.listen_port != 0 && ctx.is_from_lower() == (end == 0) {
        insert_endpoint(maps, settings, ctx, end, ctx.inspection.listen_port as u16, subscriber);
    }
}

/// Enters an endpoint on a port that peers choose.
#[inline(never)]
fn insert_endpoint<M: Maps>(maps: &M, settings: &Settings, ctx: &PacketContext, end: usize, port: u16, own: bool) {
    if port < FIRST_PEER_PORT {
        return;
    }
    let tag = peer_keys::endpoint_tag(settings, ctx, end, port);
    let known = peer_keys::find(maps, settings, tag, ctx.frame.now_s);
    // Beyond the share, and as long as it is kept, it is the first to be evicted.
    let spared = if known.is_used() {
        known.is_referred()
    } else {
        !peer_keys::takes_share(maps, settings, ctx, if own { end } else { 1 - end }, own)
    };
    peer_keys::insert(maps, settings, tag, ctx, peer_keys::entry(ctx, own & !spared).referred_if(spared));
}

/// Clears the learning bits, or that of one direction, so that later packets take the fast path. One side's payloads
/// do not use up the other's.
#[inline(always)]
fn end_learning(word: &SharedU64, only_from_lower: Option<u32>) {
    let mut attempt = 0;
    // Other CPUs only refresh the last-seen second; if this still fails, the next packet tries again.
    while attempt < 2 {
        let state = FlowState(word.load());
        let learned = match only_from_lower {
            Some(from_lower) => state.learned_from(from_lower),
            None => state.learned(),
        };
        if state.phase() != Phase::Settled || word.replace(state.0, learned.0) {
            return;
        }
        attempt += 1;
    }
}
