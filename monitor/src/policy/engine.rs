//! Evaluates every policy on what moved in a drain.
//!
//! Policies that measure the same quantity over the same window share one history per tally (a *lane*), so the cost of a
//! changed tally depends on the number of lanes that cover it and not on the number of policies. A subscriber's policies
//! are looked at only when an upper bound of its sum reaches the least threshold that could fire.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use monitor_common::{
    protocol::{CONFIDENCE_SLOTS, Confidence, PROTOCOL_SLOTS, Protocol, Verdict},
    tally::{TallyKey, Totals},
};

use super::{Policy, ProtocolSet, Roster, history::History, roster::NOBODY};
use crate::{
    config::choices::{Metric, PolicyDirection},
    snapshot::Snapshot,
};

/// Number of (protocol, confidence) pairs.
const CLASSES: usize = PROTOCOL_SLOTS * CONFIDENCE_SLOTS;

/// Changes that all lanes take in before any takes the next: few enough to stay in the caches.
const TOGETHER: usize = 2048;

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

/// Policies that cover the same verdicts within a lane.
#[derive(Debug)]
struct Measure {
    protocols: ProtocolSet,
    min_confidence: Confidence,
    /// Threshold and policy index, least threshold first.
    policies: Vec<(u64, usize)>,
}

/// Policies that measure the same quantity over the same window.
#[derive(Debug)]
struct Lane {
    window: Duration,
    metric: Metric,
    direction: PolicyDirection,
    measures: Vec<Measure>,
    /// Least threshold of the policies that cover a class; `u64::MAX` if none does.
    least: Box<[u64; CLASSES]>,
    history: History,
    /// At least what the window holds of each subscriber's covered tallies.
    bound: Vec<u64>,
    /// Subscribers that may reach a threshold, and the class that moved.
    candidates: Vec<(u32, usize)>,
}

/// The policies and what they remember.
#[derive(Debug)]
pub struct Engine {
    policies: Vec<Arc<Policy>>,
    lanes: Vec<Lane>,
    /// End of the cool-down of (policy, subscriber).
    cooling: HashMap<(u32, u32), Instant>,
    /// Size of `cooling` at which ended ones are removed.
    sweep_at: usize,
    counts: Vec<PolicyCounts>,
    scratch: Vec<(Verdict, u64)>,
    /// Subscriber and class of each of the changes that are being taken in.
    owners: Vec<(u32, usize)>,
}

impl Engine {
    /// An engine that has seen nothing.
    #[must_use]
    pub fn new(policies: Vec<Policy>) -> Self {
        let mut lanes: Vec<Lane> = Vec::new();
        for (index, policy) in policies.iter().enumerate() {
            let same = |lane: &Lane| {
                lane.window == policy.window && lane.metric == policy.metric && lane.direction == policy.direction
            };
            let position = lanes.iter().position(same).unwrap_or_else(|| {
                lanes.push(Lane::new(policy));
                lanes.len() - 1
            });
            lanes[position].include(index, policy);
        }
        let counts = vec![PolicyCounts::default(); policies.len()];
        let policies = policies.into_iter().map(Arc::new).collect();
        Self {
            policies,
            lanes,
            cooling: HashMap::new(),
            sweep_at: 1024,
            counts,
            scratch: Vec::new(),
            owners: Vec::with_capacity(TOGETHER),
        }
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
        let mut outcome = Outcome::new();
        if self.lanes.is_empty() || snapshot.interval.is_zero() {
            return outcome;
        }
        let from = snapshot.taken.checked_sub(snapshot.interval).unwrap_or(snapshot.taken);
        for lane in &mut self.lanes {
            lane.history.advance(from, snapshot.taken);
            lane.bound.resize(roster.len(), 0);
            reused.iter().for_each(|slot| lane.history.forget(*slot));
        }
        // Some changes at a time, so that whose they are is looked up once for all lanes; and then lane by lane, so that what one
        // keeps of a million tallies is written in order.
        for changes in snapshot.changes.chunks(TOGETHER) {
            self.owners.clear();
            self.owners.extend(changes.iter().map(|change| {
                let key = snapshot.keys.get(change.slot as usize);
                key.map_or((NOBODY, 0), |key| (roster.of_slot(change.slot), class_of(key)))
            }));
            for lane in &mut self.lanes {
                for (change, (subscriber, class)) in changes.iter().zip(&self.owners) {
                    if *subscriber != NOBODY && lane.least[*class] != u64::MAX {
                        lane.take(change.slot, *subscriber, *class, &change.delta);
                    }
                }
            }
        }
        for index in 0..self.lanes.len() {
            let mut candidates = std::mem::take(&mut self.lanes[index].candidates);
            candidates.sort_unstable();
            for same in candidates.chunk_by(|left, right| left.0 == right.0) {
                self.judge(index, same, snapshot, roster, &mut outcome);
            }
            candidates.clear();
            self.lanes[index].candidates = candidates;
        }
        self.sweep(snapshot.taken);
        outcome
    }

