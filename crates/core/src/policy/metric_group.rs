//! Policies that measure one metric in one direction, and the history of the tallies that they cover.
//!
//! All windows of a group share one history and one test per change: did the subscriber count enough since its last
//! evaluation for a policy that covers the change to fire? The cost of a change therefore does not grow with the number
//! of policies or windows.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use monitor_common::abi::{
    protocol::{Confidence, Protocol, Verdict},
    tally::Totals,
};

use super::{
    Policy, ProtocolSet,
    history::{History, Sum},
    recorder::Measure,
    subscriber_index::{NO_SUBSCRIBER, SubscriberIndex, TallyOwner},
    verdict_index::{VERDICTS, VerdictIndex},
};
use crate::{
    snapshot::{Snapshot, TallyChange},
    subscriber::Subscriber,
    words::{Metric, PolicyDirection},
};

/// Place of a tally without history.
const NO_PLACE: u32 = u32::MAX;

/// Part of a window that must have been watched before anybody is said to be below a threshold. An agent that was away
/// for long does not know what was counted in the window.
const WATCHED: f64 = 0.8;

/// Policies that measure one metric in one direction.
#[derive(Debug)]
pub(super) struct MetricGroup {
    pub(super) metric: Metric,
    pub(super) direction: PolicyDirection,
    windows: Vec<WindowGroup>,
    /// By verdict: least threshold of the policies that cover it; `u64::MAX` if none does.
    least: Box<[u64; VERDICTS]>,
    history: History,
    /// Place of each slot in the history: only tallies that a policy covers have one.
    places: Vec<u32>,
    /// By place: what [`MetricGroup::added`] of its subscriber must reach before a policy that covers the tally can
    /// fire.
    limits: Vec<u64>,
    /// Total of each subscriber's covered tallies since it got its number. At least the amount in any window.
    added: Vec<u64>,
    /// Subscribers that may reach a threshold, with the verdict that moved.
    candidates: Vec<(u32, VerdictIndex)>,
    restored: Restored,
}

/// What earlier agents counted of tallies that have no slot yet.
#[derive(Debug, Default)]
struct Restored {
    /// Numbers of the spans that became buckets.
    spans: Vec<u64>,
    subscribers: HashMap<Subscriber, RestoredSubscriber>,
    /// Slots that were looked up.
    slots: usize,
    /// When the last bucket ended: once no window reaches so far back, nothing of it counts.
    until: Option<Instant>,
}

#[derive(Debug, Default)]
struct RestoredSubscriber {
    /// All that it counted, until it is in `added`.
    amount: u64,
    /// Verdict and place of each tally without a slot.
    tallies: Vec<(VerdictIndex, usize)>,
}

/// Policies of one window.
#[derive(Debug)]
pub(super) struct WindowGroup {
    length: Duration,
    policy_groups: Vec<PolicyGroup>,
    /// By verdict: whether a policy covers it.
    covered: Box<[bool; VERDICTS]>,
}

/// Policies of one window that cover equal verdicts.
#[derive(Debug)]
pub(super) struct PolicyGroup {
    protocols: ProtocolSet,
    min_confidence: Confidence,
    /// Threshold and policy index, least threshold first.
    policies: Vec<(u64, usize)>,
}

/// Amounts in the windows of one subscriber's covered tallies.
#[derive(Debug, Default)]
pub(super) struct WindowSums {
    /// Verdict and place of each tally.
    tallies: Vec<(VerdictIndex, usize)>,
    /// By tally, then by window.
    sums: Vec<Sum>,
    /// Amount that each verdict adds to the evaluated window.
    parts: Vec<(Verdict, u64)>,
}

/// What a subscriber has in the window of a policy.
pub(super) struct PolicyAmounts {
    /// When the oldest traffic of the window may have passed.
    pub(super) begun: Instant,
    pub(super) value: u64,
    /// Amount of each verdict that the policy covers, largest first.
    pub(super) parts: Vec<(Verdict, u64)>,
    /// Sum of the verdicts that it covers, whatever its metric.
    pub(super) sum: Sum,
}

