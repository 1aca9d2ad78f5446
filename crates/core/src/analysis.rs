//! Results of a drain: rows for metrics, and policies that fired. Pure: the caller brings clock and identifiers.

mod active;
pub mod node;
pub mod top;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use monitor_common::abi::{
    protocol::Protocol,
    tally::{TallyKey, Totals},
};
use uuid::Uuid;

use active::Active;
use node::{BoundedRows, NodeRows};
use top::{Top, TopRow};

use crate::{
    policy::{
        CHUNK, Policy, PolicyCounts, PolicyEngine, PolicyEvent, Standing, SubscriberIndex, TallyOwner,
        event::EventSource,
        recorder::{KeptMeasures, Measure, Recorder},
    },
    snapshot::Snapshot,
    subscriber::{Pseudonyms, Subscriber},
};

/// Result of one drain, for metrics and the control socket.
#[derive(Clone, Debug)]
pub struct DrainResult {
    /// The drain.
    pub snapshot: Arc<Snapshot>,
    /// Node-level rows, bounded.
    pub node: BoundedRows,
    /// Subscriber blocks that moved, by protocol.
    pub active: Vec<(Protocol, u64)>,
    /// The top subscribers.
    pub top: Vec<TopRow>,
    /// Traffic that has no subscriber because the tally table was full.
    pub catch_all: Totals,
    /// Counts of each policy.
    pub policies: Vec<(Arc<str>, PolicyCounts)>,
    /// Time that the evaluation took. Zero until the caller, who has the clock, sets it.
    pub evaluation: Duration,
}

/// Settings of an [`Analysis`].
#[derive(Clone, Debug)]
pub struct AnalysisOptions {
    /// Policies, in the order of their indexes.
    pub policies: Vec<Policy>,
    /// Rank at which a subscriber is exported; 0 for none.
    pub top_k: usize,
    /// What events say of the node.
    pub source: EventSource,
}

/// State kept from drain to drain.
#[derive(Debug)]
pub struct Analysis {
    subscribers: SubscriberIndex,
    engine: PolicyEngine,
    top: Top,
    node: NodeRows,
    active: Active,
    /// Owners of the changes in the current chunk.
    owners: Vec<TallyOwner>,
    pseudonyms: Pseudonyms,
    source: EventSource,
    recorder: Option<Recorder>,
}

impl Analysis {
    /// An analysis before its first drain.
    #[must_use]
    pub fn new(options: AnalysisOptions, pseudonyms: Pseudonyms) -> Self {
        Self {
            recorder: None,
            engine: PolicyEngine::new(options.policies),
            subscribers: SubscriberIndex::default(),
            top: Top::new(options.top_k),
            node: NodeRows::default(),
            active: Active::default(),
            owners: Vec::with_capacity(CHUNK),
            pseudonyms,
            source: options.source,
        }
    }

    /// Most subscribers that had tallies at once: what is kept for each takes as much memory.
    #[must_use]
    pub fn subscribers_at_once(&self) -> usize {
        self.subscribers.len()
    }

    /// Sets why a policy does not fire for a subscriber; `None`: it may. A policy that fired does not fire again for
    /// the subscriber before the caller said what became of the event.
    pub fn settle(&mut self, policy: &str, subscriber: Subscriber, standing: Option<Standing>) {
        self.engine.settle(policy, subscriber, standing);
    }

    /// Collects what is measured from now on, and goes on with what earlier agents left. `now` and `time` are one point
    /// in time, the latter by the history's clock. Before the first drain; [`Self::restore`] then takes each measure.
    pub fn keep_history(&mut self, (now, time): (Instant, Duration), kept: Option<KeptMeasures>) {
        let windows: Vec<Duration> = self.engine.policies().iter().map(|policy| policy.window).collect();
        let recorder = Recorder::new(&windows, kept, now, time);
        if let Some(kept) = recorder.kept() {
            self.engine.restore(kept, |time| recorder.instant(time));
        }
        self.recorder = Some(recorder);
    }

    /// Takes a measure of an earlier agent, before the first drain.
    pub fn restore(&mut self, measure: &Measure) {
        self.engine.add_restored(measure);
    }

    /// What was measured and is to be committed.
    pub const fn recorder(&mut self) -> Option<&mut Recorder> {
        self.recorder.as_mut()
    }

    /// Watches for a subscriber to fall below the threshold again, after an event that said that it reached it.
    pub fn watch(&mut self, policy: &str, subscriber: Subscriber, event: Uuid) {
        self.engine.watch(policy, subscriber, event);
    }

    /// The policies, by index.
    #[must_use]
    pub fn policies(&self) -> &[Arc<Policy>] {
        self.engine.policies()
    }