    /// Looks at the policies of one lane that cover what moved of one subscriber: (its number, class) of each.
    fn judge(
        &mut self,
        lane: usize,
        moved: &[(u32, usize)],
        snapshot: &Snapshot,
        roster: &Roster,
        outcome: &mut Outcome,
    ) {
        let lane = &mut self.lanes[lane];
        let Some((number, _)) = moved.first().copied() else { return };
        let Some(subscriber) = roster.subscriber(number) else { return };
        self.scratch.clear();
        let mut covered: u64 = 0;
        for slot in roster.slots(number) {
            let Some(key) = roster.key(slot) else { continue };
            let amount = lane.history.sum(slot);
            if amount == 0 || lane.least[class_of(key)] == u64::MAX {
                continue;
            }
            covered = covered.saturating_add(amount);
            if let Some(verdict) = verdict_of(key) {
                self.scratch.push((verdict, amount));
            }
        }
        lane.bound[number as usize] = covered;
        let has_moved = |measure: &&Measure| moved.iter().any(|(_, class)| measure.covers(*class));
        for measure in lane.measures.iter().filter(has_moved) {
            let value = measure.value(&self.scratch);
            let met = measure.policies.partition_point(|(threshold, _)| *threshold <= value);
            for (_, index) in &measure.policies[..met] {
                let policy = &self.policies[*index];
                let counts = &mut self.counts[*index];
                if policy.allows(&subscriber.block()) {
                    counts.allowed += 1;
                    continue;
                }
                let key = (*index as u32, number);
                if self.cooling.get(&key).is_some_and(|until| snapshot.taken < *until) {
                    counts.cooling += 1;
                    continue;
                }
                if let Some(until) = snapshot.taken.checked_add(policy.cool_down) {
                    self.cooling.insert(key, until);
                }
                counts.fired += 1;
                let begin = lane.history.begin().unwrap_or(snapshot.taken);
                let span = snapshot.taken.saturating_duration_since(begin);
                outcome.push(Firing {
                    policy: *index,
                    subscriber: number,
                    value,
                    parts: measure.parts(&self.scratch),
                    window_start: snapshot.taken_at.checked_sub(span).unwrap_or(snapshot.taken_at),
                    window_end: snapshot.taken_at,
                });
            }
        }
    }

    /// Removes ended cool-downs once there are twice as many as were left the last time.
    fn sweep(&mut self, now: Instant) {
        if self.cooling.len() >= self.sweep_at {
            self.cooling.retain(|_, until| now < *until);
            self.sweep_at = (self.cooling.len() * 2).max(1024);
        }
    }
}

impl Lane {
    fn new(policy: &Policy) -> Self {
        Self {
            window: policy.window,
            metric: policy.metric,
            direction: policy.direction,
            measures: Vec::new(),
            least: Box::new([u64::MAX; CLASSES]),
            history: History::new(policy.window),
            bound: Vec::new(),
            candidates: Vec::new(),
        }
    }

