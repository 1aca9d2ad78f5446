//! The scraped text against the table, its bounds, and counters that never go down.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use monitor_common::abi::{
    protocol::{Confidence, Protocol, Verdict},
    settings::InspectionDepth,
    tally::{Direction, TallyKey, Totals},
};
use peertally_core::{
    analysis::{Analysis, node::MAX_ROWS},
    snapshot::Counts,
    subscriber::Pseudonyms,
    testing::{Kernel, bytes, key},
};
use peertally_store::Store;

use super::{
    collector::{Exposition, commit_histogram, drain_histogram},
    definitions::{ALL, MetricKind},
    subscribers::{self, Shard},
};
use crate::{
    agent::{
        AgentState,
        state::Kept,
        store_stats::{StoreObserver, StoreStats},
    },
    config::{Overrides, Resolved},
    deliver::{HookStats, book::EventBook, kinds::exec},
};

const BITTORRENT: Verdict = Verdict { protocol: Protocol::BitTorrent, confidence: Confidence::Signature };

fn resolved(text: &str) -> Arc<Resolved> {
    Arc::new(crate::config::parse(std::path::Path::new("p.toml"), text, &Overrides::default()).expect("valid"))
}

struct Bench {
    kernel: Kernel,
    analysis: Analysis,
    state: Arc<AgentState>,
    exposition: Exposition,
    at: Duration,
}

impl Bench {
    fn new(text: &str) -> Self {
        let state = AgentState::new(
            InspectionDepth::Framing,
            resolved(text).evidence(),
            vec![HookStats::new("tell".into(), &exec::KIND, 10)],
            drain_histogram(),
        );
        state.set_merging(vec![("eth7".into(), true)]);
        state.set_pseudonym_key("0a1b2c3d".to_owned());
        let folder = tempfile::tempdir().expect("a folder");
        let store = StoreStats::new(commit_histogram());
        let opened = Store::open(folder.path(), StoreObserver(Arc::clone(&store))).expect("opens");
        let book = EventBook::new(opened).expect("reads");
        state.keep(Kept { book, firings: Arc::default(), store, history: Arc::default() });
        let analysis = Analysis::new(resolved(text).analysis_options(), Pseudonyms::with_key([3; 32]));
        let exposition = Exposition::new(Arc::clone(&state));
        Self { kernel: Kernel::new(), analysis, state, exposition, at: Duration::ZERO }
    }

    fn drain(&mut self) -> BTreeMap<String, f64> {
        let (published, _) = self.analysis.take(self.kernel.drain_at(self.at), Default::default);
        self.at += Duration::from_secs(10);
        self.state.publish(published);
        self.scrape()
    }

    fn text(&self) -> String {
        String::from_utf8(self.exposition.text()).expect("UTF-8")
    }

    fn scrape(&self) -> BTreeMap<String, f64> {
        let mut series = BTreeMap::new();
        for line in self.text().lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').expect("a series");
            assert_eq!(series.insert(name.to_owned(), value.parse().expect("a number")), None, "twice: {name}");
        }
        series
    }
}

/// Traffic of everything, so that every family has a series.
fn busy() -> Bench {
    let mut bench = Bench::new("[[policies]]\nname = \"heavy\"\nthreshold = 1000\nwindow = \"1m\"\n");
    bench.drain();
    bench
        .kernel
        .count(key("10.0.0.1", Protocol::BitTorrent, Confidence::Signature), Totals { flows: 2, ..bytes(2000, 3000) });
    bench.kernel.count(key("10.0.0.1", Protocol::Unclassified, Confidence::None), bytes(1, 1));
    bench.kernel.count_node("eth0", Direction::Up, BITTORRENT, 2000);
    bench.kernel.unanswer(Counts { flows: 1, packets: 1, bytes: 500 });
    bench.drain();
    bench
}

