//! What policies measure, for the store: counters since the latest commit, and the readings that they were computed
//! from. Both are committed together, so that the agent that starts next counts exactly what was counted since.
//!
//! A **reading** is what a slot of the kernel's table has counted since its key took it. The kernel's tables outlive
//! the agent: the first drain after a start counts the difference to the readings. Counters are kept in **spans** of
//! time. A span ends where a window may begin, so the windows of the next agent begin where those of this one did.
//!
//! Times are those of the history: a clock that goes on over restarts and that no correction of the wall clock moves.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::{Duration, Instant},
};

use monitor_common::abi::tally::{TallyKey, Totals};

use super::{
    history::{Sum, WINDOW_STARTS, tolerance},
    subscriber_index::TallyOwner,
};
use crate::{
    booked,
    snapshot::{Snapshot, TallyChange},
};

/// Window whose spans are kept if there is no policy, so that `peertally policies test` has something to test.
pub const WINDOW_WITHOUT_POLICIES: Duration = Duration::from_secs(24 * 3600);

/// Changed tallies that are committed with each drain. More of them wait for a while, so that one that changes with
/// each drain is written once.
const WRITTEN_AT_ONCE: usize = 20_000;
/// Longest such wait, and the part of the shortest window that it must not exceed.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const WAIT_PER_WINDOW: u32 = 32;

/// Spans that may wait for the store. The oldest two become one beyond it.
const WAITING_SPANS: usize = 64;

/// What a tally counted in a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// Number of the span.
    pub span: u64,
    /// The tally.
    pub key: TallyKey,
    /// Counters and remotes of the span.
    pub sum: Sum,
}

/// Reading of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The slot.
    pub slot: u32,
    /// Its key.
    pub key: TallyKey,
    /// What the slot counted since the key took it.
    pub totals: Totals,
}

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Later spans have higher numbers.
    pub number: u64,
    /// Its begin.
    pub begun: Duration,
    /// Its end so far.
    pub ended: Duration,
}

/// What is to be committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measures {
    /// Number of the kernel's tables.
    pub tables: u64,
    /// Whether the readings of the store are of other tables, or none.
    pub forget_readings: bool,
    /// When the readings were made.
    pub until: Duration,
    /// Spans with measures, oldest first.
    pub spans: Vec<Span>,
    /// Measures; a tally may have several of a span.
    pub measures: Vec<Measure>,
    /// Readings; of several of a slot, the last one holds.
    pub readings: Vec<Reading>,
    /// Window and start of each span that a window may begin with.
    pub starts: Vec<(Duration, Duration)>,
}

/// What the store has from earlier agents, but for the measures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptMeasures {
    /// Number of the tables that the readings belong to.
    pub tables: u64,
    /// When the readings were made.
    pub until: Duration,
    /// All spans, oldest first.
    pub spans: Vec<Span>,
    /// Window and start of each span that a window may begin with.
    pub starts: Vec<(Duration, Duration)>,
    /// Readings, by slot.
    pub readings: Vec<Reading>,
}

/// Starts of the spans for windows of one length.
#[derive(Debug)]
struct Starts {
    window: Duration,
    longest: Duration,
    begins: VecDeque<Duration>,
}

/// Collects what is to be committed.
#[derive(Debug)]
pub struct Recorder {
    starts: Vec<Starts>,
    /// A point in time, by both clocks.
    anchor: (Instant, Duration),
    pending: Measures,
    current: Option<Span>,
    next: u64,
    /// What earlier agents left, until the first drain.
    resumed: Option<KeptMeasures>,
    /// By slot: what the first drain read less than the readings, as a drain may miss a flow once. It was counted.
    excess: HashMap<u32, (TallyKey, Totals)>,
    /// When measures were handed out last.
    handed_out: Option<Duration>,
    /// Measures and readings that waited when they were made one for each tally last; 0 if none wait.
    compacted: usize,
}

