//! From policies that fired to events in the store. An event is committed before a hook sees it; one that cannot be
//! committed waits in memory for the next drain.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use peertally_core::{
    analysis::Analysis,
    policy::{
        self, Policy, PolicyEvent, Standing,
        ceiling::{Ceiling, CeilingRule},
    },
    words::SubscriberForm,
};
use peertally_store::{
    StoreError,
    events::{self, Active, CoolDown, EventKind, EventState, NewEvent, Subject},
    rusqlite::{self, Transaction},
};
use uuid::Uuid;

use crate::deliver::{HookStats, book::EventBook};

/// Time between two removals of old events.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// Longest time for the last commits at the end of the agent.
const LAST_COMMIT: Duration = Duration::from_secs(10);
/// Wait before the last commit is tried again.
const LAST_COMMIT_AGAIN: Duration = Duration::from_millis(100);

/// Why an event is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HoldReason {
    /// Its policy made too many events in the interval.
    Ceiling,
    /// Too many events wait for one of its hooks.
    QueueFull,
}

impl HoldReason {
    /// Every reason.
    pub const ALL: [Self; 2] = [Self::Ceiling, Self::QueueFull];

    /// Label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ceiling => "ceiling",
            Self::QueueFull => "queue_full",
        }
    }
}

/// Counts of what became of firings, for metrics.
#[derive(Debug, Default)]
pub struct FiringCounts {
    held: Mutex<BTreeMap<(Arc<str>, HoldReason), u64>>,
    uncommitted: AtomicU64,
    lost: AtomicU64,
}

impl FiringCounts {
    /// Events of a policy that were held so far.
    #[must_use]
    pub fn held(&self, policy: &str, reason: HoldReason) -> u64 {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().find(|((name, each), _)| **name == *policy && *each == reason).map_or(0, |(_, count)| *count)
    }

    /// Events that fired and are not in the store yet.
    #[must_use]
    pub fn uncommitted(&self) -> u64 {
        self.uncommitted.load(Relaxed)
    }

    /// Events that the store did not take before the end of the agent.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    fn hold(&self, policy: &Arc<str>, reason: HoldReason) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner).entry((Arc::clone(policy), reason)).or_default() += 1;
    }
}

/// Events on their way into the store.
#[derive(Debug, Default)]
struct Backlog {
    waiting: Vec<NewEvent>,
    /// Events of the commit that is on its way.
    committing: Option<Arc<Vec<NewEvent>>>,
}

/// Takes the events of each drain.
#[derive(Debug)]
pub struct Consequences {
    book: Arc<EventBook>,
    hooks: Vec<Arc<HookStats>>,
    ceiling: Ceiling,
    keep: Duration,
    counts: Arc<FiringCounts>,
    backlog: Arc<(Mutex<Backlog>, Condvar)>,
    pruned: Option<Instant>,
    /// Whether the last removal left old events.
    more_to_prune: Arc<AtomicBool>,
}

