//! Evaluates every policy on what moved in a drain.
//!
//! Policies with one metric and direction form a `MetricGroup` and share a history. The cost of a changed tally
//! therefore depends on the number of groups that cover it, not on the number of policies or windows. A subscriber's
//! policies are evaluated only after its counters moved by at least the distance to the nearest threshold.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use monitor_common::abi::{protocol::Verdict, remotes::RemoteSet, tally::Totals};
use uuid::Uuid;

use super::{
    Policy, SubscriberIndex,
    metric_group::{MetricGroup, PolicyAmounts, WindowSums},
    recorder::{KeptMeasures, Measure},
    subscriber_index::TallyOwner,
    verdict_index::VerdictIndex,
};
use crate::{
    snapshot::{Snapshot, TallyChange},
    subscriber::Subscriber,
};

/// A policy that fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firing {
    /// Index of the policy.
    pub policy: usize,
    /// Number of the subscriber in the [`SubscriberIndex`].
    pub subscriber: u32,
    /// Amount in the window.
    pub value: u64,
    /// Contribution of each verdict, largest first; the parts sum to `value`.
    pub parts: Vec<(Verdict, u64)>,
    /// Totals of the policy's protocols in the window, whatever its metric and direction.
    pub totals: Totals,
    /// Hosts that the flows of the policy's protocols went to in the window.
    pub remotes: RemoteSet,
    /// When the oldest traffic of the window may have passed.
    pub window_start: SystemTime,
    /// When the window was read.
    pub window_end: SystemTime,
}

/// Why a policy does not fire for a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// An event waits to be delivered, or for a person.
    Pending,
    /// An event was delivered; it may fire again at this time.
    Cooling(Instant),
}

/// Counts of a policy's evaluations at or above the threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyCounts {
    /// Events.
    pub fired: u64,
    /// Events that said that a subscriber fell below the threshold again.
    pub cleared: u64,
    /// Evaluations at or above the threshold during a cool-down.
    pub cooling: u64,
    /// Evaluations at or above the threshold while an event of that subscriber waits.
    pub pending: u64,
    /// Evaluations at or above the threshold of an allowed subscriber.
    pub allowed: u64,
}

/// A subscriber that fell below the threshold of a policy again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clearing {
    /// What is in the window now. The number of the subscriber is [`u32::MAX`] if it has no tally.
    pub now: Firing,
    /// The subscriber.
    pub subscriber: Subscriber,
    /// The event that said that it reached the threshold.
    pub fired: Uuid,
}

/// Part of the threshold, in percent, below which a subscriber counts as having fallen below it. Whoever stays near the
/// threshold makes no event at each drain.
const CLEARED_PERCENT: u128 = 80;

/// The policies with their state.
#[derive(Debug)]
pub struct PolicyEngine {
    policies: Vec<Arc<Policy>>,
    groups: Vec<MetricGroup>,
    /// Why a policy does not fire for a subscriber, whose number another run of the agent does not know.
    standings: HashMap<(usize, Subscriber), Standing>,
    /// Events whose subscribers have not fallen below the threshold since.
    active: HashMap<(usize, Subscriber), Uuid>,
    /// Size of `standings` at which ended cool-downs are removed.
    sweep_at: usize,
    counts: Vec<PolicyCounts>,
    window_sums: WindowSums,
}

impl PolicyEngine {
    /// An engine that has seen nothing.
    #[must_use]
    pub fn new(policies: Vec<Policy>) -> Self {
        let mut groups: Vec<MetricGroup> = Vec::new();
        regroup(&mut groups, &policies);
        let counts = vec![PolicyCounts::default(); policies.len()];
        let policies = policies.into_iter().map(Arc::new).collect();
        Self {
            policies,
            groups,
            standings: HashMap::new(),
            active: HashMap::new(),
            sweep_at: 1024,
            counts,
            window_sums: WindowSums::default(),
        }
    }

