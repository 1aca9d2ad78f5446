//! Counts of one hook. Shared by the worker, metrics and the control socket.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
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
    capacity: usize,
    delivered: AtomicU64,
    failures: Vec<Failures>,
    running: AtomicU64,
    next: AtomicU64,
    /// When each event that waits or is in progress was made.
    open: Mutex<BTreeMap<u64, Instant>>,
}

/// Counts of one reason.
#[derive(Debug)]
struct Failures {
    reason: FailureReason,
    events: AtomicU64,
    attempts: AtomicU64,
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
        let failures = |reason: &FailureReason| Failures {
            reason: *reason,
            events: AtomicU64::new(0),
            attempts: AtomicU64::new(0),
        };
        Arc::new(Self {
            name,
            capacity,
            delivered: AtomicU64::new(0),
            failures: kind.reasons.iter().map(failures).collect(),
            running: AtomicU64::new(0),
            next: AtomicU64::new(0),
            open: Mutex::default(),
        })
    }

    /// The counts now.
    #[must_use]
    pub fn report(&self) -> HookReport {
        let failures = self.failures.iter().map(|each| FailureCount {
            reason: each.reason,
            events: each.events.load(Relaxed),
            attempts: each.attempts.load(Relaxed),
        });
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let in_flight = self.running.load(Relaxed).min(open.len() as u64);
        HookReport {
            delivered: self.delivered.load(Relaxed),
            failures: failures.collect(),
            in_flight,
            queued: open.len() as u64 - in_flight,
            oldest: open.values().min().map(Instant::elapsed),
        }
    }

    /// Events that may still be handed in before the hook's queue is full.
    #[must_use]
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.open.lock().unwrap_or_else(PoisonError::into_inner).len())
    }

    pub(super) fn attempt_failed(&self, reason: FailureReason) {
        self.failures(reason).attempts.fetch_add(1, Relaxed);
    }

    /// The counts of a reason that the hook's kind lists.
    fn failures(&self, reason: FailureReason) -> &Failures {
        let found = self.failures.iter().find(|each| each.reason == reason);
        found.expect("a kind lists each reason that it reports")
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
            Ok(()) => self.stats.delivered.fetch_add(1, Relaxed),
            Err(reason) => self.stats.failures(reason).events.fetch_add(1, Relaxed),
        };
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.pause();
        self.stats.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}
