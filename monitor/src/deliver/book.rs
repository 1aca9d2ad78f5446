//! The events in the store: what waits for which hook, and what becomes of it. Each change is committed before anybody
//! acts on it, and a change that cannot be committed is tried again.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use peertally_core::policy::Standing;
use peertally_store::{
    Store, StoreError,
    clock::{Clock, Moment},
    events::{self, Decided, Decision, EventState, Outgoing, Refusal, Settled, Subject, Waiting},
    rusqlite::{self, Connection, Transaction},
};
use tokio::sync::{mpsc::UnboundedSender, oneshot};

use super::stats::{HookStats, Ticket};

/// Wait before a change is committed again.
const COMMIT_AGAIN: Duration = Duration::from_secs(1);

/// What the policies must know of an event's fate: why its policy does not fire for the subscriber, or that it may.
pub type Settlement = (Subject, Option<Standing>);

/// An event that is handed to a hook's worker. Its ticket makes it count as waiting from now on.
pub(super) type Handed = (Waiting, Ticket);

/// Writes how an attempt ended.
pub(super) type Change = dyn Fn(&Transaction<'_>, &Moment) -> rusqlite::Result<Option<Settled>> + Send + Sync;

/// Why a decision was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum DecisionError {
    /// It does not fit.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It cannot be committed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Events, deliveries and cool-downs in the store.
#[derive(Debug)]
pub struct EventBook {
    store: Store,
    clock: Clock,
    reader: Mutex<Connection>,
    outboxes: Mutex<Vec<(Arc<HookStats>, UnboundedSender<Handed>)>>,
    settled: Mutex<Vec<Settlement>>,
    counts: Mutex<Vec<(EventState, u64)>>,
    is_changed: AtomicBool,
    /// Names of the hooks that are configured, for the writer's transactions.
    hooks: Arc<Mutex<Vec<String>>>,
    /// Deliveries that failed because their hooks are not configured any more.
    removed: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EventBook {
    /// The events of a store.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub fn new(store: Store) -> Result<Arc<Self>, StoreError> {
        let reader = store.reader()?;
        let book = Self {
            store,
            clock: Clock::of_this_boot(),
            reader: Mutex::new(reader),
            outboxes: Mutex::default(),
            settled: Mutex::default(),
            counts: Mutex::default(),
            is_changed: AtomicBool::new(true),
            hooks: Arc::default(),
            removed: AtomicU64::new(0),
        };
        book.refresh_counts();
        Ok(Arc::new(book))
    }

    /// The store.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Now, for the store.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Reads the store.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        read(&lock(&self.reader))
    }

    /// What policies must know of the events and cool-downs in the store, after a restart.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn standings(&self) -> rusqlite::Result<Vec<Settlement>> {
        let now = self.now();
        let cooling = self.read(|connection| events::cool_downs(connection, &now))?;
        let waiting = self.read(events::pending)?;
        let begun = Instant::now();
        let cooling = cooling.into_iter().map(|(subject, left)| (subject, Some(Standing::Cooling(begun + left))));
        // A waiting event goes before an older cool-down.
        Ok(cooling.chain(waiting.into_iter().map(|subject| (subject, Some(Standing::Pending)))).collect())
    }

    /// Takes what became of events since the last call.
    pub fn take_settled(&self) -> Vec<Settlement> {
        std::mem::take(&mut lock(&self.settled))
    }

    /// Says what became of an event.
    pub fn settle(&self, settlement: Settlement) {
        self.is_changed.store(true, Relaxed);
        lock(&self.settled).push(settlement);
    }

    /// Number of events by state, as of the last [`EventBook::refresh_counts`].
    #[must_use]
    pub fn counts(&self) -> Vec<(EventState, u64)> {
        let counts = lock(&self.counts);
        let count = |state| counts.iter().find(|(each, _)| *each == state).map_or(0, |(_, count)| *count);
        EventState::ALL.iter().map(|state| (*state, count(*state))).collect()
    }

    /// Number of events in a state, as of the last [`EventBook::refresh_counts`].
    #[must_use]
    pub fn count(&self, state: EventState) -> u64 {
        self.counts().into_iter().find(|(each, _)| *each == state).map_or(0, |(_, count)| count)
    }

    /// Counts the events again if some changed.
    pub fn refresh_counts(&self) {
        if self.is_changed.swap(false, Relaxed) {
            match self.read(events::counts) {
                Ok(counts) => {
                    *lock(&self.counts) =
                        counts.into_iter().map(|(state, count)| (state, count.unsigned_abs())).collect();
                }
                Err(error) => {
                    self.is_changed.store(true, Relaxed);
                    tracing::warn!(%error, "cannot count the events in the store; the counts are old");
                }
            }
        }
    }

    /// Notes that events were added.
    pub fn changed(&self) {
        self.is_changed.store(true, Relaxed);
    }

    /// Connects the outbox of a hook.
    pub(super) fn connect(&self, hook: Arc<HookStats>, outbox: UnboundedSender<Handed>) {
        lock(&self.outboxes).push((hook, outbox));
    }

    /// Disconnects every outbox, so that the workers can end.
    pub(super) fn disconnect(&self) {
        lock(&self.outboxes).clear();
    }

    /// Disconnects the outbox of a hook: nothing more is handed to it.
    pub(super) fn disconnect_one(&self, hook: &str) {
        lock(&self.outboxes).retain(|(stats, _)| &*stats.name != hook);
    }

    /// Deliveries that failed because their hooks were taken out of the configuration.
    #[must_use]
    pub fn removed_deliveries(&self) -> u64 {
        self.removed.load(Relaxed)
    }

    /// Hands a committed event to its hooks. Without an outbox, it waits in the store for the next start.
    pub fn enqueue(&self, event: &str, hooks: &[String], now: &Moment) {
        let outboxes = lock(&self.outboxes);
        for (stats, outbox) in outboxes.iter().filter(|(stats, _)| hooks.iter().any(|hook| **hook == *stats.name)) {
            let (due_ms, time_ms) = (now.wall_ms, now.wall_ms);
            let waiting = Waiting { event: event.to_owned(), attempts: 0, due_ms, time_ms };
            // A worker that has ended leaves the event in the store.
            let _ended = outbox.send((waiting, stats.open(Instant::now())));
        }
    }

    /// An event for a hook; `None` if it does not wait any more.
    pub(super) async fn outgoing(self: &Arc<Self>, event: &str, hook: &Arc<str>) -> Option<Outgoing> {
        let (book, event, hook) = (Arc::clone(self), event.to_owned(), Arc::clone(hook));
        loop {
            let (book, event, hook) = (Arc::clone(&book), event.clone(), Arc::clone(&hook));
            let name = event.clone();
            let read = move || book.read(|connection| events::outgoing(connection, &event, &hook));
            match tokio::task::spawn_blocking(read).await {
                Ok(Ok(found)) => return found,
                Ok(Err(error)) => tracing::error!(event = name, %error, "cannot read an event; will try again"),
                Err(error) => {
                    tracing::error!(%error, "a bug ended the reading of an event");
                    return None;
                }
            }
            tokio::time::sleep(COMMIT_AGAIN).await;
        }
    }

    /// Commits how an attempt ended, and tries until that succeeds: meanwhile nobody delivers the event again.
    pub(super) async fn note(self: &Arc<Self>, event: &str, change: Arc<Change>) {
        loop {
            let (sender, receiver) = oneshot::channel();
            let (own, now) = (Arc::clone(&change), self.now());
            let writer = Arc::clone(self);
            // The queue of the writer may be full: waiting for it must not hold up the reactor.
            let handed_in = tokio::task::spawn_blocking(move || {
                writer.store.writer().submit(
                    move |transaction| own(transaction, &now),
                    move |outcome| {
                        // The task may have been ended meanwhile.
                        let _gone = sender.send(outcome);
                    },
                );
            });
            let outcome = match handed_in.await {
                Ok(()) => receiver.await,
                Err(error) => return tracing::error!(%error, "a bug ended the noting of a delivery"),
            };
            match outcome {
                Ok(Ok(settled)) => return self.settled(settled),
                Ok(Err(error)) if error.failure().is_some_and(|failure| failure.is_temporary()) => {
                    tracing::error!(event, %error, "cannot note the outcome of a delivery; will try again");
                }
                Ok(Err(error)) => {
                    return tracing::error!(event, %error, "cannot note the outcome of a delivery; it may come twice");
                }
                Err(_) => return,
            }
            tokio::time::sleep(COMMIT_AGAIN).await;
        }
    }

    fn settled(&self, settled: Option<Settled>) {
        self.changed();
        if let Some(Settled { subject, standing }) = settled {
            self.settle((subject, in_memory(standing)));
        }
    }

    /// Carries out a decision of a person; waits for the commit.
    ///
    /// # Errors
    /// [`DecisionError`]; then nothing was changed.
    pub fn decide(&self, id: &str, decision: Decision, user: &str) -> Result<Decided, DecisionError> {
        let (now, event, user) = (self.now(), id.to_owned(), user.to_owned());
        let (at, known) = (now.clone(), Arc::clone(&self.hooks));
        let write = move |transaction: &Transaction<'_>| {
            events::decide(transaction, &event, decision, &user, &lock(&known), &at)
        };
        let decided = self.store.writer().write(write)??;
        self.settled(decided.settled.clone());
        self.enqueue(id, &decided.queued, &now);
        tracing::warn!(event = id, decision = decision.label(), "a person decided about an event");
        self.refresh_counts();
        Ok(decided)
    }

    /// Names the hooks that are configured. Only they deliver.
    pub fn know_hooks(&self, names: Vec<String>) {
        *lock(&self.hooks) = names;
    }

    /// Ends the deliveries to hooks that are not configured any more, and events that no hook will get.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn drop_unknown_hooks(&self) -> Result<(), StoreError> {
        let (now, known) = (self.now(), Arc::clone(&self.hooks));
        let ended = self.store.writer().write(move |transaction| {
            let mut ended = events::fail_unknown_hooks(transaction, &lock(&known), &now)?;
            ended.dead.extend(events::end_stranded(transaction, &now)?);
            Ok(ended)
        })?;
        self.removed.fetch_add(ended.by_hook.values().sum(), Relaxed);
        for (hook, deliveries) in &ended.by_hook {
            tracing::warn!(hook, deliveries, "these deliveries have failed: their hook is not configured any more");
        }
        for settled in ended.dead {
            tracing::warn!(policy = settled.subject.policy, "an event is dead: no hook that is configured will get it");
            self.settled(Some(settled));
        }
        Ok(())
    }
}

/// A standing of the store, counted from now on.
fn in_memory(standing: events::Standing) -> Option<Standing> {
    match standing {
        events::Standing::Free => None,
        events::Standing::Pending => Some(Standing::Pending),
        events::Standing::Cooling(left) => Some(Standing::Cooling(Instant::now() + left)),
    }
}
