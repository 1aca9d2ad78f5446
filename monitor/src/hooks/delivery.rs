//! Takes events from a hook's queue and delivers them, a bounded number at a time, with retries.

use std::sync::Arc;

use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::{JoinError, JoinSet},
};

use super::{Failure, HookConfig, HookError, Job, Target, backoff, exec, stats::HookStats, webhook::Client};

/// A hook that is ready to be called.
#[derive(Debug)]
pub(super) struct Hook {
    config: HookConfig,
    client: Option<Client>,
    stats: Arc<HookStats>,
}

impl Hook {
    pub(super) fn new(config: &HookConfig) -> Result<Self, HookError> {
        let client = match &config.target {
            Target::Exec { .. } => None,
            Target::Webhook(endpoint) => {
                Some(Client::new(endpoint).map_err(|message| HookError { hook: Arc::clone(&config.name), message })?)
            }
        };
        Ok(Self { config: config.clone(), client, stats: HookStats::new(Arc::clone(&config.name)) })
    }

    pub(super) const fn stats(&self) -> &Arc<HookStats> {
        &self.stats
    }

    pub(super) const fn queue(&self) -> usize {
        self.config.queue
    }

    async fn attempt(&self, job: &Job, body: &[u8]) -> Result<(), Failure> {
        let limit = self.config.timeout;
        match (&self.config.target, &self.client) {
            (Target::Exec { program, arguments }, _) => {
                let id = job.event.id.to_string();
                exec::run(
                    program,
                    arguments,
                    &[("PEERTALLY_EVENT_ID", &id), ("PEERTALLY_POLICY", &job.event.policy.name)],
                    body,
                    limit,
                )
                .await
            }
            (Target::Webhook(endpoint), Some(client)) => {
                client.post(endpoint, &job.event.id.to_string(), body, limit).await
            }
            (Target::Webhook(_), None) => unreachable!("a webhook hook is made with its client"),
        }
    }

    async fn deliver(&self, mut job: Job) {
        job.ticket.begin();
        let body = job.event.to_json(self.config.subscriber);
        let hook = &*self.config.name;
        let event = job.event.id;
        for attempt in 0.. {
            let failure = match self.attempt(&job, &body).await {
                Ok(()) => {
                    tracing::info!(hook, %event, attempts = attempt + 1, "delivered");
                    return job.ticket.end(Ok(()));
                }
                Err(failure) => failure,
            };
            self.stats.attempt_failed(failure.reason);
            let reason = failure.reason.label();
            if attempt >= self.config.retries || failure.reason == super::FailureReason::Rejected {
                tracing::warn!(hook, %event, reason, detail = failure.detail, attempts = attempt + 1, "given up");
                return job.ticket.end(Err(failure.reason));
            }
            let wait = backoff::delay(self.config.retry_delay, attempt, failure.retry_after, fastrand::f64());
            tracing::warn!(hook, %event, reason, detail = failure.detail, ?wait, "failed; will try again");
            tokio::time::sleep(wait).await;
        }
    }
}

/// Delivers until the queue is closed and empty, or until `abandon` changes: then what waits or is under way is dropped,
/// and this returns when all of it has ended.
pub(super) async fn work(hook: Arc<Hook>, mut queue: mpsc::Receiver<Job>, mut abandon: watch::Receiver<bool>) {
    let mut under_way = JoinSet::new();
    tokio::select! {
        () = deliver_all(&hook, &mut queue, &mut under_way) => {}
        _ = abandon.changed() => {}
    }
    under_way.shutdown().await;
}

async fn deliver_all(hook: &Arc<Hook>, queue: &mut mpsc::Receiver<Job>, under_way: &mut JoinSet<()>) {
    let places = Arc::new(Semaphore::new(hook.config.concurrency));
    loop {
        // The place comes first: an event that cannot start yet stays in the queue, where it is bounded.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let Some(job) = queue.recv().await else { break };
        let hook = Arc::clone(hook);
        under_way.spawn(async move {
            hook.deliver(job).await;
            drop(place);
        });
        while let Some(ended) = under_way.try_join_next() {
            tell_bug(ended);
        }
    }
    while let Some(ended) = under_way.join_next().await {
        tell_bug(ended);
    }
}

fn tell_bug(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a hook delivery ended by a bug; its event counts as dropped");
    }
}
