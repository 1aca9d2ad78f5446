//! Watchlist: compares content that a payload names with the operator's list; only in the inspection depth `watchlist`.

use super::subscribers;
use crate::{
    abi::{event::KernelEvent, settings::Settings, watch::WatchHit},
    tables::{
        context::{NO_POOL, PacketContext},
        maps::Maps,
    },
};

/// Compares the content that the payload names with the list. A hit is counted for the subscriber who sent it, and
/// reported to the agent.
#[inline(never)]
pub(super) fn compare<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext) {
    let entry = maps.watched(&ctx.inspection.content);
    // Clear the hash in either case.
    ctx.inspection.content.clear();
    let Some(entry) = entry else { return };
    let sender = ctx.sender();
    // Anybody may name any content to a subscriber, so only payloads that a subscriber sent count.
    if ctx.inspection.spoofed != 0
        || !subscribers::find_subscribers(maps, ctx)
        || ctx.subscribers.unvouched != 0
        || ctx.subscribers.block_lens[sender] == NO_POOL
    {
        return;
    }
    maps.count_event(KernelEvent::WatchlistHit);
    tally(maps, ctx, sender);
    let headers = &ctx.frame.headers;
    let hit = WatchHit {
        time_ns: maps.now_ns(settings),
        source: headers.source,
        destination: headers.destination,
        entry,
        source_port: headers.source_port,
        destination_port: headers.destination_port,
        protocol: ctx.flow.protocol as u8,
        confidence: ctx.flow.confidence as u8,
        transport: headers.protocol,
        reserved: 0,
        realm: ctx.frame.realm,
    };
    if !maps.report_hit(&hit) {
        maps.count_event(KernelEvent::WatchlistEventLost);
    }
}

/// Counts a hit for the subscriber at one end.
#[inline(never)]
fn tally<M: Maps>(maps: &M, ctx: &PacketContext, end: usize) {
    let key = ctx.tally_key(end, (ctx.flow.protocol as u8, ctx.flow.confidence as u8));
    if !maps.count_hit(&key) {
        maps.count_event(KernelEvent::WatchlistTallyRefused);
    }
}
