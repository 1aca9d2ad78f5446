//! What was promised in times and in parts of the reference. A busy or a slow machine breaks such a bound without a change of the
//! program, so they are printed beside every run and fail only one that asks for it (`--promises`).

use serde::{Deserialize, Serialize};

use super::{
    gates::MEMORY_MIB,
    report::{Report, Row},
};

/// Flows of the row that the comparison with the reference is promised for.
const MANY: u32 = 1 << 19;
/// Flows of the rows that fit into the caches.
const FEW: u32 = 1 << 10;

/// Part of the reference's cost that a settled IPv4 packet may have among many flows, in percent: four times cheaper.
const MANY_PERCENT: f64 = 25.0;
/// Settled IPv4 packet among few flows, in ns.
const SETTLED_NS: f64 = 15.0;
/// What a settled IPv6 packet may cost above an IPv4 one, in ns.
const IPV6_NS: f64 = 12.0;
/// A flow's first packet, in ns.
const NEW_NS: f64 = 600.0;
/// A packet that is looked into, in ns.
const INSPECTED_NS: f64 = 250.0;
/// Drain of a million tallies by mapped memory, in ms.
const DRAIN_MS: f64 = 40.0;
/// The same as a part of batch calls, in percent: ten times faster.
const DRAIN_PERCENT: f64 = 10.0;
/// Upper bounds of the endpoints' answers, in ms.
const SCRAPE_MS: &[(&str, f64)] = &[("/metrics", 50.0), ("/metrics/subscribers", 300.0)];
/// Evaluation of a thousand policies over a million tallies that moved, in ms.
const POLICIES_MS: f64 = 100.0;
/// Share of a core that an agent may take without traffic, in percent.
const IDLE_PERCENT: f64 = 1.0;

/// One promise and what this run reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Promise {
    /// What is promised.
    pub(super) promise: String,
    /// The most that it may be.
    pub(super) at_most: f64,
    /// What was measured.
    pub(super) measured: f64,
    /// Unit of both.
    pub(super) unit: String,
}

impl Promise {
    fn new(promise: impl Into<String>, measured: f64, at_most: f64, unit: &str) -> Self {
        Self { promise: promise.into(), at_most, measured, unit: unit.to_owned() }
    }

    /// Whether this run kept it.
    pub(super) fn holds(&self) -> bool {
        self.measured <= self.at_most
    }
}

impl std::fmt::Display for Promise {
    fn fmt(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { promise, at_most, measured, unit } = self;
        let verdict = if self.holds() { "kept  " } else { "MISSED" };
        write!(text, "{verdict} {promise}: {measured:.1} {unit}, at most {at_most:.0}")
    }
}

/// Every promise that the run says something about.
pub(super) fn promises(report: &Report) -> Vec<Promise> {
    let mut promises = Vec::new();
    packet_path(report, &mut promises);
    inspected_at_once(report, &mut promises);
    agent(report, &mut promises);
    promises
}

fn packet_path(report: &Report, promises: &mut Vec<Promise>) {
    if let Some(row) = report.row("settled-ipv4", MANY) {
        promises.push(Promise::new(
            "settled IPv4 at 2^19 flows, of the reference",
            row.ratio * 100.0,
            MANY_PERCENT,
            "%",
        ));
    }
    if let Some(ipv4) = report.row("settled-ipv4", FEW) {
        promises.push(Promise::new("settled IPv4 at 2^10 flows", ipv4.ns_above_empty, SETTLED_NS, "ns"));
        if let Some(ipv6) = report.row("settled-ipv6", FEW) {
            let more = ipv6.ns_above_empty - ipv4.ns_above_empty;
            promises.push(Promise::new("settled IPv6 above IPv4 at 2^10 flows", more, IPV6_NS, "ns"));
        }
    }
    for (what, prefix, bound) in [("new flow", "new-flow", NEW_NS), ("inspected packet", "inspect-", INSPECTED_NS)] {
        let rows = report.rows.iter().filter(|row| row.path.starts_with(prefix) && row.flows != FEW);
        let cost = |row: &&Row| row.ns_above_empty;
        for (which, row) in [
            ("cheapest", rows.clone().min_by(|one, other| cost(one).total_cmp(&cost(other)))),
            ("dearest", rows.max_by(|one, other| cost(one).total_cmp(&cost(other)))),
        ] {
            if let Some(row) = row {
                promises.push(Promise::new(format!("{what}, {which} ({})", row.path), row.ns_above_empty, bound, "ns"));
            }
        }
    }
}

/// Packets that are looked into while their flow is in the caches.
fn inspected_at_once(report: &Report, promises: &mut Vec<Promise>) {
    for row in report.rows.iter().filter(|row| row.path.starts_with("inspect-") && row.flows == FEW) {
        let what = format!("inspected packet of a flow in the caches ({})", row.path);
        promises.push(Promise::new(what, row.ns_above_empty, INSPECTED_NS, "ns"));
    }
}

fn agent(report: &Report, promises: &mut Vec<Promise>) {
    if let Some(drain) = &report.drain {
        promises.push(Promise::new(format!("drain of {} tallies", drain.tallies), drain.ms, DRAIN_MS, "ms"));
        let percent = drain.ms / drain.batch_ms * 100.0;
        promises.push(Promise::new("the same, of batch calls", percent, DRAIN_PERCENT, "%"));
    }
    for scrape in &report.scrape {
        for (_, bound) in SCRAPE_MS.iter().filter(|(endpoint, _)| *endpoint == scrape.endpoint) {
            promises.push(Promise::new(scrape.what(), scrape.ms, *bound, "ms"));
        }
    }
    for policies in &report.policies {
        let what = format!("{} policies of {} windows", policies.policies, policies.windows);
        promises.push(Promise::new(what, policies.ms, POLICIES_MS, "ms"));
    }
    if let Some(idle) = &report.idle {
        promises.push(Promise::new("agent without traffic, of a core", idle.core_percent, IDLE_PERCENT, "%"));
        promises.push(Promise::new("the same, beside the maps", idle.memory_mib, MEMORY_MIB, "MiB"));
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::{Idle, Row},
        *,
    };

    #[test]
    fn only_what_was_measured_is_a_promise() {
        assert_eq!(promises(&Report::default()), []);
        let report = Report {
            rows: vec![Row::for_tests("settled-ipv4", 0.2)],
            idle: Some(Idle::for_tests(1.1, 280.0)),
            ..Report::default()
        };
        let kept: Vec<bool> = promises(&report).iter().map(Promise::holds).collect();
        assert_eq!(kept, [false, false, true], "20 ns, 1.1 % of a core, 280 MiB");
    }
}
