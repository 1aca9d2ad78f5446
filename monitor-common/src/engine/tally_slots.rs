//! Slots of tallies: looked up in the tally cache, then in the hash, or created.

use crate::{
    abi::{event::KernelEvent, limits::UNCLASSIFIED_QUARTERS, protocol::Protocol, settings::Settings, tally::KeyWords},
    tables::{maps::Maps, slot_ring, tally_cache},
};

/// Attempts to take a slot from the ring. Each that fails is a slot that another CPU took in that moment.
const TAKE_ATTEMPTS: u32 = 4;

/// The slot of a tally key, created if needed; the catch-all if the table is full. `block_hash` is that of the key's
/// block.
#[inline(always)]
pub(super) fn slot_of<M: Maps>(maps: &M, settings: &Settings, key: &KeyWords, block_hash: u64) -> u32 {
    let tag = tally_cache::tag(block_hash, key, &settings.seed);
    let line = maps.tally_line(tally_cache::line_index(block_hash, settings.tally_mask));
    if let Some(slot) = line.and_then(|line| line.find(tag)) {
        return slot;
    }
    let slot = hashed_slot(maps, settings, key, tag);
    if slot != 0
        && let Some(line) = line
    {
        line.enter(tag, slot);
    }
    slot
}

/// The slot of a tally key from the hash of all slots, created if needed.
#[inline(never)]
fn hashed_slot<M: Maps>(maps: &M, settings: &Settings, key: &KeyWords, tag: u64) -> u32 {
    if let Some(slot) = indexed_slot(maps, key, tag) {
        return slot;
    }
    let slot = take(maps, settings, key);
    if slot == 0 {
        return 0;
    }
    let Some(slot_key) = maps.slot_key(slot) else {
        maps.count_event(KernelEvent::InternalError);
        return 0;
    };
    // Write the key first: a reader that finds the slot in the index then finds its key.
    slot_key.write(Some(key));
    if maps.enter_slot(key, tally_cache::checked_slot(tag, slot)) {
        return slot;
    }
    slot_key.write(None);
    if let Some(found) = indexed_slot(maps, key, tag) {
        maps.count_event(KernelEvent::TallyRaced);
        return found;
    }
    maps.count_event(KernelEvent::TallyRefused);
    0
}

/// The slot of a tally key from the hash of all slots.
#[inline(always)]
fn indexed_slot<M: Maps>(maps: &M, key: &KeyWords, tag: u64) -> Option<u32> {
    maps.find_slot(key).and_then(|checked| tally_cache::slot_of_tag(checked, tag))
}

/// Takes a free slot for a key; 0 if the key gets none, which is counted.
#[inline(always)]
fn take<M: Maps>(maps: &M, settings: &Settings, key: &KeyWords) -> u32 {
    let unclassified = key.protocol_number() <= Protocol::Fragment as u8;
    let reserved = settings.slots / 4 * (4 - UNCLASSIFIED_QUARTERS);
    let mut attempt = 0;
    while attempt < TAKE_ATTEMPTS {
        let ticket = settings.next_slot.load();
        let Some(slot) = free_slot(maps, settings, ticket) else { break };
        if unclassified && free_slot(maps, settings, ticket + reserved).is_none() {
            maps.count_event(KernelEvent::TallyReserved);
            return 0;
        }
        if settings.next_slot.replace(ticket, ticket + 1) {
            return slot;
        }
        attempt += 1;
    }
    maps.count_event(KernelEvent::TallyRefused);
    0
}

/// The slot that the ring gives to the holder of a ticket.
#[inline(always)]
fn free_slot<M: Maps>(maps: &M, settings: &Settings, ticket: u64) -> Option<u32> {
    slot_ring::slot_in(maps.free_slot(slot_ring::index(ticket, settings.tally_mask))?, ticket)
}
