//! What each tally did within one window: a ring of buckets per tally, with bucket limits common to all tallies.
//!
//! A bucket is a whole number of drains, so a window is never guessed: its sum is exact over the span it covers. The
//! span is at most the policy's window (within [`tolerance`]) and at most one bucket and one drain shorter.

use std::time::{Duration, Instant};

/// Buckets a window may have; a power of two.
const BUCKETS: usize = 16;

/// Index of a tally without history.
const NO_HISTORY: u32 = u32::MAX;

/// How much longer than asked the span of a window may be: drains do not come at exact times.
pub(super) fn tolerance(window: Duration) -> Duration {
    (window / 20).max(Duration::from_millis(250)).min(window)
}

/// The buckets of one tally. Bucket `n` lives at index `n % BUCKETS`.
#[derive(Clone, Debug, Default)]
struct Ring {
    /// Number of the bucket last added to.
    last: u32,
    amounts: [u64; BUCKETS],
}

/// Histories of all tallies over one window and one quantity.
#[derive(Debug)]
pub(super) struct History {
    window: Duration,
    /// When each live bucket began, oldest first; the last one is the current.
    begun: std::collections::VecDeque<Instant>,
    /// Number of the current bucket.
    current: u32,
    /// Ring number of each slot.
    ring_of: Vec<u32>,
    rings: Vec<Ring>,
}

impl History {
    pub(super) fn new(window: Duration) -> Self {
        Self { window, begun: std::collections::VecDeque::new(), current: 0, ring_of: Vec::new(), rings: Vec::new() }
    }

    /// Begins a drain that covers the time from `from` to `to`, and lets go of buckets older than the window.
    pub(super) fn advance(&mut self, from: Instant, to: Instant) {
        let longest = self.window + tolerance(self.window);
        // So that BUCKETS of them are always enough for the longest span.
        let step = longest / (BUCKETS as u32 - 1);
        let full = self.begun.back().is_none_or(|begun| from.saturating_duration_since(*begun) >= step);
        if full {
            self.current = self.current.wrapping_add(1);
            self.begun.push_back(from);
        }
        while self.begun.front().is_some_and(|begun| to.saturating_duration_since(*begun) > longest) {
            self.begun.pop_front();
        }
    }

    /// Whether the window holds anything: not if the last drain alone took longer than the window.
    pub(super) fn is_open(&self) -> bool {
        !self.begun.is_empty()
    }

    /// When the oldest traffic of the window may have passed.
    pub(super) fn begin(&self) -> Option<Instant> {
        self.begun.front().copied()
    }

    /// Adds to a tally's current bucket. A no-op while the window is not open.
    pub(super) fn add(&mut self, slot: u32, amount: u64) {
        if !self.is_open() {
            return;
        }
        let slot = slot as usize;
        if slot >= self.ring_of.len() {
            self.ring_of.resize(slot + 1, NO_HISTORY);
        }
        let mut number = self.ring_of[slot];
        if number == NO_HISTORY {
            number = self.rings.len() as u32;
            self.ring_of[slot] = number;
            self.rings.push(Ring { last: self.current, ..Ring::default() });
        }
        let ring = &mut self.rings[number as usize];
        let behind = self.current.wrapping_sub(ring.last);
        if behind as usize >= BUCKETS {
            ring.amounts = [0; BUCKETS];
        } else {
            for missed in 1..=behind {
                ring.amounts[ring.last.wrapping_add(missed) as usize % BUCKETS] = 0;
            }
        }
        ring.last = self.current;
        let amount_now = &mut ring.amounts[self.current as usize % BUCKETS];
        *amount_now = amount_now.saturating_add(amount);
    }

    /// What the window holds of a tally.
    pub(super) fn sum(&self, slot: u32) -> u64 {
        let Some(ring) = self.ring_of.get(slot as usize).and_then(|number| self.rings.get(*number as usize)) else {
            return 0;
        };
        let behind = self.current.wrapping_sub(ring.last) as usize;
        // Buckets from the oldest live one to the one last added to.
        let held = self.begun.len().saturating_sub(behind).min(BUCKETS);
        (0..held as u32)
            .fold(0, |sum: u64, back| sum.saturating_add(ring.amounts[ring.last.wrapping_sub(back) as usize % BUCKETS]))
    }

    /// Forgets a tally whose slot now belongs to another key.
    pub(super) fn forget(&mut self, slot: u32) {
        if let Some(ring) = self.ring_of.get(slot as usize).and_then(|number| self.rings.get_mut(*number as usize)) {
            *ring = Ring { last: self.current, ..Ring::default() };
        }
    }
}
