//! What each tally did within one window: buckets with an amount for each tally, and limits common to all tallies.
//!
//! A bucket is a whole number of drains, so a window is never guessed: its sum is exact over the span it covers. The
//! span is at most the policy's window (within [`tolerance`]) and at most one bucket and one drain shorter.
//!
//! A bucket holds the amounts of all tallies side by side, since a drain adds to one bucket of a million tallies, and the
//! sum over all buckets is asked for of a few of them.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Buckets of a window, but for the one that is being filled.
const BUCKETS: u32 = 15;

/// Place of a tally without history.
const NO_HISTORY: u32 = u32::MAX;

/// How much longer than asked the span of a window may be: drains do not come at exact times.
pub(super) fn tolerance(window: Duration) -> Duration {
    (window / 20).max(Duration::from_millis(250)).min(window)
}

/// What passed from one drain to another.
#[derive(Debug)]
struct Bucket {
    begun: Instant,
    /// By a tally's place; those beyond the end had nothing.
    amounts: Vec<u64>,
}

/// Histories of all tallies over one window and one quantity.
#[derive(Debug)]
pub(super) struct History {
    window: Duration,
    /// Oldest first; the last one is the current.
    buckets: VecDeque<Bucket>,
    /// Place of each slot in the buckets.
    places: Vec<u32>,
    /// Places that are taken.
    taken: u32,
}

impl History {
    pub(super) fn new(window: Duration) -> Self {
        Self { window, buckets: VecDeque::new(), places: Vec::new(), taken: 0 }
    }

    /// Begins a drain that covers the time from `from` to `to`, and lets go of buckets older than the window.
    pub(super) fn advance(&mut self, from: Instant, to: Instant) {
        let longest = self.window + tolerance(self.window);
        let step = longest / BUCKETS;
        let full = self.buckets.back().is_none_or(|bucket| from.saturating_duration_since(bucket.begun) >= step);
        let mut room = Vec::new();
        let is_old = |bucket: &Bucket| to.saturating_duration_since(bucket.begun) > longest;
        while self.buckets.front().is_some_and(is_old) {
            room = self.buckets.pop_front().map(|bucket| bucket.amounts).unwrap_or_default();
        }
        if full && to.saturating_duration_since(from) <= longest {
            room.clear();
            self.buckets.push_back(Bucket { begun: from, amounts: room });
        }
    }

    /// Whether the window holds anything: not if the last drain alone took longer than the window.
    pub(super) fn is_open(&self) -> bool {
        !self.buckets.is_empty()
    }

    /// When the oldest traffic of the window may have passed.
    pub(super) fn begin(&self) -> Option<Instant> {
        self.buckets.front().map(|bucket| bucket.begun)
    }

    /// Adds to a tally's current bucket. A no-op while the window is not open.
    pub(super) fn add(&mut self, slot: u32, amount: u64) {
        let Some(bucket) = self.buckets.back_mut() else { return };
        let slot = slot as usize;
        if slot >= self.places.len() {
            self.places.resize(slot + 1, NO_HISTORY);
        }
        let place = &mut self.places[slot];
        if *place == NO_HISTORY {
            *place = self.taken;
            self.taken += 1;
        }
        let place = *place as usize;
        if place >= bucket.amounts.len() {
            // A sixteenth more than is needed, not twice as much: there are many buckets.
            let length = (self.taken as usize).max(place + 1);
            bucket.amounts.reserve_exact(length + length / 16 - bucket.amounts.len());
            bucket.amounts.resize(length, 0);
        }
        let now = &mut bucket.amounts[place];
        *now = now.saturating_add(amount);
    }

    /// What the window holds of a tally.
    pub(super) fn sum(&self, slot: u32) -> u64 {
        let Some(place) = self.place(slot) else { return 0 };
        let amounts = self.buckets.iter().filter_map(|bucket| bucket.amounts.get(place));
        amounts.fold(0, |sum: u64, amount| sum.saturating_add(*amount))
    }

    /// Forgets a tally whose slot now belongs to another key.
    pub(super) fn forget(&mut self, slot: u32) {
        let Some(place) = self.place(slot) else { return };
        for amount in self.buckets.iter_mut().filter_map(|bucket| bucket.amounts.get_mut(place)) {
            *amount = 0;
        }
    }

    fn place(&self, slot: u32) -> Option<usize> {
        self.places.get(slot as usize).filter(|place| **place != NO_HISTORY).map(|place| *place as usize)
    }
}