    /// Takes other policies. One that stays, by its name, keeps its counts, its cool-downs and
    /// the events that wait. Windows of equal metric,
    /// direction and length go on with what they have measured; others start now.
    pub fn reconfigure(&mut self, policies: Vec<Policy>) {
        let place = |name: &str| policies.iter().position(|policy| *policy.name == *name);
        let places: Vec<Option<usize>> = self.policies.iter().map(|policy| place(&policy.name)).collect();
        let standings = std::mem::take(&mut self.standings);
        let moved = |((policy, subscriber), standing): ((usize, Subscriber), Standing)| {
            let place = places.get(policy).copied().flatten()?;
            Some(((place, subscriber), standing))
        };
        self.standings = standings.into_iter().filter_map(moved).collect();
        // What measures something else now cannot say whether the subscriber fell below.
        let active = std::mem::take(&mut self.active);
        let goes_on = |((policy, subscriber), event): ((usize, Subscriber), Uuid)| {
            let place = places.get(policy).copied().flatten()?;
            (policies[place].measures() == self.policies[policy].measures()).then_some(((place, subscriber), event))
        };
        self.active = active.into_iter().filter_map(goes_on).collect();
        let mut counts = vec![PolicyCounts::default(); policies.len()];
        for (place, count) in places.iter().zip(&self.counts) {
            if let Some(place) = place {
                counts[*place] = *count;
            }
        }
        self.counts = counts;
        regroup(&mut self.groups, &policies);
        self.policies = policies.into_iter().map(Arc::new).collect();
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

    /// Sets why a policy does not fire for a subscriber; `None`: it may. The evaluation makes each subscriber
    /// that fired [`Standing::Pending`], until the caller knows what became of the event.
    pub fn settle(&mut self, policy: &str, subscriber: Subscriber, standing: Option<Standing>) {
        let Some(index) = self.policies.iter().position(|each| &*each.name == policy) else { return };
        match standing {
            Some(standing) => self.standings.insert((index, subscriber), standing),
            None => self.standings.remove(&(index, subscriber)),
        };
    }

    /// Takes the spans that earlier agents left, before the first drain; [`Self::add_restored`] takes the measures.
    pub(crate) fn restore(&mut self, kept: &KeptMeasures, instant: impl Fn(Duration) -> Instant) {
        let spans: Vec<_> =
            kept.spans.iter().map(|span| (span.number, instant(span.begun), instant(span.ended))).collect();
        for group in &mut self.groups {
            group.restore(&spans, |window| kept.begins(window).map(&instant).collect());
        }
    }

    /// Takes a measure of an earlier agent.
    pub(crate) fn add_restored(&mut self, measure: &Measure) {
        self.groups.iter_mut().for_each(|group| group.add_restored(measure));
    }

    /// Watches for a subscriber to fall below the threshold again, after an event that said that it reached it.
    pub fn watch(&mut self, policy: &str, subscriber: Subscriber, event: Uuid) {
        if let Some(index) = self.policies.iter().position(|each| &*each.name == policy) {
            self.active.insert((index, subscriber), event);
        }
    }

    /// Whoever of those that are watched has fallen below, in the order of policies and subscribers.
    pub(crate) fn clear(&mut self, snapshot: &Snapshot, subscribers: &SubscriberIndex) -> Vec<Clearing> {
        let Self { policies, groups, active, counts, window_sums, .. } = self;
        let mut clearings = Vec::new();
        active.retain(|(index, subscriber), fired| {
            let policy = &policies[*index];
            let same = |group: &&mut MetricGroup| group.metric == policy.metric && group.direction == policy.direction;
            let Some(group) = groups.iter_mut().find(same) else { return true };
            let read = group.read_policy(*index, subscriber, subscribers, window_sums, snapshot.taken);
            let Some(PolicyAmounts { begun, value, parts, sum }) = read else { return true };
            if u128::from(value) * 100 >= u128::from(policy.threshold) * CLEARED_PERCENT {
                return true;
            }
            counts[*index].cleared += 1;
            let span = snapshot.taken.saturating_duration_since(begun);
            let now = Firing {
                policy: *index,
                subscriber: subscribers.number_of(subscriber).unwrap_or(u32::MAX),
                value,
                parts,
                totals: sum.totals,
                remotes: sum.remotes,
                window_start: snapshot.taken_at.checked_sub(span).unwrap_or(snapshot.taken_at),
                window_end: snapshot.taken_at,
            };
            clearings.push(Clearing { now, subscriber: *subscriber, fired: *fired });
            false
        });
        clearings.sort_unstable_by_key(|clearing| (clearing.now.policy, clearing.subscriber));
        clearings
    }

    /// Begins the evaluation of a drain. `subscribers` was updated with the snapshot; `reused` is the result of that.
    ///
    /// The first drain after a start is the baseline, because the age of its traffic is unknown.
    pub(crate) fn begin(&mut self, snapshot: &Snapshot, subscribers: &SubscriberIndex, reused: &[u32]) {
        if !snapshot.interval.is_zero() {
            self.groups.iter_mut().for_each(|group| group.begin(snapshot, subscribers, reused));
        }
    }

    /// Forgets subscribers, whose numbers others get.
    pub(crate) fn forget(&mut self, numbers: &[u32]) {
        self.groups.iter_mut().for_each(|group| group.forget(numbers));
    }

    /// Continues with a part of the changes and their owners.
    pub(crate) fn take(&mut self, snapshot: &Snapshot, changes: &[TallyChange], owners: &[TallyOwner]) {
        if !snapshot.interval.is_zero() {
            self.groups.iter_mut().for_each(|group| group.take(changes, owners));
        }
    }

    /// Ends the evaluation of a drain; returns the policies that fired.
    pub(crate) fn end(&mut self, snapshot: &Snapshot, subscribers: &SubscriberIndex) -> Vec<Firing> {
        let mut firings = Vec::new();
        for index in 0..self.groups.len() {
            let candidates = self.groups[index].candidates();
            for moved in candidates.chunk_by(|left, right| left.0 == right.0) {
                self.evaluate_policies(index, moved, snapshot, subscribers, &mut firings);
            }
            self.groups[index].end(candidates);
        }
        self.sweep(snapshot.taken);
        firings
    }

    /// Forces an evaluation at the next change, however far the thresholds are.
    #[cfg(test)]
    pub(super) fn ignore_limits(&mut self) {
        self.groups.iter_mut().for_each(MetricGroup::ignore_limits);
    }

    /// Evaluates the policies of one group and one subscriber that cover a changed verdict.
    fn evaluate_policies(
        &mut self,
        group: usize,
        moved: &[(u32, VerdictIndex)],
        snapshot: &Snapshot,
        subscribers: &SubscriberIndex,
        firings: &mut Vec<Firing>,
    ) {
        let Self { policies, groups, standings, counts, window_sums, .. } = self;
        let Some((number, _)) = moved.first().copied() else { return };
        let Some(subscriber) = subscribers.subscriber(number).copied() else { return };
        let block = subscriber.block();
        groups[group].evaluate_policies(moved, subscribers, window_sums, |breach| {
            for (_, index) in breach.policies {
                let policy = &policies[*index];
                let counts = &mut counts[*index];
                if policy.allows(&block) {
                    counts.allowed += 1;
                    continue;
                }
                match standings.get(&(*index, subscriber)) {
                    Some(Standing::Pending) => {
                        counts.pending += 1;
                        continue;
                    }
                    Some(Standing::Cooling(until)) if snapshot.taken < *until => {
                        counts.cooling += 1;
                        continue;
                    }
                    _ => standings.insert((*index, subscriber), Standing::Pending),
                };
                counts.fired += 1;
                let span = snapshot.taken.saturating_duration_since(breach.begun);
                firings.push(Firing {
                    policy: *index,
                    subscriber: number,
                    value: breach.value,
                    parts: breach.policy_group.parts(breach.parts),
                    totals: breach.sum.totals,
                    remotes: breach.sum.remotes,
                    window_start: snapshot.taken_at.checked_sub(span).unwrap_or(snapshot.taken_at),
                    window_end: snapshot.taken_at,
                });
            }
        });
    }

    /// Removes ended cool-downs once the table is twice as large as after the last removal.
    fn sweep(&mut self, now: Instant) {
        if self.standings.len() >= self.sweep_at {
            self.standings.retain(|_, standing| match standing {
                Standing::Pending => true,
                Standing::Cooling(until) => now < *until,
            });
            self.sweep_at = (self.standings.len() * 2).max(1024);
        }
    }
}

/// Groups policies anew; what the groups and windows that are still needed have measured stays.
fn regroup(groups: &mut Vec<MetricGroup>, policies: &[Policy]) {
    groups.iter_mut().for_each(MetricGroup::clear_policies);
    for (index, policy) in policies.iter().enumerate() {
        let same = |group: &MetricGroup| group.metric == policy.metric && group.direction == policy.direction;
        let position = groups.iter().position(same).unwrap_or_else(|| {
            groups.push(MetricGroup::new(policy));
            groups.len() - 1
        });
        groups[position].include(index, policy);
    }
    groups.retain_mut(MetricGroup::drop_unused_windows);
}
