//! Subscriber lookup: which ends of a packet are subscribers, and the tally slots of their blocks.

use super::tally_slots;
use crate::{
    abi::{key::Address, settings::Settings},
    parse::{self, packet::Packet},
    tables::{
        context::{NO_POOL, PacketContext},
        flow_table::{Ends, NO_SLOT, NO_SLOTS, pack_slots},
        maps::Maps,
        pool_table, tally_cache,
    },
};

/// Values of `lookup_done` in the packet context: how much is known of the packet's subscribers.
mod done {
    /// Which ends are subscribers.
    pub(super) const ENDS: u32 = 1;
    /// Also the lines of their tallies.
    pub(super) const LINES: u32 = 2;
}

/// Two ends, each with the block length of its pool or [`NO_POOL`].
pub(super) struct PoolEnds {
    source: (Address, u32),
    destination: (Address, u32),
}

impl PoolEnds {
    /// Looks up both ends.
    #[inline(always)]
    fn find<M: Maps>(maps: &M, source: Address, destination: Address) -> Self {
        let block_len = |address| pool_table::find(maps, address).map_or(NO_POOL, u32::from);
        Self { source: (source, block_len(source)), destination: (destination, block_len(destination)) }
    }

    /// Whether one of them is a subscriber.
    #[inline(always)]
    pub(super) fn has_subscriber(&self) -> bool {
        self.source.1 != NO_POOL || self.destination.1 != NO_POOL
    }
}

/// Finds the subscribers of the packet's ends, once; returns whether there is one.
///
/// The ends are in the order of the flow key, which is that of the inner addresses.
#[inline(always)]
pub(super) fn find_subscribers<M: Maps>(maps: &M, ctx: &mut PacketContext) -> bool {
    if ctx.subscribers.lookup_done == 0 {
        let headers = &ctx.frame.headers;
        let outer = PoolEnds::find(maps, headers.outer_source, headers.outer_destination);
        let inside = headers.tunnel != 0 && !outer.has_subscriber();
        store_ends(ctx, &outer);
        if inside {
            find_inner_subscribers(maps, ctx);
        }
    }
    ctx.subscribers.block_lens[0] != NO_POOL || ctx.subscribers.block_lens[1] != NO_POOL
}

/// Finds the subscribers inside a tunnel, neither outer end of which is one.
///
/// Whoever can send a packet writes any addresses inside it: no route, filter or translation checks them. So they are
/// charged only if the operator named both outer ends.
#[inline(never)]
fn find_inner_subscribers<M: Maps>(maps: &M, ctx: &mut PacketContext) {
    let headers = &ctx.frame.headers;
    let inner = PoolEnds::find(maps, headers.source, headers.destination);
    let vouched = !inner.has_subscriber()
        || maps.is_tunnel_endpoint(headers.outer_source) && maps.is_tunnel_endpoint(headers.outer_destination);
    store_ends(ctx, &inner);
    ctx.subscribers.unvouched = u32::from(!vouched);
}

/// Looks up the ends of a frame that has fast headers; `None` if it is one that the next stage skips.
#[inline(always)]
pub(super) fn plain_ends<P: Packet, M: Maps>(packet: &P, maps: &M) -> Option<PoolEnds> {
    let (source, destination) = parse::fast_addresses(packet)?;
    Some(PoolEnds::find(maps, source, destination))
}

/// Stores both ends in the order of the flow key.
#[inline(always)]
pub(super) fn store_ends(ctx: &mut PacketContext, ends: &PoolEnds) {
    let PoolEnds { source, destination } = ends;
    (ctx.subscribers.addresses, ctx.subscribers.block_lens) = if ctx.is_from_lower() {
        ([source.0, destination.0], [source.1, destination.1])
    } else {
        ([destination.0, source.0], [destination.1, source.1])
    };
    ctx.subscribers.unvouched = 0;
    ctx.subscribers.lookup_done = done::ENDS;
}

/// Prefetches the tally cache lines of the packet's subscribers, which were found before: as early as possible, so that
/// they load together with the flow's sets.
#[inline(always)]
pub(super) fn prefetch_tally_lines<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext) {
    if ctx.subscribers.lookup_done != done::LINES {
        prefetch_tally_line(maps, settings, ctx, 0);
        prefetch_tally_line(maps, settings, ctx, 1);
        ctx.subscribers.lookup_done = done::LINES;
    }
}

/// Prefetches the tally cache line of one end.
#[inline(always)]
fn prefetch_tally_line<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext, end: usize) {
    let block_len = ctx.subscribers.block_lens[end];
    if block_len != NO_POOL {
        let hash = tally_cache::block_hash(ctx.block(end), block_len, &ctx.seed(settings));
        ctx.subscribers.block_hashes[end] = hash;
        maps.prefetch_tally_line(tally_cache::line_index(hash, settings.tally_mask));
    }
}

/// Which ends are subscribers; their lookup is done.
#[inline(always)]
pub(super) fn subscriber_ends(ctx: &PacketContext) -> Ends {
    if ctx.subscribers.block_lens[1] == NO_POOL {
        Ends::Lower
    } else if ctx.subscribers.block_lens[0] == NO_POOL {
        Ends::Higher
    } else {
        Ends::Both
    }
}

/// Slots of the tallies of the ends in `charged` (bit 0 lower, bit 1 higher) for a verdict's numbers, after the
/// subscriber lookup, as [`pack_slots`] has them. An unvouched flow has none.
#[inline(always)]
pub(super) fn slots<M: Maps>(
    maps: &M,
    settings: &Settings,
    ctx: &mut PacketContext,
    verdict: (u8, u8),
    charged: u64,
) -> u64 {
    if ctx.subscribers.unvouched != 0 {
        return NO_SLOTS;
    }
    prefetch_tally_lines(maps, settings, ctx);
    pack_slots(slot(maps, settings, ctx, 0, verdict, charged), slot(maps, settings, ctx, 1, verdict, charged))
}

/// Slot of the tally of one end (0 lower, 1 higher); [`NO_SLOT`] when that end is no subscriber or is not charged.
#[inline(always)]
fn slot<M: Maps>(
    maps: &M,
    settings: &Settings,
    ctx: &PacketContext,
    end: usize,
    verdict: (u8, u8),
    charged: u64,
) -> u32 {
    let end = end & 1;
    if ctx.subscribers.block_lens[end] == NO_POOL || charged >> end & 1 == 0 {
        return NO_SLOT;
    }
    tally_slots::slot_of(maps, settings, &ctx.tally_key(end, verdict), ctx.subscribers.block_hashes[end])
}
