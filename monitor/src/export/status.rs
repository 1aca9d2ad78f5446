//! The status of a running agent, as the control socket and `peertally status` show it.

use std::{path::PathBuf, sync::Arc};

use peertally_core::analysis::DrainResult;
use peertally_store::events::EventState;
use serde::{Deserialize, Serialize};

use crate::agent::{
    AgentInfo, AgentState,
    record_counts::{RecordKind, RecordLoss},
    table_fill,
};

/// The answer of `GET /status`. Keys may be added.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[expect(missing_docs, reason = "the names are the documentation of the JSON form")]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub node: String,
    pub config: Option<PathBuf>,
    pub config_digest: String,
    pub config_age_seconds: f64,
    pub inspection: String,
    pub evidence: String,
    /// Name of the key of the pseudonyms.
    pub pseudonym_key: String,
    pub metrics: String,
    pub uptime_seconds: f64,
    pub ready: bool,
    pub not_ready: Option<String>,
    /// What is wrong while traffic is counted all the same.
    pub warnings: Vec<String>,
    pub snapshot_age_seconds: Option<f64>,
    pub drain_duration_seconds: Option<f64>,
    pub drain_failures: u64,
    pub attached: Vec<Attached>,
    #[serde(default)]
    pub other_programs: Vec<OtherProgram>,
    pub protocols: Vec<ProtocolTotals>,
    pub pending_flows: u64,
    pub tables: Vec<TableRow>,
    pub skipped: Vec<NamedCount>,
    pub events: Vec<NamedCount>,
    pub policies: Vec<PolicyStatus>,
    pub hooks: Vec<HookStatus>,
    /// Events in the store by state.
    #[serde(default)]
    pub kept_events: Vec<NamedCount>,
    /// What became of verdict records since the agent's start; empty if there were none.
    #[serde(default)]
    pub verdict_records: Vec<NamedCount>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[expect(missing_docs, reason = "as for Status")]
pub struct Attached {
    pub interface: String,
    pub role: String,
    pub mode: String,
    /// Why the program is not there, or what else is to be known.
    #[serde(default)]
    pub detail: Option<String>,
}

/// A program of Peertally that the agent does not count for.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[expect(missing_docs, reason = "as for Status")]
pub struct OtherProgram {
    pub interface: String,
    pub mode: String,
    pub program: u32,
    pub pins: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[expect(missing_docs, reason = "as for Status")]
pub struct ProtocolTotals {
    pub protocol: String,
    pub confidence: String,
    pub flows: u64,
    pub packets: u64,
    pub bytes: u64,
    /// Subscriber blocks with traffic of the protocol between the last two drains, whatever the confidence.
    pub active_subscribers: u64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[expect(missing_docs, reason = "as for Status")]
pub struct TableRow {
    pub table: String,
    pub entries: u64,
    pub capacity: u64,
    /// Whether the log and `/readyz` warn.
    #[serde(default)]
    pub nearly_full: bool,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[expect(missing_docs, reason = "as for Status")]
pub struct NamedCount {
    pub name: String,
    pub count: u64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[expect(missing_docs, reason = "as for Status")]
pub struct PolicyStatus {
    pub policy: String,
    pub events: u64,
    pub cool_down: u64,
    #[serde(default)]
    pub pending: u64,
    pub allow_list: u64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[expect(missing_docs, reason = "as for Status")]
pub struct HookStatus {
    pub hook: String,
    pub delivered: u64,
    pub failed: u64,
    pub in_flight: u64,
    pub queued: u64,
    pub failures: Vec<NamedCount>,
}

impl Status {
    /// The status now.
    #[must_use]
    pub fn of(state: &AgentState, info: &AgentInfo) -> Self {
        let ready = state.ready();
        let (digest, _, since) = state.configuration();
        let mut status = Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            node: info.node.to_string(),
            config: info.config.clone(),
            config_digest: digest,
            config_age_seconds: since.elapsed().as_secs_f64(),
            inspection: info.inspection.to_owned(),
            evidence: info.evidence.to_owned(),
            pseudonym_key: state.pseudonym_key(),
            metrics: format!("http://{}/metrics", info.listen),
            uptime_seconds: state.uptime().as_secs_f64(),
            ready: ready.is_ok(),
            not_ready: ready.err(),
            warnings: warnings(state),
            drain_failures: state.drain_failures(),
            hooks: hooks(state),
            kept_events: kept_events(state),
            verdict_records: verdict_records(state),
            ..Self::default()
        };
        if let Some(published) = state.published() {
            status.fill(&published);
        }
        status
    }