    fn include(&mut self, index: usize, policy: &Policy) {
        for protocol in policy.protocols.iter() {
            for confidence in Confidence::ALL.iter().filter(|tier| **tier >= policy.min_confidence) {
                let least = &mut self.least[class(protocol as u8, *confidence as u8)];
                *least = (*least).min(policy.threshold);
            }
        }
        let same = |measure: &Measure| {
            measure.protocols == policy.protocols && measure.min_confidence == policy.min_confidence
        };
        let position = self.measures.iter().position(same).unwrap_or_else(|| {
            let (protocols, min_confidence) = (policy.protocols, policy.min_confidence);
            self.measures.push(Measure { protocols, min_confidence, policies: Vec::new() });
            self.measures.len() - 1
        });
        let policies = &mut self.measures[position].policies;
        policies.push((policy.threshold, index));
        policies.sort_unstable();
    }

    /// Adds what moved; the subscriber becomes a candidate if some policy of the class might fire.
    fn take(&mut self, slot: u32, subscriber: u32, class: usize, delta: &Totals) {
        let amount = amount(self.metric, self.direction, delta);
        if amount == 0 || !self.history.is_open() {
            return;
        }
        self.history.add(slot, amount);
        let bound = &mut self.bound[subscriber as usize];
        *bound = bound.saturating_add(amount);
        if *bound >= self.least[class] {
            self.candidates.push((subscriber, class));
        }
    }
}

impl Measure {
    fn counts(&self, verdict: Verdict) -> bool {
        verdict.confidence >= self.min_confidence && self.protocols.contains(verdict.protocol)
    }

    fn covers(&self, class: usize) -> bool {
        let protocol = Protocol::from_number((class / CONFIDENCE_SLOTS) as u8);
        let confidence = Confidence::from_number((class % CONFIDENCE_SLOTS) as u8);
        matches!((protocol, confidence), (Some(protocol), Some(confidence)) if self.counts(Verdict { protocol, confidence }))
    }

    fn value(&self, parts: &[(Verdict, u64)]) -> u64 {
        parts.iter().filter(|(verdict, _)| self.counts(*verdict)).fold(0, |sum, (_, part)| sum.saturating_add(*part))
    }

    fn parts(&self, parts: &[(Verdict, u64)]) -> Vec<(Verdict, u64)> {
        let mut own: Vec<_> = parts.iter().copied().filter(|(verdict, _)| self.counts(*verdict)).collect();
        own.sort_by_key(|(verdict, part)| (std::cmp::Reverse(*part), verdict.protocol, verdict.confidence));
        own
    }
}

/// Index of a (protocol, confidence) pair; numbers out of range share the pair that no policy covers.
fn class(protocol: u8, confidence: u8) -> usize {
    let (protocol, confidence) = (usize::from(protocol), usize::from(confidence));
    if protocol < PROTOCOL_SLOTS && confidence < CONFIDENCE_SLOTS {
        protocol * CONFIDENCE_SLOTS + confidence
    } else {
        0
    }
}

fn class_of(key: &TallyKey) -> usize {
    class(key.protocol, key.confidence)
}

fn verdict_of(key: &TallyKey) -> Option<Verdict> {
    let protocol = Protocol::from_number(key.protocol)?;
    let confidence = Confidence::from_number(key.confidence)?;
    Some(Verdict { protocol, confidence })
}

/// What a policy measures of a change.
fn amount(metric: Metric, direction: PolicyDirection, delta: &Totals) -> u64 {
    let (up, down) = match metric {
        Metric::Bytes => (delta.bytes_up, delta.bytes_down),
        Metric::Packets => (delta.packets_up, delta.packets_down),
        Metric::Flows => return delta.flows,
    };
    match direction {
        PolicyDirection::Up => up,
        PolicyDirection::Down => down,
        PolicyDirection::Both => up.saturating_add(down),
    }
}
