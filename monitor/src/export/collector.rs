//! Turns the last drain and the hooks' counts into metric families.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use monitor_common::abi::protocol::Protocol;
use peertally_core::{analysis::DrainResult, policy::event::EventKind, snapshot::Counts};
use prometheus::{
    Encoder, Histogram, HistogramOpts, Registry, TextEncoder,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    definitions::{self, Definition},
    family::Family,
};
use crate::{
    agent::{
        connection_counts::ListenerName,
        consequences::HoldReason,
        record_counts::{RecordKind, RecordLoss},
        state::{AgentState, Kept},
    },
    deliver::{HookReport, HookStats, stats::FailureCount},
};

/// Upper limits of the drain histogram, in seconds: a million tallies take tens of milliseconds.
const DRAIN_BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The histogram of drain durations, for [`AgentState`].
#[must_use]
pub fn drain_histogram() -> Histogram {
    let definition = &definitions::DRAIN_DURATION;
    let options = HistogramOpts::new(definition.name, definition.help).buckets(DRAIN_BUCKETS.to_vec());
    Histogram::with_opts(options).expect("the buckets are in order")
}

/// Upper limits of the commit histogram, in seconds: a synchronisation of a disk takes milliseconds to tens of them.
const COMMIT_BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The histogram of commits, for [`crate::agent::store_stats::StoreStats`].
#[must_use]
pub fn commit_histogram() -> Histogram {
    let definition = &definitions::STORE_COMMIT_DURATION;
    let options = HistogramOpts::new(definition.name, definition.help).buckets(COMMIT_BUCKETS.to_vec());
    Histogram::with_opts(options).expect("the buckets are in order")
}

/// The Prometheus registry with the agent's one collector.
#[derive(Clone, Debug)]
pub struct Exposition {
    registry: Registry,
}

impl Exposition {
    /// An exposition of the agent's state.
    #[must_use]
    pub fn new(state: Arc<AgentState>) -> Self {
        let registry = Registry::new();
        let agent = AgentCollector { state, descriptions: descriptions() };
        registry.register(Box::new(agent)).expect("each metric is defined once");
        Self { registry }
    }

    /// The text format (version 0.0.4).
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(64 * 1024);
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("no family is empty, memory does not fail");
        text
    }
}

fn descriptions() -> Vec<Desc> {
    let on_metrics = definitions::ALL.iter().filter(|definition| definition.endpoint == "/metrics");
    on_metrics
        .map(|definition| {
            let labels = definition.labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(definition.name.to_owned(), definition.help.to_owned(), labels, HashMap::new())
                .expect("the names in the metric definitions are valid")
        })
        .collect()
}

struct AgentCollector {
    state: Arc<AgentState>,
    descriptions: Vec<Desc>,
}

