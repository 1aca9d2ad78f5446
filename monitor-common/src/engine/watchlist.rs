//! Whether a payload names content on the operator's list; only in the inspection depth `watchlist`.

use super::{subscribers, subscribers::NO_POOL};
use crate::{
    abi::{
        event::KernelEvent,
        settings::Settings,
        tally::KeyWords,
        watch::{ContentHash, WatchHit},
    },
    tables::{context::PacketContext, maps::Maps},
};

/// Compares what the payload named with the list; on a hit, tallies it for the subscriber who sent it, and tells the
/// agent.
#[inline(never)]
pub(super) fn compare<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext) -> bool {
    let entry = maps.watched(&ctx.content);
    // What is not on the list is forgotten; so is what is.
    ctx.content = ContentHash([0; 3]);
    let Some(entry) = entry else { return false };
    let sender = (1 - ctx.from_lower as usize) & 1;
    // Anybody may name any content to a subscriber: only what a subscriber itself sent says anything of it.
    if ctx.forged != 0 || !subscribers::find_subscribers(maps, ctx) || ctx.block_lens[sender] == NO_POOL {
        return false;
    }
    maps.count_event(KernelEvent::WatchlistHit);
    tally(maps, ctx, sender);
    let headers = &ctx.headers;
    let hit = WatchHit {
        time_ns: maps.now_ns(settings),
        source: headers.source,
        destination: headers.destination,
        entry,
        source_port: headers.source_port,
        destination_port: headers.destination_port,
        protocol: ctx.protocol as u8,
        confidence: ctx.confidence as u8,
        transport: headers.protocol,
        reserved: 0,
        realm: ctx.realm,
    };
    if !maps.tell(&hit) {
        maps.count_event(KernelEvent::WatchlistEventLost);
    }
    true
}

/// Counts a hit for one end's subscriber.
#[inline(never)]
fn tally<M: Maps>(maps: &M, ctx: &PacketContext, end: usize) {
    let block_len = ctx.block_lens[end & 1];
    if block_len == NO_POOL {
        return;
    }
    let block = ctx.ends[end & 1].block(block_len as u8);
    let key = KeyWords::new(block, ctx.realm, block_len as u8, ctx.protocol as u8, ctx.confidence as u8);
    if !maps.count_hit(&key) {
        maps.count_event(KernelEvent::WatchlistTallyRefused);
    }
}
