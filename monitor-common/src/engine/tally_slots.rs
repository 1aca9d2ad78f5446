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
    match new_slot(maps, settings, key, tag) {
        Ok(slot) => slot,
        // Counted in one place: each place is one more path for the verifier.
        Err((event, slot)) => {
            maps.count_event(event);
            slot
        }
    }
}

/// A new slot of a tally key. Else the event that says why there is none, and the slot to use in its place.
#[inline(always)]
fn new_slot<M: Maps>(maps: &M, settings: &Settings, key: &KeyWords, tag: u64) -> Result<u32, (KernelEvent, u32)> {
    let slot = take(maps, settings, key).map_err(|event| (event, 0))?;
    let slot_key = maps.slot_key(slot).ok_or((KernelEvent::InternalError, 0))?;
    // Write the key first: a reader that finds the slot in the index then finds its key.
    slot_key.write(Some(key));
    if maps.enter_slot(key, tally_cache::checked_slot(tag, slot)) {
        return Ok(slot);
    }
    slot_key.write(None);
    Err(match indexed_slot(maps, key, tag) {
        Some(found) => (KernelEvent::TallyRaced, found),
        None => (KernelEvent::TallyRefused, 0),
    })
}

/// The slot of a tally key from the hash of all slots.
#[inline(always)]
fn indexed_slot<M: Maps>(maps: &M, key: &KeyWords, tag: u64) -> Option<u32> {
    maps.find_slot(key).and_then(|checked| tally_cache::slot_of_tag(checked, tag))
}

/// Takes a free slot for a key, or says why the key gets none.
#[inline(always)]
fn take<M: Maps>(maps: &M, settings: &Settings, key: &KeyWords) -> Result<u32, KernelEvent> {
    let unclassified = key.protocol_number() <= Protocol::Fragment as u8;
    let reserved = settings.slots / 4 * (4 - UNCLASSIFIED_QUARTERS);
    let mut attempt = 0;
    while attempt < TAKE_ATTEMPTS {
        let ticket = settings.next_slot.load();
        let Some(slot) = free_slot(maps, settings, ticket) else { break };
        if unclassified && free_slot(maps, settings, ticket + reserved).is_none() {
            return Err(KernelEvent::TallyReserved);
        }
        if settings.next_slot.replace(ticket, ticket + 1) {
            return Ok(slot);
        }
        attempt += 1;
    }
    Err(KernelEvent::TallyRefused)
}

/// The slot that the ring gives to the holder of a ticket.
#[inline(always)]
fn free_slot<M: Maps>(maps: &M, settings: &Settings, ticket: u64) -> Option<u32> {
    slot_ring::slot_in(maps.free_slot(slot_ring::index(ticket, settings.tally_mask))?, ticket)
}
