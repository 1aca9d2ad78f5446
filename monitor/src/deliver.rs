//! Hooks: receivers of policy events.
//!
//! Each hook has an outbox (a bounded queue) and its own workers, so a hook that hangs or fails delays no other hook,
//! no drain and no packet. Every event handed in ends in exactly one count: delivered, failed by reason, or dropped by
//! reason.

mod backoff;
pub mod failure;
pub mod kind;
pub mod kinds;
mod outbox;
pub mod stats;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use peertally_core::{policy::PolicyEvent, words::SubscriberForm};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

pub use stats::{HookReport, HookStats};

use self::{
    kind::{HookKind, HookTarget},
    outbox::Hook,
    stats::Ticket,
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
    /// Events that may wait in the outbox.
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

/// One event for one hook.
struct Job {
    event: Arc<PolicyEvent>,
    ticket: Ticket,
}

/// Owns the outboxes and workers of all hooks.
#[derive(Debug)]
pub struct Dispatcher {
    outboxes: Vec<mpsc::Sender<Job>>,
    workers: Vec<JoinHandle<()>>,
    stats: Vec<Arc<HookStats>>,
    abandon: watch::Sender<bool>,
}

impl Dispatcher {
    /// Starts the workers of each hook on the current runtime.
    ///
    /// # Errors
    /// [`HookError`] if a hook lacks something on this machine, such as certificate authorities.
    pub fn start(configs: &[HookConfig]) -> Result<Self, HookError> {
        let mut dispatcher =
            Self { outboxes: Vec::new(), workers: Vec::new(), stats: Vec::new(), abandon: watch::channel(false).0 };
        let hooks: Vec<Hook> = configs.iter().map(Hook::new).collect::<Result<_, _>>()?;
        for hook in hooks {
            let stats = Arc::clone(hook.stats());
            let (sender, receiver) = mpsc::channel(hook.queue());
            dispatcher.outboxes.push(sender);
            dispatcher.stats.push(stats);
            let abandon = dispatcher.abandon.subscribe();
            dispatcher.workers.push(tokio::spawn(outbox::work(Arc::new(hook), receiver, abandon)));
        }
        Ok(dispatcher)
    }

    /// Hands an event to a hook; never waits. If the outbox is full, the event is dropped and counted.
    pub fn send(&self, hook: usize, event: &Arc<PolicyEvent>) {
        let (Some(outbox), Some(stats)) = (self.outboxes.get(hook), self.stats.get(hook)) else { return };
        match outbox.try_reserve() {
            Ok(place) => place.send(Job { event: Arc::clone(event), ticket: stats.open() }),
            Err(_) => {
                stats.refuse();
                tracing::warn!(hook = &*stats.name, event = %event.id, "the hook's outbox is full; the event is dropped");
            }
        }
    }

    /// Numbers for metrics and the control socket.
    #[must_use]
    pub fn stats(&self) -> &[Arc<HookStats>] {
        &self.stats
    }

    /// Lets waiting deliveries run for at most `grace`, then ends them. Events that were not delivered count as
    /// dropped.
    pub async fn finish(self, grace: Duration) {
        drop(self.outboxes);
        let mut workers = self.workers;
        if tokio::time::timeout(grace, ended(&mut workers)).await.is_err() {
            let open: usize = self.stats.iter().map(|stats| stats.report().waiting()).sum();
            tracing::warn!(open, "the agent ends before all events were delivered; the rest are dropped");
            // Fails if every worker has ended, which is the aim.
            let _ended = self.abandon.send(true);
            ended(&mut workers).await;
        }
    }
}

/// Waits for every worker that has not been waited for.
async fn ended(workers: &mut Vec<JoinHandle<()>>) {
    while let Some(worker) = workers.last_mut() {
        // A worker ends early only by a panic; dropped tickets have counted its events.
        let _ended = worker.await;
        workers.pop();
    }
}
