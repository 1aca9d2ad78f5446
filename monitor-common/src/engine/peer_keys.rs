//! Entries of the peer cache: their tags, look-up and insertion, and the shares of subscribers.

use crate::{
    abi::{event::KernelEvent, key::Address, protocol::Protocol, settings::Settings},
    bpf::branchless::neg,
    tables::{
        context::PacketContext,
        maps::Maps,
        peer_cache::{self, Inserted, Key, PeerEntry},
    },
};

/// The tag of an endpoint of the packet's flow.
#[inline(always)]
pub(super) fn endpoint_tag(settings: &Settings, ctx: &PacketContext, end: usize, port: u16) -> u64 {
    peer_cache::tag(&ctx.seed(settings), Key::Endpoint, ctx.address(end), u64::from(port), ctx.frame.headers.tunnel)
}

/// The tag of an endpoint to which a server referred this requester.
#[inline(always)]
pub(super) fn referred_tag(settings: &Settings, requester: u64, address: Address, port: u16) -> u64 {
    peer_cache::tag(&settings.seed, Key::Referred, address, u64::from(port), requester)
}

/// The tag of the subscriber at one end as a requester.
#[inline(never)]
pub(super) fn requester_tag(settings: &Settings, ctx: &PacketContext, end: usize) -> u64 {
    let block_len = u64::from(ctx.subscribers.block_lens[end & 1]);
    peer_cache::tag(&ctx.seed(settings), Key::Requester, ctx.block(end), block_len, ctx.frame.headers.tunnel)
}

/// The tag of the subscriber at one end who speaks a protocol.
#[inline(always)]
pub(super) fn subscriber_tag(settings: &Settings, ctx: &PacketContext, end: usize, protocol: u8) -> u64 {
    let block_len = u64::from(ctx.subscribers.block_lens[end & 1]);
    let detail = block_len << 8 | u64::from(Protocol::family_number(protocol));
    peer_cache::tag(&ctx.seed(settings), Key::Subscriber, ctx.block(end), detail, unvouched_tunnel(ctx))
}

/// The tag of the MSE candidates of the subscriber at one end.
#[inline(always)]
pub(super) fn mse_candidate_tag(settings: &Settings, ctx: &PacketContext, end: usize) -> u64 {
    let block_len = u64::from(ctx.subscribers.block_lens[end & 1]);
    peer_cache::tag(&ctx.seed(settings), Key::MseCandidate, ctx.block(end), block_len, unvouched_tunnel(ctx))
}

/// The tunnel of an unvouched packet, else 0: what such packets say of a subscriber stays within their tunnel.
#[inline(always)]
fn unvouched_tunnel(ctx: &PacketContext) -> u64 {
    ctx.frame.headers.tunnel & neg(u64::from(ctx.subscribers.unvouched))
}

/// A new entry for the protocol of the packet's flow.
#[inline(always)]
pub(super) fn entry(ctx: &PacketContext, own: bool) -> PeerEntry {
    PeerEntry::new(Protocol::family_number(ctx.flow.protocol as u8), own, ctx.frame.now_s)
}

/// Inserts the endpoint to which a server referred the packet's receiver.
#[inline(never)]
pub(super) fn insert_referred<M: Maps>(maps: &M, settings: &Settings, ctx: &PacketContext) {
    let list = &ctx.inspection.peer_list;
    let tag = referred_tag(settings, ctx.inspection.requester, list.address, list.port as u16);
    insert(maps, settings, tag, ctx, entry(ctx, false).referred());
}

/// Takes one endpoint from the share of the subscriber at one end, its own or a remote one; `false`, and an event, when
/// the share is used up.
#[inline(never)]
pub(super) fn takes_share<M: Maps>(maps: &M, settings: &Settings, ctx: &PacketContext, end: usize, own: bool) -> bool {
    let tag = subscriber_tag(settings, ctx, end, ctx.flow.protocol as u8);
    let Some(set) = maps.peer_set(peer_cache::set_index(tag, settings.peer_mask)) else {
        maps.count_event(KernelEvent::InternalError);
        return false;
    };
    let takes = set.take_share(tag, own, peer_cache::share(settings.peer_mask, own));
    if !takes {
        maps.count_event(KernelEvent::PeerShareUsed);
    }
    takes
}

/// The current entry of a tag.
#[inline(never)]
pub(super) fn find<M: Maps>(maps: &M, settings: &Settings, tag: u64, now_s: u64) -> PeerEntry {
    match maps.peer_set(peer_cache::set_index(tag, settings.peer_mask)) {
        Some(set) => set.find(tag, now_s),
        None => PeerEntry::EMPTY,
    }
}

/// Inserts one entry.
#[inline(never)]
pub(super) fn insert<M: Maps>(maps: &M, settings: &Settings, tag: u64, ctx: &PacketContext, entry: PeerEntry) {
    let Some(set) = maps.peer_set(peer_cache::set_index(tag, settings.peer_mask)) else {
        maps.count_event(KernelEvent::InternalError);
        return;
    };
    match set.insert(tag, entry, ctx.frame.now_s) {
        Inserted::Refreshed | Inserted::Busy => {}
        Inserted::New => maps.count_event(KernelEvent::PeerLearned),
        Inserted::Evicted => {
            maps.count_event(KernelEvent::PeerLearned);
            maps.count_event(KernelEvent::PeerEvicted);
        }
    }
}