/// Policies of one group and window that reached their thresholds.
pub(super) struct Breach<'a> {
    /// When the oldest traffic of the window may have passed.
    pub(super) begun: Instant,
    pub(super) value: u64,
    /// Threshold and policy index.
    pub(super) policies: &'a [(u64, usize)],
    pub(super) policy_group: &'a PolicyGroup,
    /// Amount of each verdict in the window, including verdicts that the group does not cover.
    pub(super) parts: &'a [(Verdict, u64)],
    /// Sum of the verdicts that the group covers, whatever the metric.
    pub(super) sum: Sum,
}

impl MetricGroup {
    pub(super) fn new(policy: &Policy) -> Self {
        Self {
            metric: policy.metric,
            direction: policy.direction,
            windows: Vec::new(),
            least: Box::new([u64::MAX; VERDICTS]),
            history: History::default(),
            places: Vec::new(),
            limits: Vec::new(),
            added: Vec::new(),
            candidates: Vec::new(),
            restored: Restored::default(),
        }
    }

    /// Adds a policy; `index` is its number.
    pub(super) fn include(&mut self, index: usize, policy: &Policy) {
        let same = |window: &WindowGroup| window.length == policy.window;
        let position = self.windows.iter().position(same).unwrap_or_else(|| {
            self.windows.push(WindowGroup::new(policy.window));
            self.history.include(policy.window);
            self.windows.len() - 1
        });
        self.windows[position].include(index, policy);
        for verdict_index in policy.covered_verdicts() {
            let least = &mut self.least[verdict_index.index()];
            *least = (*least).min(policy.threshold);
        }
    }

    /// Forgets the policies, and nothing that was measured.
    pub(super) fn clear_policies(&mut self) {
        self.least.fill(u64::MAX);
        for window in &mut self.windows {
            window.policy_groups.clear();
            window.covered.fill(false);
        }
        // Other thresholds may be nearer.
        self.limits.fill(0);
    }

    /// Drops the windows of no policy; whether there are others.
    pub(super) fn drop_unused_windows(&mut self) -> bool {
        for index in (0..self.windows.len())
            .rev()
            .filter(|index| self.windows[*index].policy_groups.is_empty())
            .collect::<Vec<_>>()
        {
            self.windows.remove(index);
            self.history.exclude(index);
        }
        !self.windows.is_empty()
    }

    /// Begins a drain.
    pub(super) fn begin(&mut self, snapshot: &Snapshot, subscribers: &SubscriberIndex, reused: &[u32]) {
        let from = snapshot.taken.checked_sub(snapshot.interval).unwrap_or(snapshot.taken);
        self.history.advance(from, snapshot.taken);
        self.added.resize(subscribers.len(), 0);
        for slot in reused {
            if let Some(place) = self.place(*slot) {
                self.history.clear(place);
                self.limits[place] = self.least[subscribers.owner(*slot).verdict_index.index()];
            }
        }
        if !self.restored.subscribers.is_empty() {
            let slots = snapshot.keys.len();
            for slot in reused.iter().copied().chain(self.restored.slots as u32..slots as u32) {
                self.adopt(slot, subscribers);
            }
            self.restored.slots = slots;
            let longest = self.windows.iter().map(|window| window.length).max().unwrap_or_default();
            // Twice: a window may be a little longer than configured.
            if self.restored.until.is_some_and(|until| snapshot.taken.saturating_duration_since(until) > longest * 2) {
                self.restored = Restored::default();
            }
        }
    }

    /// Takes the spans that earlier agents left, oldest first.
    pub(super) fn restore(
        &mut self,
        spans: &[(u64, Instant, Instant)],
        starts: impl Fn(Duration) -> VecDeque<Instant>,
    ) {
        self.restored.spans = self.history.restore(spans, starts);
        self.restored.until = spans.last().map(|(_, _, ended)| *ended);
    }

