//! Tally cache: slot numbers of a subscriber's tallies, in front of the hash that holds all slots.
//!
//! A look-up in the kernel's hash reads a bucket and an element, at two places in memory. The tallies of a subscriber
//! block share one line of this cache. The line is known as soon as the block is, so it can be prefetched. A line has
//! eight entries, shared by the blocks that hash to it; a slot that is not cached is found in the hash.
//!
//! Whoever gives a slot another key must clear its entry first ([`TallyLine::forget`]).
//! An entry is identified by its line (a keyed hash of the block) and 40 bits of a keyed hash of the whole key. Of a
//! million tallies in 2^18 lines, two are confused with a probability of 2 in 10^6 (2^39 pairs in 2^58 places).

use crate::{
    abi::{
        key::{Address, Seed, absorb},
        tally::KeyWords,
    },
    bpf::{branchless::neg, shared_u64::SharedU64},
};

/// Entries of a line.
const ENTRIES: usize = 8;
/// Bits of a slot number in an entry; slots beyond are not cached.
const SLOT_BITS: u32 = 24;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;

/// Eight entries, 0 while unused: bits 0..24 slot, 24..64 hash of the key. One cache line.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct TallyLine {
    entries: [SharedU64; ENTRIES],
}

const _: () = assert!(core::mem::size_of::<TallyLine>() == 64);

/// Keyed hash of a subscriber block.
#[inline(always)]
#[must_use]
pub fn block_hash(block: Address, block_len: u32, seed: &Seed) -> u64 {
    let hash = absorb(seed.mask, block.high, seed);
    absorb(absorb(hash, block.low, seed), u64::from(block_len), seed)
}

/// The line of a block, for a power-of-two number of lines.
#[inline(always)]
#[must_use]
pub const fn line_index(block_hash: u64, mask: u64) -> u32 {
    (block_hash & mask) as u32
}

/// The hash of a key where an entry has it: in its upper 40 bits.
#[inline(always)]
#[must_use]
pub const fn tag(block_hash: u64, key: &KeyWords, seed: &Seed) -> u64 {
    absorb(block_hash, key.meta, seed) << SLOT_BITS
}

/// A slot with half of its key's hash, as the hash of all slots has it. The kernel may give the memory of a removed
/// element to another key while a look-up reads it: then the check differs.
#[inline(always)]
#[must_use]
pub const fn checked_slot(tag: u64, slot: u32) -> u64 {
    tag & CHECK_MASK | slot as u64
}

/// The slot in a [`checked_slot`], if it is that of the key with this tag.
#[inline(always)]
#[must_use]
pub const fn slot_of_tag(checked_slot: u64, tag: u64) -> Option<u32> {
    if (checked_slot ^ tag) & CHECK_MASK == 0 { Some(checked_slot as u32) } else { None }
}

const CHECK_MASK: u64 = !0xffff_ffff;

impl TallyLine {
    /// Removes a slot, which no CPU enters any more.
    pub fn forget(&self, slot: u32) {
        for entry in &self.entries {
            let seen = entry.load();
            if seen & SLOT_MASK == u64::from(slot) {
                // If another one took its place meanwhile, that stays.
                entry.replace(seen, 0);
            }
        }
    }

    /// The cached slot of a tag.
    #[inline(always)]
    #[must_use]
    pub fn find(&self, tag: u64) -> Option<u32> {
        let (mut found, mut index) = (0, 0);
        // No early exit: the entry's position is random, and a mispredicted branch costs more than eight comparisons.
        while index < ENTRIES {
            let entry = self.entries[index].load();
            let difference = (entry ^ tag) >> SLOT_BITS;
            let differs = (difference | neg(difference)) >> 63;
            found ^= (found ^ entry) & neg(differs ^ 1);
            index += 1;
        }
        let slot = (found & SLOT_MASK) as u32;
        (slot != 0).then_some(slot)
    }

    /// Loads the line into the processor's cache.
    #[inline(always)]
    pub fn touch(&self) {
        let _entry = self.entries[0].load();
    }

    /// Caches the slot of a tag, in place of another one when the line is full. The catch-all's slot is never cached.
    #[inline(always)]
    pub fn enter(&self, tag: u64, slot: u32) {
        let slot = u64::from(slot);
        if slot > SLOT_MASK {
            return;
        }
        let (mut chosen, mut index) = ((tag >> SLOT_BITS) as usize & (ENTRIES - 1), 0);
        while index < ENTRIES {
            if self.entries[index].load() == 0 {
                chosen = index;
            }
            index += 1;
        }
        self.entries[chosen & (ENTRIES - 1)].store(tag | slot);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEED: Seed = Seed::from_random([1, 2, 3]);

    fn tag_of(address: u32, protocol: u8, confidence: u8) -> u64 {
        let block = Address::v4(address);
        tag(block_hash(block, 128, &SEED), &KeyWords::new(block, 0, 128, protocol, confidence), &SEED)
    }

    #[test]
    fn tallies_of_one_subscriber_are_told_apart() {
        let line = TallyLine::default();
        for protocol in 0..8 {
            line.enter(tag_of(1, protocol, 1), 100 + u32::from(protocol));
        }
        for protocol in 0..8 {
            assert_eq!(line.find(tag_of(1, protocol, 1)), Some(100 + u32::from(protocol)));
        }
        assert_eq!(line.find(tag_of(1, 1, 2)), None);
        assert_eq!(line.find(tag_of(2, 1, 1)), None);
    }

    #[test]
    fn large_slots_are_left_to_the_hash() {
        let line = TallyLine::default();
        let tag = tag_of(1, 1, 1);
        line.enter(tag, 1 << 24);
        assert_eq!(line.find(tag), None);
        line.enter(tag, (1 << 24) - 1);
        assert_eq!(line.find(tag), Some((1 << 24) - 1));
    }

    proptest! {
        #[test]
        fn what_it_finds_was_entered(entered in proptest::collection::vec((0_u64..1 << 40, 1_u32..1 << 24), 0..40), asked in 0_u64..1 << 40) {
            let line = TallyLine::default();
            let mut slots = std::collections::HashMap::new();
            let asked = asked << SLOT_BITS;
            for (tag, slot) in entered {
                let tag = tag << SLOT_BITS;
                // A key keeps its slot.
                let slot = *slots.entry(tag).or_insert(slot);
                if line.find(tag).is_none() {
                    line.enter(tag, slot);
                }
                prop_assert_eq!(line.find(tag), Some(slot));
            }
            for (tag, slot) in &slots {
                prop_assert!(line.find(*tag).is_none_or(|found| found == *slot));
            }
            prop_assert!(line.find(asked).is_none() || slots.contains_key(&asked));
        }
    }
}
