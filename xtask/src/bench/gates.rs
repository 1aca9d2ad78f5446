//! The promised bounds that hold whatever the baseline says. What `docs/performance.md` names as not reached is not here: the
//! baseline alone keeps it from growing.

use super::{
    Failure,
    report::{Report, Row},
};

/// Flows of the row that the comparison with the reference is promised for.
const MANY: u32 = 1 << 19;
/// Flows of the rows that fit into the caches.
const FEW: u32 = 1 << 10;

/// Part of the reference's cost that a settled IPv4 packet may have among many flows: four times cheaper.
const MANY_RATIO: f64 = 0.25;
/// What a settled IPv6 packet may cost above an IPv4 one, in ns.
const IPV6_NS: f64 = 12.0;

/// Drain of a million tallies by mapped memory, in ms.
const DRAIN_MS: f64 = 40.0;
/// How many times faster than batch calls a drain must be.
const DRAIN_FACTOR: f64 = 10.0;
/// Upper bounds of the endpoints' answers, in ms.
const SCRAPE_MS: &[(&str, f64)] = &[("/metrics", 50.0), ("/metrics/subscribers", 300.0)];

/// Evaluation of a thousand policies of one window over a million tallies that moved, in ms.
const POLICIES_MS: f64 = 100.0;
/// Share of a core that an agent may take without traffic, in percent.
const IDLE_PERCENT: f64 = 1.0;
/// Memory that it may take beside the maps, in MiB.
const MEMORY_MIB: f64 = 300.0;

/// Bounds that this run missed; rows that were not measured are not looked at.
pub(super) fn missed(report: &Report) -> Vec<Failure> {
    let mut failures = Vec::new();
    let mut packet_path = |row: &Row, message| failures.push(Failure { row: Some(row.name()), message });
    if let Some(row) = report.row("settled-ipv4", MANY)
        && row.ratio() > MANY_RATIO
    {
        let (ratio, bound) = (row.ratio() * 100.0, MANY_RATIO * 100.0);
        packet_path(row, format!("{}: {ratio:.1} % of the reference, promised at most {bound:.0} %", row.name()));
    }
    if let (Some(ipv4), Some(ipv6)) = (report.row("settled-ipv4", FEW), report.row("settled-ipv6", FEW))
        && ipv6.ns_above_empty > ipv4.ns_above_empty + IPV6_NS
    {
        let more = ipv6.ns_above_empty - ipv4.ns_above_empty;
        packet_path(ipv6, format!("{}: {more:.1} ns above IPv4, promised at most {IPV6_NS:.0}", ipv6.name()));
    }
    let mut agent = |message| failures.push(Failure { row: None, message });
    if let Some(drain) = &report.drain {
        if drain.ms > DRAIN_MS {
            agent(format!("drain of {} tallies: {:.1} ms, promised at most {DRAIN_MS:.0}", drain.tallies, drain.ms));
        }
        if drain.batch_ms < drain.ms * DRAIN_FACTOR {
            agent(format!(
                "drain: {:.1} times faster than batch calls, promised {DRAIN_FACTOR:.0}",
                drain.batch_ms / drain.ms
            ));
        }
    }
    for policies in report.policies.iter().filter(|policies| policies.windows == 1 && policies.ms > POLICIES_MS) {
        agent(format!("{} policies: {:.1} ms, promised at most {POLICIES_MS:.0}", policies.policies, policies.ms));
    }
    if let Some(idle) = &report.idle {
        if idle.core_percent >= IDLE_PERCENT {
            agent(format!(
                "agent without traffic: {:.2} % of a core, promised below {IDLE_PERCENT:.0}",
                idle.core_percent
            ));
        }
        if idle.memory_mib >= MEMORY_MIB {
            agent(format!("agent: {:.0} MiB beside the maps, promised below {MEMORY_MIB:.0}", idle.memory_mib));
        }
    }
    for scrape in &report.scrape {
        for (_, bound) in SCRAPE_MS.iter().filter(|(endpoint, _)| *endpoint == scrape.endpoint) {
            if scrape.ms > *bound {
                agent(format!("{}: {:.1} ms, promised at most {bound:.0}", scrape.endpoint, scrape.ms));
            }
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::{super::report::Idle, *};

    fn idle(core_percent: f64, memory_mib: f64) -> Report {
        let idle = Idle {
            tallies: 1_000_000,
            cpu_ms_per_drain: core_percent * 100.0,
            core_percent,
            memory_mib,
            memory_empty_mib: 10.0,
            bytes_per_tally: 270.0,
        };
        Report { idle: Some(idle), ..Report::default() }
    }

    #[test]
    fn a_waiting_agent_has_bounds() {
        assert_eq!(missed(&idle(0.4, 280.0)), []);
        assert_eq!(missed(&idle(1.0, 280.0)).len(), 1);
        assert_eq!(missed(&idle(1.0, 300.0)).len(), 2);
    }
}