    /// Adds what a tally counted in a restored span.
    pub(super) fn add_restored(&mut self, measure: &Measure) {
        let verdict_index = VerdictIndex::of(&measure.key);
        let Ok(bucket) = self.restored.spans.binary_search(&measure.span) else { return };
        let Some(subscriber) = Subscriber::of(&measure.key) else { return };
        if self.least[verdict_index.index()] == u64::MAX {
            return;
        }
        let restored = self.restored.subscribers.entry(subscriber).or_default();
        let known = restored.tallies.iter().find(|(each, _)| *each == verdict_index).map(|(_, place)| *place);
        let place = known.unwrap_or_else(|| {
            let place = self.limits.len();
            self.limits.push(0);
            restored.tallies.push((verdict_index, place));
            place
        });
        let more = amount(self.metric, self.direction, &measure.sum.totals);
        restored.amount = restored.amount.saturating_add(more);
        self.history.add_restored(bucket, place, &measure.sum);
    }

    /// Gives a slot what earlier agents counted of its key.
    fn adopt(&mut self, slot: u32, subscribers: &SubscriberIndex) {
        let TallyOwner { subscriber: number, verdict_index } = subscribers.owner(slot);
        let Some(subscriber) = subscribers.subscriber(number) else { return };
        let Some(restored) = self.restored.subscribers.get_mut(subscriber) else { return };
        let added = &mut self.added[number as usize];
        *added = added.saturating_add(std::mem::take(&mut restored.amount));
        let Some(at) = restored.tallies.iter().position(|(each, _)| *each == verdict_index) else { return };
        let (_, restored_place) = restored.tallies.swap_remove(at);
        if restored.tallies.is_empty() {
            self.restored.subscribers.remove(subscriber);
        }
        if self.places.len() <= slot as usize {
            self.places.resize(slot as usize + 1, NO_PLACE);
        }
        match self.place(slot) {
            Some(place) => self.history.transfer(restored_place, place),
            None => self.places[slot as usize] = restored_place as u32,
        }
        if let Some(place) = self.place(slot) {
            // At the next change, the windows are read.
            self.limits[place] = 0;
        }
    }

    /// Forgets subscribers, whose numbers others get.
    pub(super) fn forget(&mut self, numbers: &[u32]) {
        for number in numbers {
            if let Some(added) = self.added.get_mut(*number as usize) {
                *added = 0;
            }
        }
    }

    /// Adds what moved; a subscriber becomes a candidate if some policy that covers the change might fire.
    pub(super) fn take(&mut self, changes: &[TallyChange], owners: &[TallyOwner]) {
        let Some(current) = self.history.current(self.limits.len()) else { return };
        for (change, owner) in changes.iter().zip(owners) {
            let least = self.least[owner.verdict_index.index()];
            let amount = amount(self.metric, self.direction, &change.delta);
            if owner.subscriber == NO_SUBSCRIBER || least == u64::MAX {
                continue;
            }
            let slot = change.slot as usize;
            if slot >= self.places.len() {
                self.places.resize(slot + 1, NO_PLACE);
            }
            if self.places[slot] == NO_PLACE {
                self.places[slot] = self.limits.len() as u32;
                // No window holds more of a subscriber than it ever counted: the least threshold is a limit on either.
                self.limits.push(least);
                current.grow(self.limits.len());
            }
            let place = self.places[slot] as usize;
            current.add(place, &Sum { totals: change.delta, remotes: change.remotes });
            if amount == 0 {
                continue;
            }
            let added = &mut self.added[owner.subscriber as usize];
            *added = added.saturating_add(amount);
            if *added >= self.limits[place] {
                self.candidates.push((owner.subscriber, owner.verdict_index));
            }
        }
    }

    /// Subscribers that may reach a threshold, sorted, with the verdicts that moved. [`MetricGroup::end`] takes the
    /// memory back.
    pub(super) fn candidates(&mut self) -> Vec<(u32, VerdictIndex)> {
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.sort_unstable();
        candidates
    }

    /// Ends a drain.
    pub(super) fn end(&mut self, mut candidates: Vec<(u32, VerdictIndex)>) {
        candidates.clear();
        self.candidates = candidates;
    }

