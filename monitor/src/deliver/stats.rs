//! Counts of one hook. Shared by the workers, metrics and the control socket.

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
    delivered: AtomicU64,
    failures: Vec<Failures>,
    refused: AtomicU64,
    abandoned: AtomicU64,
    running: AtomicU64,
    next: AtomicU64,
    /// When each event that waits or is in progress came in.
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
    /// Events dropped because the outbox was full.
    pub dropped_full: u64,
    /// Events dropped because the agent ended.
    pub dropped_shutdown: u64,
    /// Deliveries in progress.
    pub in_flight: u64,
    /// Events that wait in the outbox.
    pub queued: u64,
    /// Age of the oldest event that waits or is in progress.
    pub oldest: Option<Duration>,
}

impl HookReport {
    /// Events handed in and not yet done.
    #[must_use]
    pub fn waiting(&self) -> usize {
        (self.in_flight + self.queued) as usize
    }

    /// Events handed in.
    #[cfg(test)]
    pub(super) fn accepted(&self) -> u64 {
        let failed: u64 = self.failures.iter().map(|count| count.events).sum();
        self.delivered + failed + self.dropped_full + self.dropped_shutdown + self.in_flight + self.queued
    }
}

impl HookStats {
    /// Counts of a hook that was never called.
    #[must_use]
    pub fn new(name: Arc<str>, kind: &HookKind) -> Arc<Self> {
        let failures = |reason: &FailureReason| Failures {
            reason: *reason,
            events: AtomicU64::new(0),
            attempts: AtomicU64::new(0),
        };
        Arc::new(Self {
            name,
            delivered: AtomicU64::new(0),
            failures: kind.reasons.iter().map(failures).collect(),
            refused: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
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
            dropped_full: self.refused.load(Relaxed),
            dropped_shutdown: self.abandoned.load(Relaxed),
            in_flight,
            queued: open.len() as u64 - in_flight,
            oldest: open.values().next().map(Instant::elapsed),
        }
    }

    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(super) fn attempt_failed(&self, reason: FailureReason) {
        self.failures(reason).attempts.fetch_add(1, Relaxed);
    }

    /// The counts of a reason that the hook's kind lists.
    fn failures(&self, reason: FailureReason) -> &Failures {
        let found = self.failures.iter().find(|each| each.reason == reason);
        found.expect("a kind lists each reason that it reports")
    }

    /// Takes in an event.
    pub(super) fn open(self: &Arc<Self>) -> Ticket {
        let number = self.next.fetch_add(1, Relaxed);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Instant::now());
        Ticket { stats: Arc::clone(self), number, running: false, done: false }
    }
}

/// One event on its way. Whatever happens to it, it is counted once: a ticket that is dropped counts as abandoned.
#[derive(Debug)]
pub(super) struct Ticket {
    stats: Arc<HookStats>,
    number: u64,
    running: bool,
    done: bool,
}

impl Ticket {
    pub(super) fn begin(&mut self) {
        self.running = true;
        self.stats.running.fetch_add(1, Relaxed);
    }

    pub(super) fn end(mut self, outcome: Result<(), FailureReason>) {
        self.done = true;
        match outcome {
            Ok(()) => self.stats.delivered.fetch_add(1, Relaxed),
            Err(reason) => self.stats.failures(reason).events.fetch_add(1, Relaxed),
        };
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.done {
            self.stats.abandoned.fetch_add(1, Relaxed);
        }
        if self.running {
            self.stats.running.fetch_sub(1, Relaxed);
        }
        self.stats.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}
