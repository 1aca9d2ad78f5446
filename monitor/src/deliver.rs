//! Hooks: receivers of policy events.
//!
//! An event is in the store before a hook sees it, and stays there until every hook delivered it or gave up. Each hook
//! has a worker of its own, so a hook that hangs or fails delays no other hook, no drain and no packet. A receiver may
//! get an event twice, with the same id, if the agent died before it noted the answer.

mod backoff;
pub mod book;
pub mod failure;
pub mod kind;
pub mod kinds;
mod outbox;
pub mod stats;
#[cfg(test)]
pub(crate) mod tests;

use std::{sync::Arc, time::Duration};

use peertally_core::words::SubscriberForm;
use peertally_store::{
    StoreError,
    events::{self, Waiting},
    rusqlite,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

pub use stats::{HookReport, HookStats};

use self::{
    book::EventBook,
    kind::{HookKind, HookTarget},
    outbox::{Hook, Pace},
};

/// A hook as configured.
#[derive(Clone, Debug)]
pub struct HookConfig {
    /// Name in policies and metrics.
    pub name: Arc<str>,
    /// Kind.
    pub kind: &'static HookKind,
    /// Target of the delivery.
    pub target: Arc<dyn HookTarget>,
    /// How the subscriber is named.
    pub subscriber: SubscriberForm,
    /// Time of one attempt.
    pub timeout: Duration,
    /// Attempts after the first.
    pub retries: u32,
    /// Wait before the second attempt.
    pub retry_delay: Duration,
    /// Events that may wait for the hook; beyond them, events are held for a person.
    pub queue: usize,
    /// Concurrent deliveries.
    pub concurrency: usize,
}

/// Why hooks cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("hook `{hook}`: {message}")]
pub struct HookError {
    /// Name of the hook.
    pub hook: Arc<str>,
    /// The problem and the next step.
    pub message: String,
}

/// Owns the workers of all hooks.
#[derive(Debug)]
pub struct Dispatcher {
    book: Arc<EventBook>,
    /// Hooks whose workers have not begun, with what waited for them.
    ready: Vec<(Hook, Vec<Waiting>)>,
    workers: Vec<Worker>,
    /// Workers of hooks that were taken out.
    ending: Vec<JoinHandle<()>>,
    stats: Vec<Arc<HookStats>>,
    pace: watch::Sender<Pace>,
}

/// The worker of one hook.
#[derive(Debug)]
struct Worker {
    stats: Arc<HookStats>,
    /// The hook that makes the next attempts; `None` ends the worker.
    hook: watch::Sender<Option<Arc<Hook>>>,
    task: JoinHandle<()>,
}

/// Other hooks, which are ready to take over.
#[derive(Debug)]
pub struct HookChange {
    /// Hooks in the place of others of their names.
    changed: Vec<Hook>,
    /// Counts of all hooks, in their order.
    stats: Vec<Arc<HookStats>>,
}

impl HookChange {
    /// Counts of all hooks, in their order.
    #[must_use]
    pub fn stats(&self) -> &[Arc<HookStats>] {
        &self.stats
    }
}

fn names(stats: &[Arc<HookStats>]) -> Vec<String> {
    stats.iter().map(|stats| stats.name.to_string()).collect()
}

/// Why the hooks cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// A hook lacks something on this machine.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What waits in the store cannot be read.
    #[error("cannot read what waits in the store: {0}; check the file in `state_dir`")]
    Read(#[from] rusqlite::Error),
}

impl Dispatcher {
    /// Prepares each hook, and reads what waits for it. Delivers and writes nothing.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub fn new(configs: &[HookConfig], book: &Arc<EventBook>) -> Result<Self, DispatchError> {
        let hooks: Vec<Hook> = configs.iter().map(Hook::new).collect::<Result<_, _>>()?;
        book.know_hooks(configs.iter().map(|config| config.name.to_string()).collect());
        let waiting = |hook: &Hook| book.read(|connection| events::waiting(connection, &hook.stats().name));
        let found: Vec<Vec<Waiting>> = hooks.iter().map(waiting).collect::<Result<_, _>>()?;
        let stats = hooks.iter().map(|hook| Arc::clone(hook.stats())).collect();
        let ready = hooks.into_iter().zip(found).collect();
        let pace = watch::channel(Pace::Run).0;
        Ok(Self { book: Arc::clone(book), ready, workers: Vec::new(), ending: Vec::new(), stats, pace })
    }

    /// Begins to deliver, on the current runtime. Nothing can refuse the start after this.
    pub fn begin(&mut self) {
        if let Err(error) = self.book.drop_unknown_hooks() {
            tracing::error!(%error, "what waits for hooks that are not configured waits on; the next start tries again");
        }
        for (hook, found) in std::mem::take(&mut self.ready) {
            self.spawn(hook, found);
        }
    }

    fn spawn(&mut self, hook: Hook, found: Vec<Waiting>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let stats = Arc::clone(hook.stats());
        self.book.connect(Arc::clone(&stats), sender);
        let found = found.into_iter().map(|each| hook.hand(each)).collect();
        let (hook, next) = watch::channel(Some(Arc::new(hook)));
        let task = tokio::spawn(outbox::work(next, Arc::clone(&self.book), found, receiver, self.pace.subscribe()));
        self.workers.push(Worker { stats, hook, task });
    }

    /// Prepares other hooks: those of new names begin, and wait for events; all others go on as they are.
    /// `is_changed` tells whether a hook that stays by its name is another one.
    ///
    /// # Errors
    /// [`HookError`]; then nothing has changed.
    pub fn prepare(
        &mut self,
        configs: &[HookConfig],
        is_changed: impl Fn(&str) -> bool,
    ) -> Result<HookChange, HookError> {
        let (mut added, mut change) = (Vec::new(), HookChange { changed: Vec::new(), stats: Vec::new() });
        for config in configs {
            match self.stats.iter().find(|stats| stats.name == config.name) {
                Some(stats) => {
                    if is_changed(&config.name) {
                        change.changed.push(Hook::going_on(config, Arc::clone(stats))?);
                    }
                    change.stats.push(Arc::clone(stats));
                }
                None => {
                    let hook = Hook::new(config)?;
                    change.stats.push(Arc::clone(hook.stats()));
                    added.push(hook);
                }
            }
        }
        let mut known = names(&self.stats);
        known.extend(names(&change.stats));
        self.book.know_hooks(known);
        added.into_iter().for_each(|hook| self.spawn(hook, Vec::new()));
        Ok(change)
    }

    /// Takes a change into force: nothing more is handed to hooks that are gone. Their deliveries in progress end; what
    /// waits for them fails then.
    pub fn commit(&mut self, change: HookChange) {
        for hook in change.changed {
            hook.adopt();
            if let Some(worker) = self.workers.iter().find(|worker| worker.stats.name == hook.stats().name) {
                worker.hook.send_replace(Some(Arc::new(hook)));
            }
        }
        self.stats = change.stats;
        self.end_others();
    }

    /// Takes a change back that was only prepared.
    pub fn undo(&mut self) {
        self.end_others();
    }

    /// Ends the workers of hooks that are not in force.
    fn end_others(&mut self) {
        self.book.know_hooks(names(&self.stats));
        let is_gone = |worker: &mut Worker| !self.stats.iter().any(|stats| stats.name == worker.stats.name);
        let gone: Vec<Worker> = self.workers.extract_if(.., is_gone).collect();
        if gone.is_empty() {
            return;
        }
        let mut tasks = Vec::new();
        for worker in gone {
            self.book.disconnect_one(&worker.stats.name);
            worker.hook.send_replace(None);
            tasks.push(worker.task);
        }
        let book = Arc::clone(&self.book);
        self.ending.retain(|task| !task.is_finished());
        self.ending.push(tokio::spawn(async move {
            ended(&mut tasks).await;
            let dropped = tokio::task::spawn_blocking(move || book.drop_unknown_hooks()).await;
            if let Ok(Err(error)) = dropped {
                tracing::error!(%error, "what waits for hooks that were taken out waits on; the next start tries again");
            }
        }));
    }

    /// Numbers for metrics and the control socket.
    #[must_use]
    pub fn stats(&self) -> &[Arc<HookStats>] {
        &self.stats
    }

    /// Lets deliveries that are due run for at most `grace`, then ends them. What was not delivered stays in the store
    /// for the next start.
    pub async fn finish(&mut self, grace: Duration) {
        self.book.disconnect();
        // Fails if every worker has ended, which is the aim.
        let _ended = self.pace.send(Pace::Finish);
        let mut workers: Vec<JoinHandle<()>> = self.workers.drain(..).map(|worker| worker.task).collect();
        workers.append(&mut self.ending);
        if tokio::time::timeout(grace, ended(&mut workers)).await.is_err() {
            let _ended = self.pace.send(Pace::Abandon);
            ended(&mut workers).await;
        }
        let open: usize = self.stats.iter().map(|stats| stats.report().waiting()).sum();
        if open > 0 {
            tracing::warn!(open, "the agent ends before all events were delivered; the rest wait in the store");
        }
    }
}

/// Waits for every worker that has not been waited for.
async fn ended(workers: &mut Vec<JoinHandle<()>>) {
    while let Some(worker) = workers.last_mut() {
        // A worker ends early only by a panic; its events wait in the store.
        let _ended = worker.await;
        workers.pop();
    }
}
