//! When a policy fires, and when it must not.

use std::{sync::Arc, time::Duration};

use monitor_common::abi::{
    protocol::{Confidence, Protocol},
    remotes::RemoteSet,
    tally::{TallyKey, Totals},
};
use proptest::prelude::*;

use super::{
    CHUNK, Policy, PolicyCounts, PolicyEngine, ProtocolSet, Standing, SubscriberIndex, evaluate::Firing,
    history::tolerance,
};
use crate::{
    subscriber::Subscriber,
    testing::{Kernel, bytes, key},
    words::{Metric, PolicyDirection},
};

fn policy(threshold: u64, window_s: u64, cool_down_s: u64) -> Policy {
    Policy {
        name: "p".into(),
        protocols: ProtocolSet::default_policy(),
        min_confidence: Confidence::Structural,
        metric: Metric::Bytes,
        direction: PolicyDirection::Both,
        threshold,
        window: Duration::from_secs(window_s),
        cool_down: Duration::from_secs(cool_down_s),
        allow: Vec::new(),
        hooks: Vec::new(),
    }
}

/// A kernel, a subscriber index and an engine that are drained together.
struct Bench {
    kernel: Kernel,
    subscribers: SubscriberIndex,
    engine: PolicyEngine,
}

impl Bench {
    fn new(mut policies: Vec<Policy>) -> Self {
        for (index, policy) in policies.iter_mut().enumerate() {
            policy.name = format!("p{index}").into();
        }
        let mut bench = Self {
            kernel: Kernel::new(),
            subscribers: SubscriberIndex::default(),
            engine: PolicyEngine::new(policies),
        };
        assert!(bench.drain_ms(0).is_empty());
        bench
    }

    fn drain_ms(&mut self, at_ms: u64) -> Vec<Firing> {
        let snapshot = self.kernel.drain_at(Duration::from_millis(at_ms));
        let reused = self.subscribers.update(&snapshot);
        self.engine.begin(&snapshot, &self.subscribers, &reused);
        let mut owners = Vec::new();
        for changes in snapshot.changes.chunks(CHUNK) {
            self.subscribers.owners(changes, &mut owners);
            self.engine.take(&snapshot, changes, &owners);
        }
        let firings = self.engine.end(&snapshot, &self.subscribers);
        // Each event is delivered at once.
        for firing in &firings {
            let policy = Arc::clone(&self.engine.policies()[firing.policy]);
            let subscriber = *self.subscribers.subscriber(firing.subscriber).expect("known");
            let until = Standing::Cooling(snapshot.taken + policy.cool_down);
            self.engine.settle(&policy.name, subscriber, Some(until));
        }
        firings
    }

    fn drain(&mut self, at_s: u64) -> Vec<Firing> {
        self.drain_ms(at_s * 1000)
    }
}

fn bittorrent(address: &str) -> TallyKey {
    key(address, Protocol::BitTorrent, Confidence::Signature)
}

#[test]
fn fires_at_the_threshold_with_what_was_measured() {
    let mut bench = Bench::new(vec![policy(1000, 60, 600)]);
    bench.kernel.count(bittorrent("10.0.0.1"), bytes(300, 300));
    assert!(bench.drain(10).is_empty());
    bench.kernel.count(key("10.0.0.1", Protocol::Gnutella, Confidence::Structural), bytes(0, 399));
    assert!(bench.drain(20).is_empty());
    bench.kernel.count(key("10.0.0.1", Protocol::Gnutella, Confidence::Structural), bytes(1, 0));
    let fired = bench.drain(30);
    assert_eq!(fired.len(), 1);
    assert_eq!(fired[0].value, 1000);
    assert_eq!(fired[0].parts.iter().map(|(_, part)| part).sum::<u64>(), 1000);
    assert_eq!(fired[0].parts[0].0.protocol, Protocol::BitTorrent);
    assert_eq!(fired[0].window_end.duration_since(fired[0].window_start).expect("ordered"), Duration::from_secs(30));
    assert_eq!(bench.subscribers.subscriber(fired[0].subscriber).expect("known").block().to_string(), "10.0.0.1/32");
}