impl Measures {
    /// Whether there is nothing to commit.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        // That a history begins is worth a commit, too: without it, the next agent would not know since when.
        self.spans.is_empty() && self.readings.is_empty() && !self.forget_readings
    }

    /// Makes one measure of those of a tally and span, in the order of spans and keys, and leaves one reading of each
    /// slot.
    pub fn compact(&mut self) {
        self.measures.sort_unstable_by_key(|measure| (measure.span, order(&measure.key)));
        self.measures.dedup_by(|later, earlier| {
            let same = earlier.span == later.span && earlier.key == later.key;
            if same {
                earlier.sum.add(&later.sum);
            }
            same
        });
        // Those of one drain are in order, and a stable sort takes half their memory once more.
        if self.readings.is_sorted_by(|one, next| one.slot < next.slot) {
            return;
        }
        // The sort is stable: the last one of a slot is the latest.
        self.readings.sort_by_key(|reading| reading.slot);
        self.readings.dedup_by(|later, earlier| {
            let same = earlier.slot == later.slot;
            if same {
                *earlier = *later;
            }
            same
        });
    }
}

/// Order of keys in the store.
const fn order(key: &TallyKey) -> ([u8; 16], u32, u8, u8, u8) {
    (key.address, key.realm, key.prefix_len, key.protocol, key.confidence)
}

impl Starts {
    fn of(window: Duration) -> Self {
        Self { window, longest: window + tolerance(window), begins: VecDeque::new() }
    }

    /// Begins a drain; returns whether a span must begin with it. The rule is that of the windows in memory.
    fn advance(&mut self, from: Duration, to: Duration) -> bool {
        // Twice the window: a policy is tested at the times of the last window, for a window before each.
        while self.begins.front().is_some_and(|begun| to.saturating_sub(*begun) > self.longest * 2) {
            self.begins.pop_front();
        }
        let last = self.begins.back().filter(|begun| to.saturating_sub(**begun) <= self.longest);
        let is_full = last.is_none_or(|begun| from.saturating_sub(*begun) >= self.longest / WINDOW_STARTS);
        let begins = is_full && to.saturating_sub(from) <= self.longest;
        if begins {
            self.begins.push_back(from);
        }
        begins
    }
}

impl Recorder {
    /// A recorder that begins at `now`, or goes on with what earlier agents left. `time` is the history's time at
    /// `now`.
    #[must_use]
    pub fn new(windows: &[Duration], kept: Option<KeptMeasures>, now: Instant, time: Duration) -> Self {
        let mut recorder = Self {
            starts: Vec::new(),
            anchor: (now, time),
            pending: Measures::default(),
            current: None,
            next: 1,
            resumed: None,
            excess: HashMap::new(),
            handed_out: None,
            compacted: 0,
        };
        recorder.set_windows(windows);
        if let Some(kept) = kept {
            for starts in &mut recorder.starts {
                starts.begins = kept.begins(starts.window).collect();
            }
            recorder.current = kept.spans.last().copied();
            recorder.next = recorder.current.map_or(1, |span| span.number + 1);
            recorder.resumed = Some(kept);
        }
        recorder
    }

    /// Takes the windows of other policies. What goes on keeps its starts.
    pub fn set_windows(&mut self, windows: &[Duration]) {
        let mut lengths: BTreeSet<Duration> = windows.iter().copied().collect();
        if lengths.is_empty() {
            lengths.insert(WINDOW_WITHOUT_POLICIES);
        }
        self.starts.retain(|starts| lengths.contains(&starts.window));
        for window in lengths {
            if self.starts.iter().all(|starts| starts.window != window) {
                self.starts.push(Starts::of(window));
            }
        }
    }

    /// The instant of a time of the history.
    #[must_use]
    pub fn instant(&self, time: Duration) -> Instant {
        let (instant, anchor) = self.anchor;
        if time > anchor { instant + (time - anchor) } else { instant.checked_sub(anchor - time).unwrap_or(instant) }
    }

    /// What earlier agents left, until the first drain.
    pub(crate) const fn kept(&self) -> Option<&KeptMeasures> {
        self.resumed.as_ref()
    }

