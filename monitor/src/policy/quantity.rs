//! One measured quantity (a metric in a direction): the history of its tallies, and the policies that measure it over one window or another.
//!
//! All of a quantity's windows share one history, and one test of each change: whether the subscriber has counted so much since its
//! policies were looked at that one of those that cover the change might fire. So what a change costs does not grow with the
//! number of policies or of windows.

use std::time::{Duration, Instant};

use monitor_common::{
    protocol::{Confidence, Protocol, Verdict},
    tally::Totals,
};

use super::{
    Policy, ProtocolSet,
    class::{CLASSES, Class},
    history::History,
    roster::{NOBODY, Owner, Roster},
};
use crate::{
    snapshot::{Change, Snapshot},
    words::{Metric, PolicyDirection},
};

/// Place of a tally without history.
const NO_PLACE: u32 = u32::MAX;

/// Policies that measure the same quantity.
#[derive(Debug)]
pub(super) struct Quantity {
    pub(super) metric: Metric,
    pub(super) direction: PolicyDirection,
    windows: Vec<Window>,
    /// Least threshold of the policies that cover a class; `u64::MAX` if none does.
    least: Box<[u64; CLASSES]>,
    history: History,
    /// Place of each slot in the history: only tallies that a policy covers have one.
    places: Vec<u32>,
    /// By place: what [`Quantity::added`] of its subscriber must reach before a policy that covers the tally can fire.
    limits: Vec<u64>,
    /// What each subscriber's covered tallies have counted since it was first seen. At least what any window holds of them.
    added: Vec<u64>,
    /// Subscribers that may reach a threshold, and the class that moved.
    candidates: Vec<(u32, Class)>,
}

/// Policies of one window.
#[derive(Debug)]
pub(super) struct Window {
    length: Duration,
    measures: Vec<Measure>,
    /// Classes that a policy covers.
    covered: Box<[bool; CLASSES]>,
}

/// Policies that cover the same verdicts within a window.
#[derive(Debug)]
pub(super) struct Measure {
    protocols: ProtocolSet,
    min_confidence: Confidence,
    /// Threshold and policy index, least threshold first.
    policies: Vec<(u64, usize)>,
}

/// What the windows hold of one subscriber's covered tallies.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    /// Class and place of each tally.
    tallies: Vec<(Class, usize)>,
    /// By tally, then by window.
    sums: Vec<u64>,
    /// What each verdict adds to the window that is looked at.
    parts: Vec<(Verdict, u64)>,
}

/// Policies of one window and measure that are met.
pub(super) struct Met<'a> {
    /// When the oldest traffic of the window may have passed.
    pub(super) begun: Instant,
    pub(super) value: u64,
    /// Threshold and policy index.
    pub(super) policies: &'a [(u64, usize)],
    pub(super) measure: &'a Measure,
    /// What the window holds of each verdict, others than the measure's included.
    pub(super) parts: &'a [(Verdict, u64)],
}

impl Quantity {
    pub(super) fn new(policy: &Policy) -> Self {
        Self {
            metric: policy.metric,
            direction: policy.direction,
            windows: Vec::new(),
            least: Box::new([u64::MAX; CLASSES]),
            history: History::default(),
            places: Vec::new(),
            limits: Vec::new(),
            added: Vec::new(),
            candidates: Vec::new(),
        }
    }

    /// Adds a policy; `index` is its number.
    pub(super) fn include(&mut self, index: usize, policy: &Policy) {
        let same = |window: &Window| window.length == policy.window;
        let position = self.windows.iter().position(same).unwrap_or_else(|| {
            self.windows.push(Window::new(policy.window));
            self.history.include(policy.window);
            self.windows.len() - 1
        });
        self.windows[position].include(index, policy);
        for class in policy.classes() {
            let least = &mut self.least[class.index()];
            *least = (*least).min(policy.threshold);
        }
    }

    /// Begins a drain.
    pub(super) fn begin(&mut self, snapshot: &Snapshot, roster: &Roster, reused: &[u32]) {
        let from = snapshot.taken.checked_sub(snapshot.interval).unwrap_or(snapshot.taken);
        self.history.advance(from, snapshot.taken);
        self.added.resize(roster.len(), 0);
        for slot in reused {
            if let Some(place) = self.place(*slot) {
                self.history.forget(place);
                self.limits[place] = self.least[roster.owner(*slot).class.index()];
            }
        }
    }

