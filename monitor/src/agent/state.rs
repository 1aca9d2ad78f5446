//! State that the drain thread and the hooks write, and that HTTP and the control socket read.

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use monitor_common::abi::settings::InspectionDepth;
use peertally_core::{analysis::DrainResult, words::Evidence};
use prometheus::Histogram;

use super::{
    connection_counts::ConnectionCounts,
    consequences::FiringCounts,
    history_keeper::HistoryCounts,
    record_counts::{RecordCounts, RecordKind},
    reload::ReloadResult,
    shedding::Shed,
    store_stats::StoreStats,
};
use crate::deliver::{HookStats, book::EventBook};

/// State of the running agent: the drain thread and the hooks write it, HTTP and the control socket read it.
pub struct AgentState {
    published: RwLock<Option<Arc<DrainResult>>>,
    hooks: RwLock<Vec<Arc<HookStats>>>,
    drain_duration: Histogram,
    drain_failures: AtomicU64,
    /// The last drain error, for `/readyz` and `status`; empty after a good drain.
    last_error: Mutex<Option<String>>,
    /// What was shed between the last two drains, for `/readyz`.
    shed: Mutex<Shed>,
    inspection: InspectionDepth,
    evidence: Evidence,
    start: SystemTime,
    /// The start on a clock that nobody sets.
    started: Instant,
    /// Digest of the configuration in force, and since when it is.
    configuration: Mutex<(String, SystemTime, Instant)>,
    reloads: [AtomicU64; ReloadResult::ALL.len()],
    /// What the metrics port and the control socket refused or gave up.
    pub connections: ConnectionCounts,
    /// Attached interfaces, each with whether packets are merged before they are counted.
    merging: Mutex<Vec<(Arc<str>, bool)>>,
    /// Name of the key of the pseudonyms.
    pseudonym_key: Mutex<String>,
    /// Rotations of that key: done and failed.
    key_rotations: [AtomicU64; 2],
    /// What became of records.
    pub records: RecordCounts,
    kept: OnceLock<Kept>,
}

/// What the agent keeps in the store.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Events and their deliveries.
    pub book: Arc<EventBook>,
    /// Counts of firings.
    pub firings: Arc<FiringCounts>,
    /// Counts of the writer.
    pub store: Arc<StoreStats>,
    /// Counts of the history of what policies measure.
    pub history: Arc<HistoryCounts>,
}

impl fmt::Debug for AgentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentState").finish_non_exhaustive()
    }
}

impl AgentState {
    /// State of an agent that has drained nothing yet.
    #[must_use]
    pub fn new(
        inspection: InspectionDepth,
        evidence: Evidence,
        hooks: Vec<Arc<HookStats>>,
        drain_duration: Histogram,
    ) -> Arc<Self> {
        Arc::new(Self {
            published: RwLock::default(),
            hooks: RwLock::new(hooks),
            drain_duration,
            drain_failures: AtomicU64::new(0),
            last_error: Mutex::default(),
            shed: Mutex::default(),
            inspection,
            evidence,
            start: SystemTime::now(),
            started: Instant::now(),
            configuration: Mutex::new((String::new(), SystemTime::now(), Instant::now())),
            reloads: Default::default(),
            connections: ConnectionCounts::default(),
            merging: Mutex::default(),
            pseudonym_key: Mutex::default(),
            key_rotations: Default::default(),
            records: RecordCounts::default(),
            kept: OnceLock::new(),
        })
    }

    /// Sets what the agent keeps in the store, once.
    pub fn keep(&self, kept: Kept) {
        // A second call would be a bug without harm: the first one stands.
        let _first_stands = self.kept.set(kept);
    }

    /// What the agent keeps in the store.
    #[must_use]
    pub fn kept(&self) -> Option<&Kept> {
        self.kept.get()
    }

    /// Notes that a configuration is in force from now on.
    pub fn set_configuration(&self, digest: &str) {
        let mut configuration = self.configuration.lock().unwrap_or_else(PoisonError::into_inner);
        *configuration = (digest.to_owned(), SystemTime::now(), Instant::now());
    }

