//! Recent totals of each tally: a ring of buckets that all windows of a metric group share.
//!
//! A window starts where a bucket starts, and a bucket is a whole number of drains. The sum of a window is therefore
//! exact over the span it covers. The span is never longer than the policy's window (within [`tolerance`]). It is
//! shorter by at most a fifteenth and one drain. Each window decides from the times of the drains alone where it needs
//! a bucket to start, so its span does not depend on other windows. A drain adds to one bucket, however many windows
//! there are. Two buckets merge once no window can start between them.
//!
//! A bucket stores the totals of all tallies in one array. A drain adds to one bucket of a million tallies, but only a
//! few tallies need their sum over all buckets. Hosts cannot be subtracted from a set: a window's set is the union of
//! those of its buckets.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use monitor_common::abi::{remotes::RemoteSet, tally::Totals};

use super::bucket_totals::BucketTotals;

/// Starts of a window, except for that of the current bucket.
pub(super) const WINDOW_STARTS: u32 = 15;

/// Excess of a window's span over its configured length: drains do not run at exact times.
pub(super) fn tolerance(window: Duration) -> Duration {
    (window / 20).max(Duration::from_millis(250)).min(window)
}

/// What a tally, or several of them, counted in a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Counters.
    pub totals: Totals,
    /// Hosts that its flows went to.
    pub remotes: RemoteSet,
}

impl Sum {
    pub(super) fn add(&mut self, more: &Self) {
        add(&mut self.totals, &more.totals);
        self.remotes.unite(more.remotes);
    }
}

/// Changes between two drains.
#[derive(Debug)]
struct Bucket {
    begun: Instant,
    totals: BucketTotals,
}

/// Length of one window and its starts.
#[derive(Debug)]
struct LookBack {
    length: Duration,
    longest: Duration,
    step: Duration,
    /// Present and later starts of the window, oldest first. Each is the start of a bucket.
    begins: VecDeque<Instant>,
    /// Index of the window's oldest bucket; the number of buckets while the window is not open.
    first: usize,
}

/// Histories of all tallies of one metric group.
#[derive(Debug, Default)]
pub(super) struct History {
    windows: Vec<LookBack>,
    /// Oldest first; the last one is the current.
    buckets: VecDeque<Bucket>,
    /// Memory of a dropped bucket, for reuse.
    spare: BucketTotals,
    /// Sums from each bucket to the current one.
    scratch: Vec<Sum>,
}

impl History {
    /// Adds a window and gives it the next number.
    pub(super) fn include(&mut self, window: Duration) {
        let longest = window + tolerance(window);
        self.windows.push(LookBack {
            length: window,
            longest,
            step: longest / WINDOW_STARTS,
            begins: VecDeque::new(),
            first: self.buckets.len(),
        });
    }

    /// Takes the spans that earlier agents left, oldest first, and the starts of windows of a length. Returns the
    /// numbers of those that a window needs, in the order of the buckets.
    pub(super) fn restore(
        &mut self,
        spans: &[(u64, Instant, Instant)],
        starts: impl Fn(Duration) -> VecDeque<Instant>,
    ) -> Vec<u64> {
        for window in &mut self.windows {
            window.begins = starts(window.length);
            if window.begins.is_empty() {
                spans.iter().for_each(|(_, begun, ended)| _ = window.advance(*begun, *ended));
            }
        }
        let oldest = self.windows.iter().filter_map(|window| window.begins.front()).min();
        let needed = spans.iter().filter(|(_, begun, _)| oldest.is_some_and(|oldest| begun >= oldest));
        let numbers = needed.map(|(number, begun, _)| {
            self.buckets.push_back(Bucket { begun: *begun, totals: BucketTotals::default() });
            *number
        });
        numbers.collect()
    }

    /// Adds what a place counted in a restored bucket.
    pub(super) fn add_restored(&mut self, bucket: usize, place: usize, sum: &Sum) {
        if let Some(bucket) = self.buckets.get_mut(bucket) {
            bucket.totals.grow(place + 1);
            bucket.totals.add(place, sum);
        }
    }

    /// Adds the counters of one place to another one, and clears them there.
    pub(super) fn transfer(&mut self, from: usize, to: usize) {
        for Bucket { totals, .. } in &mut self.buckets {
            let sum = totals.get(from);
            if sum != Sum::default() {
                totals.grow(to + 1);
                totals.add(to, &sum);
                totals.clear_place(from);
            }
        }
    }

