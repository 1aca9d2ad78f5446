//! Keeps what policies measure in the store, so that windows survive the agent.
//!
//! While the store takes nothing, the windows go on in memory, and the next commit has what waits.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use peertally_core::{analysis::Analysis, policy::recorder::Measures};
use peertally_store::{
    Store, StoreError,
    clock::Clock,
    failure::sql_error,
    history::{self, Committed, MOST_MEASURES},
};

/// Longest wait for the last commit at the end of the agent.
const LAST_COMMIT: Duration = Duration::from_secs(10);

/// Counts for metrics.
#[derive(Debug, Default)]
pub struct HistoryCounts {
    kept: AtomicU64,
    failures: AtomicU64,
    evicted: AtomicU64,
    /// When measures were made that are not committed, the oldest first.
    waiting_since: Mutex<Option<Instant>>,
}

impl HistoryCounts {
    /// Measures in the store, as of the latest begin of a span.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.kept.load(Relaxed)
    }

    /// Commits that failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// Spans that were removed because there are too many measures.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }

    /// Age of the oldest measure that is not in the store.
    #[must_use]
    pub fn waiting(&self) -> Duration {
        lock(&self.waiting_since).map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn committed(&self, committed: &Committed) {
        if let Some(kept) = committed.kept {
            self.kept.store(kept, Relaxed);
        }
        self.evicted.fetch_add(committed.evicted, Relaxed);
    }
}

/// A commit on its way.
#[derive(Debug, Default)]
struct Commit {
    is_on_its_way: bool,
    /// What could not be committed.
    failed: Option<Measures>,
}

/// Commits measures. See the module.
#[derive(Debug)]
pub struct HistoryKeeper {
    store: Store,
    clock: Clock,
    counts: Arc<HistoryCounts>,
    commit: Arc<(Mutex<Commit>, Condvar)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HistoryKeeper {
    /// Opens the history of a store, and gives the analysis what earlier agents have measured.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn open(store: Store, analysis: &mut Analysis) -> Result<Self, StoreError> {
        let clock = Clock::of_this_boot();
        let reader = store.reader()?;
        let failed = || sql_error("read", store.path());
        // One state of the store: nobody writes before this agent does.
        let kept = history::kept(&reader, &clock.now()).map_err(failed())?;
        let now = Instant::now();
        let (kept, time) = kept.map_or((None, Duration::ZERO), |(kept, time)| (Some(kept), time));
        let is_kept = kept.is_some();
        analysis.keep_history((now, time), kept);
        if is_kept {
            history::measures(&reader, |measure| analysis.restore(measure)).map_err(failed())?;
        }
        Ok(Self { store, clock, counts: Arc::default(), commit: Arc::default() })
    }

    /// Counts for metrics.
    #[must_use]
    pub const fn counts(&self) -> &Arc<HistoryCounts> {
        &self.counts
    }

    /// Commits what was measured, unless a commit is on its way: the next drain has the rest then.
    pub fn commit(&mut self, analysis: &mut Analysis) {
        self.commit_if(analysis, false);
    }

    fn commit_if(&mut self, analysis: &mut Analysis, is_last: bool) {
        let Some(recorder) = analysis.recorder() else { return };
        let mut commit = lock(&self.commit.0);
        if commit.is_on_its_way {
            return;
        }
        if let Some(failed) = commit.failed.take() {
            recorder.put_back(failed);
        }
        let is_due = recorder.is_due() || (is_last && recorder.has_measures());
        if recorder.has_measures() {
            lock(&self.counts.waiting_since).get_or_insert_with(Instant::now);
        }
        if !is_due {
            return;
        }
        commit.is_on_its_way = true;
        drop(commit);
        let measures = recorder.measures();
        let now = self.clock.now().before(recorder.instant(measures.until).elapsed());
        let shared = Arc::new(Mutex::new(measures));
        let own = Arc::clone(&shared);
        let write = move |transaction: &peertally_store::rusqlite::Transaction<'_>| {
            let mut measures = lock(&own);
            measures.compact();
            history::commit(transaction, &measures, &now, MOST_MEASURES)
        };
        let (counts, commit) = (Arc::clone(&self.counts), Arc::clone(&self.commit));
        let done = move |outcome: Result<Committed, StoreError>| {
            let mut state = lock(&commit.0);
            state.is_on_its_way = false;
            match outcome {
                Ok(committed) => {
                    counts.committed(&committed);
                    *lock(&counts.waiting_since) = None;
                }
                Err(error) => {
                    counts.failures.fetch_add(1, Relaxed);
                    tracing::error!(%error, "cannot commit what policies measure; windows go on in memory, and the next drain will try again");
                    state.failed = Some(std::mem::take(&mut lock(&shared)));
                }
            }
            drop(state);
            commit.1.notify_all();
        };
        self.store.writer().submit(write, done);
    }

    /// Commits what is left, for the end of the agent.
    pub fn finish(&mut self, analysis: &mut Analysis) {
        self.wait();
        self.commit_if(analysis, true);
        self.wait();
        if lock(&self.commit.0).failed.is_some() {
            tracing::error!(
                "the store could not take the end of what policies measured; the next start counts it anew"
            );
        }
    }

    fn wait(&self) {
        let (mutex, ended) = &*self.commit;
        let waited = ended.wait_timeout_while(lock(mutex), LAST_COMMIT, |commit| commit.is_on_its_way);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}