    /// Evaluates one subscriber's policies; `moved` holds its number and a verdict per entry, and only policies that
    /// cover one count.
    pub(super) fn evaluate_policies(
        &mut self,
        moved: &[(u32, VerdictIndex)],
        subscribers: &SubscriberIndex,
        window_sums: &mut WindowSums,
        mut breach: impl FnMut(&Breach<'_>),
    ) {
        let Some((number, _)) = moved.first().copied() else { return };
        let Some(subscriber) = subscribers.subscriber(number) else { return };
        self.read_windows(subscriber, Some(number), subscribers, window_sums);
        let (windows, added) = (self.windows.len(), self.added[number as usize]);
        // The limits of what did not move hold as they are.
        let has_moved = |verdict_index: VerdictIndex| moved.iter().any(|(_, each)| *each == verdict_index);
        for (_, place) in window_sums.tallies.iter().filter(|(verdict_index, _)| has_moved(*verdict_index)) {
            self.limits[*place] = u64::MAX;
        }
        for (index, window) in self.windows.iter().enumerate() {
            window_sums.parts.clear();
            for ((verdict_index, _), sums) in window_sums.tallies.iter().zip(window_sums.sums.chunks_exact(windows)) {
                let amount = amount(self.metric, self.direction, &sums[index].totals);
                if let (Some(verdict), true) =
                    (verdict_index.verdict(), window.covered[verdict_index.index()] && amount > 0)
                {
                    window_sums.parts.push((verdict, amount));
                }
            }
            let parts = &window_sums.parts;
            for policy_group in &window.policy_groups {
                if !moved.iter().any(|(_, verdict_index)| policy_group.covers(*verdict_index)) {
                    continue;
                }
                let value = policy_group.value(parts);
                let left = policy_group.least().saturating_sub(value);
                let limit = added.saturating_add(left);
                for (verdict_index, place) in &window_sums.tallies {
                    if limit < self.limits[*place] && has_moved(*verdict_index) && policy_group.covers(*verdict_index) {
                        self.limits[*place] = limit;
                    }
                }
                let policies =
                    &policy_group.policies[..policy_group.policies.partition_point(|(least, _)| *least <= value)];
                if let (Some(begun), false) = (self.history.begin(index), policies.is_empty()) {
                    let sum = window_sums.sum(index, windows, policy_group);
                    breach(&Breach { begun, value, policies, policy_group, parts, sum });
                }
            }
        }
    }

    /// Reads the window sums of a subscriber's covered tallies.
    fn read_windows(
        &mut self,
        subscriber: &Subscriber,
        number: Option<u32>,
        subscribers: &SubscriberIndex,
        window_sums: &mut WindowSums,
    ) {
        window_sums.tallies.clear();
        window_sums.sums.clear();
        for slot in number.into_iter().flat_map(|number| subscribers.slots(number)) {
            let verdict_index = subscribers.owner(slot).verdict_index;
            if self.least[verdict_index.index()] == u64::MAX {
                continue;
            }
            if let Some(place) = self.place(slot) {
                window_sums.tallies.push((verdict_index, place));
                self.history.sums(place, &mut window_sums.sums);
            }
        }
        for (verdict_index, place) in
            self.restored.subscribers.get(subscriber).iter().flat_map(|restored| &restored.tallies)
        {
            window_sums.tallies.push((*verdict_index, *place));
            self.history.sums(*place, &mut window_sums.sums);
        }
    }

    /// Amounts of a subscriber in the window of a policy of this group, whether they reach a threshold or not; `None`
    /// unless the window has been watched for nearly all its length.
    pub(super) fn read_policy(
        &mut self,
        policy: usize,
        subscriber: &Subscriber,
        subscribers: &SubscriberIndex,
        window_sums: &mut WindowSums,
        now: Instant,
    ) -> Option<PolicyAmounts> {
        let has = |group: &PolicyGroup| group.policies.iter().any(|(_, index)| *index == policy);
        let index = self.windows.iter().position(|window| window.policy_groups.iter().any(has))?;
        let begun = self.history.begin(index)?;
        if now.saturating_duration_since(begun) < self.windows[index].length.mul_f64(WATCHED) {
            return None;
        }
        self.read_windows(subscriber, subscribers.number_of(subscriber), subscribers, window_sums);
        let windows = self.windows.len();
        let policy_group = self.windows[index].policy_groups.iter().find(|group| has(group))?;
        window_sums.parts.clear();
        for ((verdict_index, _), sums) in window_sums.tallies.iter().zip(window_sums.sums.chunks_exact(windows)) {
            let amount = amount(self.metric, self.direction, &sums[index].totals);
            if let (Some(verdict), true) = (verdict_index.verdict(), amount > 0) {
                window_sums.parts.push((verdict, amount));
            }
        }
        let value = policy_group.value(&window_sums.parts);
        let parts = policy_group.parts(&window_sums.parts);
        Some(PolicyAmounts { begun, value, parts, sum: window_sums.sum(index, windows, policy_group) })
    }

    #[cfg(test)]
    pub(super) fn ignore_limits(&mut self) {
        self.limits.fill(0);
    }

    fn place(&self, slot: u32) -> Option<usize> {
        self.places.get(slot as usize).filter(|place| **place != NO_PLACE).map(|place| *place as usize)
    }
}

impl WindowSums {
    /// Sum in one of `windows` windows of the verdicts that a policy group covers.
    fn sum(&self, window: usize, windows: usize, policy_group: &PolicyGroup) -> Sum {
        let mut sum = Sum::default();
        for ((verdict_index, _), sums) in self.tallies.iter().zip(self.sums.chunks_exact(windows)) {
            if policy_group.covers(*verdict_index) {
                sum.add(&sums[window]);
            }
        }
        sum
    }
}

impl WindowGroup {
    fn new(length: Duration) -> Self {
        Self { length, policy_groups: Vec::new(), covered: Box::new([false; VERDICTS]) }
    }