    fn fill(&mut self, published: &DrainResult) {
        let snapshot = &published.snapshot;
        let count = |name: &str, count: u64| NamedCount { name: name.to_owned(), count };
        self.snapshot_age_seconds = Some(snapshot.taken.elapsed().as_secs_f64());
        self.drain_duration_seconds = Some(snapshot.drain_duration.as_secs_f64());
        self.pending_flows = snapshot.pending.flows;
        self.attached = snapshot
            .attachments
            .iter()
            .map(|each| Attached {
                interface: each.interface.to_string(),
                role: each.role.to_owned(),
                mode: each.mode.to_owned(),
                detail: each.detail.as_deref().map(str::to_owned),
            })
            .collect();
        self.other_programs = snapshot
            .reconciled
            .others
            .iter()
            .map(|each| OtherProgram {
                interface: each.interface.to_string(),
                mode: each.mode.to_owned(),
                program: each.program,
                pins: each.pins.to_string(),
            })
            .collect();
        self.protocols = protocols(published);
        self.tables = snapshot
            .tables
            .iter()
            .map(|table| TableRow {
                table: table.name.to_owned(),
                entries: table.entries,
                capacity: table.capacity,
                nearly_full: table_fill::nearly_full(snapshot).any(|other| other.name == table.name),
            })
            .collect();
        self.skipped =
            snapshot.skipped.iter().filter(|(_, n)| *n > 0).map(|(reason, n)| count(reason.label(), *n)).collect();
        self.events = snapshot.events.iter().filter(|(_, n)| *n > 0).map(|(label, n)| count(label, *n)).collect();
        self.policies = published
            .policies
            .iter()
            .map(|(name, counts)| PolicyStatus {
                policy: name.to_string(),
                events: counts.fired,
                cool_down: counts.cooling,
                pending: counts.pending,
                allow_list: counts.allowed,
            })
            .collect();
    }
}

/// What is wrong while traffic is counted all the same.
fn warnings(state: &AgentState) -> Vec<String> {
    let merging = state.merging().into_iter().filter(|(_, merges)| *merges);
    let merging = merging.map(|(interface, _)| {
        format!("{interface} counts merged packets: generic mode behind GRO or LRO (`ethtool -K {interface} gro off lro off`)")
    });
    state.record_problems().into_iter().chain(merging).collect()
}

/// What became of verdict records.
fn verdict_records(state: &AgentState) -> Vec<NamedCount> {
    let report = state.records.report(RecordKind::VerdictRecords);
    let lost = RecordLoss::ALL.into_iter().zip(report.lost);
    let lost = lost.map(|(reason, count)| (format!("lost_{}", reason.label()), count));
    let removed = state.records.rows_removed().map(|(reason, count)| (format!("removed_{reason}"), count));
    let kept = [("written".to_owned(), report.written), ("waiting".to_owned(), report.waiting)];
    let counts = kept.into_iter().chain(lost).chain(removed).filter(|(_, count)| *count > 0);
    counts.map(|(name, count)| NamedCount { name, count }).collect()
}

/// Events in the store by state.
fn kept_events(state: &AgentState) -> Vec<NamedCount> {
    let counts = state.kept().map(|kept| kept.book.counts()).unwrap_or_default();
    let count = |(state, count): (EventState, u64)| NamedCount { name: state.label().to_owned(), count };
    counts.into_iter().filter(|(_, count)| *count > 0).map(count).collect()
}

/// Node-level totals by verdict.
fn protocols(published: &DrainResult) -> Vec<ProtocolTotals> {
    let mut totals: Vec<(u8, u8, ProtocolTotals)> = Vec::new();
    for row in &published.node.rows {
        let key = (row.verdict.protocol as u8, row.verdict.confidence as u8);
        let position = totals.iter().position(|(protocol, confidence, _)| (*protocol, *confidence) == key);
        let position = position.unwrap_or_else(|| {
            let active = published.active.iter().find(|(protocol, _)| *protocol == row.verdict.protocol);
            let line = ProtocolTotals {
                protocol: row.verdict.protocol.label().to_owned(),
                confidence: row.verdict.confidence.label().to_owned(),
                active_subscribers: active.map_or(0, |(_, subscribers)| *subscribers),
                ..ProtocolTotals::default()
            };
            totals.push((key.0, key.1, line));
            totals.len() - 1
        });
        let line = &mut totals[position].2;
        line.flows += row.flows;
        line.packets += row.packets;
        line.bytes += row.bytes;
    }
    totals.sort_by_key(|(protocol, confidence, _)| (*protocol, *confidence));
    totals.into_iter().map(|(_, _, line)| line).collect()
}

fn hooks(state: &AgentState) -> Vec<HookStatus> {
    let one = |stats: &Arc<crate::deliver::HookStats>| {
        let report = stats.report();
        let failures = report.failures.iter().filter(|count| count.events > 0);
        HookStatus {
            hook: stats.name.to_string(),
            delivered: report.delivered,
            failed: report.failures.iter().map(|count| count.events).sum(),
            in_flight: report.in_flight,
            queued: report.queued,
            failures: failures
                .map(|count| NamedCount { name: count.reason.label.to_owned(), count: count.events })
                .collect(),
        }
    };
    state.hooks().iter().map(one).collect()
}
