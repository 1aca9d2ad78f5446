//! Which ends of a packet are subscribers, and the tally slots of their blocks.

use super::{account, work::Work};
use crate::{
    key::Address,
    parse::{self, packet::Packet},
    store::{Maps, Settings},
    tables::{
        flow_table::{Ends, NO_SLOT, pack_slots},
        pool_table, tally_cache,
    },
    tally::KeyWords,
};

/// A block length that no pool has: "no subscriber".
pub(super) const NO_POOL: u32 = 255;

/// The outermost address of an end that lies in a pool, and its pool's block length.
#[inline(always)]
fn outermost<M: Maps>(maps: &M, outer: Address, inner: Address, tunnel: bool) -> (Address, u32) {
    if let Some(len) = pool_table::find(maps, outer) {
        return (outer, u32::from(len));
    }
    if tunnel && let Some(len) = pool_table::find(maps, inner) {
        return (inner, u32::from(len));
    }
    (inner, NO_POOL)
}

/// Values of [`Work::located`]: how much is known of the packet's subscribers.
mod known {
    /// Which ends are subscribers.
    pub(super) const ENDS: u32 = 1;
    /// And where their tallies are looked for.
    pub(super) const LINES: u32 = 2;
}

/// Finds the subscribers of the packet's ends, once; whether there is one.
///
/// The ends are in the order of the flow key, which is that of the inner addresses.
#[inline(never)]
pub(super) fn locate<M: Maps>(maps: &M, work: &mut Work) -> bool {
    if work.located == 0 {
        let headers = &work.headers;
        let tunnel = headers.tunnel != 0;
        let (source, source_len) = outermost(maps, headers.outer_source, headers.source, tunnel);
        let (destination, destination_len) = outermost(maps, headers.outer_destination, headers.destination, tunnel);
        (work.ends, work.block_lens) = if work.is_from_lower() {
            ([source, destination], [source_len, destination_len])
        } else {
            ([destination, source], [destination_len, source_len])
        };
        work.located = known::ENDS;
    }
    work.block_lens[0] != NO_POOL || work.block_lens[1] != NO_POOL
}

/// The same for a packet whose flow is new, as soon as that is known: what its tallies need is then on its way from memory together
/// with the sets of its flow, and not after them.
#[inline(never)]
pub(super) fn foresee<P: Packet, M: Maps>(packet: &P, maps: &M, settings: &Settings, work: &mut Work) -> bool {
    let Some((source, destination)) = parse::fast_addresses(packet) else { return false };
    let headers = &mut work.headers;
    (headers.source, headers.destination, headers.tunnel) = (source, destination, 0);
    (headers.outer_source, headers.outer_destination) = (source, destination);
    locate(maps, work) && find_lines(maps, settings, work)
}

/// Says which lines of the slot cache the subscribers of a located packet have, and begins to load them.
#[inline(never)]
fn find_lines<M: Maps>(maps: &M, settings: &Settings, work: &mut Work) -> bool {
    if work.located != known::LINES {
        find_line(maps, settings, work, 0);
        find_line(maps, settings, work, 1);
        work.located = known::LINES;
    }
    true
}

/// The same of one end.
#[inline(always)]
fn find_line<M: Maps>(maps: &M, settings: &Settings, work: &mut Work, end: usize) {
    let block_len = work.block_lens[end];
    if block_len != NO_POOL {
        let hash = tally_cache::block_hash(work.ends[end].block(block_len as u8), block_len, &work.seed(settings));
        work.block_hashes[end] = hash;
        maps.prefetch_tally_line(tally_cache::line_index(hash, settings.tally_mask));
    }
}

/// Which ends are subscribers, of a packet that was located.
#[inline(always)]
pub(super) fn which(work: &Work) -> Ends {
    if work.block_lens[1] == NO_POOL {
        Ends::Lower
    } else if work.block_lens[0] == NO_POOL {
        Ends::Higher
    } else {
        Ends::Both
    }
}

/// Slots of the tallies of both ends of a located packet for a verdict's numbers, as [`pack_slots`] has them.
#[inline(never)]
pub(super) fn slots<M: Maps>(maps: &M, settings: &Settings, work: &mut Work, verdict: (u8, u8)) -> u64 {
    find_lines(maps, settings, work);
    pack_slots(slot(maps, settings, work, 0, verdict), slot(maps, settings, work, 1, verdict))
}

/// Slot of the tally of one end (0 lower, 1 higher); [`NO_SLOT`] when that end is no subscriber.
#[inline(always)]
fn slot<M: Maps>(maps: &M, settings: &Settings, work: &Work, end: usize, verdict: (u8, u8)) -> u32 {
    let end = end & 1;
    let block_len = work.block_lens[end];
    if block_len == NO_POOL {
        return NO_SLOT;
    }
    let block = work.ends[end].block(block_len as u8);
    let key = KeyWords::new(block, work.realm, block_len as u8, verdict.0, verdict.1);
    account::slot_of(maps, settings, &key, work.block_hashes[end])
}