impl Collector for AgentCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let state = &self.state;
        let mut families = agent_families(state);
        if let Some(published) = state.published() {
            families.extend(traffic(&published));
            families.extend(kernel(&published));
            families.extend(policies(&published));
        }
        families.extend(hooks(&state.hooks()));
        families.extend(records(state));
        families.extend(state.kept().map(|kept| kept_families(kept, state)).unwrap_or_default());
        let mut families: Vec<MetricFamily> = families.into_iter().map(Family::finish).collect();
        families.extend(state.drain_durations().collect());
        families.extend(state.kept().map(|kept| kept.store.commits().collect()).unwrap_or_default());
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn agent_families(state: &AgentState) -> Vec<Family> {
    let mut build = Family::new(&definitions::BUILD);
    build.add(&[env!("CARGO_PKG_VERSION")], 1.0);
    let mut inspection = Family::new(&definitions::INSPECTION);
    inspection.add(&[state.inspection().label()], 1.0);
    let mut evidence = Family::new(&definitions::EVIDENCE);
    evidence.add(&[state.evidence().label()], 1.0);
    let mut protocols = Family::new(&definitions::PROTOCOL);
    for protocol in Protocol::ALL {
        if let Some(class) = protocol.class() {
            protocols.add(&[protocol.label(), class.label()], 1.0);
        }
    }
    let mut open = Family::new(&definitions::CONNECTIONS_OPEN);
    let mut given_up = Family::new(&definitions::CONNECTIONS_CLOSED);
    for listener in ListenerName::ALL {
        open.add(&[listener.label()], state.connections.open(listener) as f64);
        for (reason, count) in state.connections.given_up(listener) {
            given_up.add(&[listener.label(), reason.label()], count as f64);
        }
    }
    let mut key = Family::new(&definitions::PSEUDONYM_KEY);
    key.add(&[&state.pseudonym_key()], 1.0);
    let mut rotations = Family::new(&definitions::KEY_ROTATIONS);
    for (outcome, count) in ["done", "failed"].into_iter().zip(state.key_rotations()) {
        rotations.add(&[outcome], count as f64);
    }
    let mut merged = Family::new(&definitions::MERGED);
    for (interface, merges) in state.merging() {
        merged.add(&[&interface], f64::from(merges));
    }
    let mut reloads = Family::new(&definitions::RELOADS);
    state.reloads().iter().for_each(|(result, count)| reloads.add(&[result.label()], *count as f64));
    let (digest, since, _) = state.configuration();
    let mut configuration = Family::new(&definitions::CONFIGURATION);
    configuration.add(&[if digest.is_empty() { "defaults" } else { &digest }], 1.0);
    vec![
        merged,
        key,
        rotations,
        open,
        given_up,
        build,
        reloads,
        configuration,
        Family::single(&definitions::CONFIGURATION_TIME, unix_seconds(since)),
        protocols,
        inspection,
        evidence,
        Family::single(&definitions::START_TIME, unix_seconds(state.start())),
        Family::single(&definitions::DRAIN_FAILURES, state.drain_failures() as f64),
    ]
}

fn traffic(published: &DrainResult) -> Vec<Family> {
    let mut bytes = Family::new(&definitions::TRAFFIC_BYTES);
    let mut packets = Family::new(&definitions::TRAFFIC_PACKETS);
    let mut flows = Family::new(&definitions::TRAFFIC_FLOWS);
    let mut unanswered = [
        Family::new(&definitions::UNANSWERED_BYTES),
        Family::new(&definitions::UNANSWERED_PACKETS),
        Family::new(&definitions::UNANSWERED_FLOWS),
    ];
    for row in &published.node.rows {
        let labels =
            [&*row.interface, row.direction.label(), row.verdict.protocol.label(), row.verdict.confidence.label()];
        bytes.add(&labels, row.bytes as f64);
        packets.add(&labels, row.packets as f64);
        flows.add(&labels, row.flows as f64);
        if row.unanswered != Counts::default() {
            let counts = [row.unanswered.bytes, row.unanswered.packets, row.unanswered.flows];
            unanswered.iter_mut().zip(counts).for_each(|(family, count)| family.add(&labels, count as f64));
        }
    }
    let mut active = Family::new(&definitions::SUBSCRIBERS_ACTIVE);
    for (protocol, subscribers) in &published.active {
        active.add(&[protocol.label()], *subscribers as f64);
    }
    let mut top = Family::new(&definitions::TOP_BYTES);
    for row in &published.top {
        top.add(&[&row.subscriber, row.protocol.label(), "up"], row.bytes_up as f64);
        top.add(&[&row.subscriber, row.protocol.label(), "down"], row.bytes_down as f64);
    }
    let pending = published.snapshot.pending;
    let mut families = vec![bytes, packets, flows];
    families.extend(unanswered);
    families.extend([
        Family::single(&definitions::TRAFFIC_AGGREGATED, published.node.aggregated as f64),
        active,
        top,
        Family::single(&definitions::PENDING_FLOWS, pending.flows as f64),
        Family::single(&definitions::PENDING_PACKETS, pending.packets as f64),
        Family::single(&definitions::PENDING_BYTES, pending.bytes as f64),
    ]);
    families
}

