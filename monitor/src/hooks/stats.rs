//! Counts of one hook. Shared by the workers, metrics and the control socket.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::FailureReason;

/// Counts of one hook; they never go down.
#[derive(Debug)]
pub struct HookStats {
    /// Name of the hook.
    pub name: Arc<str>,
    delivered: AtomicU64,
    failed: [AtomicU64; FailureReason::ALL.len()],
    attempts_failed: [AtomicU64; FailureReason::ALL.len()],
    refused: AtomicU64,
    abandoned: AtomicU64,
    running: AtomicU64,
    next: AtomicU64,
    /// When each event that waits or is under way came in.
    open: Mutex<BTreeMap<u64, Instant>>,
}

/// The counts of one hook at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookReport {
    /// Events delivered.
    pub delivered: u64,
    /// Events given up, by the last attempt's reason; index as in [`FailureReason::ALL`].
    pub failed: [u64; FailureReason::ALL.len()],
    /// Attempts that failed, by reason, retried ones included.
    pub attempts_failed: [u64; FailureReason::ALL.len()],
    /// Events dropped because the queue was full.
    pub dropped_full: u64,
    /// Events dropped because the agent ended.
    pub dropped_shutdown: u64,
    /// Deliveries under way.
    pub in_flight: u64,
    /// Events that wait.
    pub queued: u64,
    /// Age of the oldest event that waits or is under way.
    pub oldest: Option<Duration>,
}

impl HookReport {
    /// Events handed in and not yet done.
    #[must_use]
    pub fn waiting(&self) -> usize {
        (self.in_flight + self.queued) as usize
    }

    /// Events handed in.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        let failed: u64 = self.failed.iter().sum();
        self.delivered + failed + self.dropped_full + self.dropped_shutdown + self.in_flight + self.queued
    }
}

impl HookStats {
    /// Counts of a hook that was never called.
    #[must_use]
    pub fn new(name: Arc<str>) -> Arc<Self> {
        Arc::new(Self {
            name,
            delivered: AtomicU64::new(0),
            failed: Default::default(),
            attempts_failed: Default::default(),
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
        let load =
            |counters: &[AtomicU64; FailureReason::ALL.len()]| std::array::from_fn(|i| counters[i].load(Relaxed));
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let in_flight = self.running.load(Relaxed).min(open.len() as u64);
        HookReport {
            delivered: self.delivered.load(Relaxed),
            failed: load(&self.failed),
            attempts_failed: load(&self.attempts_failed),
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
        self.attempts_failed[reason as usize].fetch_add(1, Relaxed);
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
            Err(reason) => self.stats.failed[reason as usize].fetch_add(1, Relaxed),
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