    /// Digest of the configuration in force, and since when it is: the time of day, and on a clock that nobody
    /// sets.
    #[must_use]
    pub fn configuration(&self) -> (String, SystemTime, Instant) {
        self.configuration.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a reload.
    pub fn count_reload(&self, result: ReloadResult) {
        self.reloads[result as usize].fetch_add(1, Relaxed);
    }

    /// Reloads by result.
    #[must_use]
    pub fn reloads(&self) -> [(ReloadResult, u64); ReloadResult::ALL.len()] {
        ReloadResult::ALL.map(|result| (result, self.reloads[result as usize].load(Relaxed)))
    }

    /// Publishes a drain.
    pub fn publish(&self, published: DrainResult) {
        self.drain_duration.observe(published.snapshot.drain_duration.as_secs_f64());
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(published));
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Counts a drain that failed.
    pub fn drain_failed(&self, error: String) {
        self.drain_failures.fetch_add(1, Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    /// Notes what was shed between the last two drains.
    pub fn set_shed(&self, shed: Shed) {
        *self.shed.lock().unwrap_or_else(PoisonError::into_inner) = shed;
    }

    /// What was shed between the last two drains.
    #[must_use]
    pub fn shed(&self) -> Shed {
        *self.shed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last drain.
    #[must_use]
    pub fn published(&self) -> Option<Arc<DrainResult>> {
        self.published.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the last drain failed, if it did.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts of the hooks.
    #[must_use]
    pub fn hooks(&self) -> Vec<Arc<HookStats>> {
        self.hooks.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows other hooks.
    pub fn set_hooks(&self, hooks: Vec<Arc<HookStats>>) {
        *self.hooks.write().unwrap_or_else(PoisonError::into_inner) = hooks;
    }

    /// Durations of all drains.
    #[must_use]
    pub const fn drain_durations(&self) -> &Histogram {
        &self.drain_duration
    }

    /// Inspection depth in force.
    #[must_use]
    pub const fn inspection(&self) -> InspectionDepth {
        self.inspection
    }

    /// What subscribers are charged on.
    #[must_use]
    pub const fn evidence(&self) -> Evidence {
        self.evidence
    }

    /// When the agent started.
    #[must_use]
    pub const fn start(&self) -> SystemTime {
        self.start
    }

    /// Time since the agent's start, however the wall clock was set meanwhile.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Drains that failed.
    #[must_use]
    pub fn drain_failures(&self) -> u64 {
        self.drain_failures.load(Relaxed)
    }

    /// Notes which interfaces merge packets before they are counted; returns those that merge since now.
    pub fn set_merging(&self, merging: Vec<(Arc<str>, bool)>) -> Vec<Arc<str>> {
        let mut known = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = |each: &&(Arc<str>, bool)| each.1 && !known.contains(each);
        let new = merging.iter().filter(is_new).map(|(name, _)| Arc::clone(name)).collect();
        *known = merging;
        new
    }

    /// Attached interfaces, each with whether packets are merged before they are counted.
    #[must_use]
    pub fn merging(&self) -> Vec<(Arc<str>, bool)> {
        self.merging.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes the name of the key of the pseudonyms.
    pub fn set_pseudonym_key(&self, id: String) {
        *self.pseudonym_key.lock().unwrap_or_else(PoisonError::into_inner) = id;
    }

    /// Name of the key of the pseudonyms.
    #[must_use]
    pub fn pseudonym_key(&self) -> String {
        self.pseudonym_key.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a rotation of that key.
    pub fn count_key_rotation(&self, has_failed: bool) {
        self.key_rotations[usize::from(has_failed)].fetch_add(1, Relaxed);
    }

    /// Rotations of that key: done and failed.
    #[must_use]
    pub fn key_rotations(&self) -> [u64; 2] {
        [0, 1].map(|outcome: usize| self.key_rotations[outcome].load(Relaxed))
    }

    /// What is wrong with records while traffic is counted all the same: one line for each file.
    #[must_use]
    pub fn record_problems(&self) -> Vec<String> {
        let reports = RecordKind::ALL.map(|kind| self.records.report(kind));
        let line = |report: &super::record_counts::RecordReport| {
            let problem = report.problem.as_ref()?;
            Some(format!("{problem}; {} records wait in memory", report.waiting))
        };
        reports.iter().filter_map(line).collect()
    }

    /// Ready means attached and drained once.
    ///
    /// # Errors
    /// Description of the missing part.
    pub fn ready(&self) -> Result<(), String> {
        if self.kept().is_some_and(|kept| kept.book.store().writer().has_ended()) {
            return Err("the writer of the store ended by a bug: events are not kept; restart the agent".to_owned());
        }
        match self.published() {
            None => Err(self.last_error().unwrap_or_else(|| "no drain yet".to_owned())),
            Some(published) if published.snapshot.attachments.is_empty() => {
                Err("not attached to any interface".to_owned())
            }
            Some(published) => match published.snapshot.attachments.iter().find(|each| !each.is_on()) {
                Some(each) => {
                    let detail = each.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
                    Err(format!("the program is not attached to `{}`{detail}", each.interface))
                }
                None => self.last_error().map_or(Ok(()), Err),
            },
        }
    }
}
