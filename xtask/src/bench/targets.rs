//! Target times, and parts of the reference's cost. A busy or slow machine misses such a target without a change of the
//! program. So each run prints them, and only a run with `--targets` fails.

use super::report::{BenchReport, BenchTarget, MEMORY_MIB, Row};

/// Flows of the row with a target relative to the reference.
const MANY: u32 = 1 << 19;
/// Flows of the rows that fit into the caches.
const FEW: u32 = 1 << 10;

/// Part of the reference's cost that a settled IPv4 packet may have among many flows, in percent: four times cheaper.
const MANY_PERCENT: f64 = 25.0;
/// Settled IPv4 packet among few flows, in ns.
const SETTLED_NS: f64 = 15.0;
/// Allowed cost of a settled IPv6 packet above an IPv4 one, in ns.
const IPV6_NS: f64 = 12.0;
/// A flow's first packet, in ns.
const NEW_NS: f64 = 600.0;
/// A packet that is inspected, in ns.
const INSPECTED_NS: f64 = 250.0;
/// Drain of a million tallies by mapped memory, in ms.
const DRAIN_MS: f64 = 40.0;
/// Drain by mapped memory as a part of batch calls, in percent: ten times faster.
const DRAIN_PERCENT: f64 = 10.0;
/// Upper bounds of the endpoints' answers, in ms.
const SCRAPE_MS: &[(&str, f64)] = &[("/metrics", 50.0), ("/metrics/subscribers", 300.0)];
/// Evaluation of a thousand policies over a million tallies that moved, in ms.
const POLICIES_MS: f64 = 100.0;
/// Share of a core that an agent may take without traffic, in percent.
const IDLE_PERCENT: f64 = 1.0;

/// Every target that this run measured.
pub(super) fn targets(report: &BenchReport) -> Vec<BenchTarget> {
    let mut targets = Vec::new();
    packet_path(report, &mut targets);
    inspected_at_once(report, &mut targets);
    agent(report, &mut targets);
    targets
}

fn packet_path(report: &BenchReport, targets: &mut Vec<BenchTarget>) {
    if let Some(row) = report.row("settled-ipv4", MANY) {
        targets.push(BenchTarget::new(
            "settled IPv4 at 2^19 flows, of the reference",
            row.ratio * 100.0,
            MANY_PERCENT,
            "%",
        ));
    }
    if let Some(ipv4) = report.row("settled-ipv4", FEW) {
        targets.push(BenchTarget::new("settled IPv4 at 2^10 flows", ipv4.ns_above_empty, SETTLED_NS, "ns"));
        if let Some(ipv6) = report.row("settled-ipv6", FEW) {
            let more = ipv6.ns_above_empty - ipv4.ns_above_empty;
            targets.push(BenchTarget::new("settled IPv6 above IPv4 at 2^10 flows", more, IPV6_NS, "ns"));
        }
    }
    for (what, prefix, bound) in [("new flow", "new-flow", NEW_NS), ("inspected packet", "inspect-", INSPECTED_NS)] {
        // A new flow that evicts another one does more than the target is for.
        let counts = |row: &&Row| row.path.starts_with(prefix) && row.flows != FEW && row.path != "new-flow-full";
        let rows = report.rows.iter().filter(counts);
        let cost = |row: &&Row| row.ns_above_empty;
        for (which, row) in [
            ("cheapest", rows.clone().min_by(|one, other| cost(one).total_cmp(&cost(other)))),
            ("dearest", rows.max_by(|one, other| cost(one).total_cmp(&cost(other)))),
        ] {
            if let Some(row) = row {
                targets.push(BenchTarget::new(
                    format!("{what}, {which} ({})", row.path),
                    row.ns_above_empty,
                    bound,
                    "ns",
                ));
            }
        }
    }
}

/// Packets that are inspected while their flow is in the caches.
fn inspected_at_once(report: &BenchReport, targets: &mut Vec<BenchTarget>) {
    for row in report.rows.iter().filter(|row| row.path.starts_with("inspect-") && row.flows == FEW) {
        let what = format!("inspected packet of a flow in the caches ({})", row.path);
        targets.push(BenchTarget::new(what, row.ns_above_empty, INSPECTED_NS, "ns"));
    }
}

fn agent(report: &BenchReport, targets: &mut Vec<BenchTarget>) {
    if let Some(drain) = &report.drain {
        targets.push(BenchTarget::new(format!("drain of {} tallies", drain.tallies), drain.ms, DRAIN_MS, "ms"));
        let percent = drain.ms / drain.batch_ms * 100.0;
        targets.push(BenchTarget::new("drain, of batch calls", percent, DRAIN_PERCENT, "%"));
    }
    for scrape in &report.scrape {
        for (_, bound) in SCRAPE_MS.iter().filter(|(endpoint, _)| *endpoint == scrape.endpoint) {
            targets.push(BenchTarget::new(scrape.what(), scrape.ms, *bound, "ms"));
        }
    }
    for policies in &report.policies {
        let what = format!("{} policies of {} windows", policies.policies, policies.windows);
        targets.push(BenchTarget::new(what, policies.ms, POLICIES_MS, "ms"));
    }
    if let Some(idle) = &report.idle {
        targets.push(BenchTarget::new("agent without traffic, of a core", idle.core_percent, IDLE_PERCENT, "%"));
        targets.push(BenchTarget::new(
            "agent without traffic, memory without the maps",
            idle.memory_mib,
            MEMORY_MIB,
            "MiB",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::{Idle, Row},
        *,
    };

    #[test]
    fn only_measured_rows_have_targets() {
        assert_eq!(targets(&BenchReport::default()), []);
        let report = BenchReport {
            rows: vec![Row::for_tests("settled-ipv4", 0.2)],
            idle: Some(Idle::for_tests(1.1, 280.0)),
            ..BenchReport::default()
        };
        let kept: Vec<bool> = targets(&report).iter().map(BenchTarget::holds).collect();
        assert_eq!(kept, [false, false, true], "20 ns, 1.1 % of a core, 280 MiB");
    }
}
