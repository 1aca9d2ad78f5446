//! A hook's worker: takes the events that wait for the hook, and makes their deliveries, a bounded number at a time,
//! with retries. The store has each event; here are only their identifiers and the times of the next attempts.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use peertally_core::policy::EventMessage;
use peertally_store::{
    clock::Moment,
    events::{self, Waiting},
    rusqlite::Transaction,
};
use tokio::{
    sync::{mpsc::UnboundedReceiver, watch},
    task::{JoinError, JoinSet},
};

use super::{
    HookConfig, HookError, backoff,
    book::{EventBook, Handed},
    kind::{Deliver, Message},
    stats::{HookStats, Ticket},
};

/// A hook that is ready to be called.
#[derive(Debug)]
pub(super) struct Hook {
    config: HookConfig,
    delivery: Box<dyn Deliver>,
    stats: Arc<HookStats>,
}

/// How far the workers are to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Deliver whatever comes.
    Run,
    /// Deliver what is due now, and end.
    Finish,
    /// End now. What was not delivered stays in the store.
    Abandon,
}

/// An event of this hook that waits.
#[derive(Debug)]
struct Job {
    event: String,
    attempts: u32,
    ticket: Ticket,
}

/// A job for another attempt, and when.
type Again = Option<(Instant, Job)>;

impl Hook {
    pub(super) fn new(config: &HookConfig) -> Result<Self, HookError> {
        Self::going_on(config, HookStats::new(Arc::clone(&config.name), config.kind, config.queue))
    }

    /// A hook in the place of another one with these counts. [`Hook::adopt`] makes them its own.
    pub(super) fn going_on(config: &HookConfig, stats: Arc<HookStats>) -> Result<Self, HookError> {
        let delivery = config.target.open().map_err(|message| HookError { hook: Arc::clone(&config.name), message })?;
        Ok(Self { config: config.clone(), delivery, stats })
    }

    pub(super) fn adopt(&self) {
        self.stats.adopt(self.config.kind, self.config.queue);
    }

    pub(super) const fn stats(&self) -> &Arc<HookStats> {
        &self.stats
    }

    /// A delivery that the store had at the start.
    pub(super) fn hand(&self, waiting: Waiting) -> Handed {
        let age = Duration::from_millis(waiting.time_ms.max(0).unsigned_abs());
        let now = Instant::now();
        let begun = now.checked_sub(since_1970().saturating_sub(age)).unwrap_or(now);
        (waiting, self.stats.open(begun))
    }

    /// Makes one attempt and commits its outcome.
    async fn attempt(&self, mut job: Job, book: &Arc<EventBook>) -> Again {
        let hook = &*self.config.name;
        let id = job.event.clone();
        let outgoing = book.outgoing(&id, &self.config.name).await?;
        let body = match EventMessage::from_json(&outgoing.message) {
            Ok(message) => message.to_json(self.config.subscriber),
            Err(error) => {
                tracing::error!(hook, event = id, %error, "the store holds an event that cannot be read; it stays there");
                return None;
            }
        };
        job.ticket.begin();
        job.attempts += 1;
        let (attempts, owned) = (job.attempts, (id.clone(), Arc::clone(&self.config.name)));
        let message = Message { id: &id, kind: outgoing.kind.label(), policy: &outgoing.policy, body: &body };
        let failure = match self.delivery.attempt(message, self.config.timeout).await {
            Ok(()) => {
                let change = move |transaction: &Transaction<'_>, now: &Moment| {
                    events::delivered(transaction, &owned.0, &owned.1, now)
                };
                book.note(&id, Arc::new(change)).await;
                tracing::info!(hook, event = id, attempts, "delivered");
                job.ticket.end(Ok(()));
                return None;
            }
            Err(failure) => failure,
        };
        self.stats.attempt_failed(failure.reason);
        let (reason, detail) = (failure.reason.label, failure.detail);
        let is_last = attempts > self.config.retries || !failure.reason.is_retried;
        let wait = backoff::delay(self.config.retry_delay, attempts - 1, failure.retry_after, fastrand::f64());
        let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        let change = move |transaction: &Transaction<'_>, now: &Moment| {
            let due_ms = (!is_last).then(|| now.wall_ms.saturating_add(wait_ms));
            events::failed(transaction, &owned.0, &owned.1, reason, due_ms, now)
        };
        book.note(&id, Arc::new(change)).await;
        if is_last {
            tracing::warn!(hook, event = id, reason, detail, attempts, "delivery failed; no further attempt");
            job.ticket.end(Err(failure.reason));
            return None;
        }
        tracing::warn!(hook, event = id, reason, detail, ?wait, "delivery attempt failed; will retry");
        job.ticket.pause();
        Some((Instant::now() + wait, job))
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// A job, and when it is due. No kept time makes it wait longer than a retry may.
fn job((waiting, ticket): Handed) -> (Instant, Job) {
    let due = Duration::from_millis(waiting.due_ms.max(0).unsigned_abs());
    let wait = due.saturating_sub(since_1970()).min(backoff::LONGEST);
    (Instant::now() + wait, Job { event: waiting.event, attempts: waiting.attempts, ticket })
}

