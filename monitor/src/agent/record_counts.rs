//! Counts of the agent's records: written, waiting and lost.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// A kind of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// `watchlist-hits.jsonl`.
    WatchlistHits,
    /// `audit.jsonl`.
    Audit,
    /// Verdict records in the store.
    VerdictRecords,
}

impl RecordKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::WatchlistHits, Self::Audit, Self::VerdictRecords];

    /// Label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::WatchlistHits => "watchlist_hits",
            Self::Audit => "audit",
            Self::VerdictRecords => "verdict_records",
        }
    }
}

/// Why a record is not in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordLoss {
    /// The subscriber had as many in this hour as are kept.
    Rate,
    /// More waited for a disk than the agent keeps.
    QueueFull,
    /// They waited for a disk when the agent ended.
    Shutdown,
    /// A flow named content that a reload took off the watchlist.
    OffList,
}

impl RecordLoss {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Rate, Self::QueueFull, Self::Shutdown, Self::OffList];

    /// Label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::QueueFull => "queue_full",
            Self::Shutdown => "shutdown",
            Self::OffList => "off_list",
        }
    }
}

#[derive(Debug, Default)]
struct FileCounts {
    written: AtomicU64,
    lost: [AtomicU64; RecordLoss::ALL.len()],
    failures: AtomicU64,
    waiting: AtomicU64,
    removed_files: AtomicU64,
    /// Why the file cannot be written; empty when it can.
    problem: Mutex<Option<String>>,
}

/// Counts of all files of records.
#[derive(Debug, Default)]
pub struct RecordCounts {
    kinds: [FileCounts; RecordKind::ALL.len()],
    /// Verdict records that were removed: expired, and beyond the number that is kept.
    removed_rows: [AtomicU64; 2],
}

/// Counts of one file at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordReport {
    /// Records on the disk.
    pub written: u64,
    /// Failed writes.
    pub failures: u64,
    /// Records that wait for the disk.
    pub waiting: u64,
    /// Old files that were removed for the bound of files.
    pub removed_files: u64,
    /// Lost records, in the order of [`RecordLoss::ALL`].
    pub lost: [u64; RecordLoss::ALL.len()],
    /// Why the file cannot be written now.
    pub problem: Option<String>,
}

impl RecordCounts {
    /// Counts records that were written, and old files that were removed.
    pub fn written(&self, kind: RecordKind, records: usize, removed_files: u64) {
        let counts = &self.kinds[kind as usize];
        counts.written.fetch_add(records as u64, Relaxed);
        counts.removed_files.fetch_add(removed_files, Relaxed);
    }

    /// Counts verdict records that were removed from the store: expired, and beyond the number that is kept.
    pub fn removed_rows(&self, expired: usize, excess: usize) {
        self.removed_rows.iter().zip([expired, excess]).for_each(|(count, rows)| {
            count.fetch_add(rows as u64, Relaxed);
        });
    }

    /// Verdict records that were removed from the store, by reason.
    #[must_use]
    pub fn rows_removed(&self) -> [(&'static str, u64); 2] {
        [("expired", self.removed_rows[0].load(Relaxed)), ("excess", self.removed_rows[1].load(Relaxed))]
    }

    /// Counts records that will never be written.
    pub fn lost(&self, kind: RecordKind, reason: RecordLoss, records: usize) {
        self.kinds[kind as usize].lost[reason as usize].fetch_add(records as u64, Relaxed);
    }

    /// Notes how many records wait.
    pub fn set_waiting(&self, kind: RecordKind, records: usize) {
        self.kinds[kind as usize].waiting.store(records as u64, Relaxed);
    }

    /// Counts a failed write; returns whether the one before succeeded.
    pub fn failed(&self, kind: RecordKind, error: String) -> bool {
        let counts = &self.kinds[kind as usize];
        counts.failures.fetch_add(1, Relaxed);
        counts.problem.lock().unwrap_or_else(PoisonError::into_inner).replace(error).is_none()
    }

    /// Notes that writing succeeds; returns whether it failed before.
    pub fn recovered(&self, kind: RecordKind) -> bool {
        self.kinds[kind as usize].problem.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }

    /// The counts now.
    #[must_use]
    pub fn report(&self, kind: RecordKind) -> RecordReport {
        let counts = &self.kinds[kind as usize];
        RecordReport {
            written: counts.written.load(Relaxed),
            failures: counts.failures.load(Relaxed),
            waiting: counts.waiting.load(Relaxed),
            removed_files: counts.removed_files.load(Relaxed),
            lost: std::array::from_fn(|reason| counts.lost[reason].load(Relaxed)),
            problem: counts.problem.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