fn kernel(published: &DrainResult) -> Vec<Family> {
    let snapshot = &published.snapshot;
    let labelled = |definition: &'static Definition, rows: &mut dyn Iterator<Item = (&'static str, u64)>| {
        let mut family = Family::new(definition);
        rows.for_each(|(label, value)| family.add(&[label], value as f64));
        family
    };
    let mut attached = Family::new(&definitions::ATTACHED);
    for each in &snapshot.attachments {
        attached.add(&[&each.interface, each.role, each.mode], f64::from(each.is_on()));
    }
    let mut others = Family::new(&definitions::OTHER_PROGRAMS);
    for each in &snapshot.reconciled.others {
        others.add(&[&each.interface, each.mode, &each.pins], 1.0);
    }
    let mut changes = Family::new(&definitions::ATTACHMENT_CHANGES);
    for each in &snapshot.reconciled.changes {
        changes.add(&[&each.interface, each.change], each.count as f64);
    }
    let mut hits: BTreeMap<&'static str, u64> = Protocol::ALL
        .iter()
        .filter(|protocol| protocol.names_content())
        .map(|protocol| (protocol.label(), 0))
        .collect();
    for (key, count) in &snapshot.watchlist {
        if let Some(protocol) = Protocol::from_number(key.protocol) {
            *hits.entry(protocol.label()).or_default() += count;
        }
    }
    let mut rules = Family::new(&definitions::RULE_VERDICTS);
    for (rule, count) in &snapshot.rules {
        rules.add(&[rule.protocol().label(), rule.confidence().label(), rule.name()], *count as f64);
    }
    let (mut shed_packets, mut shed_bytes) =
        (Family::new(&definitions::SHED_PACKETS), Family::new(&definitions::SHED_BYTES));
    let (mut spoofed_packets, mut spoofed_bytes) =
        (Family::new(&definitions::SPOOFED_PACKETS), Family::new(&definitions::SPOOFED_BYTES));
    for (reason, rows) in &snapshot.spoofed {
        for row in rows {
            spoofed_packets.add(&[&row.interface, reason.label()], row.packets as f64);
            spoofed_bytes.add(&[&row.interface, reason.label()], row.bytes as f64);
        }
    }
    for row in &snapshot.shed {
        shed_packets.add(&[&row.interface], row.packets as f64);
        shed_bytes.add(&[&row.interface], row.bytes as f64);
    }
    let mut table_use = Family::new(&definitions::TABLE_USE);
    for table in &snapshot.tables {
        table_use.add(&[table.name], table.ratio());
    }
    let catch_all = [("up", published.catch_all.bytes_up), ("down", published.catch_all.bytes_down)];
    vec![
        labelled(&definitions::SKIPPED, &mut snapshot.skipped.iter().map(|(reason, count)| (reason.label(), *count))),
        spoofed_packets,
        spoofed_bytes,
        shed_packets,
        shed_bytes,
        labelled(&definitions::KERNEL_EVENTS, &mut snapshot.events.iter().copied()),
        labelled(&definitions::CATCH_ALL_BYTES, &mut catch_all.into_iter()),
        labelled(&definitions::TABLE_ENTRIES, &mut snapshot.tables.iter().map(|table| (table.name, table.entries))),
        labelled(&definitions::TABLE_CAPACITY, &mut snapshot.tables.iter().map(|table| (table.name, table.capacity))),
        table_use,
        Family::single(&definitions::TALLIES_RETIRED, snapshot.ageing.retired as f64),
        Family::single(&definitions::TALLIES_HELD, snapshot.ageing.held as f64),
        Family::single(&definitions::TALLY_AGEING_FAILURES, snapshot.ageing.failures as f64),
        attached,
        others,
        changes,
        Family::single(&definitions::ATTACHMENT_QUERY_FAILURES, snapshot.reconciled.failed_queries as f64),
        rules,
        labelled(&definitions::WATCHLIST_HITS, &mut hits.into_iter()),
        Family::single(&definitions::SNAPSHOT_AGE, snapshot.taken.elapsed().as_secs_f64()),
        Family::single(&definitions::SNAPSHOT_TIME, unix_seconds(snapshot.taken_at)),
        Family::single(&definitions::EVALUATION_TIME, published.evaluation.as_secs_f64()),
    ]
}

fn policies(published: &DrainResult) -> Vec<Family> {
    let mut events = Family::new(&definitions::POLICY_EVENTS);
    let mut suppressed = Family::new(&definitions::POLICY_SUPPRESSED);
    for (name, counts) in &published.policies {
        events.add(&[name, EventKind::Fired.label()], counts.fired as f64);
        events.add(&[name, EventKind::Cleared.label()], counts.cleared as f64);
        suppressed.add(&[name, "cool_down"], counts.cooling as f64);
        suppressed.add(&[name, "pending"], counts.pending as f64);
        suppressed.add(&[name, "allow_list"], counts.allowed as f64);
    }
    vec![events, suppressed]
}

