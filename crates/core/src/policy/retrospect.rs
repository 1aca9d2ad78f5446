//! What policies would have done over spans that were kept: the evaluation of the agent, over its memory.
//!
//! A span counts as one drain, so nothing can be said of moments within it. A span that is longer than a window cannot
//! say what was in the window, and counts as nothing.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use monitor_common::abi::tally::{TallyKey, Totals};

use super::{
    Policy, PolicyEngine, Standing, SubscriberIndex,
    history::tolerance,
    recorder::{Measure, Span},
};
use crate::{
    snapshot::{AgeingCounts, Counts, Origin, Reconciled, SharedKeys, Snapshot, TallyChange},
    subscriber::Subscriber,
};

/// A policy that would have fired.
#[derive(Clone, Debug)]
pub struct WouldFire {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The subscriber.
    pub subscriber: Subscriber,
    /// Amount in the window.
    pub value: u64,
    /// When the oldest traffic of the window may have passed.
    pub window_start: SystemTime,
    /// When it would have fired.
    pub time: SystemTime,
}

/// What can be said of one policy.
#[derive(Clone, Debug)]
pub struct Reach {
    /// The policy.
    pub policy: Arc<Policy>,
    /// From when on its whole window lies in the spans; before, it may have fired without being listed.
    pub whole_since: Option<SystemTime>,
    /// Spans that are longer than its window.
    pub too_long: u64,
}

/// Policies that are tested. Spans are taken oldest first.
#[derive(Debug)]
pub struct Retrospect {
    engine: PolicyEngine,
    subscribers: SubscriberIndex,
    keys: Arc<Vec<TallyKey>>,
    slots: HashMap<TallyKey, u32>,
    start: Instant,
    begun: Option<Duration>,
    reach: Vec<Reach>,
}

impl Retrospect {
    /// A test of policies. `start` is any instant.
    #[must_use]
    pub fn new(policies: Vec<Policy>, start: Instant) -> Self {
        let engine = PolicyEngine::new(policies);
        let reach = |policy: &Arc<Policy>| Reach { policy: Arc::clone(policy), whole_since: None, too_long: 0 };
        Self {
            reach: engine.policies().iter().map(reach).collect(),
            engine,
            subscribers: SubscriberIndex::default(),
            keys: Arc::new(vec![TallyKey::CATCH_ALL]),
            slots: HashMap::new(),
            start,
            begun: None,
        }
    }

    /// What can be said of each policy.
    #[must_use]
    pub fn reach(&self) -> &[Reach] {
        &self.reach
    }

    /// Takes a span that ended at `time` and its measures; returns what would have fired at its end. Cool-downs begin
    /// at once if `is_shown`, else not at all: what is not shown hides nothing.
    pub fn take(&mut self, span: &Span, measures: &[Measure], time: SystemTime, is_shown: bool) -> Vec<WouldFire> {
        let (begun, length) = (*self.begun.get_or_insert(span.begun), span.ended.saturating_sub(span.begun));
        for reach in &mut self.reach {
            let window = reach.policy.window;
            if reach.whole_since.is_none() && span.ended.saturating_sub(begun) >= window {
                reach.whole_since = Some(time);
            }
            reach.too_long += u64::from(length > window + tolerance(window));
        }
        let snapshot = self.snapshot(span, measures, time);
        let reused = self.subscribers.update(&snapshot);
        self.engine.begin(&snapshot, &self.subscribers, &reused);
        let mut owners = Vec::new();
        self.subscribers.owners(&snapshot.changes, &mut owners);
        self.engine.take(&snapshot, &snapshot.changes, &owners);
        let firings = self.engine.end(&snapshot, &self.subscribers);
        let mut found = Vec::new();
        for firing in firings {
            let policy = Arc::clone(&self.engine.policies()[firing.policy]);
            let Some(subscriber) = self.subscribers.subscriber(firing.subscriber).copied() else { continue };
            let cooling = is_shown.then_some(Standing::Cooling(snapshot.taken + policy.cool_down));
            self.engine.settle(&policy.name, subscriber, cooling);
            if is_shown {
                let (value, window_start) = (firing.value, firing.window_start);
                found.push(WouldFire { policy, subscriber, value, window_start, time });
            }
        }
        found
    }