    /// The history's time at an instant.
    fn time(&self, at: Instant) -> Duration {
        let (instant, time) = self.anchor;
        match at.checked_duration_since(instant) {
            Some(later) => time + later,
            None => time.saturating_sub(instant.saturating_duration_since(at)),
        }
    }

    /// The first drain: what was counted since the readings, and the time since then. `None` if there are none: then
    /// the drain is the baseline, because the age of its traffic is unknown.
    pub(crate) fn resume(
        &mut self,
        snapshot: &Snapshot,
        is_kept: impl Fn(u32) -> bool,
    ) -> Option<(Duration, Vec<TallyChange>)> {
        let slots = || (0..snapshot.keys.len() as u32).filter(|slot| is_kept(*slot));
        let kept = self.resumed.take();
        let same_tables = kept.as_ref().is_some_and(|kept| kept.tables == snapshot.origin.tables);
        self.pending.tables = snapshot.origin.tables;
        self.pending.until = self.time(snapshot.taken);
        self.pending.forget_readings = !same_tables;
        let mut changes = Vec::new();
        if let Some(kept) = &kept {
            // In other tables, a tally may have another slot.
            let by_key: HashMap<TallyKey, &Totals> = match same_tables {
                true => HashMap::new(),
                false => kept.readings.iter().map(|reading| (reading.key, &reading.totals)).collect(),
            };
            for slot in slots() {
                let (key, totals) = (snapshot.keys[slot as usize], snapshot.since_taken(slot));
                let before = match same_tables {
                    true => {
                        let at = kept.readings.binary_search_by_key(&slot, |reading| reading.slot).ok();
                        at.map(|at| &kept.readings[at]).filter(|reading| reading.key == key).map(|each| &each.totals)
                    }
                    // Tables made anew count from 0. Those that took the counters of older ones over do not.
                    false => by_key
                        .get(&key)
                        .copied()
                        .filter(|before| booked::subtract(before, &totals) == Totals::default()),
                };
                let Some(before) = before else {
                    changes.push(TallyChange { slot, delta: totals, remotes: Default::default() });
                    continue;
                };
                let excess = booked::subtract(before, &totals);
                if excess != Totals::default() {
                    self.excess.insert(slot, (key, excess));
                }
                changes.push(TallyChange {
                    slot,
                    delta: booked::subtract(&totals, before),
                    remotes: Default::default(),
                });
            }
            changes.retain(|change| change.delta != Totals::default());
        }
        if !same_tables {
            self.pending.readings = slots().map(|slot| reading(snapshot, slot)).collect();
        }
        // A drain without a length would count nothing.
        let nanosecond = Duration::from_nanos(1);
        kept.map(|kept| (self.pending.until.saturating_sub(kept.until).max(nanosecond), changes))
    }

    /// Takes from the changes of a drain what was counted before a restart.
    pub(crate) fn correct(&mut self, snapshot: &mut Snapshot) {
        if self.excess.is_empty() {
            return;
        }
        for change in &mut snapshot.changes {
            let key = snapshot.keys.get(change.slot as usize);
            if let Some((_, excess)) = self.excess.get_mut(&change.slot).filter(|(owner, _)| Some(owner) == key) {
                let delta = booked::subtract(&change.delta, excess);
                *excess = booked::subtract(excess, &change.delta);
                change.delta = delta;
            }
        }
        self.excess.retain(|_, (_, excess)| *excess != Totals::default());
    }

    /// Begins a drain that covers the time from `from` to `to`.
    pub(crate) fn begin(&mut self, from: Instant, to: Instant) {
        let (from, to) = (self.time(from), self.time(to));
        let mut begins = false;
        for starts in &mut self.starts {
            begins |= starts.advance(from, to);
        }
        if begins {
            self.current = Some(Span { number: self.next, begun: from, ended: to });
            self.next += 1;
        }
        if let Some(current) = &mut self.current {
            current.ended = to;
        }
        self.pending.until = to;
    }