    /// Removes a window; the numbers of those after it fall by one.
    pub(super) fn exclude(&mut self, window: usize) {
        self.windows.remove(window);
    }

    /// Begins a drain that covers the time from `from` to `to`, and drops buckets older than all windows.
    pub(super) fn advance(&mut self, from: Instant, to: Instant) {
        let mut begins = false;
        for window in &mut self.windows {
            begins |= window.advance(from, to);
        }
        let oldest = self.windows.iter().filter_map(|window| window.begins.front()).min();
        while self.buckets.front().is_some_and(|bucket| oldest.is_none_or(|oldest| bucket.begun < *oldest)) {
            if let Some(bucket) = self.buckets.pop_front() {
                self.spare = bucket.totals;
            }
        }
        self.merge();
        if begins {
            let mut totals = std::mem::take(&mut self.spare);
            totals.clear();
            self.buckets.push_back(Bucket { begun: from, totals });
        }
        for window in &mut self.windows {
            let begin = window.begins.front();
            window.first =
                begin.map_or(self.buckets.len(), |begin| self.buckets.partition_point(|bucket| bucket.begun < *begin));
        }
    }

    /// Merges two buckets once no window starts between them. Merges one pair only: a merge takes as long as the
    /// additions of a drain, and at most one bucket is made at a time.
    fn merge(&mut self) {
        let is_needed =
            |bucket: &Bucket| self.windows.iter().any(|window| window.begins.binary_search(&bucket.begun).is_ok());
        let Some(at) = (1..self.buckets.len()).find(|at| !is_needed(&self.buckets[*at])) else { return };
        let Some(mut later) = self.buckets.remove(at) else { return };
        self.buckets[at - 1].totals.merge(&mut later.totals);
        self.spare = later.totals;
    }

    /// When the oldest traffic of a window may have passed; `None` while the window is not open.
    pub(super) fn begin(&self, window: usize) -> Option<Instant> {
        self.windows.get(window).and_then(|window| window.begins.front().copied())
    }

    /// The current bucket, with room for `places`; `None` while no window is open: the last drain
    /// alone lasted longer than all windows.
    pub(super) fn current(&mut self, places: usize) -> Option<&mut BucketTotals> {
        let totals = &mut self.buckets.back_mut()?.totals;
        totals.grow(places);
        Some(totals)
    }

    /// Appends each window's sum of a place to `sums`.
    pub(super) fn sums(&mut self, place: usize, sums: &mut Vec<Sum>) {
        self.scratch.clear();
        self.scratch.resize(self.buckets.len() + 1, Sum::default());
        let mut sum = Sum::default();
        for (index, bucket) in self.buckets.iter().enumerate().rev() {
            sum.add(&bucket.totals.get(place));
            self.scratch[index] = sum;
        }
        sums.extend(self.windows.iter().map(|window| self.scratch[window.first]));
    }

    /// Clears a place after its slot was given to another key.
    pub(super) fn clear(&mut self, place: usize) {
        self.buckets.iter_mut().for_each(|bucket| bucket.totals.clear_place(place));
    }
}

/// Adds totals to a sum, without a wrap.
pub(super) fn add(sum: &mut Totals, totals: &Totals) {
    sum.flows = sum.flows.saturating_add(totals.flows);
    sum.packets_up = sum.packets_up.saturating_add(totals.packets_up);
    sum.bytes_up = sum.bytes_up.saturating_add(totals.bytes_up);
    sum.packets_down = sum.packets_down.saturating_add(totals.packets_down);
    sum.bytes_down = sum.bytes_down.saturating_add(totals.bytes_down);
}

impl LookBack {
    /// Advances to a drain; returns whether a bucket must start with it.
    fn advance(&mut self, from: Instant, to: Instant) -> bool {
        while self.begins.front().is_some_and(|begun| to.saturating_duration_since(*begun) > self.longest) {
            self.begins.pop_front();
        }
        let is_full = self.begins.back().is_none_or(|begun| from.saturating_duration_since(*begun) >= self.step);
        let begins = is_full && to.saturating_duration_since(from) <= self.longest;
        if begins {
            self.begins.push_back(from);
        }
        begins
    }
}
