//! What the agent makes of a drain: rows for metrics, and policies that fired. Pure but for the time it takes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use monitor_common::{
    protocol::Protocol,
    tally::{TallyKey, Totals},
};

use crate::{
    config::Resolved,
    metrics::{
        node::{Bounded, NodeRows},
        top::{Top, TopRow},
    },
    policy::{Engine, Event, PolicyCounts, Roster},
    snapshot::Snapshot,
    subscriber::Pseudonyms,
};

/// What metrics and the control socket read of a drain.
#[derive(Clone, Debug)]
pub struct Published {
    /// The drain.
    pub snapshot: Arc<Snapshot>,
    /// Node-level rows, bounded.
    pub node: Bounded,
    /// Subscriber blocks that moved, by protocol.
    pub active: Vec<(Protocol, u64)>,
    /// The top subscribers.
    pub top: Vec<TopRow>,
    /// Traffic that has no subscriber because the tally table was full.
    pub catch_all: Totals,
    /// Counts of each policy.
    pub policies: Vec<(Arc<str>, PolicyCounts)>,
    /// How long the evaluation took.
    pub evaluation: Duration,
}

/// What is remembered from drain to drain.
#[derive(Debug)]
pub struct Analysis {
    roster: Roster,
    engine: Engine,
    top: Top,
    node: NodeRows,
    /// Drain number and protocols of each subscriber's last movement.
    moved: Vec<(u64, u64)>,
    drains: u64,
    pseudonyms: Pseudonyms,
    resolved: Arc<Resolved>,
}

impl Analysis {
    /// One that has seen nothing.
    #[must_use]
    pub fn new(resolved: Arc<Resolved>, pseudonyms: Pseudonyms) -> Self {
        Self {
            roster: Roster::default(),
            engine: Engine::new(resolved.policies.clone()),
            top: Top::new(resolved.top_k),
            node: NodeRows::default(),
            moved: Vec::new(),
            drains: 0,
            pseudonyms,
            resolved,
        }
    }

    /// Takes in a drain; returns what to publish, and each event with the hooks it goes to.
    pub fn take(&mut self, snapshot: Snapshot) -> (Published, Vec<Event>) {
        let begun = Instant::now();
        self.drains += 1;
        let reused = self.roster.update(&snapshot);
        let firings = self.engine.evaluate(&snapshot, &self.roster, &reused);
        let events = firings
            .into_iter()
            .filter_map(|firing| {
                let subscriber = *self.roster.subscriber(firing.subscriber)?;
                let policy = self.engine.policies().get(firing.policy)?;
                let (node, inspection) = (&self.resolved.node, self.resolved.inspection);
                Some(Event::new(firing, policy, subscriber, &self.pseudonyms, node, inspection))
            })
            .collect();
        self.top.update(&snapshot, &self.roster, &self.pseudonyms);
        let top = self.top.rows(&snapshot, &self.roster);
        let catch_all = snapshot.keys.iter().position(|key| *key == TallyKey::CATCH_ALL);
        let published = Published {
            node: self.node.bound(&snapshot.node),
            active: self.active(&snapshot),
            top,
            catch_all: catch_all.and_then(|slot| snapshot.totals.get(slot)).copied().unwrap_or_default(),
            policies: self
                .engine
                .policies()
                .iter()
                .zip(self.engine.counts())
                .map(|(policy, counts)| (Arc::clone(&policy.name), *counts))
                .collect(),
            evaluation: begun.elapsed(),
            snapshot: Arc::new(snapshot),
        };
        (published, events)
    }

    /// Counts the subscribers that moved, by protocol.
    fn active(&mut self, snapshot: &Snapshot) -> Vec<(Protocol, u64)> {
        self.moved.resize(self.roster.len(), (0, 0));
        let mut counts = [0_u64; 64];
        for change in &snapshot.changes {
            let Some(key) = snapshot.keys.get(change.slot as usize) else { continue };
            let Some(moved) = self.moved.get_mut(self.roster.of_slot(change.slot) as usize) else { continue };
            if moved.0 != self.drains {
                *moved = (self.drains, 0);
            }
            let bit = 1_u64.checked_shl(key.protocol.into()).unwrap_or(0);
            if bit != 0 && moved.1 & bit == 0 {
                moved.1 |= bit;
                counts[usize::from(key.protocol)] += 1;
            }
        }
        Protocol::ALL.iter().map(|protocol| (*protocol, counts[*protocol as usize])).collect()
    }
}