    /// Adds what moved; a subscriber becomes a candidate if some policy that covers the change might fire.
    pub(super) fn take(&mut self, changes: &[Change], owners: &[Owner]) {
        if !self.history.is_open() {
            return;
        }
        let mut current = self.history.current(self.limits.len());
        for (change, owner) in changes.iter().zip(owners) {
            let least = self.least[owner.class.index()];
            let amount = amount(self.metric, self.direction, &change.delta);
            if owner.subscriber == NOBODY || least == u64::MAX || amount == 0 {
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
                current = self.history.current(self.limits.len());
            }
            let place = self.places[slot] as usize;
            current[place] = current[place].saturating_add(amount);
            let added = &mut self.added[owner.subscriber as usize];
            *added = added.saturating_add(amount);
            if *added >= self.limits[place] {
                self.candidates.push((owner.subscriber, owner.class));
            }
        }
    }

    /// Subscribers that may reach a threshold, each with the classes that moved, one after the other. The caller gives the memory back.
    pub(super) fn candidates(&mut self) -> Vec<(u32, Class)> {
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.sort_unstable();
        candidates
    }

    /// Ends a drain.
    pub(super) fn end(&mut self, mut candidates: Vec<(u32, Class)>) {
        candidates.clear();
        self.candidates = candidates;
    }

    /// Looks at the policies that cover what moved of one subscriber: (its number, class) of each.
    pub(super) fn judge(
        &mut self,
        moved: &[(u32, Class)],
        roster: &Roster,
        holdings: &mut Holdings,
        mut met: impl FnMut(&Met<'_>),
    ) {
        let Some((number, _)) = moved.first().copied() else { return };
        self.look(number, roster, holdings);
        let (windows, added) = (self.windows.len(), self.added[number as usize]);
        // The limits of what did not move hold as they are.
        let has_moved = |class: Class| moved.iter().any(|(_, each)| *each == class);
        for (_, place) in holdings.tallies.iter().filter(|(class, _)| has_moved(*class)) {
            self.limits[*place] = u64::MAX;
        }
        for (index, window) in self.windows.iter().enumerate() {
            holdings.parts.clear();
            for ((class, _), sums) in holdings.tallies.iter().zip(holdings.sums.chunks_exact(windows)) {
                if let (Some(verdict), true) = (class.verdict(), window.covered[class.index()] && sums[index] > 0) {
                    holdings.parts.push((verdict, sums[index]));
                }
            }
            let parts = &holdings.parts;
            for measure in &window.measures {
                if !moved.iter().any(|(_, class)| measure.covers(*class)) {
                    continue;
                }
                let value = measure.value(parts);
                let left = measure.least().saturating_sub(value);
                let limit = added.saturating_add(left);
                for (class, place) in &holdings.tallies {
                    if limit < self.limits[*place] && has_moved(*class) && measure.covers(*class) {
                        self.limits[*place] = limit;
                    }
                }
                let policies = &measure.policies[..measure.policies.partition_point(|(least, _)| *least <= value)];
                if let (Some(begun), false) = (self.history.begin(index), policies.is_empty()) {
                    met(&Met { begun, value, policies, measure, parts });
                }
            }
        }
    }

    /// What the windows hold of a subscriber.
    fn look(&mut self, number: u32, roster: &Roster, holdings: &mut Holdings) {
        holdings.tallies.clear();
        holdings.sums.clear();
        for slot in roster.slots(number) {
            let class = roster.owner(slot).class;
            if self.least[class.index()] == u64::MAX {
                continue;
            }
            if let Some(place) = self.place(slot) {
                holdings.tallies.push((class, place));
                self.history.sums(place, &mut holdings.sums);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn distrust_limits(&mut self) {
        self.limits.fill(0);
    }

    fn place(&self, slot: u32) -> Option<usize> {
        self.places.get(slot as usize).filter(|place| **place != NO_PLACE).map(|place| *place as usize)
    }
}

impl Window {
    fn new(length: Duration) -> Self {
        Self { length, measures: Vec::new(), covered: Box::new([false; CLASSES]) }
    }

    fn include(&mut self, index: usize, policy: &Policy) {
        policy.classes().for_each(|class| self.covered[class.index()] = true);
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
}

impl Measure {
    fn counts(&self, verdict: Verdict) -> bool {
        verdict.confidence >= self.min_confidence && self.protocols.contains(verdict.protocol)
    }

    fn covers(&self, class: Class) -> bool {
        class.verdict().is_some_and(|verdict| self.counts(verdict))
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
    /// The classes it covers.
    fn classes(&self) -> impl Iterator<Item = Class> {
        self.protocols.iter().flat_map(|protocol: Protocol| {
            let tiers = Confidence::ALL.iter().filter(|tier| **tier >= self.min_confidence);
            tiers.map(move |tier| Class::new(protocol as u8, *tier as u8))
        })
    }
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