#[test]
fn what_is_scraped_is_what_is_documented() {
    let text = busy().text();
    for definition in ALL.iter().filter(|definition| definition.endpoint == "/metrics") {
        let (name, kind) = (definition.name, definition.kind.label());
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name} is not served as {kind}");
        assert!(text.contains(&format!("# HELP {name} {}\n", definition.help)), "{name} has another help");
        let line =
            text.lines().find(|line| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} ")));
        if definition.kind != MetricKind::Histogram {
            let line = line.unwrap_or_else(|| panic!("{name} has no series"));
            let labels: Vec<&str> = line
                .split_once('{')
                .map(|(_, rest)| rest.split("\",").filter_map(|pair| pair.split('=').next()).collect())
                .unwrap_or_default();
            let mut documented = definition.labels.to_vec();
            documented.sort_unstable();
            let mut labels = labels;
            labels.sort_unstable();
            assert_eq!(labels, documented, "{line}");
        }
    }
    for line in text.lines().filter(|line| line.starts_with("# TYPE")) {
        let name = line.split(' ').nth(2).expect("a name");
        assert!(ALL.iter().any(|definition| definition.name == name), "{name} is not in the table");
    }
}

#[test]
fn a_router_that_sees_one_direction_says_so() {
    for (text, series) in [("", "answered"), ("one_way = true", "one_way")] {
        let mut bench = Bench::new(text);
        let scraped = bench.drain();
        let named: Vec<&String> = scraped.keys().filter(|name| name.starts_with("peertally_evidence_info")).collect();
        assert_eq!(named, [&format!("peertally_evidence_info{{evidence=\"{series}\"}}")]);
        assert_eq!(scraped[named[0]], 1.0);
    }
}

#[test]
fn names_follow_the_rules() {
    let mut seen = std::collections::HashSet::new();
    for definition in ALL {
        let name = definition.name;
        assert!(seen.insert(name), "{name} twice");
        assert!(name.starts_with("peertally_"), "{name}");
        assert_eq!(definition.kind == MetricKind::Counter, name.ends_with("_total"), "{name}");
        assert!(definition.unit.is_empty() || name.contains(definition.unit), "{name} hides its unit");
        assert!(!definition.help.is_empty());
    }
}

#[test]
fn values_are_those_of_the_drain() {
    let bench = busy();
    let series = bench.scrape();
    let of = |name: &str| *series.get(name).unwrap_or_else(|| panic!("no {name} in {series:#?}"));
    assert_eq!(
        of(
            "peertally_traffic_bytes_total{interface=\"eth0\",direction=\"up\",protocol=\"bittorrent\",confidence=\"signature\"}"
        ),
        2000.0
    );
    assert_eq!(of("peertally_subscribers_active{protocol=\"bittorrent\"}"), 1.0);
    assert_eq!(of("peertally_subscribers_active{protocol=\"gnutella\"}"), 0.0);
    assert_eq!(of("peertally_policy_events_total{policy=\"heavy\",kind=\"fired\"}"), 1.0);
    assert_eq!(of("peertally_xdp_attached{interface=\"eth0\",role=\"access\",mode=\"native\"}"), 1.0);
    assert_eq!(of("peertally_spoofed_packets_total{interface=\"eth0\",reason=\"spoofed\"}"), 4.0);
    assert_eq!(of("peertally_spoofed_bytes_total{interface=\"eth0\",reason=\"spoofed\"}"), 400.0);
    assert_eq!(of("peertally_shed_packets_total{interface=\"eth0\"}"), 3.0);
    assert_eq!(of("peertally_shed_bytes_total{interface=\"eth0\"}"), 300.0);
    assert_eq!(of("peertally_drain_duration_seconds_count"), 2.0);
    let top: Vec<&String> = series.keys().filter(|name| name.starts_with("peertally_top_")).collect();
    assert_eq!(top.len(), 2, "P2P only: {top:?}");
    assert!(!bench.text().contains("10.0.0.1"), "an address is shown");
}

