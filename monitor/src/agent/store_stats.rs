//! Counts of the store's writer, for metrics.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use peertally_store::{Observer, WriteFailure};
use prometheus::Histogram;

/// Counts of the store's writer.
#[derive(Debug)]
pub struct StoreStats {
    commits: Histogram,
    failures: [AtomicU64; WriteFailure::ALL.len()],
}

impl StoreStats {
    /// Counts of a writer that wrote nothing, with the histogram of its commits.
    #[must_use]
    pub fn new(commits: Histogram) -> Arc<Self> {
        Arc::new(Self { commits, failures: Default::default() })
    }

    /// Durations of all commits.
    #[must_use]
    pub const fn commits(&self) -> &Histogram {
        &self.commits
    }

    /// Writes that failed, by class.
    pub fn failures(&self) -> impl Iterator<Item = (WriteFailure, u64)> {
        WriteFailure::ALL.iter().zip(&self.failures).map(|(failure, count)| (*failure, count.load(Relaxed)))
    }
}

/// Counts what the writer does.
#[derive(Debug)]
pub struct StoreObserver(pub Arc<StoreStats>);

impl Observer for StoreObserver {
    fn committed(&self, _writes: usize, duration: Duration) {
        self.0.commits.observe(duration.as_secs_f64());
    }

    fn failed(&self, writes: usize, failure: WriteFailure) {
        if let Some(index) = WriteFailure::ALL.iter().position(|each| *each == failure) {
            self.0.failures[index].fetch_add(writes as u64, Relaxed);
        }
    }
}