    /// Adds changes of a drain and their owners.
    pub(crate) fn take(&mut self, snapshot: &Snapshot, changes: &[TallyChange], owners: &[TallyOwner]) {
        for (change, _) in changes.iter().zip(owners).filter(|(_, owner)| owner.is_p2p()) {
            let Some(key) = snapshot.keys.get(change.slot as usize) else { continue };
            if let Some(span) = self.current {
                let sum = Sum { totals: change.delta, remotes: change.remotes };
                self.pending.measures.push(Measure { span: span.number, key: *key, sum });
            }
            self.pending.readings.push(reading(snapshot, change.slot));
        }
    }

    /// Ends a drain.
    pub(crate) fn end(&mut self) {
        if let Some(current) = self.current {
            match self.pending.spans.last_mut().filter(|last| last.number == current.number) {
                Some(last) => last.ended = current.ended,
                None => self.pending.spans.push(current),
            }
        }
        self.bound();
    }

    /// Bounds what waits while the store takes nothing: by the number of tallies, not by time.
    fn bound(&mut self) {
        let Self { pending, compacted, .. } = self;
        let waiting = pending.measures.len() + pending.readings.len();
        if *compacted == 0 {
            *compacted = waiting;
        } else if waiting > 2 * (*compacted).max(1024) {
            pending.compact();
            *compacted = pending.measures.len() + pending.readings.len();
        }
        while pending.spans.len() > WAITING_SPANS {
            let second = pending.spans.remove(1);
            pending.spans[0].ended = second.ended;
            let first = pending.spans[0].number;
            pending.measures.iter_mut().filter(|each| each.span == second.number).for_each(|each| each.span = first);
        }
    }

    /// Whether something was measured that is not handed out.
    #[must_use]
    pub const fn has_measures(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether it is time to commit.
    #[must_use]
    pub fn is_due(&self) -> bool {
        let shortest = self.starts.iter().map(|starts| starts.window).min().unwrap_or_default();
        let wait = (shortest / WAIT_PER_WINDOW).min(LONGEST_WAIT);
        let waited = self.handed_out.is_none_or(|last| self.pending.until.saturating_sub(last) >= wait);
        self.has_measures() && (waited || self.pending.measures.len() <= WRITTEN_AT_ONCE)
    }

    /// What is to be committed. What cannot be is handed back ([`Self::put_back`]).
    pub fn measures(&mut self) -> Measures {
        (self.handed_out, self.compacted) = (Some(self.pending.until), 0);
        let starts = self.starts.iter().flat_map(|starts| starts.begins.iter().map(|begun| (starts.window, *begun)));
        self.pending.starts = starts.collect();
        let Measures { tables, until, .. } = self.pending;
        let measures = Vec::with_capacity(self.pending.measures.len());
        let readings = Vec::with_capacity(self.pending.readings.len());
        std::mem::replace(&mut self.pending, Measures { tables, until, measures, readings, ..Measures::default() })
    }

    /// Takes measures back that could not be committed.
    pub fn put_back(&mut self, mut earlier: Measures) {
        let later = std::mem::take(&mut self.pending);
        earlier.until = later.until;
        for span in later.spans {
            match earlier.spans.last_mut().filter(|last| last.number == span.number) {
                Some(last) => last.ended = span.ended,
                None => earlier.spans.push(span),
            }
        }
        earlier.measures.extend(later.measures);
        earlier.readings.extend(later.readings);
        self.pending = earlier;
        self.bound();
    }
}

fn reading(snapshot: &Snapshot, slot: u32) -> Reading {
    Reading { slot, key: snapshot.keys[slot as usize], totals: snapshot.since_taken(slot) }
}

impl KeptMeasures {
    /// Starts of the spans that windows of this length may begin with, oldest first.
    pub fn begins(&self, window: Duration) -> impl Iterator<Item = Duration> {
        self.starts.iter().filter(move |(each, _)| *each == window).map(|(_, start)| *start)
    }
}
