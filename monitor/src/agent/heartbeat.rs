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
    limit: Duration,
}

impl Heartbeat {
    /// A heartbeat that may be late by `limit`.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { begun: Instant::now(), last_ms: AtomicU64::new(0), limit }
    }

    /// Beats.
    pub fn beat(&self) {
        self.last_ms.store(u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Time since the last beat, if it is too long.
    #[must_use]
    pub fn missed(&self) -> Option<Duration> {
        let since = self.begun.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Relaxed)));
        (since > self.limit).then_some(since)
    }
}
