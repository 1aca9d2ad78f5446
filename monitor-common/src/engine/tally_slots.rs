//! Slots of tallies: looked up in the tally cache, then in the hash, or created.

use crate::{
    abi::{event::KernelEvent, limits::UNCLASSIFIED_QUARTERS, protocol::Protocol, settings::Settings, tally::KeyWords},
    tables::{maps::Maps, tally_cache},
};

/// The slot of a tally key, created if needed; the catch-all if the table is full. `block_hash` is that of the key's
/// block.
#[inline(always)]
pub(super) fn slot_of<M: Maps>(maps: &M, settings: &Settings, key: &KeyWords, block_hash: u64) -> u32 {
    let tag = tally_cache::tag(block_hash, key, &settings.seed);
    let line = maps.tally_line(tally_cache::line_index(block_hash, settings.tally_mask));
    if let Some(slot) = line.and_then(|line| line.find(tag)) {
        return slot;
    }
    let slot = hashed_slot(maps, settings, key);
    if slot != 0
        && let Some(line) = line
    {
        line.enter(tag, slot);
    }
    slot
}

/// The slot of a tally key from the hash of all slots, created if needed.
#[inline(never)]
fn hashed_slot<M: Maps>(maps: &M, settings: &Settings, key: &KeyWords) -> u32 {
    if let Some(slot) = maps.find_slot(key) {
        return slot;
    }
    let used = settings.next_slot.load();
    if used >= settings.slots {
        maps.count_event(KernelEvent::TallyRefused);
        return 0;
    }
    if key.protocol_number() <= Protocol::Fragment as u8 && used >= settings.slots / 4 * UNCLASSIFIED_QUARTERS {
        maps.count_event(KernelEvent::TallyReserved);
        return 0;
    }
    let slot = settings.next_slot.fetch_add(1);
    if slot >= settings.slots {
        maps.count_event(KernelEvent::TallyRefused);
        return 0;
    }
    let slot = slot as u32;
    let Some(slot_key) = maps.slot_key(slot) else {
        maps.count_event(KernelEvent::InternalError);
        return 0;
    };
    // Write the key first: a reader that finds the slot in the index then finds its key.
    slot_key.write(Some(key));
    if maps.enter_slot(key, slot) {
        return slot;
    }
    slot_key.write(None);
    if let Some(found) = maps.find_slot(key) {
        maps.count_event(KernelEvent::TallyRaced);
        return found;
    }
    maps.count_event(KernelEvent::TallyRefused);
    0
}