#[test]
fn a_firing_has_all_totals_of_its_protocols_in_its_window() {
    let mut bittorrent_alone = policy(2, 60, 0);
    bittorrent_alone.metric = Metric::Flows;
    bittorrent_alone.protocols = ProtocolSet::EMPTY;
    bittorrent_alone.protocols.insert(Protocol::BitTorrent);
    let mut up = policy(1000, 60, 0);
    up.direction = PolicyDirection::Up;
    let mut bench = Bench::new(vec![bittorrent_alone, up]);
    let old = Totals { flows: 1, packets_up: 1, bytes_up: 40, packets_down: 2, bytes_down: 80 };
    bench.kernel.count(bittorrent("10.0.0.1"), old);
    assert!(bench.drain(10).is_empty());
    // Download alone moves no policy here, and counts in the events.
    let download = Totals { packets_down: 700, bytes_down: 5 << 32, ..Totals::default() };
    bench.kernel.count(bittorrent("10.0.0.1"), download);
    bench.kernel.count(key("10.0.0.1", Protocol::Gnutella, Confidence::Signature), bytes(0, 60));
    bench.kernel.count(bittorrent("10.0.0.2"), download);
    assert!(bench.drain(50).is_empty());
    let new = Totals { flows: 2, packets_up: 9, bytes_up: 1000, packets_down: 1, bytes_down: 40 };
    bench.kernel.count(bittorrent("10.0.0.1"), new);
    let fired = bench.drain(70);
    let both = Totals { flows: 2, packets_up: 9, bytes_up: 1000, packets_down: 701, bytes_down: (5 << 32) + 40 };
    let gnutella = bytes(0, 60);
    assert_eq!(fired.iter().map(|firing| firing.policy).collect::<Vec<_>>(), [0, 1]);
    assert_eq!((fired[0].value, fired[0].totals), (2, both));
    let packets_down = both.packets_down + gnutella.packets_down;
    assert_eq!(
        (fired[1].value, fired[1].totals),
        (1000, Totals { packets_down, bytes_down: both.bytes_down + 60, ..both })
    );
}

#[test]
fn a_firing_has_the_remotes_of_its_protocols_in_its_window() {
    let mut bench = Bench::new(vec![policy(1000, 60, 0)]);
    let add = |bench: &mut Bench, key, remotes, bytes_up| {
        bench.kernel.add_remotes(key, RemoteSet(remotes));
        bench.kernel.count(key, bytes(bytes_up, 0));
    };
    let unclassified = key("10.0.0.1", Protocol::Unclassified, Confidence::None);
    add(&mut bench, bittorrent("10.0.0.1"), 0b1, 1);
    assert!(bench.drain(10).is_empty());
    add(&mut bench, bittorrent("10.0.0.1"), 0b110, 1);
    add(&mut bench, bittorrent("10.0.0.2"), 0b1000, 1);
    add(&mut bench, unclassified, 0b1_0000, 1);
    assert!(bench.drain(40).is_empty());
    // Remotes alone: their packets came with the drain before.
    add(&mut bench, key("10.0.0.1", Protocol::Gnutella, Confidence::Signature), 0b10_0000, 0);
    assert!(bench.drain(50).is_empty());
    add(&mut bench, key("10.0.0.1", Protocol::BitTorrent, Confidence::Structural), 0b100_0010, 1000);
    let fired = bench.drain(70);
    assert_eq!(fired.iter().map(|firing| firing.remotes).collect::<Vec<_>>(), [RemoteSet(0b110_0110)]);
    assert!(bench.drain(120).is_empty());
    add(&mut bench, bittorrent("10.0.0.1"), 0, 1000);
    assert_eq!(bench.drain(140)[0].remotes, RemoteSet::EMPTY, "the window has moved on");
}

#[test]
fn what_happened_before_the_first_drain_is_of_unknown_age_and_never_fires() {
    let mut bench = Bench {
        kernel: Kernel::new(),
        subscribers: SubscriberIndex::default(),
        engine: PolicyEngine::new(vec![policy(10, 60, 0)]),
    };
    bench.kernel.count(bittorrent("10.0.0.1"), bytes(1 << 40, 0));
    assert!(bench.drain(0).is_empty());
    bench.kernel.count(bittorrent("10.0.0.1"), bytes(9, 0));
    assert!(bench.drain(10).is_empty());
}