impl Consequences {
    /// Consequences of firings, with the memory of the last run: what passed the ceiling lately.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn new(
        book: Arc<EventBook>,
        hooks: Vec<Arc<HookStats>>,
        rule: CeilingRule,
        keep: Duration,
    ) -> rusqlite::Result<Self> {
        let mut ceiling = Ceiling::new(rule);
        let (now, begun) = (book.now(), Instant::now());
        let since = now.wall_ms.saturating_sub(i64::try_from(rule.interval.as_millis()).unwrap_or(i64::MAX));
        for (policy, at_ms) in book.read(|connection| events::passed_since(connection, since))? {
            let age = Duration::from_millis(now.wall_ms.saturating_sub(at_ms).max(0).unsigned_abs());
            ceiling.restore(&policy, begun.checked_sub(age).unwrap_or(begun));
        }
        let (counts, backlog) = (Arc::default(), Arc::default());
        Ok(Self { book, hooks, ceiling, keep, counts, backlog, pruned: None, more_to_prune: Arc::default() })
    }

    /// Counts for metrics.
    #[must_use]
    pub const fn counts(&self) -> &Arc<FiringCounts> {
        &self.counts
    }

    /// Tells the policies what became of their events: after a start, and when a reload brings a policy back.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn restore(&self, analysis: &mut Analysis) -> rusqlite::Result<()> {
        for (subject, standing) in self.book.standings()? {
            analysis.settle(&subject.policy, subject.subscriber, standing);
        }
        self.mark_uncommitted(analysis);
        self.watch_active(analysis)
    }

    /// Tells the policies what became of their events since the drain before.
    pub fn settle(&self, analysis: &mut Analysis) {
        let settled = self.book.take_settled();
        if settled.is_empty() {
            return;
        }
        for (subject, standing) in settled {
            analysis.settle(&subject.policy, subject.subscriber, standing);
        }
        self.mark_uncommitted(analysis);
        if let Err(error) = self.watch_active(analysis) {
            tracing::warn!(%error, "cannot read which subscribers are above a threshold; the next event will try again");
        }
    }

    /// Has the policies watch for subscribers to fall below the threshold again: those of delivered events, and of
    /// events without hooks. A policy that measures something else now cannot say so.
    fn watch_active(&self, analysis: &mut Analysis) -> rusqlite::Result<()> {
        let cleared: Vec<Subject> = {
            let backlog = self.backlog.0.lock().unwrap_or_else(PoisonError::into_inner);
            let committing = backlog.committing.iter().flat_map(|events| events.iter());
            let waiting = backlog.waiting.iter().chain(committing);
            waiting.filter(|event| event.kind == EventKind::Cleared).map(subject).collect()
        };
        let active = self.book.read(events::active)?;
        for Active { id, subject, measures } in active.into_iter().filter(|each| !cleared.contains(&each.subject)) {
            let same = |policy: &Arc<Policy>| *policy.name == *subject.policy && policy.measures() == measures;
            if let (true, Ok(id)) = (analysis.policies().iter().any(same), Uuid::parse_str(&id)) {
                analysis.watch(&subject.policy, subject.subscriber, id);
            }
        }
        Ok(())
    }

    /// The store does not know of events on their way: their subjects wait, whatever it says.
    fn mark_uncommitted(&self, analysis: &mut Analysis) {
        let backlog = self.backlog.0.lock().unwrap_or_else(PoisonError::into_inner);
        let committing = backlog.committing.iter().flat_map(|events| events.iter());
        for event in backlog.waiting.iter().chain(committing).filter(|event| is_pending(event)) {
            analysis.settle(&event.policy, event.subscriber, Some(Standing::Pending));
        }
    }

    /// Takes other hooks, in the order that the policies name them by.
    pub fn set_hooks(&mut self, hooks: Vec<Arc<HookStats>>) {
        self.hooks = hooks;
    }

    /// Takes the events of a drain, and commits them with those that wait.
    pub fn take(&mut self, events: Vec<PolicyEvent>) {
        let mut held: BTreeMap<Arc<str>, u64> = BTreeMap::new();
        // Events of this drain that go to a hook are not in its queue yet.
        let mut rooms: Vec<usize> = self.hooks.iter().map(|stats| stats.room()).collect();
        let events: Vec<NewEvent> = events.iter().map(|event| self.new_event(event, &mut rooms, &mut held)).collect();
        for (policy, events) in held {
            tracing::error!(
                policy = &*policy,
                events,
                ceiling = self.ceiling.rule().events,
                interval = ?self.ceiling.rule().interval,
                "events are held for a person: see `peertally events --held`, then release or discard them"
            );
        }
        self.backlog.0.lock().unwrap_or_else(PoisonError::into_inner).waiting.extend(events);
        self.commit();
        self.prune();
        self.book.refresh_counts();
    }

    /// Whether events wait for another commit than the one that is on its way.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.backlog.0.lock().unwrap_or_else(PoisonError::into_inner).waiting.is_empty()
    }

    fn new_event(&mut self, event: &PolicyEvent, rooms: &mut [usize], held: &mut BTreeMap<Arc<str>, u64>) -> NewEvent {
        let policy = &event.policy;
        // There is at most one `cleared` event for each delivered one, so no ceiling is needed.
        let reason = if policy.hooks.is_empty() || event.kind == policy::event::EventKind::Cleared {
            None
        } else if !self.ceiling.pass(&policy.name, Instant::now()) {
            Some(HoldReason::Ceiling)
        } else if policy.hooks.iter().any(|hook| rooms.get(*hook) == Some(&0)) {
            Some(HoldReason::QueueFull)
        } else {
            for hook in &policy.hooks {
                if let Some(room) = rooms.get_mut(*hook) {
                    *room -= 1;
                }
            }
            None
        };
        if let Some(reason) = reason {
            self.counts.hold(&policy.name, reason);
            *held.entry(Arc::clone(&policy.name)).or_default() += 1;
        }
        let hooks: Vec<String> =
            policy.hooks.iter().filter_map(|hook| self.hooks.get(*hook)).map(|stats| stats.name.to_string()).collect();
        let state = match reason {
            Some(_) => EventState::Held,
            None if hooks.is_empty() => EventState::Logged,
            None => EventState::Queued,
        };
        NewEvent {
            id: event.id.to_string(),
            kind: match event.kind {
                policy::event::EventKind::Fired => EventKind::Fired,
                policy::event::EventKind::Cleared => EventKind::Cleared,
            },
            fired: event.fired_event.map(|id| id.to_string()),
            policy: policy.name.to_string(),
            measures: policy.measures(),
            subscriber: event.subscriber,
            time: self.book.now(),
            cool_down: policy.cool_down,
            state,
            reason: reason.map_or("", HoldReason::label),
            hooks,
            message: String::from_utf8_lossy(&event.to_json(SubscriberForm::Both)).into_owned(),
        }
    }

    /// Commits what waits, unless a commit is on its way: that one's end leaves the rest to the next drain.
    fn commit(&self) {
        let mut backlog = self.backlog.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.counts.uncommitted.store(backlog.waiting.len() as u64, Relaxed);
        if backlog.committing.is_some() || backlog.waiting.is_empty() {
            return;
        }
        let events = Arc::new(std::mem::take(&mut backlog.waiting));
        backlog.committing = Some(Arc::clone(&events));
        drop(backlog);
        let own = Arc::clone(&events);
        let write = move |transaction: &Transaction<'_>| own.iter().try_for_each(|event| insert(transaction, event));
        let (book, counts, shared) = (Arc::clone(&self.book), Arc::clone(&self.counts), Arc::clone(&self.backlog));
        let done = move |outcome: Result<(), StoreError>| {
            let mut backlog = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
            backlog.committing = None;
            let events = Arc::unwrap_or_clone(events);
            match outcome {
                Ok(()) => events.iter().for_each(|event| committed(&book, event)),
                Err(error) => {
                    tracing::error!(%error, events = events.len(), "cannot commit events; the next drain will try again");
                    backlog.waiting.splice(..0, events);
                }
            }
            counts.uncommitted.store(backlog.waiting.len() as u64, Relaxed);
            drop(backlog);
            shared.1.notify_all();
        };
        self.book.store().writer().submit(write, done);
    }

    /// Commits what waits, for the end of the agent. Tries for ten seconds; what is left then is lost.
    pub fn flush(&self) {
        self.flush_until(Instant::now() + LAST_COMMIT);
    }

    fn flush_until(&self, deadline: Instant) {
        loop {
            self.commit();
            let left = self.wait_for_commit(deadline);
            if left == 0 {
                return;
            }
            let now = Instant::now();
            if now >= deadline {
                self.counts.lost.fetch_add(left as u64, Relaxed);
                tracing::error!(
                    events = left,
                    "these events are lost: the store could not take them before the end; the log has the reason"
                );
                return;
            }
            std::thread::sleep(LAST_COMMIT_AGAIN.min(deadline - now));
        }
    }

    /// Waits for the commit that is on its way; returns how many events are not in the store then.
    fn wait_for_commit(&self, deadline: Instant) -> usize {
        let (mutex, ended) = &*self.backlog;
        let backlog = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = ended.wait_timeout_while(backlog, left, |backlog| backlog.committing.is_some());
        let backlog = waited.unwrap_or_else(PoisonError::into_inner).0;
        backlog.waiting.len() + backlog.committing.as_ref().map_or(0, |events| events.len())
    }

    /// Removes events that ended long ago.
    fn prune(&mut self) {
        let is_recent = self.pruned.is_some_and(|last| last.elapsed() < PRUNE_EVERY);
        if is_recent && !self.more_to_prune.swap(false, Relaxed) {
            return;
        }
        self.pruned = Some(Instant::now());
        let now = self.book.now();
        let before = now.wall_ms.saturating_sub(i64::try_from(self.keep.as_millis()).unwrap_or(i64::MAX));
        let (book, more) = (Arc::clone(&self.book), Arc::clone(&self.more_to_prune));
        self.book.store().writer().submit(
            move |transaction| events::prune(transaction, before, &now),
            move |outcome| match outcome {
                Ok((events, is_more)) => {
                    // The next drain removes the next ones.
                    more.store(is_more, Relaxed);
                    if events > 0 {
                        book.changed();
                        tracing::info!(events, "old events were removed from the store");
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot remove old events; the next hour will try again"),
            },
        );
    }
}

/// Adds an event. One without hooks begins its cool-down at once: nothing will be delivered.
fn insert(transaction: &Transaction<'_>, event: &NewEvent) -> rusqlite::Result<()> {
    events::insert(transaction, event)?;
    if event.kind == EventKind::Cleared {
        return events::end_active_of(transaction, &subject(event));
    }
    if event.state == EventState::Logged {
        events::begin_active(transaction, &event.id)?;
        let cool_down =
            CoolDown { subject: subject(event), until: event.time.after(event.cool_down), length: event.cool_down };
        events::cool(transaction, &cool_down)?;
    }
    Ok(())
}

/// Whether the policy is silent for the subscriber until the event ends.
fn is_pending(event: &NewEvent) -> bool {
    event.state != EventState::Logged && event.kind == EventKind::Fired
}

fn subject(event: &NewEvent) -> Subject {
    Subject { policy: event.policy.clone(), subscriber: event.subscriber }
}

/// Acts on an event that is in the store.
fn committed(book: &EventBook, event: &NewEvent) {
    book.changed();
    match event.state {
        EventState::Queued => book.enqueue(&event.id, &event.hooks, &event.time),
        EventState::Logged if event.kind == EventKind::Fired => {
            book.settle((subject(event), Some(Standing::Cooling(Instant::now() + event.cool_down))));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use peertally_store::{Store, writer::Unobserved};

    use super::*;
    use crate::deliver::{kinds::exec, tests::event};

    struct Bench {
        _folder: tempfile::TempDir,
        book: Arc<EventBook>,
        consequences: Consequences,
    }

    /// A hook whose queue has this many places.
    fn bench(queue: usize) -> Bench {
        let folder = tempfile::tempdir().expect("a folder");
        let book = EventBook::new(Store::open(folder.path(), Unobserved).expect("opens")).expect("reads");
        let hooks = vec![HookStats::new("h".into(), &exec::KIND, queue)];
        let rule = CeilingRule { events: 100, interval: Duration::from_secs(600) };
        let day = Duration::from_secs(24 * 3600);
        let consequences = Consequences::new(Arc::clone(&book), hooks, rule, day).expect("reads");
        Bench { _folder: folder, book, consequences }
    }

    fn take(bench: &mut Bench, events: usize) -> Vec<(EventState, String)> {
        bench.consequences.take((0..events).map(|_| PolicyEvent::clone(&event())).collect());
        bench.consequences.wait_for_commit(Instant::now() + LAST_COMMIT);
        let rows = bench.book.read(|connection| events::list(connection, None, 100)).expect("reads");
        rows.into_iter().map(|row| (row.state, row.reason)).collect()
    }

    #[test]
    fn an_event_that_the_store_cannot_take_waits_and_is_committed_when_there_is_space() {
        let mut bench = bench(10);
        let limit = |pages: i64| {
            let statement = format!("PRAGMA max_page_count = {pages}");
            move |transaction: &Transaction<'_>| transaction.query_row(&statement, [], |row| row.get::<_, i64>(0))
        };
        assert_eq!(take(&mut bench, 1).len(), 1);
        // No page more than it has, and no event fits into what is left of them.
        bench.book.store().writer().write(limit(1)).expect("a limit");
        let mut kept = 1;
        while bench.consequences.counts().uncommitted() == 0 {
            kept = take(&mut bench, 1).len();
        }
        assert_eq!(bench.consequences.counts().uncommitted(), 1);
        assert_eq!(take(&mut bench, 0).len(), kept, "still full");
        bench.book.store().writer().write(limit(1_000_000)).expect("a limit");
        assert_eq!(take(&mut bench, 0).len(), kept + 1);
        assert_eq!(bench.consequences.counts().uncommitted(), 0);
    }

    #[test]
    fn a_cleared_event_is_committed_with_the_end_of_what_it_ends() {
        let mut bench = bench(10);
        let fired = PolicyEvent::clone(&event());
        let (id, time) = (fired.id, bench.book.now());
        assert_eq!(take_all(&mut bench, vec![fired.clone()]), [(EventKind::Fired, EventState::Queued)]);
        let active = |bench: &Bench| bench.book.read(events::active).expect("reads").len();
        let delivered =
            move |transaction: &Transaction<'_>| events::delivered(transaction, &id.to_string(), "h", &time).map(drop);
        bench.book.store().writer().write(delivered).expect("commits");
        assert_eq!(active(&bench), 1);
        let cleared =
            PolicyEvent { id: Uuid::now_v7(), kind: policy::event::EventKind::Cleared, fired_event: Some(id), ..fired };
        let kinds = take_all(&mut bench, vec![cleared]);
        assert_eq!(kinds, [(EventKind::Cleared, EventState::Queued), (EventKind::Fired, EventState::Delivered)]);
        assert_eq!(active(&bench), 0, "nobody is cleared twice");
        let waiting = bench.book.read(|connection| events::waiting(connection, "h")).expect("reads");
        assert_eq!(waiting.len(), 1, "the hook gets it");
        assert!(bench.book.read(events::pending).expect("reads").is_empty(), "the policy may fire again");
    }

    fn take_all(bench: &mut Bench, taken: Vec<PolicyEvent>) -> Vec<(EventKind, EventState)> {
        bench.consequences.take(taken);
        bench.consequences.flush();
        let rows = bench.book.read(|connection| events::list(connection, None, 100)).expect("reads");
        rows.into_iter().map(|row| (row.kind, row.state)).collect()
    }

    #[test]
    fn events_beyond_the_queue_of_a_hook_are_held() {
        let mut bench = bench(2);
        let states = take(&mut bench, 3);
        let count = |state, reason: &str| states.iter().filter(|each| **each == (state, reason.to_owned())).count();
        assert_eq!((count(EventState::Queued, ""), count(EventState::Held, "queue_full")), (2, 1));
        assert_eq!(bench.consequences.counts().held("heavy", HoldReason::QueueFull), 1);
    }

    /// The twin is an event that was delivered: it passed, and counts.
    #[test]
    fn events_that_were_held_do_not_count_for_the_ceiling_after_a_restart() {
        let mut bench = bench(1);
        assert_eq!(take(&mut bench, 3).len(), 3);
        let passed = |bench: &Bench| bench.book.read(|connection| events::passed_since(connection, 0)).expect("reads");
        assert_eq!(passed(&bench).len(), 1);
        bench.book.know_hooks(vec!["h".to_owned()]);
        let held = bench.book.read(|connection| events::list(connection, Some(EventState::Held), 100)).expect("reads");
        for (event, decision) in held.iter().zip([events::Decision::Release, events::Decision::Discard]) {
            bench.book.decide(&event.id, decision, "tester").expect("decides");
        }
        assert_eq!(passed(&bench).len(), 1, "neither a released nor a discarded one");
    }

    #[test]
    fn many_old_events_are_removed_in_slices() {
        let mut bench = bench(10);
        let rows = events::PRUNE_SLICE * 2 + 5;
        let fill = move |transaction: &Transaction<'_>| {
            (0..rows).try_for_each(|number| {
                let insert = "INSERT INTO events (id, kind, policy, measures, address, realm, prefix_len, time_ms, cool_down_ms, \
                              state, state_ms, reason, message) VALUES (?1, 'fired', 'p', '', zeroblob(16), 0, 0, 0, 0, 'logged', 0, '', '')";
                transaction.execute(insert, [number.to_string()]).map(drop)
            })
        };
        bench.book.store().writer().write(fill).expect("commits");
        let mut left = Vec::new();
        for _ in 0..4 {
            take(&mut bench, 0);
            // The writer takes one after another.
            bench.book.store().writer().write(|_| Ok(())).expect("commits");
            left.push(bench.book.read(|connection| events::list(connection, None, 10_000)).expect("reads").len());
        }
        assert_eq!(left, [events::PRUNE_SLICE + 5, 5, 0, 0]);
    }

    #[test]
    fn the_end_waits_for_a_commit_on_its_way_and_then_commits_the_rest() {
        let mut bench = bench(10);
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let wait = move |_: &Transaction<'_>| {
            held.recv().expect("is let go");
            Ok(())
        };
        bench.book.store().writer().submit(wait, |outcome| outcome.expect("commits"));
        // One is on its way behind that write, another one waits.
        for _ in 0..2 {
            bench.consequences.take(vec![PolicyEvent::clone(&event())]);
        }
        assert_eq!(bench.consequences.counts().uncommitted(), 1);
        std::thread::scope(|scope| {
            let flush = scope.spawn(|| bench.consequences.flush());
            hold.send(()).expect("waits");
            flush.join().expect("no panic");
        });
        let rows = bench.book.read(|connection| events::list(connection, None, 100)).expect("reads");
        assert_eq!((rows.len(), bench.consequences.counts().lost()), (2, 0));
    }

    #[test]
    fn events_that_the_store_does_not_take_before_the_end_are_counted_as_lost() {
        let mut bench = bench(10);
        let refuse = |transaction: &Transaction<'_>| {
            transaction.execute_batch("CREATE TRIGGER no BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no'); END")
        };
        bench.book.store().writer().write(refuse).expect("a trigger");
        bench.consequences.take(vec![PolicyEvent::clone(&event()), PolicyEvent::clone(&event())]);
        bench.consequences.flush_until(Instant::now() + LAST_COMMIT_AGAIN);
        assert_eq!(bench.consequences.counts().lost(), 2);
    }
}
