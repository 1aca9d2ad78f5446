//! Agents that end and start again, beside one that goes on.

use std::collections::BTreeMap;

use monitor_common::abi::{
    protocol::{Confidence, Protocol},
    remotes::RemoteSet,
};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{
    analysis::{Analysis, AnalysisOptions},
    policy::{
        Policy, PolicyEvent, ProtocolSet,
        event::{EventKind, EventSource},
    },
    subscriber::Pseudonyms,
    testing::{Kernel, bytes, key},
    words::{Evidence, Metric, PolicyDirection},
};

/// A key, in its order.
type Ordered = ([u8; 16], u32, u8, u8, u8);

/// A store in memory.
#[derive(Clone, Debug, Default)]
struct Kept {
    head: KeptMeasures,
    spans: BTreeMap<u64, Span>,
    readings: BTreeMap<u32, Reading>,
    measures: BTreeMap<(u64, Ordered), Measure>,
}

impl Kept {
    fn commit(&mut self, mut measures: Measures) {
        measures.compact();
        if measures.forget_readings {
            self.readings.clear();
        }
        (self.head.tables, self.head.until, self.head.starts) = (measures.tables, measures.until, measures.starts);
        self.spans.extend(measures.spans.iter().map(|span| (span.number, *span)));
        self.readings.extend(measures.readings.iter().map(|reading| (reading.slot, *reading)));
        measures.measures.into_iter().for_each(|measure| self.add(measure));
    }

    fn add(&mut self, measure: Measure) {
        match self.measures.get_mut(&(measure.span, order(&measure.key))) {
            Some(known) => known.sum.add(&measure.sum),
            None => _ = self.measures.insert((measure.span, order(&measure.key)), measure),
        }
    }

    /// Merges spans that no window begins with.
    fn merge(&mut self) {
        let numbers: Vec<u64> = self.spans.keys().copied().collect();
        let mut earlier = numbers.first().copied();
        for number in numbers.iter().skip(1).take(numbers.len().saturating_sub(2)) {
            let span = self.spans[number];
            if self.head.starts.iter().any(|(_, start)| *start == span.begun) {
                earlier = Some(*number);
                continue;
            }
            let earlier = earlier.expect("the first one is before");
            self.spans.get_mut(&earlier).expect("known").ended = span.ended;
            self.spans.remove(number);
            let keys: Vec<_> = self.measures.keys().filter(|(each, _)| each == number).copied().collect();
            for key in keys {
                let measure = self.measures.remove(&key).expect("listed");
                self.add(Measure { span: earlier, ..measure });
            }
        }
    }

    fn head(&self) -> Option<KeptMeasures> {
        (self.head.until != Duration::ZERO).then(|| KeptMeasures {
            spans: self.spans.values().copied().collect(),
            readings: self.readings.values().copied().collect(),
            ..self.head.clone()
        })
    }
}

fn policy(name: &str, threshold: u64, window_s: u64) -> Policy {
    Policy {
        name: name.into(),
        protocols: ProtocolSet::default_policy(),
        min_confidence: Confidence::Structural,
        metric: Metric::Bytes,
        direction: PolicyDirection::Both,
        threshold,
        window: Duration::from_secs(window_s),
        cool_down: Duration::ZERO,
        allow: Vec::new(),
        hooks: Vec::new(),
    }
}

/// An agent with a store, over a kernel that outlives it.
struct Agent {
    kernel: Kernel,
    analysis: Analysis,
    kept: Kept,
    policies: Vec<Policy>,
}

impl Agent {
    fn new(policies: Vec<Policy>) -> Self {
        let kernel = Kernel::new();
        let analysis = start(&policies, &kernel, &Kept::default(), Duration::ZERO);
        Self { kernel, analysis, kept: Kept::default(), policies }
    }

    /// Drains and commits.
    fn drain(&mut self, at: Duration) -> Vec<PolicyEvent> {
        let events = self.drain_uncommitted(at);
        let measures = self.analysis.recorder().expect("it records").measures();
        self.kept.commit(measures);
        events
    }

    fn drain_uncommitted(&mut self, at: Duration) -> Vec<PolicyEvent> {
        let snapshot = self.kernel.drain_at(at);
        let (_, events) = self.analysis.take(snapshot, || Uuid::from_u128(1));
        for event in &events {
            self.analysis.settle(&event.policy.name, event.subscriber, None);
        }
        events
    }

    /// A killed agent: another one starts with what the store has.
    fn restart(&mut self, at: Duration) {
        self.kernel.restart();
        self.analysis = start(&self.policies, &self.kernel, &self.kept, at);
    }
}