fn records(state: &AgentState) -> Vec<Family> {
    let mut written = Family::new(&definitions::RECORDS_WRITTEN);
    let mut lost = Family::new(&definitions::RECORDS_LOST);
    let mut waiting = Family::new(&definitions::RECORDS_WAITING);
    let mut failures = Family::new(&definitions::RECORD_FAILURES);
    let mut removed = Family::new(&definitions::RECORD_FILES_REMOVED);
    for kind in RecordKind::ALL {
        let (file, report) = (kind.label(), state.records.report(kind));
        written.add(&[file], report.written as f64);
        for (reason, count) in RecordLoss::ALL.into_iter().zip(report.lost) {
            lost.add(&[file, reason.label()], count as f64);
        }
        waiting.add(&[file], report.waiting as f64);
        failures.add(&[file], report.failures as f64);
        if kind != RecordKind::VerdictRecords {
            removed.add(&[file], report.removed_files as f64);
        }
    }
    let mut rows = Family::new(&definitions::RECORDS_REMOVED);
    state.records.rows_removed().iter().for_each(|(reason, count)| rows.add(&[reason], *count as f64));
    vec![written, lost, waiting, failures, removed, rows]
}

fn kept_families(kept: &Kept, state: &AgentState) -> Vec<Family> {
    let mut events = Family::new(&definitions::EVENTS);
    for (event_state, count) in kept.book.counts() {
        events.add(&[event_state.label()], count as f64);
    }
    let mut held = Family::new(&definitions::EVENTS_HELD);
    for (policy, _) in state.published().iter().flat_map(|published| &published.policies) {
        for reason in HoldReason::ALL {
            held.add(&[policy, reason.label()], kept.firings.held(policy, reason) as f64);
        }
    }
    let mut failures = Family::new(&definitions::STORE_FAILURES);
    for (failure, count) in kept.store.failures() {
        failures.add(&[failure.label()], count as f64);
    }
    let uncommitted = Family::single(&definitions::EVENTS_UNCOMMITTED, kept.firings.uncommitted() as f64);
    let removed = Family::single(&definitions::HOOK_REMOVED, kept.book.removed_deliveries() as f64);
    let lost = Family::single(&definitions::EVENTS_LOST, kept.firings.lost() as f64);
    let history = &kept.history;
    vec![
        events,
        held,
        uncommitted,
        removed,
        lost,
        failures,
        Family::single(&definitions::HISTORY_MEASURES, history.kept() as f64),
        Family::single(&definitions::HISTORY_WAITING, history.waiting().as_secs_f64()),
        Family::single(&definitions::HISTORY_FAILURES, history.failures() as f64),
        Family::single(&definitions::HISTORY_EVICTED, history.evicted() as f64),
    ]
}

fn hooks(stats: &[Arc<HookStats>]) -> Vec<Family> {
    let reports: Vec<(&str, HookReport)> = stats.iter().map(|stats| (&*stats.name, stats.report())).collect();
    let per_hook = |definition: &'static Definition, value: fn(&HookReport) -> f64| {
        let mut family = Family::new(definition);
        reports.iter().for_each(|(name, report)| family.add(&[name], value(report)));
        family
    };
    let per_reason = |definition: &'static Definition, value: fn(&FailureCount) -> u64| {
        let mut family = Family::new(definition);
        for (name, report) in &reports {
            for count in &report.failures {
                family.add(&[name, count.reason.label], value(count) as f64);
            }
        }
        family
    };
    vec![
        per_hook(&definitions::HOOK_DELIVERIES, |report| report.delivered as f64),
        per_reason(&definitions::HOOK_FAILURES, |count| count.events),
        per_reason(&definitions::HOOK_ATTEMPT_FAILURES, |count| count.attempts),
        per_hook(&definitions::HOOK_IN_FLIGHT, |report| report.in_flight as f64),
        per_hook(&definitions::HOOK_QUEUED, |report| report.queued as f64),
        per_hook(&definitions::HOOK_OLDEST, |report| report.oldest.unwrap_or(Duration::ZERO).as_secs_f64()),
    ]
}