    /// Takes over a new key of the pseudonyms, which the analysis shares: subscribers of the top get their new names.
    pub fn rename_subscribers(&mut self) {
        self.top.rename(&self.subscribers, &self.pseudonyms);
    }

    /// Takes other policies and another rank. What goes on keeps what it has measured ([`PolicyEngine::reconfigure`]).
    pub fn reconfigure(&mut self, options: AnalysisOptions) {
        if let Some(recorder) = &mut self.recorder {
            recorder.set_windows(&options.policies.iter().map(|policy| policy.window).collect::<Vec<_>>());
        }
        self.engine.reconfigure(options.policies);
        self.top.set_rank(options.top_k);
        self.source = options.source;
    }

    /// Analyses a drain; returns the result to publish, and an event for each policy that fired, and for
    /// each subscriber who fell below the threshold again. `new_id` makes the
    /// events' identifiers.
    pub fn take(
        &mut self,
        mut snapshot: Snapshot,
        mut new_id: impl FnMut() -> Uuid,
    ) -> (DrainResult, Vec<PolicyEvent>) {
        // Not after the update: what a subscriber had that came back with it stays.
        let forgotten = self.subscribers.release(|number| self.top.has(number));
        self.engine.forget(&forgotten);
        self.top.forget(&forgotten);
        self.active.forget(&forgotten);
        let reused = self.subscribers.update(&snapshot);
        let is_resumed = self.begin_recording(&mut snapshot);
        self.engine.begin(&snapshot, &self.subscribers, &reused);
        self.top.begin(&snapshot, &self.subscribers);
        self.active.begin(&self.subscribers);
        // In chunks: a million changes do not fit into the CPU caches, so each chunk is read once by all parts.
        for changes in snapshot.changes.chunks(CHUNK) {
            self.subscribers.owners(changes, &mut self.owners);
            self.engine.take(&snapshot, changes, &self.owners);
            if let Some(recorder) = &mut self.recorder {
                recorder.take(&snapshot, changes, &self.owners);
            }
            // What was counted while no agent ran counts for windows alone: nobody is active by it.
            if !is_resumed {
                self.top.take(changes, &self.owners);
                self.active.take(&self.owners);
            }
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.end();
        }
        let firings = self.engine.end(&snapshot, &self.subscribers);
        let clearings = self.engine.clear(&snapshot, &self.subscribers);
        self.top.end(&snapshot, &self.subscribers, &self.pseudonyms);
        let mut events: Vec<PolicyEvent> = firings
            .into_iter()
            .filter_map(|firing| {
                let subscriber = *self.subscribers.subscriber(firing.subscriber)?;
                let policy = self.engine.policies().get(firing.policy)?;
                Some(PolicyEvent::new(new_id(), firing, policy, subscriber, &self.pseudonyms, &self.source))
            })
            .collect();
        for clearing in clearings {
            if let Some(policy) = self.engine.policies().get(clearing.now.policy) {
                events.push(PolicyEvent::cleared(new_id(), clearing, policy, &self.pseudonyms, &self.source));
            }
        }
        let top = self.top.rows(&snapshot, &self.subscribers);
        snapshot.changes = Vec::new();
        if is_resumed {
            snapshot.interval = Duration::ZERO;
        }
        let catch_all = snapshot.keys.iter().position(|key| *key == TallyKey::CATCH_ALL);
        let published = DrainResult {
            node: self.node.bound(&snapshot.node),
            active: self.active.rows(),
            top,
            catch_all: catch_all.and_then(|slot| snapshot.totals.get(slot)).copied().unwrap_or_default(),
            policies: self
                .engine
                .policies()
                .iter()
                .zip(self.engine.counts())
                .map(|(policy, counts)| (Arc::clone(&policy.name), *counts))
                .collect(),
            evaluation: Duration::ZERO,
            snapshot: Arc::new(snapshot),
        };
        (published, events)
    }
    /// Begins to record a drain. The first one of an agent gets what was counted since the latest commit of the agent
    /// before, and the time since then; returns whether it did.
    fn begin_recording(&mut self, snapshot: &mut Snapshot) -> bool {
        let Some(recorder) = &mut self.recorder else { return false };
        recorder.correct(snapshot);
        let mut is_resumed = false;
        if snapshot.interval.is_zero()
            && let Some(resumed) = recorder.resume(snapshot, |slot| self.subscribers.owner(slot).is_p2p())
        {
            (snapshot.interval, snapshot.changes) = resumed;
            is_resumed = true;
        }
        if !snapshot.interval.is_zero() {
            let from = snapshot.taken.checked_sub(snapshot.interval).unwrap_or(snapshot.taken);
            recorder.begin(from, snapshot.taken);
        }
        is_resumed
    }
}
