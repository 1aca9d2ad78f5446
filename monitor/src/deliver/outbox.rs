//! A hook's outbox: takes events from the bounded queue and delivers them, a bounded number at a time, with retries.

use std::sync::Arc;

use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::{JoinError, JoinSet},
};

use super::{
    HookConfig, HookError, Job, backoff,
    kind::{Deliver, Message},
    stats::HookStats,
};

/// A hook that is ready to be called.
#[derive(Debug)]
pub(super) struct Hook {
    config: HookConfig,
    delivery: Box<dyn Deliver>,
    stats: Arc<HookStats>,
}

impl Hook {
    pub(super) fn new(config: &HookConfig) -> Result<Self, HookError> {
        let delivery = config.target.open().map_err(|message| HookError { hook: Arc::clone(&config.name), message })?;
        let stats = HookStats::new(Arc::clone(&config.name), config.kind);
        Ok(Self { config: config.clone(), delivery, stats })
    }

    pub(super) const fn stats(&self) -> &Arc<HookStats> {
        &self.stats
    }

    pub(super) const fn queue(&self) -> usize {
        self.config.queue
    }

    async fn deliver(&self, job: Job) {
        let Job { event, mut ticket } = job;
        ticket.begin();
        let body = event.to_json(self.config.subscriber);
        let hook = &*self.config.name;
        let id = event.id.to_string();
        let message = Message { id: &id, policy: &event.policy.name, body: &body };
        for attempt in 0.. {
            let failure = match self.delivery.attempt(message, self.config.timeout).await {
                Ok(()) => {
                    tracing::info!(hook, event = %id, attempts = attempt + 1, "delivered");
                    return ticket.end(Ok(()));
                }
                Err(failure) => failure,
            };
            self.stats.attempt_failed(failure.reason);
            let reason = failure.reason.label;
            if attempt >= self.config.retries || !failure.reason.is_retried {
                tracing::warn!(
                    hook,
                    event = %id,
                    reason,
                    detail = failure.detail,
                    attempts = attempt + 1,
                    "delivery failed; no further attempt"
                );
                return ticket.end(Err(failure.reason));
            }
            let wait = backoff::delay(self.config.retry_delay, attempt, failure.retry_after, fastrand::f64());
            tracing::warn!(
                hook,
                event = %id,
                reason,
                detail = failure.detail,
                ?wait,
                "delivery attempt failed; will retry"
            );
            tokio::time::sleep(wait).await;
        }
    }
}

/// Delivers until the outbox is closed and empty, or until `abandon` changes. Then it drops the events that wait or are
/// in progress, and returns after their deliveries have ended.
pub(super) async fn work(hook: Arc<Hook>, mut outbox: mpsc::Receiver<Job>, mut abandon: watch::Receiver<bool>) {
    let mut in_progress = JoinSet::new();
    tokio::select! {
        () = deliver_all(&hook, &mut outbox, &mut in_progress) => {}
        _ = abandon.changed() => {}
    }
    in_progress.shutdown().await;
}

async fn deliver_all(hook: &Arc<Hook>, outbox: &mut mpsc::Receiver<Job>, in_progress: &mut JoinSet<()>) {
    let places = Arc::new(Semaphore::new(hook.config.concurrency));
    loop {
        // Take a place first: an event that cannot start yet stays in the bounded outbox.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let Some(job) = outbox.recv().await else { break };
        let hook = Arc::clone(hook);
        in_progress.spawn(async move {
            hook.deliver(job).await;
            drop(place);
        });
        while let Some(ended) = in_progress.try_join_next() {
            log_bug(ended);
        }
    }
    while let Some(ended) = in_progress.join_next().await {
        log_bug(ended);
    }
}

fn log_bug(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a bug ended a hook delivery; its event counts as dropped");
    }
}
