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
    workers: Vec<JoinHandle<()>>,
    stats: Vec<Arc<HookStats>>,
    pace: watch::Sender<Pace>,
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
        Ok(Self { book: Arc::clone(book), ready, workers: Vec::new(), stats, pace: watch::channel(Pace::Run).0 })
    }

    /// Begins to deliver, on the current runtime. Nothing can refuse the start after this.
    pub fn begin(&mut self) {
        if let Err(error) = self.book.drop_unknown_hooks() {
            tracing::error!(%error, "what waits for hooks that are not configured waits on; the next start tries again");
        }
        for (hook, found) in std::mem::take(&mut self.ready) {
            let (sender, receiver) = mpsc::unbounded_channel();
            self.book.connect(Arc::clone(hook.stats()), sender);
            let pace = self.pace.subscribe();
            let found = found.into_iter().map(|each| hook.hand(each)).collect();
            self.workers.push(tokio::spawn(outbox::work(
                Arc::new(hook),
                Arc::clone(&self.book),
                found,
                receiver,
                pace,
            )));
        }
    }

    /// Numbers for metrics and the control socket.
    #[must_use]
    pub fn stats(&self) -> &[Arc<HookStats>] {
        &self.stats
    }

    /// Lets deliveries that are due run for at most `grace`, then ends them. What was not delivered stays in the store
    /// for the next start.
    pub async fn finish(self, grace: Duration) {
        self.book.disconnect();
        // Fails if every worker has ended, which is the aim.
        let _ended = self.pace.send(Pace::Finish);
        let mut workers = self.workers;
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
