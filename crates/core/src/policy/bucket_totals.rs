//! Totals of all tallies in one bucket of the history: exact, in three fifths of the memory of five 64-bit counters.
//!
//! Nearly all counts of packets and flows in a bucket fit into 32 bits, and nearly all counts of bytes into 48. Totals
//! that outgrow this move to a table of their own.

use std::collections::HashMap;

use monitor_common::abi::tally::Totals;

use super::history;

/// Totals by a tally's place; places beyond the end have none.
#[derive(Debug, Default)]
pub(super) struct BucketTotals {
    cells: Vec<Cell>,
    /// What outgrew the cells, by place.
    outgrown: HashMap<u32, Totals>,
}

/// Bytes of one tally in a bucket.
const _: () = assert!(size_of::<Cell>() == 24);

/// Totals that fit.
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
    pub(super) fn add(&mut self, place: usize, delta: &Totals) {
        let cell = &mut self.cells[place];
        let mut sum = cell.totals();
        history::add(&mut sum, delta);
        *cell = if Cell::fits(&sum) {
            Cell::of(&sum)
        } else {
            outgrow(&mut self.outgrown, place, &sum);
            Cell::default()
        };
    }

    /// Totals of a place.
    pub(super) fn get(&self, place: usize) -> Totals {
        let Some(cell) = self.cells.get(place) else { return Totals::default() };
        let mut totals = cell.totals();
        if let Some(outgrown) = self.outgrown.get(&(place as u32)) {
            history::add(&mut totals, outgrown);
        }
        totals
    }

    /// Takes over what `later` holds, whose content is of no use afterwards.
    pub(super) fn merge(&mut self, later: &mut Self) {
        if self.cells.len() < later.cells.len() {
            std::mem::swap(self, later);
        }
        for (place, cell) in later.cells.iter().enumerate() {
            self.add(place, &cell.totals());
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

    const fn of(totals: &Totals) -> Self {
        Self {
            flows: totals.flows as u32,
            packets_up: totals.packets_up as u32,
            packets_down: totals.packets_down as u32,
            bytes_up: totals.bytes_up as u32,
            bytes_down: totals.bytes_down as u32,
            bytes_up_high: (totals.bytes_up >> 32) as u16,
            bytes_down_high: (totals.bytes_down >> 32) as u16,
        }
    }

    const fn totals(self) -> Totals {
        Totals {
            flows: self.flows as u64,
            packets_up: self.packets_up as u64,
            bytes_up: self.bytes_up as u64 | (self.bytes_up_high as u64) << 32,
            packets_down: self.packets_down as u64,
            bytes_down: self.bytes_down as u64 | (self.bytes_down_high as u64) << 32,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn totals(counters: [u64; 5]) -> Totals {
        let [flows, packets_up, bytes_up, packets_down, bytes_down] = counters;
        Totals { flows, packets_up, bytes_up, packets_down, bytes_down }
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
            let mut plain = [Totals::default(); 6];
            for (bucket, room) in buckets.iter_mut().zip(rooms) {
                bucket.grow(room);
            }
            for (bucket, place, counters, action) in steps {
                if action == 0 {
                    buckets.iter_mut().for_each(|bucket| bucket.clear_place(place));
                    plain[place] = Totals::default();
                } else if place < rooms[bucket] {
                    buckets[bucket].add(place, &totals(counters));
                    history::add(&mut plain[place], &totals(counters));
                }
            }
            let [mut earlier, mut later] = buckets;
            earlier.merge(&mut later);
            for (place, sum) in plain.iter().enumerate() {
                prop_assert_eq!(earlier.get(place), *sum);
            }
        }
    }

    #[test]
    fn a_total_at_the_end_of_64_bits_stays_there() {
        let mut bucket = BucketTotals::default();
        bucket.grow(1);
        for _ in 0..3 {
            bucket.add(0, &totals([u64::MAX / 2 + 1; 5]));
        }
        assert_eq!(bucket.get(0), totals([u64::MAX; 5]));
        bucket.clear();
        bucket.grow(1);
        assert_eq!(bucket.get(0), Totals::default());
    }
}
