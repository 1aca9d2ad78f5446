//! Known peers: what the peer cache says of the endpoints and subscribers of a packet. `learn.rs` enters them.

use super::peer_keys;
use crate::{
    abi::settings::Settings,
    tables::{
        context::{NO_POOL, PacketContext},
        maps::Maps,
        peer_cache::PeerEntry,
    },
};

/// Protocol number known for one end's endpoint; 0 for none.
#[inline(never)]
pub(super) fn protocol_at<M: Maps>(maps: &M, settings: &Settings, ctx: &PacketContext, end: usize) -> u32 {
    if !ctx.is_tcp() && ctx.subscribers.block_lens[end & 1] == NO_POOL {
        return 0;
    }
    let tag = peer_keys::endpoint_tag(settings, ctx, end, ctx.port(end));
    u32::from(peer_keys::find(maps, settings, tag, ctx.frame.now_s).protocol_number())
}

/// Whether one end is no subscriber, or a subscriber that speaks the protocol.
#[inline(never)]
pub(super) fn subscriber_speaks<M: Maps>(
    maps: &M,
    settings: &Settings,
    ctx: &PacketContext,
    end: usize,
    protocol: u8,
) -> bool {
    let block_len = ctx.subscribers.block_lens[end & 1];
    block_len == NO_POOL || subscriber_entry(maps, settings, ctx, end, protocol).is_used()
}

/// The peer cache's entry for one end's subscriber and a protocol.
#[inline(always)]
pub(super) fn subscriber_entry<M: Maps>(
    maps: &M,
    settings: &Settings,
    ctx: &PacketContext,
    end: usize,
    protocol: u8,
) -> PeerEntry {
    peer_keys::find(maps, settings, peer_keys::subscriber_tag(settings, ctx, end, protocol), ctx.frame.now_s)
}
