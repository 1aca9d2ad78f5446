//! Watchlist: compares content that a payload names with the operator's list; only in the inspection depth `watchlist`.
//!
//! A hit needs what learning needs: the subscriber itself sent the payload as one of the protocol, no web page can have
//! made a browser send it, and the flow is charged to the subscriber. Content that a first message names waits for
//! that: the number of its entry is kept with the flow, and nothing of the content.

use super::subscribers;
use crate::{
    abi::{event::KernelEvent, settings::Settings, watch::WatchHit},
    tables::{
        context::{NO_POOL, PacketContext},
        flow_table::{ColdFlow, with_slots},
        maps::Maps,
    },
};

/// Compares the content that the payload names with the list, once the payload's charge is known. A hit is counted for
/// the subscriber who sent it, and reported to the agent.
#[inline(never)]
pub(super) fn compare<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext) {
    let entry = maps.watched(&ctx.inspection.content);
    // Clear the hash in either case.
    ctx.inspection.content.clear();
    let Some(entry) = entry else { return };
    // Anybody may name any content to a subscriber, so only payloads that a subscriber sent as a speaker count.
    if ctx.inspection.spoofed != 0 || ctx.inspection.spoke == 0 {
        return;
    }
    let Some(cold) = maps.cold_set(ctx.flow.set_index) else { return };
    let cold = cold.flow(ctx.flow.way);
    let sender = ctx.sender();
    if with_slots(cold.slots.load()) >> sender & 1 != 0 {
        report(maps, settings, ctx, entry, sender);
    } else if cold.watched.load() == 0 {
        cold.watched.store((u64::from(entry) + 1) | (sender as u64) << 32);
    } else {
        maps.count_event(KernelEvent::WatchlistEventLost);
    }
}

/// Reports the content that waited for the charge of the subscribers in `charged` (bit 0 lower, bit 1 higher).
#[inline(always)]
pub(super) fn release<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext, cold: &ColdFlow, charged: u64) {
    let waiting = cold.watched.load();
    let sender = (waiting >> 32) as usize & 1;
    if waiting != 0 && charged >> sender & 1 != 0 {
        cold.watched.store(0);
        report(maps, settings, ctx, (waiting as u32).wrapping_sub(1), sender);
    }
}

/// Counts a hit of the subscriber at one end, and reports it.
#[inline(never)]
fn report<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext, entry: u32, sender: usize) {
    if !subscribers::find_subscribers(maps, ctx) || ctx.subscribers.block_lens[sender & 1] == NO_POOL {
        return;
    }
    maps.count_event(KernelEvent::WatchlistHit);
    let key = ctx.tally_key(sender, (ctx.flow.protocol as u8, ctx.flow.confidence as u8));
    if !maps.count_hit(&key) {
        maps.count_event(KernelEvent::WatchlistTallyRefused);
    }
    let hit = WatchHit {
        time_ns: maps.now_ns(settings),
        source: ctx.address(sender),
        destination: ctx.address(1 - sender),
        entry,
        source_port: ctx.port(sender),
        destination_port: ctx.port(1 - sender),
        protocol: ctx.flow.protocol as u8,
        confidence: ctx.flow.confidence as u8,
        transport: ctx.frame.headers.protocol,
        reserved: 0,
        realm: ctx.frame.realm,
    };
    if !maps.report_hit(&hit) {
        maps.count_event(KernelEvent::WatchlistEventLost);
    }
}