#[test]
fn traffic_leaves_the_window() {
    let mut bench = Bench::new(vec![policy(1000, 60, 0)]);
    for step in 1..100 {
        bench.kernel.count(bittorrent("10.0.0.1"), bytes(150, 0));
        assert!(bench.drain(step * 10).is_empty(), "6 x 150 never reach 1000 ({step})");
    }
    bench.kernel.count(bittorrent("10.0.0.1"), bytes(250, 0));
    assert_eq!(bench.drain(1000).len(), 1);
}

#[test]
fn other_subscribers_protocols_and_weaker_verdicts_do_not_add_up() {
    let mut bench = Bench::new(vec![policy(1000, 60, 0)]);
    bench.kernel.count(bittorrent("10.0.0.1"), bytes(999, 0));
    bench.kernel.count(bittorrent("10.0.0.2"), bytes(999, 0));
    bench.kernel.count(key("10.0.0.1", Protocol::BitTorrent, Confidence::Association), bytes(5000, 0));
    bench.kernel.count(key("10.0.0.1", Protocol::Unclassified, Confidence::None), bytes(5000, 0));
    bench.kernel.count(TallyKey::CATCH_ALL, bytes(5000, 0));
    assert!(bench.drain(10).is_empty());
}

#[test]
fn cool_down_and_allow_list_suppress_and_are_counted() {
    let mut allowed = policy(100, 60, 0);
    allowed.allow = vec!["10.0.0.0/8".parse().expect("prefix")];
    let mut bench = Bench::new(vec![policy(100, 60, 25), allowed]);
    let mut fired = Vec::new();
    for step in 1..=10 {
        bench.kernel.count(bittorrent("10.0.0.1"), bytes(100, 0));
        fired.extend(bench.drain(step * 10).into_iter().map(|_| step));
    }
    assert_eq!(fired, [1, 4, 7, 10]);
    assert_eq!(bench.engine.counts()[0], PolicyCounts { fired: 4, cooling: 6, ..PolicyCounts::default() });
    assert_eq!(bench.engine.counts()[1], PolicyCounts { allowed: 10, ..PolicyCounts::default() });
}

#[test]
fn nothing_fires_while_an_event_waits_and_the_cool_down_begins_when_the_caller_says_so() {
    let mut bench = Bench::new(vec![policy(100, 60, 25)]);
    let subscriber = Subscriber::of(&bittorrent("10.0.0.1")).expect("a subscriber");
    let drain = |bench: &mut Bench, at: u64, standing: Option<Option<Standing>>| {
        if let Some(standing) = standing {
            bench.engine.settle("p0", subscriber, standing);
        }
        bench.kernel.count(bittorrent("10.0.0.1"), bytes(100, 0));
        bench.drain(at).len()
    };
    assert_eq!(drain(&mut bench, 10, None), 1);
    assert_eq!(drain(&mut bench, 20, Some(Some(Standing::Pending))), 0);
    assert_eq!(drain(&mut bench, 70, None), 0, "however long it waits");
    assert_eq!(bench.engine.counts()[0], PolicyCounts { fired: 1, pending: 2, ..PolicyCounts::default() });
    assert_eq!(drain(&mut bench, 80, Some(None)), 1, "the event is dead");
    assert_eq!(drain(&mut bench, 90, None), 0, "delivered at once");
}

#[test]
fn metric_and_direction_choose_what_is_measured() {
    for (metric, direction, delta, value) in [
        (Metric::Bytes, PolicyDirection::Up, bytes(7, 0), 7),
        (Metric::Bytes, PolicyDirection::Down, bytes(0, 8), 8),
        (Metric::Packets, PolicyDirection::Both, bytes(1000, 3000), 4),
        (Metric::Flows, PolicyDirection::Both, Totals { flows: 3, ..Totals::default() }, 3),
    ] {
        let mut rule = policy(value, 60, 0);
        (rule.metric, rule.direction) = (metric, direction);
        let mut bench = Bench::new(vec![rule]);
        bench.kernel.count(bittorrent("10.0.0.1"), delta);
        assert_eq!(bench.drain(10)[0].value, value, "{metric:?} {direction:?}");
    }
    let mut rule = policy(1, 60, 0);
    rule.direction = PolicyDirection::Up;
    let mut bench = Bench::new(vec![rule]);
    bench.kernel.count(bittorrent("10.0.0.1"), bytes(0, 1 << 30));
    assert!(bench.drain(10).is_empty());
}