    /// The span as a drain of a table that only grows.
    fn snapshot(&mut self, span: &Span, measures: &[Measure], time: SystemTime) -> Snapshot {
        let mut changes: Vec<TallyChange> = Vec::with_capacity(measures.len());
        for Measure { key, sum, .. } in measures {
            let slot = *self.slots.entry(*key).or_insert_with(|| {
                let keys = Arc::make_mut(&mut self.keys);
                keys.push(*key);
                keys.len() as u32 - 1
            });
            changes.push(TallyChange { slot, delta: sum.totals, remotes: sum.remotes });
        }
        let interval = span.ended.saturating_sub(span.begun).max(Duration::from_nanos(1));
        Snapshot {
            taken_at: time,
            taken: self.start + span.ended,
            interval,
            drain_duration: Duration::ZERO,
            keys: Arc::clone(&self.keys),
            totals: Arc::new(vec![Totals::default(); self.keys.len()]),
            shared_keys: SharedKeys::default(),
            origin: Origin::default(),
            changes,
            node: Vec::new(),
            skipped: Vec::new(),
            events: Vec::new(),
            shed: Vec::new(),
            spoofed: Vec::new(),
            rules: Vec::new(),
            tables: Vec::new(),
            ageing: AgeingCounts::default(),
            pending: Counts::default(),
            watchlist: Vec::new(),
            hits: Vec::new(),
            attachments: Vec::new(),
            reconciled: Reconciled::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use monitor_common::abi::protocol::{Confidence, Protocol};

    use super::*;
    use crate::{
        policy::{ProtocolSet, Sum},
        testing::{Kernel, bytes, key},
        words::{Metric, PolicyDirection},
    };

    fn policy(threshold: u64, window_s: u64) -> Policy {
        Policy {
            name: "p".into(),
            protocols: ProtocolSet::default_policy(),
            min_confidence: Confidence::Structural,
            metric: Metric::Bytes,
            direction: PolicyDirection::Both,
            threshold,
            window: Duration::from_secs(window_s),
            cool_down: Duration::from_secs(1000),
            allow: Vec::new(),
            hooks: Vec::new(),
        }
    }

    /// Spans of 100 seconds with these bytes; values and times (in seconds) of what would have fired.
    fn test(policy: Policy, amounts: &[u64], since: u64) -> (Vec<(u64, u64)>, Reach) {
        let mut retrospect = Retrospect::new(vec![policy], Kernel::new().instant(Duration::ZERO));
        let mut found = Vec::new();
        for (number, amount) in (1..).zip(amounts) {
            let seconds = |seconds| Duration::from_secs(seconds);
            let span = Span { number, begun: seconds((number - 1) * 100), ended: seconds(number * 100) };
            let sum = Sum { totals: bytes(*amount, 0), remotes: Default::default() };
            let measure =
                Measure { span: number, key: key("10.0.0.1", Protocol::BitTorrent, Confidence::Signature), sum };
            let time = SystemTime::UNIX_EPOCH + span.ended;
            let fired = retrospect.take(&span, &[measure], time, number * 100 >= since);
            found.extend(fired.iter().map(|each| (each.value, number * 100)));
        }
        (found, retrospect.reach()[0].clone())
    }

    #[test]
    fn a_policy_would_have_fired_when_its_window_held_the_threshold() {
        let (found, reach) = test(policy(1000, 300), &[400, 400, 100, 700, 100, 500, 600], 0);
        assert_eq!(found, [(1200, 400)], "and then there is the cool-down");
        assert_eq!(reach.whole_since, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(300)));
        assert_eq!(reach.too_long, 0);
        assert_eq!(test(policy(1201, 300), &[400, 400, 100, 700, 100, 500, 600], 0).0, [(1300, 600)]);
        let quiet = Policy { allow: vec!["10.0.0.0/8".parse().expect("a prefix")], ..policy(1000, 300) };
        assert_eq!(test(quiet, &[4000; 4], 0).0, []);
    }

    #[test]
    fn what_is_not_shown_hides_nothing() {
        assert_eq!(test(policy(1000, 300), &[4000, 10, 2000, 0], 300).0, [(6010, 300)]);
    }

    #[test]
    fn spans_longer_than_the_window_are_named_and_fire_nothing() {
        let (found, reach) = test(policy(1000, 60), &[4000, 4000], 0);
        assert_eq!((found.len(), reach.too_long), (0, 2));
    }
}