    fn include(&mut self, index: usize, policy: &Policy) {
        policy.covered_verdicts().for_each(|verdict_index| self.covered[verdict_index.index()] = true);
        let same = |policy_group: &PolicyGroup| {
            policy_group.protocols == policy.protocols && policy_group.min_confidence == policy.min_confidence
        };
        let position = self.policy_groups.iter().position(same).unwrap_or_else(|| {
            let (protocols, min_confidence) = (policy.protocols, policy.min_confidence);
            self.policy_groups.push(PolicyGroup { protocols, min_confidence, policies: Vec::new() });
            self.policy_groups.len() - 1
        });
        let policies = &mut self.policy_groups[position].policies;
        policies.push((policy.threshold, index));
        policies.sort_unstable();
    }
}

impl PolicyGroup {
    fn counts(&self, verdict: Verdict) -> bool {
        verdict.confidence >= self.min_confidence && self.protocols.contains(verdict.protocol)
    }

    fn covers(&self, verdict_index: VerdictIndex) -> bool {
        verdict_index.verdict().is_some_and(|verdict| self.counts(verdict))
    }

    /// The least threshold.
    fn least(&self) -> u64 {
        self.policies.first().map_or(u64::MAX, |(threshold, _)| *threshold)
    }

    fn value(&self, parts: &[(Verdict, u64)]) -> u64 {
        parts.iter().filter(|(verdict, _)| self.counts(*verdict)).fold(0, |sum, (_, part)| sum.saturating_add(*part))
    }

    /// The parts that count, largest first.
    pub(super) fn parts(&self, parts: &[(Verdict, u64)]) -> Vec<(Verdict, u64)> {
        let mut own: Vec<_> = parts.iter().copied().filter(|(verdict, _)| self.counts(*verdict)).collect();
        own.sort_by_key(|(verdict, part)| (std::cmp::Reverse(*part), verdict.protocol, verdict.confidence));
        own
    }
}

impl Policy {
    /// Verdicts that the policy covers.
    fn covered_verdicts(&self) -> impl Iterator<Item = VerdictIndex> {
        self.protocols.iter().flat_map(|protocol: Protocol| {
            let tiers = Confidence::ALL.iter().filter(|tier| **tier >= self.min_confidence);
            tiers.map(move |tier| VerdictIndex::new(protocol as u8, *tier as u8))
        })
    }
}

/// The amount that a metric and direction take from a change.
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
