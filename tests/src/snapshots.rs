//! Made-up results of drains.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use peertally_core::snapshot::{AgeingCounts, Counts, Origin, Reconciled, SharedKeys, Snapshot};

/// A drain that found nothing, ten seconds after the one before.
#[must_use]
pub fn empty() -> Snapshot {
    Snapshot {
        taken_at: SystemTime::now(),
        taken: Instant::now(),
        interval: Duration::from_secs(10),
        drain_duration: Duration::ZERO,
        keys: Arc::default(),
        totals: Arc::default(),
        changes: Vec::new(),
        node: Vec::new(),
        skipped: Vec::new(),
        events: Vec::new(),
        shed: Vec::new(),
        spoofed: Vec::new(),
        rules: Vec::new(),
        tables: Vec::new(),
        shared_keys: SharedKeys::default(),
        origin: Origin::default(),
        ageing: AgeingCounts::default(),
        pending: Counts::default(),
        watchlist: Vec::new(),
        hits: Vec::new(),
        attachments: Vec::new(),
        reconciled: Reconciled::default(),
    }
}
