//! Totals and remotes of all tallies in one bucket of the history: exact totals, in three fifths of the memory of five
//! 64-bit counters.
//!
//! Nearly all counts of packets and flows in a bucket fit into 32 bits, and nearly all counts of bytes into 48. Totals
//! that outgrow this move to a table of their own.

use std::collections::HashMap;

use monitor_common::abi::{remotes::RemoteSet, tally::Totals};

use super::history::{self, Sum};

/// Totals by a tally's place; places beyond the end have none.
#[derive(Debug, Default)]
pub(super) struct BucketTotals {
    cells: Vec<Cell>,
    /// What outgrew the cells, by place.
    outgrown: HashMap<u32, Totals>,
}

/// Bytes of one tally in a bucket.
const _: () = assert!(size_of::<Cell>() == 32);

/// Totals that fit, and remotes.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    flows: u32,
    packets_up: u32,
    packets_down: u32,
    bytes_up: u32,
    bytes_down: u32,
    /// Bits 32..48 of the bytes.
    bytes_up_high: u16,
    bytes_down_high: u16,
    remotes: RemoteSet,
}

impl BucketTotals {
    /// Forgets everything and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.cells.clear();
        self.outgrown.clear();
    }

    /// Makes room for `places`.
    pub(super) fn grow(&mut self, places: usize) {
        if self.cells.len() < places {
            // Grow by a sixteenth, not by a factor of two: there are many buckets.
            if self.cells.capacity() < places {
                self.cells.reserve_exact(places + places / 16 - self.cells.len());
            }
            self.cells.resize(places, Cell::default());
        }
    }

    /// Adds to a place, for which there must be room.
    #[inline]
    pub(super) fn add(&mut self, place: usize, delta: &Sum) {
        let cell = &mut self.cells[place];
        let mut sum = cell.sum();
        sum.add(delta);
        *cell = if Cell::fits(&sum.totals) {
            Cell::of(&sum)
        } else {
            outgrow(&mut self.outgrown, place, &sum.totals);
            Cell { remotes: sum.remotes, ..Cell::default() }
        };
    }

    /// Sum of a place.
    pub(super) fn get(&self, place: usize) -> Sum {
        let Some(cell) = self.cells.get(place) else { return Sum::default() };
        let mut sum = cell.sum();
        if let Some(outgrown) = self.outgrown.get(&(place as u32)) {
            history::add(&mut sum.totals, outgrown);
        }
        sum
    }

    /// Takes over what `later` holds, whose content is of no use afterwards.
    pub(super) fn merge(&mut self, later: &mut Self) {
        if self.cells.len() < later.cells.len() {
            std::mem::swap(self, later);
        }
        for (place, cell) in later.cells.iter().enumerate() {
            self.add(place, &cell.sum());
        }
        for (place, totals) in &later.outgrown {
            outgrow(&mut self.outgrown, *place as usize, totals);
        }
    }

    /// Clears a place.
    pub(super) fn clear_place(&mut self, place: usize) {
        if let Some(cell) = self.cells.get_mut(place) {
            *cell = Cell::default();
            self.outgrown.remove(&(place as u32));
        }
    }
}

#[cold]
fn outgrow(outgrown: &mut HashMap<u32, Totals>, place: usize, totals: &Totals) {
    history::add(outgrown.entry(place as u32).or_default(), totals);
}

impl Cell {
    const fn fits(totals: &Totals) -> bool {
        (totals.flows | totals.packets_up | totals.packets_down) >> 32 == 0
            && (totals.bytes_up | totals.bytes_down) >> 48 == 0
    }

    const fn of(sum: &Sum) -> Self {
        let Sum { totals, remotes } = sum;
        Self {
            flows: totals.flows as u32,
            packets_up: totals.packets_up as u32,
            packets_down: totals.packets_down as u32,
            bytes_up: totals.bytes_up as u32,
            bytes_down: totals.bytes_down as u32,
            bytes_up_high: (totals.bytes_up >> 32) as u16,
            bytes_down_high: (totals.bytes_down >> 32) as u16,
            remotes: *remotes,
        }
    }

    const fn sum(self) -> Sum {
        let totals = Totals {
            flows: self.flows as u64,
            packets_up: self.packets_up as u64,
            bytes_up: self.bytes_up as u64 | (self.bytes_up_high as u64) << 32,
            packets_down: self.packets_down as u64,
            bytes_down: self.bytes_down as u64 | (self.bytes_down_high as u64) << 32,
        };
        Sum { totals, remotes: self.remotes }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The first counter makes the remotes, too.
    fn sum(counters: [u64; 5]) -> Sum {
        let [flows, packets_up, bytes_up, packets_down, bytes_down] = counters;
        let totals = Totals { flows, packets_up, bytes_up, packets_down, bytes_down };
        Sum { totals, remotes: RemoteSet::of(flows) }
    }

    /// Small amounts, and those that a cell holds just, or not any more.
    fn amount() -> impl Strategy<Value = u64> {
        prop_oneof![0..2000_u64, (1_u64 << 32) - 3..(1 << 32) + 3, (1_u64 << 48) - 3..(1 << 48) + 3]
    }

    proptest! {
        /// Against plain sums: additions, a merge and cleared places lose nothing.
        #[test]
        fn sums_are_exact(
            steps in prop::collection::vec((0_usize..2, 0_usize..6, prop::array::uniform5(amount()), 0_u8..8), 1..60),
            (first, second) in (1_usize..7, 1_usize..7),
        ) {
            let (mut buckets, rooms) = ([BucketTotals::default(), BucketTotals::default()], [first, second]);
            let mut plain = [Sum::default(); 6];
            for (bucket, room) in buckets.iter_mut().zip(rooms) {
                bucket.grow(room);
            }
            for (bucket, place, counters, action) in steps {
                if action == 0 {
                    buckets.iter_mut().for_each(|bucket| bucket.clear_place(place));
                    plain[place] = Sum::default();
                } else if place < rooms[bucket] {
                    buckets[bucket].add(place, &sum(counters));
                    plain[place].add(&sum(counters));
                }
            }
            let [mut earlier, mut later] = buckets;
            earlier.merge(&mut later);
            for (place, plain) in plain.iter().enumerate() {
                prop_assert_eq!(earlier.get(place), *plain);
            }
        }
    }

    #[test]
    fn a_total_at_the_end_of_64_bits_stays_there() {
        let mut bucket = BucketTotals::default();
        bucket.grow(1);
        for _ in 0..3 {
            bucket.add(0, &sum([u64::MAX / 2 + 1; 5]));
        }
        let counters = Totals {
            flows: u64::MAX,
            packets_up: u64::MAX,
            bytes_up: u64::MAX,
            packets_down: u64::MAX,
            bytes_down: u64::MAX,
        };
        assert_eq!(bucket.get(0), Sum { totals: counters, remotes: RemoteSet::of(0) });
        bucket.clear();
        bucket.grow(1);
        assert_eq!(bucket.get(0), Sum::default());
    }
}
