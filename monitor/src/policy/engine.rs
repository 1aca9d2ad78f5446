//! Evaluates every policy on what moved in a drain.
//!
//! Policies that measure the same `Quantity` share a history, so the cost of a changed tally depends on the number of quantities
//! that cover it and not on the number of policies or windows. A subscriber's policies are looked at only when it has moved as
//! far as the nearest threshold was away.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Instant, SystemTime},
};

use monitor_common::protocol::Verdict;

use super::{
    Policy, Roster,
    class::Class,
    quantity::{Holdings, Quantity},
    roster::{Owner, TOGETHER},
};
use crate::snapshot::{Change, Snapshot};

/// A policy that fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firing {
    /// Index of the policy.
    pub policy: usize,
    /// Number of the subscriber in the roster.
    pub subscriber: u32,
    /// What the window holds.
    pub value: u64,
    /// What each verdict contributed, largest first; the parts sum to `value`.
    pub parts: Vec<(Verdict, u64)>,
    /// When the oldest traffic of the window may have passed.
    pub window_start: SystemTime,
    /// When the window was read.
    pub window_end: SystemTime,
}

/// How often a policy was met, and what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyCounts {
    /// Events.
    pub fired: u64,
    /// Evaluations at or above the threshold during a cool-down.
    pub cooling: u64,
    /// Evaluations at or above the threshold of an allowed subscriber.
    pub allowed: u64,
}

/// What an evaluation found.
pub type Outcome = Vec<Firing>;

/// The policies and what they remember.
#[derive(Debug)]
pub struct Engine {
    policies: Vec<Arc<Policy>>,
    quantities: Vec<Quantity>,
    /// End of the cool-down of (policy, subscriber).
    cooling: HashMap<(u32, u32), Instant>,
    /// Size of `cooling` at which ended ones are removed.
    sweep_at: usize,
    counts: Vec<PolicyCounts>,
    holdings: Holdings,
}

impl Engine {
    /// An engine that has seen nothing.
    #[must_use]
    pub fn new(policies: Vec<Policy>) -> Self {
        let mut quantities: Vec<Quantity> = Vec::new();
        for (index, policy) in policies.iter().enumerate() {
            let same = |quantity: &Quantity| quantity.metric == policy.metric && quantity.direction == policy.direction;
            let position = quantities.iter().position(same).unwrap_or_else(|| {
                quantities.push(Quantity::new(policy));
                quantities.len() - 1
            });
            quantities[position].include(index, policy);
        }
        let counts = vec![PolicyCounts::default(); policies.len()];
        let policies = policies.into_iter().map(Arc::new).collect();
        Self { policies, quantities, cooling: HashMap::new(), sweep_at: 1024, counts, holdings: Holdings::default() }
    }

    /// The policies, by index.
    #[must_use]
    pub fn policies(&self) -> &[Arc<Policy>] {
        &self.policies
    }

    /// Counts of each policy, by index. They never go down.
    #[must_use]
    pub fn counts(&self) -> &[PolicyCounts] {
        &self.counts
    }

    /// Takes in a drain and says what fired. `roster` has been updated with the snapshot; `reused` is what that returned.
    ///
    /// The first drain after a start is taken as the state to start from: how old its traffic is, is not known.
    pub fn evaluate(&mut self, snapshot: &Snapshot, roster: &Roster, reused: &[u32]) -> Outcome {
        self.begin(snapshot, roster, reused);
        let mut owners = Vec::new();
        for changes in snapshot.changes.chunks(TOGETHER) {
            roster.owners(changes, &mut owners);
            self.take(snapshot, changes, &owners);
        }
        self.end(snapshot, roster)
    }

    /// Begins [`Engine::evaluate`], for callers that do more than one thing with the changes.
    pub(crate) fn begin(&mut self, snapshot: &Snapshot, roster: &Roster, reused: &[u32]) {
        if !snapshot.interval.is_zero() {
            self.quantities.iter_mut().for_each(|quantity| quantity.begin(snapshot, roster, reused));
        }
    }

    /// Goes on with some of the changes, and whose each is.
    pub(crate) fn take(&mut self, snapshot: &Snapshot, changes: &[Change], owners: &[Owner]) {
        if !snapshot.interval.is_zero() {
            self.quantities.iter_mut().for_each(|quantity| quantity.take(changes, owners));
        }
    }

    /// Ends it: what fired.
    pub(crate) fn end(&mut self, snapshot: &Snapshot, roster: &Roster) -> Outcome {
        let mut outcome = Outcome::new();
        for index in 0..self.quantities.len() {
            let candidates = self.quantities[index].candidates();
            for moved in candidates.chunk_by(|left, right| left.0 == right.0) {
                self.judge(index, moved, snapshot, roster, &mut outcome);
            }
            self.quantities[index].end(candidates);
        }
        self.sweep(snapshot.taken);
        outcome
    }

    /// Makes whatever moves next be looked at, however far the thresholds are.
    #[cfg(test)]
    pub(super) fn distrust_limits(&mut self) {
        self.quantities.iter_mut().for_each(Quantity::distrust_limits);
    }

    /// Looks at one subscriber's policies of a quantity that cover what moved.
    fn judge(
        &mut self,
        quantity: usize,
        moved: &[(u32, Class)],
        snapshot: &Snapshot,
        roster: &Roster,
        outcome: &mut Outcome,
    ) {
        let Self { policies, quantities, cooling, counts, holdings, .. } = self;
        let Some((number, _)) = moved.first().copied() else { return };
        let Some(subscriber) = roster.subscriber(number) else { return };
        let block = subscriber.block();
        quantities[quantity].judge(moved, roster, holdings, |met| {
            for (_, index) in met.policies {
                let policy = &policies[*index];
                let counts = &mut counts[*index];
                if policy.allows(&block) {
                    counts.allowed += 1;
                    continue;
                }
                let key = (*index as u32, number);
                if cooling.get(&key).is_some_and(|until| snapshot.taken < *until) {
                    counts.cooling += 1;
                    continue;
                }
                if let Some(until) = snapshot.taken.checked_add(policy.cool_down) {
                    cooling.insert(key, until);
                }
                counts.fired += 1;
                let span = snapshot.taken.saturating_duration_since(met.begun);
                outcome.push(Firing {
                    policy: *index,
                    subscriber: number,
                    value: met.value,
                    parts: met.measure.parts(met.parts),
                    window_start: snapshot.taken_at.checked_sub(span).unwrap_or(snapshot.taken_at),
                    window_end: snapshot.taken_at,
                });
            }
        });
    }

    /// Removes ended cool-downs once there are twice as many as were left the last time.
    fn sweep(&mut self, now: Instant) {
        if self.cooling.len() >= self.sweep_at {
            self.cooling.retain(|_, until| now < *until);
            self.sweep_at = (self.cooling.len() * 2).max(1024);
        }
    }
}