/// Delivers until the pace changes, or the hook is taken out (`None`): then deliveries in progress end, and no other
/// begins. What is not delivered stays in the store. Another hook in the place of this one makes all later attempts.
pub(super) async fn work(
    mut hook: watch::Receiver<Option<Arc<Hook>>>,
    book: Arc<EventBook>,
    found: Vec<Handed>,
    mut incoming: UnboundedReceiver<Handed>,
    mut pace: watch::Receiver<Pace>,
) {
    // By the time of the next attempt; the number tells equal times apart.
    let mut waiting: BTreeMap<(Instant, u64), Job> = BTreeMap::new();
    let mut in_progress: JoinSet<Again> = JoinSet::new();
    let mut number = 0;
    let mut put = |waiting: &mut BTreeMap<(Instant, u64), Job>, (due, job): (Instant, Job)| {
        number += 1;
        waiting.insert((due, number), job);
    };
    found.into_iter().for_each(|each| put(&mut waiting, job(each)));
    let mut is_open = true;
    loop {
        while let Ok(new) = incoming.try_recv() {
            put(&mut waiting, job(new));
        }
        let current = hook.borrow_and_update().clone();
        if current.is_none() {
            waiting.clear();
        }
        let concurrency = current.as_ref().map_or(0, |hook| hook.config.concurrency);
        while let Some(hook) = &current
            && in_progress.len() < concurrency
            && let Some(entry) = waiting.first_entry()
            && entry.key().0 <= Instant::now()
        {
            let (job, hook, book) = (entry.remove(), Arc::clone(hook), Arc::clone(&book));
            in_progress.spawn(async move { hook.attempt(job, &book).await });
        }
        let next = waiting.first_key_value().map(|((due, _), _)| *due);
        let now = *pace.borrow_and_update();
        let is_done = in_progress.is_empty() && next.is_none_or(|due| due > Instant::now());
        let is_ending = now == Pace::Finish || current.is_none();
        if now == Pace::Abandon || (is_ending && is_done) {
            break;
        }
        let has_place = in_progress.len() < concurrency;
        tokio::select! {
            new = incoming.recv(), if is_open => match new {
                Some(new) => put(&mut waiting, job(new)),
                None => is_open = false,
            },
            Some(ended) = in_progress.join_next() => {
                if let Some(again) = again(ended) {
                    put(&mut waiting, again);
                }
            }
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now).into()), if has_place && next.is_some() => {}
            // The dispatcher, which may change the hook, lives as long as the pace does.
            Ok(()) = hook.changed() => {}
            changed = pace.changed() => {
                if changed.is_err() {
                    break;
                }
            }
        }
    }
    in_progress.shutdown().await;
}

fn again(ended: Result<Again, JoinError>) -> Again {
    ended.unwrap_or_else(|error| {
        tracing::error!(%error, "a bug ended a hook delivery; the next start of the agent will try it again");
        None
    })
}