fn start(policies: &[Policy], kernel: &Kernel, kept: &Kept, at: Duration) -> Analysis {
    let source = EventSource {
        node: "n".into(),
        inspection: monitor_common::abi::settings::InspectionDepth::Framing,
        evidence: Evidence::Answered,
    };
    let options = AnalysisOptions { policies: policies.to_vec(), top_k: 5, source };
    let mut analysis = Analysis::new(options, Pseudonyms::with_key([7; 32]));
    analysis.keep_history((kernel.instant(at), at + Duration::from_secs(5)), kept.head());
    kept.measures.values().for_each(|measure| analysis.restore(measure));
    analysis
}

fn bittorrent(host: u8) -> TallyKey {
    key(&format!("10.0.0.{host}"), Protocol::BitTorrent, Confidence::Signature)
}

fn plain(events: &[PolicyEvent]) -> Vec<(String, String, u64, Vec<u64>, Totals, Duration)> {
    let plain = |event: &PolicyEvent| {
        let firing = &event.firing;
        let span = firing.window_end.duration_since(firing.window_start).expect("ordered");
        let parts = firing.parts.iter().map(|(_, part)| *part).collect();
        (event.policy.name.to_string(), event.pseudonym.clone(), firing.value, parts, firing.totals, span)
    };
    let mut all: Vec<_> = events.iter().map(plain).collect();
    all.sort_by(|left, right| (&left.0, &left.1).cmp(&(&right.0, &right.1)));
    all
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const MONTH_S: u64 = 31 * 24 * 3600;

proptest! {
    /// An agent that is killed after some commits, and one that is not, say the same at each drain.
    #[test]
    fn restarts_change_no_window(
        rules in prop::collection::vec((1_u64..3000, prop_oneof![5_u64..300, Just(MONTH_S)]), 1..4),
        steps in prop::collection::vec(
            (1_u8..4, 0_usize..3, 0_u64..400, 50_u64..20_000, prop::bool::weighted(0.2), prop::bool::weighted(0.3)),
            1..80,
        ),
    ) {
        let protocols = [Protocol::BitTorrent, Protocol::EDonkey, Protocol::Gnutella];
        let rules: Vec<Policy> = rules.into_iter().enumerate()
            .map(|(index, (threshold, window))| policy(&format!("p{index}"), threshold, window)).collect();
        let (mut steady, mut killed) = (Agent::new(rules.clone()), Agent::new(rules));
        let mut at = Duration::from_millis(1);
        for agent in [&mut steady, &mut killed] {
            agent.kernel.count(bittorrent(1), bytes(5_000, 0));
            prop_assert!(agent.drain(at).is_empty(), "of unknown age");
        }
        for (host, protocol, amount, wait_ms, kill, merge) in steps {
            at += Duration::from_millis(wait_ms);
            if merge {
                killed.kept.merge();
            }
            if kill {
                killed.restart(at - Duration::from_millis(10));
            }
            let drain = |agent: &mut Agent| {
                let key = key(&format!("10.0.0.{host}"), protocols[protocol], Confidence::Signature);
                agent.kernel.count(key, bytes(amount, 3));
                plain(&agent.drain(at))
            };
            prop_assert_eq!(drain(&mut steady), drain(&mut killed));
        }
    }

    /// Drains that are not committed are counted by the next agent, whole and once.
    #[test]
    fn a_window_of_a_month_has_each_byte_once(
        steps in prop::collection::vec((0_u64..400, 0_u8..4), 1..60),
    ) {
        let mut agent = Agent::new(vec![policy("month", u64::MAX, MONTH_S)]);
        agent.drain(seconds(1));
        let (mut counted, mut at) = (0, 1);
        for (amount, action) in steps {
            at += 3600;
            agent.kernel.count(bittorrent(1), bytes(amount, 0));
            counted += amount;
            match action {
                0 => _ = agent.drain(seconds(at)),
                1 => _ = agent.drain_uncommitted(seconds(at)),
                2 => {
                    let recorder = |agent: &mut Agent| agent.analysis.recorder().expect("it records").measures();
                    agent.drain_uncommitted(seconds(at));
                    let failed = recorder(&mut agent);
                    agent.analysis.recorder().expect("it records").put_back(failed);
                }
                _ => agent.restart(seconds(at)),
            }
        }
        agent.restart(seconds(at));
        agent.policies = vec![policy("month", 1, MONTH_S)];
        agent.restart(seconds(at));
        agent.kernel.count(bittorrent(1), bytes(1, 0));
        let events = agent.drain(seconds(at + 10));
        prop_assert_eq!(events.iter().map(|event| event.firing.value).collect::<Vec<_>>(), [counted + 1]);
    }
}

#[test]
fn an_agent_that_is_killed_after_its_first_drain_leaves_a_baseline() {
    let mut agent = Agent::new(vec![policy("month", 1000, MONTH_S)]);
    let mut snapshot = agent.kernel.drain_at(seconds(1));
    snapshot.origin.tables = 9;
    agent.analysis.take(snapshot, || Uuid::from_u128(1));
    let recorder = agent.analysis.recorder().expect("it records");
    assert!(recorder.is_due(), "nothing was measured, and that is known since now");
    let measures = recorder.measures();
    assert!(!recorder.has_measures());
    agent.kept.commit(measures);
    agent.kernel.count(bittorrent(1), bytes(1000, 0));
    agent.restart(seconds(10));
    assert_eq!(agent.drain(seconds(10)).len(), 1);
}

#[test]
fn tables_made_anew_count_from_zero_and_the_window_goes_on() {
    let mut agent = Agent::new(vec![policy("month", 1000, MONTH_S)]);
    agent.drain(seconds(1));
    agent.kernel.count(bittorrent(1), bytes(600, 0));
    agent.kernel.count(bittorrent(2), bytes(990, 0));
    agent.drain(seconds(10));
    agent.kernel.make_anew();
    // Less, and more, than before.
    agent.kernel.count(bittorrent(2), bytes(9, 0));
    agent.restart(seconds(20));
    assert!(agent.drain(seconds(20)).is_empty(), "999 bytes of the second subscriber");
    agent.kernel.count(bittorrent(1), bytes(400, 0));
    let events = agent.drain(seconds(30));
    assert_eq!(events.iter().map(|event| event.firing.value).collect::<Vec<_>>(), [1000]);
    agent.restart(seconds(40));
    agent.kernel.count(bittorrent(1), bytes(1, 0));
    assert_eq!(agent.drain(seconds(40))[0].firing.value, 1001);
}

/// Kinds of the events, and the events that `cleared` ones end.
fn kinds(events: &[PolicyEvent]) -> Vec<(EventKind, Option<Uuid>)> {
    events.iter().map(|event| (event.kind, event.fired_event)).collect()
}

/// An agent whose subscriber has reached a threshold of 1000 bytes in an hour, at the 4000th second.
fn above() -> Agent {
    let mut agent = Agent::new(vec![policy("hour", 1000, 3600)]);
    for at in (0..4000).step_by(100) {
        agent.drain(seconds(at + 1));
    }
    agent.kernel.count(bittorrent(1), bytes(1500, 0));
    assert_eq!(kinds(&agent.drain(seconds(4000))), [(EventKind::Fired, None)]);
    watch(&mut agent);
    agent
}

fn watch(agent: &mut Agent) {
    let subscriber = crate::subscriber::Subscriber::of(&bittorrent(1)).expect("a subscriber");
    agent.analysis.watch("hour", subscriber, Uuid::from_u128(7));
}

const CLEARED: [(EventKind, Option<Uuid>); 1] = [(EventKind::Cleared, Some(Uuid::from_u128(7)))];

#[test]
fn a_subscriber_who_falls_below_the_threshold_is_cleared_once() {
    let mut agent = above();
    for at in (4300..7200).step_by(300) {
        assert!(agent.drain(seconds(at)).is_empty(), "still in the window at {at}");
    }
    // Near the threshold is not below it.
    agent.kernel.count(bittorrent(1), bytes(850, 0));
    assert_eq!(kinds(&agent.drain(seconds(7300))), [(EventKind::Fired, None)], "of 2350 bytes");
    for at in (7600..10_300).step_by(300) {
        assert!(agent.drain(seconds(at)).is_empty(), "850 bytes at {at}");
    }
    let found = [10_600, 10_900, 11_200, 11_500].map(|at| kinds(&agent.drain(seconds(at))));
    assert_eq!(found.concat(), CLEARED, "and then it is over");
    assert_eq!(agent.drain(seconds(11_800)).len(), 0);
}

#[test]
fn who_falls_below_while_no_agent_runs_is_cleared_at_the_start() {
    let mut agent = above();
    for at in (4300..7000).step_by(300) {
        assert!(agent.drain(seconds(at)).is_empty(), "in the window at {at}");
    }
    agent.restart(seconds(7000));
    watch(&mut agent);
    assert!(agent.drain(seconds(7000)).is_empty(), "not yet");
    // The tally may have left the table meanwhile.
    agent.kernel.make_anew();
    agent.restart(seconds(4000 + 4000));
    watch(&mut agent);
    agent.kernel.count(bittorrent(2), bytes(1, 0));
    let events = [8000, 8300, 8600].map(|at| kinds(&agent.drain(seconds(at)))).concat();
    assert_eq!(events, CLEARED);
}

#[test]
fn nobody_is_cleared_by_an_agent_that_was_away_for_too_long_to_know() {
    let mut agent = above();
    agent.kernel.count(bittorrent(1), bytes(9999, 0));
    agent.restart(seconds(20_000));
    watch(&mut agent);
    for at in (20_000..22_800).step_by(400) {
        assert!(agent.drain(seconds(at)).is_empty(), "the window has not been watched at {at}");
    }
    let events = [22_900, 23_300, 23_700].map(|at| kinds(&agent.drain(seconds(at)))).concat();
    assert_eq!(events, CLEARED);
}

#[test]
fn what_a_drain_after_a_restart_misses_once_is_not_counted_twice() {
    let mut agent = Agent::new(vec![policy("month", 1000, MONTH_S)]);
    agent.drain(seconds(1));
    agent.kernel.count(bittorrent(1), bytes(900, 0));
    agent.drain(seconds(10));
    agent.restart(seconds(20));
    let mut snapshot = agent.kernel.drain_at(seconds(20));
    std::sync::Arc::make_mut(&mut snapshot.totals)[1] = bytes(300, 0);
    assert!(agent.analysis.take(snapshot, || Uuid::from_u128(1)).1.is_empty());
    // The flow turns up again, with 50 bytes more. The data path counts from what it read last.
    let mut snapshot = agent.kernel.drain_at(seconds(30));
    snapshot.changes = vec![TallyChange { slot: 1, delta: bytes(650, 0), remotes: RemoteSet::EMPTY }];
    std::sync::Arc::make_mut(&mut snapshot.totals)[1] = bytes(950, 0);
    assert!(agent.analysis.take(snapshot, || Uuid::from_u128(1)).1.is_empty(), "950 bytes, not 1550");
    let mut snapshot = agent.kernel.drain_at(seconds(40));
    snapshot.changes = vec![TallyChange { slot: 1, delta: bytes(50, 0), remotes: RemoteSet::EMPTY }];
    let (_, events) = agent.analysis.take(snapshot, || Uuid::from_u128(1));
    assert_eq!(events[0].firing.value, 1000, "and what follows counts");
}

#[test]
fn an_agent_that_was_away_for_longer_than_the_window_counts_nothing_of_before() {
    let mut agent = Agent::new(vec![policy("hour", 1000, 3600)]);
    agent.drain(seconds(1));
    agent.kernel.count(bittorrent(1), bytes(999, 0));
    agent.drain(seconds(10));
    agent.kernel.count(bittorrent(1), bytes(5000, 0));
    agent.restart(seconds(2 * 3600));
    assert!(agent.drain(seconds(2 * 3600)).is_empty(), "nobody knows in which hour");
    agent.kernel.count(bittorrent(1), bytes(999, 0));
    assert!(agent.drain(seconds(2 * 3600 + 10)).is_empty());
    agent.kernel.count(bittorrent(1), bytes(1, 0));
    assert_eq!(agent.drain(seconds(2 * 3600 + 20)).len(), 1);
}

#[test]
fn what_waits_for_the_store_is_bounded_by_the_number_of_tallies() {
    let mut agent = Agent::new(vec![policy("short", u64::MAX, 30), policy("month", u64::MAX, MONTH_S)]);
    agent.drain(seconds(1));
    for step in 1..20_000_u64 {
        agent.kernel.count(bittorrent((step % 4) as u8), bytes(1, 0));
        agent.drain_uncommitted(seconds(1 + step * 10));
    }
    let mut waiting = agent.analysis.recorder().expect("it records").measures();
    assert!(waiting.spans.len() <= WAITING_SPANS);
    assert!(waiting.measures.len() + waiting.readings.len() <= 2048 + 8, "{}", waiting.measures.len());
    waiting.compact();
    assert_eq!(waiting.measures.iter().map(|measure| measure.sum.totals.bytes_up).sum::<u64>(), 19_999);
    assert_eq!(waiting.readings.len(), 4);
}