#[test]
fn before_the_first_drain_there_is_an_answer_and_it_is_not_ready() {
    let bench = Bench::new("");
    assert!(bench.text().contains("peertally_build_info"));
    assert!(bench.state.ready().expect_err("not yet").contains("no drain"));
    bench.state.drain_failed("map gone".to_owned());
    assert!(bench.state.ready().expect_err("not yet").contains("map gone"));
    assert_eq!(bench.scrape()["peertally_drain_failures_total"], 1.0);
}

#[test]
fn the_number_of_series_is_bounded() {
    let mut bench = Bench::new("[metrics]\ntop_k = 20\n");
    bench.drain();
    let verdicts: Vec<Verdict> = Protocol::ALL
        .iter()
        .flat_map(|protocol| {
            Confidence::ALL.iter().map(|confidence| Verdict { protocol: *protocol, confidence: *confidence })
        })
        .collect();
    for subscriber in 0..2000_u32 {
        for verdict in &verdicts {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 + subscriber).to_string();
            bench.kernel.count(key(&address, verdict.protocol, verdict.confidence), bytes(1000, 1));
        }
    }
    for interface in 0..32 {
        for direction in Direction::ALL {
            for verdict in &verdicts {
                bench.kernel.count_node(&format!("eth{interface}"), *direction, *verdict, 10);
                bench.kernel.unanswer(Counts { flows: 1, packets: 1, bytes: 4 });
            }
        }
    }
    let series = bench.drain();
    let aggregated = 4 * verdicts.len();
    let top = series.keys().filter(|name| name.starts_with("peertally_top_")).count();
    assert!(top <= 20 * Protocol::ALL.len() * 2, "{top} top series");
    assert!(top > 0);
    let fixed = 150;
    let bound = (MAX_ROWS + aggregated) * 6 + 20 * Protocol::ALL.len() * 2 + fixed;
    assert!(series.len() <= bound, "{} series, more than {bound}", series.len());
    let sum = |metric: &str| -> f64 {
        series.iter().filter(|(name, _)| name.starts_with(metric)).map(|(_, value)| value).sum()
    };
    assert_eq!(sum("peertally_traffic_bytes_total"), (32 * aggregated * 10) as f64, "aggregation lost bytes");
    assert_eq!(sum("peertally_unanswered_bytes_total"), (32 * aggregated * 4) as f64, "aggregation lost bytes");
}

#[test]
fn no_counter_goes_down() {
    let mut bench = Bench::new("[metrics]\ntop_k = 3\n");
    let mut before = bench.drain();
    for step in 0..200_u64 {
        for subscriber in 0..20_u64 {
            if fastrand::u64(0..4) > 0 {
                bench.kernel.count(
                    key(&format!("10.0.0.{subscriber}"), Protocol::EDonkey, Confidence::Structural),
                    bytes(fastrand::u64(0..10_000) * (1 + (step + subscriber) % 7), 1),
                );
            }
        }
        bench.kernel.count_node(&format!("v{}", step % 120), Direction::Up, BITTORRENT, 5);
        bench.kernel.count_node(&format!("v{}", step % 120), Direction::Down, BITTORRENT, 5);
        bench.kernel.count_node(&format!("v{}", step % 120), Direction::Local, BITTORRENT, 5);
        let now = bench.drain();
        for (name, value) in &now {
            if name.split('{').next().is_some_and(|name| name.ends_with("_total")) {
                assert!(before.get(name).is_none_or(|old| old <= value), "{name} went down");
            }
        }
        // A series that left and comes back must not be lower than before.
        before.extend(now);
    }
}