#[test]
fn a_drain_longer_than_the_window_cannot_say_what_was_in_it() {
    let mut bench = Bench::new(vec![policy(100, 10, 0)]);
    bench.kernel.count(bittorrent("10.0.0.1"), bytes(1000, 0));
    assert!(bench.drain(60).is_empty());
    bench.kernel.count(bittorrent("10.0.0.1"), bytes(100, 0));
    assert_eq!(bench.drain(70).len(), 1);
}

#[test]
fn numbers_near_the_end_of_64_bits_do_not_wrap() {
    let mut bench = Bench::new(vec![policy(u64::MAX - 1, 60, 0)]);
    bench.kernel.count(bittorrent("10.0.0.1"), bytes(u64::MAX / 2, u64::MAX / 2 - 1));
    assert!(bench.drain(10).is_empty());
    bench.kernel.count(key("10.0.0.1", Protocol::EDonkey, Confidence::Signature), bytes(u64::MAX / 2, u64::MAX / 2));
    assert_eq!(bench.drain(20).len(), 1);
}

proptest! {
    /// Against a model that keeps every delta: a policy fires only if some span no longer than the window (and its
    /// tolerance) held the threshold, never twice within a cool-down, and always if the drains of the last 3/4 of the
    /// window alone reach it.
    #[test]
    fn agrees_with_a_model(
        steps in prop::collection::vec((0_u64..400, 200_u64..15_000, 0_usize..3), 1..80),
        threshold in 1_u64..2000,
        window_s in 1_u64..120,
        cool_down_s in 0_u64..100,
    ) {
        let rule = policy(threshold, window_s, cool_down_s);
        let longest = rule.window + tolerance(rule.window);
        let protocols = [Protocol::BitTorrent, Protocol::EDonkey, Protocol::Gnutella];
        let mut bench = Bench::new(vec![rule.clone()]);
        let mut deltas: Vec<(Duration, Duration, u64)> = Vec::new();
        let mut now = Duration::ZERO;
        let mut last_fired: Option<Duration> = None;
        for (amount, wait_ms, protocol) in steps {
            let from = now;
            now += Duration::from_millis(wait_ms);
            bench.kernel.count(key("10.0.0.1", protocols[protocol], Confidence::Signature), bytes(amount, 0));
            let fired = bench.drain_ms(now.as_millis() as u64);
            deltas.push((from, now, amount));
            let within = |span: Duration| -> u64 {
                deltas.iter().filter(|(from, _, _)| *from + span >= now).map(|(_, _, amount)| amount).sum()
            };
            prop_assert!(fired.len() <= 1);
            let cooling = last_fired.is_some_and(|last| now < last + rule.cool_down);
            if let Some(firing) = fired.first() {
                prop_assert!(firing.value >= threshold);
                prop_assert!(within(longest) >= firing.value, "more than the window held");
                prop_assert!(!cooling, "fired twice within a cool-down");
                last_fired = Some(now);
            } else if amount > 0 && !cooling {
                let certain = rule.window.mul_f64(0.75).saturating_sub(Duration::from_millis(15_000));
                prop_assert!(certain.is_zero() || within(certain) < threshold, "should have fired");
            }
        }
    }

    /// More traffic never makes a policy fire later.
    #[test]
    fn is_monotonic(amounts in prop::collection::vec((0_u64..300, 0_u64..300), 1..50), threshold in 1_u64..2000) {
        let (mut less, mut more) = (Bench::new(vec![policy(threshold, 60, 1 << 20)]), Bench::new(vec![policy(threshold, 60, 1 << 20)]));
        let (mut less_at, mut more_at) = (None, None);
        for (step, (amount, extra)) in amounts.into_iter().enumerate() {
            let at = (step as u64 + 1) * 10;
            less.kernel.count(bittorrent("10.0.0.1"), bytes(amount, 0));
            more.kernel.count(bittorrent("10.0.0.1"), bytes(amount + extra, 0));
            if !less.drain(at).is_empty() { less_at = less_at.or(Some(at)); }
            if !more.drain(at).is_empty() { more_at = more_at.or(Some(at)); }
            prop_assert!(less_at.is_none() || more_at.is_some());
        }
    }

    /// Windows that share a history say what each alone says, however long the drains and whoever uses a slot again.
    #[test]
    fn windows_do_not_influence_each_other(
        rules in prop::collection::vec((1_u64..1500, 1_u64..200, 0_usize..2, 0_usize..2), 1..8),
        steps in prop::collection::vec((1_u8..4, 0_usize..3, 0_u64..400, 50_u64..12_000, any::<bool>()), 1..120),
    ) {
        let protocols = [Protocol::BitTorrent, Protocol::EDonkey, Protocol::Gnutella];
        let rules: Vec<Policy> = rules.into_iter().map(|(threshold, window, protocol, direction)| {
            let mut rule = policy(threshold, window, 20);
            if protocol == 0 {
                rule.protocols = ProtocolSet::EMPTY;
                rule.protocols.insert(protocols[0]);
            }
            rule.direction = [PolicyDirection::Up, PolicyDirection::Both][direction];
            rule
        }).collect();
        let mut together = Bench::new(rules.clone());
        // Looks at all policies of whoever moves.
        let mut thorough = Bench::new(rules.clone());
        let mut alone: Vec<Bench> = rules.iter().map(|rule| Bench::new(vec![rule.clone()])).collect();
        let mut at_ms = 0;
        for (host, protocol, amount, wait_ms, swap) in steps {
            at_ms += wait_ms;
            let key = key(&format!("10.0.0.{host}"), protocols[protocol], Confidence::Signature);
            let advance = |bench: &mut Bench| {
                if swap { bench.kernel.swap_hands(); }
                bench.kernel.count(key, bytes(amount, 3));
                bench.drain_ms(at_ms)
            };
            let mut found: Vec<Firing> = advance(&mut together);
            let mut expected = Vec::new();
            for (index, bench) in alone.iter_mut().enumerate() {
                expected.extend(advance(bench).into_iter().map(|firing| Firing { policy: index, ..firing }));
            }
            let order = |firing: &Firing| (firing.policy, firing.subscriber);
            found.sort_by_key(order);
            expected.sort_by_key(order);
            // Each bench has a clock of its own: spans are compared, not times.
            let plain = |firings: &[Firing]| -> Vec<_> {
                let span = |firing: &Firing| firing.window_end.duration_since(firing.window_start).expect("ordered");
                let all = firings.iter();
                all.map(|each| (each.policy, each.subscriber, each.value, each.parts.clone(), each.totals, span(each))).collect()
            };
            prop_assert_eq!(plain(&found), plain(&expected));
            thorough.engine.ignore_limits();
            let mut expected = advance(&mut thorough);
            expected.sort_by_key(order);
            prop_assert_eq!(plain(&found), plain(&expected));
            prop_assert_eq!(together.engine.counts(), thorough.engine.counts());
            let counts: Vec<PolicyCounts> = alone.iter().map(|bench| bench.engine.counts()[0]).collect();
            prop_assert_eq!(together.engine.counts(), &counts[..]);
        }
    }

    /// Many policies at once say what each alone says.
    #[test]
    fn policies_do_not_influence_each_other(
        rules in prop::collection::vec((1_u64..1500, 1_u64..5, 0_usize..3, 0_usize..4), 1..12),
        traffic in prop::collection::vec((1_u8..4, 0_usize..3, 0_usize..4, 0_u64..400), 1..60),
    ) {
        let protocols = [Protocol::BitTorrent, Protocol::EDonkey, Protocol::Gnutella];
        let tiers = [Confidence::Heuristic, Confidence::Association, Confidence::Structural, Confidence::Signature];
        let rules: Vec<Policy> = rules.into_iter().map(|(threshold, window, protocol, tier)| {
            let mut rule = policy(threshold, window * 20, 30);
            rule.protocols = ProtocolSet::EMPTY;
            rule.protocols.insert(protocols[protocol]);
            if protocol == 0 { rule.protocols.insert(protocols[1]); }
            rule.min_confidence = tiers[tier];
            rule
        }).collect();
        let mut together = Bench::new(rules.clone());
        let mut alone: Vec<Bench> = rules.iter().map(|rule| Bench::new(vec![rule.clone()])).collect();
        for (step, (host, protocol, tier, amount)) in traffic.into_iter().enumerate() {
            let at = (step as u64 + 1) * 10;
            let key = key(&format!("10.0.0.{host}"), protocols[protocol], tiers[tier]);
            together.kernel.count(key, bytes(amount, 0));
            let mut found: Vec<(usize, u32, u64)> =
                together.drain(at).into_iter().map(|firing| (firing.policy, firing.subscriber, firing.value)).collect();
            found.sort_unstable();
            let mut expected = Vec::new();
            for (index, bench) in alone.iter_mut().enumerate() {
                bench.kernel.count(key, bytes(amount, 0));
                expected.extend(bench.drain(at).into_iter().map(|firing| (index, firing.subscriber, firing.value)));
            }
            expected.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }
}

#[test]
fn a_policy_that_stays_keeps_its_window_and_its_cool_down() {
    let named = |name: &str, threshold, window_s, cool_down_s| Policy {
        name: name.into(),
        ..policy(threshold, window_s, cool_down_s)
    };
    let mut bench = Bench::new(vec![named("p0", 1, 30, 0), named("p1", 100, 60, 300), named("p2", 1000, 60, 0)]);
    bench.kernel.count(bittorrent("10.0.0.1"), bytes(600, 0));
    assert_eq!(bench.drain(10).len(), 2);
    let mut flows = named("flows", 1, 60, 0);
    flows.metric = Metric::Flows;
    // In another order, and beside new ones.
    let near = || named("p2", 1000, 60, 0);
    bench.engine.reconfigure(vec![near(), flows, named("later", 700, 120, 0), named("p1", 100, 60, 300)]);
    let counts = bench.engine.counts().to_vec();
    assert_eq!((counts[3].fired, counts[0].fired, counts[2].fired), (1, 0, 0));
    bench.kernel.count(bittorrent("10.0.0.1"), bytes(300, 0));
    assert!(bench.drain(20).is_empty(), "900 bytes in the old window, 300 in the new one, and a cool-down");
    assert!(bench.engine.counts()[3].cooling > 0);
    bench.kernel.count(bittorrent("10.0.0.1"), Totals { flows: 1, ..bytes(100, 0) });
    let fired: Vec<_> = bench.drain(30).iter().map(|firing| (firing.policy, firing.value)).collect();
    assert_eq!(fired, [(0, 1000), (1, 1)], "the window of `p2` has what came before");
    bench.engine.reconfigure(vec![near()]);
    bench.engine.reconfigure(Vec::new());
    bench.kernel.count(bittorrent("10.0.0.1"), bytes(9999, 0));
    assert!(bench.drain(40).is_empty());
    bench.engine.reconfigure(vec![near()]);
    bench.kernel.count(bittorrent("10.0.0.1"), bytes(999, 0));
    assert!(bench.drain(50).is_empty(), "a window that was dropped starts anew");
    bench.kernel.count(bittorrent("10.0.0.1"), bytes(1, 0));
    assert_eq!(bench.drain(60).len(), 1);
}

proptest! {
    #[test]
    fn equal_policies_change_nothing(steps in proptest::collection::vec((0_u64..400, any::<bool>()), 1..40)) {
        let named = |name: &str, policy| Policy { name: name.into(), ..policy };
        let policies = || vec![named("p0", policy(500, 30, 20)), named("p1", policy(900, 60, 0))];
        let (mut plain, mut reloaded) = (Bench::new(policies()), Bench::new(policies()));
        for (step, (amount, reload)) in steps.into_iter().enumerate() {
            if reload {
                reloaded.engine.reconfigure(policies());
            }
            let drain = |bench: &mut Bench| {
                bench.kernel.count(bittorrent("10.0.0.1"), bytes(amount, 0));
                bench.drain(10 * (step as u64 + 1)).iter().map(|firing| (firing.policy, firing.value)).collect::<Vec<_>>()
            };
            prop_assert_eq!(drain(&mut plain), drain(&mut reloaded));
        }
    }
}
