//! Liveness of the drain loop, for `/livez`.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Shows that the drain loop runs.
#[derive(Debug)]
pub struct Heartbeat {
    begun: Instant,
    last_ms: AtomicU64,
    limit_ms: AtomicU64,
}

/// How late a beat may be, for drains at this interval.
#[must_use]
pub fn limit(drain_interval: Duration) -> Duration {
    (drain_interval * 10).max(Duration::from_secs(60))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Heartbeat {
    /// A heartbeat that may be late by `limit`.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { begun: Instant::now(), last_ms: AtomicU64::new(0), limit_ms: AtomicU64::new(millis(limit)) }
    }

    /// Sets another limit.
    pub fn set_limit(&self, limit: Duration) {
        self.limit_ms.store(millis(limit), Relaxed);
    }

    /// Beats.
    pub fn beat(&self) {
        self.last_ms.store(millis(self.begun.elapsed()), Relaxed);
    }

    /// Time since the last beat, if it is too long.
    #[must_use]
    pub fn missed(&self) -> Option<Duration> {
        let since = self.begun.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Relaxed)));
        (millis(since) > self.limit_ms.load(Relaxed)).then_some(since)
    }
}