#[test]
fn top_subscribers_enter_at_k_and_leave_beyond_twice_k_after_their_stay() {
    let mut bench = Bench::new("[metrics]\ntop_k = 2\n");
    bench.drain();
    let subscribers = |series: &BTreeMap<String, f64>| -> std::collections::BTreeSet<String> {
        series
            .keys()
            .filter(|name| name.starts_with("peertally_top_"))
            .filter_map(|name| name.split("subscriber=\"").nth(1)?.split('"').next().map(ToOwned::to_owned))
            .collect()
    };
    let count = |bench: &mut Bench, host: u8, amount: u64| {
        bench
            .kernel
            .count(key(&format!("10.0.0.{host}"), Protocol::BitTorrent, Confidence::Signature), bytes(amount, 0));
    };
    for (host, amount) in [(1, 5000), (2, 4000), (3, 3000)] {
        count(&mut bench, host, amount);
    }
    let first = subscribers(&bench.drain());
    assert_eq!(first.len(), 2);
    // Overtaken, but within twice the rank: both stay, the new one enters.
    count(&mut bench, 3, 3000);
    let second = subscribers(&bench.drain());
    assert!(second.is_superset(&first) && second.len() == 3);
    // Beyond twice the rank: they leave once their stay is over.
    for round in 0..70 {
        for host in 4..10 {
            count(&mut bench, host, 100_000 + u64::from(host) * 1000 + round);
        }
        bench.drain();
    }
    let last = subscribers(&bench.drain());
    assert!(last.is_disjoint(&first), "{last:?}");
    assert!(last.len() <= 4, "{last:?}");
}

#[test]
fn shards_split_the_subscribers_without_loss() {
    let mut kernel = Kernel::new();
    for host in 0..50 {
        kernel.count(key(&format!("10.0.0.{host}"), Protocol::Gnutella, Confidence::Structural), bytes(10, 20));
    }
    kernel.count(TallyKey::CATCH_ALL, bytes(1, 1));
    let snapshot = kernel.drain_at(Duration::ZERO);
    let pseudonyms = Pseudonyms::with_key([1; 32]);
    let lines = |shard: &str| {
        let mut all = String::new();
        subscribers::write(&snapshot, &pseudonyms, shard.parse().expect("a shard"), |piece| {
            all.push_str(&piece);
            true
        });
        all.lines()
            .filter(|line| !line.starts_with('#'))
            .map(ToOwned::to_owned)
            .collect::<std::collections::BTreeSet<_>>()
    };
    let whole = lines("0/1");
    assert_eq!(whole.len(), 50 * 5);
    let parts: Vec<_> = (0..4).map(|index| lines(&format!("{index}/4"))).collect();
    assert_eq!(parts.iter().map(std::collections::BTreeSet::len).sum::<usize>(), whole.len());
    assert!(parts.iter().filter(|part| !part.is_empty()).count() > 1);
    assert_eq!(parts.into_iter().flatten().collect::<std::collections::BTreeSet<_>>(), whole);
    for wrong in ["", "1", "1/1", "2/1", "0/0", "a/b", "0/5000", "-1/2"] {
        assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
    }
    let mut pieces = 0;
    subscribers::write(&snapshot, &pseudonyms, Shard::ALL, |_| {
        pieces += 1;
        false
    });
    assert_eq!(pieces, 1, "goes on writing to nobody");
}

/// Result of Prometheus' own checker for both endpoints.
#[test]
fn promtool_has_no_complaint() {
    let Ok(version) = std::process::Command::new("promtool").arg("--version").output() else {
        return crate::skip::skip("promtool", "prometheus");
    };
    assert!(version.status.success());
    let bench = busy();
    let published = bench.state.published().expect("published");
    let mut all = String::new();
    subscribers::write(&published.snapshot, &Pseudonyms::with_key([1; 32]), Shard::ALL, |piece| {
        all.push_str(&piece);
        true
    });
    for text in [bench.text(), all] {
        use std::io::Write;
        let mut child = std::process::Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("promtool starts");
        child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("written");
        let output = child.wait_with_output().expect("ended");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.trim().is_empty(),
            "promtool: {said}{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
}
