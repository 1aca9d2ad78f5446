//! Counts of one hook. Shared by the worker, metrics and the control socket.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{failure::FailureReason, kind::HookKind};

/// Counts of one hook; they never go down.
#[derive(Debug)]
pub struct HookStats {
    /// Name of the hook.
    pub name: Arc<str>,
    /// Events that may wait for the hook.
    capacity: AtomicUsize,
    delivered: AtomicU64,
    /// One entry for each reason that the hook's kinds can report.
    failures: Mutex<Vec<FailureCount>>,
    running: AtomicU64,
    next: AtomicU64,
    /// When each event that waits or is in progress was made.
    open: Mutex<BTreeMap<u64, Instant>>,
}

/// Failures of one reason at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureCount {
    /// Why.
    pub reason: FailureReason,
    /// Events whose last attempt failed for this reason.
    pub events: u64,
    /// Attempts that failed, also those before another attempt.
    pub attempts: u64,
}

/// The counts of one hook at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookReport {
    /// Events delivered.
    pub delivered: u64,
    /// Failures, one entry for each reason that the hook's kind can report.
    pub failures: Vec<FailureCount>,
    /// Attempts in progress.
    pub in_flight: u64,
    /// Events that wait for an attempt.
    pub queued: u64,
    /// Age of the oldest event that waits or is in progress.
    pub oldest: Option<Duration>,
}

impl HookReport {
    /// Events that are neither delivered nor failed.
    #[must_use]
    pub fn waiting(&self) -> usize {
        (self.in_flight + self.queued) as usize
    }

    /// Events handed in.
    #[cfg(test)]
    pub(super) fn accepted(&self) -> u64 {
        let failed: u64 = self.failures.iter().map(|count| count.events).sum();
        self.delivered + failed + self.in_flight + self.queued
    }
}

impl HookStats {
    /// Counts of a hook that was never called.
    #[must_use]
    pub fn new(name: Arc<str>, kind: &HookKind, capacity: usize) -> Arc<Self> {
        let stats = Self {
            name,
            capacity: AtomicUsize::new(0),
            delivered: AtomicU64::new(0),
            failures: Mutex::default(),
            running: AtomicU64::new(0),
            next: AtomicU64::new(0),
            open: Mutex::default(),
        };
        stats.adopt(kind, capacity);
        Arc::new(stats)
    }

    /// Goes on as the counts of a hook of this kind and capacity.
    pub(super) fn adopt(&self, kind: &HookKind, capacity: usize) {
        self.capacity.store(capacity, Relaxed);
        let mut failures = self.failures();
        for reason in kind.reasons {
            if !failures.iter().any(|each| each.reason == *reason) {
                failures.push(FailureCount { reason: *reason, events: 0, attempts: 0 });
            }
        }
    }

    fn failures(&self) -> MutexGuard<'_, Vec<FailureCount>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counts now.
    #[must_use]
    pub fn report(&self) -> HookReport {
        let failures = self.failures().clone();
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let in_flight = self.running.load(Relaxed).min(open.len() as u64);
        HookReport {
            delivered: self.delivered.load(Relaxed),
            failures,
            in_flight,
            queued: open.len() as u64 - in_flight,
            oldest: open.values().min().map(Instant::elapsed),
        }
    }

    /// Events that may still be handed in before the hook's queue is full.
    #[must_use]
    pub fn room(&self) -> usize {
        self.capacity.load(Relaxed).saturating_sub(self.open.lock().unwrap_or_else(PoisonError::into_inner).len())
    }

    pub(super) fn attempt_failed(&self, reason: FailureReason) {
        self.count(reason, |count| count.attempts += 1);
    }

    fn count(&self, reason: FailureReason, add: impl FnOnce(&mut FailureCount)) {
        let mut failures = self.failures();
        add(failures.iter_mut().find(|each| each.reason == reason).expect("a kind lists each reason that it reports"));
    }

    /// Takes in an event that was made at a time.
    pub(super) fn open(self: &Arc<Self>, begun: Instant) -> Ticket {
        let number = self.next.fetch_add(1, Relaxed);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(number, begun);
        Ticket { stats: Arc::clone(self), number, running: false }
    }
}

/// One event on its way. A ticket that is dropped before its end counts nothing: the store has the event.
#[derive(Debug)]
pub(super) struct Ticket {
    stats: Arc<HookStats>,
    number: u64,
    running: bool,
}

impl Ticket {
    pub(super) fn begin(&mut self) {
        if !std::mem::replace(&mut self.running, true) {
            self.stats.running.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn pause(&mut self) {
        if std::mem::replace(&mut self.running, false) {
            self.stats.running.fetch_sub(1, Relaxed);
        }
    }

    pub(super) fn end(self, outcome: Result<(), FailureReason>) {
        match outcome {
            Ok(()) => {
                self.stats.delivered.fetch_add(1, Relaxed);
            }
            Err(reason) => self.stats.count(reason, |count| count.events += 1),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.pause();
        self.stats.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}
