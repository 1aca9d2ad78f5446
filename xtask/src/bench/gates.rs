//! The promised bounds that hold whatever the baseline says. Bounds against the reference hold on every machine; bounds in ns
//! hold on the class of machine that `docs/performance.md` names.

use super::{
    Failure,
    report::{Report, Row},
};

/// Flows of the row that the comparison with the reference is promised for.
const MANY: u32 = 1 << 19;
/// Flows of the rows that fit into the caches.
const FEW: u32 = 1 << 10;

/// One bound on a row.
struct Gate {
    path: &'static str,
    flows: u32,
    what: &'static str,
    bound: f64,
    value: fn(&Row) -> f64,
}

const GATES: &[Gate] = &[
    Gate {
        path: "settled-ipv4",
        flows: MANY,
        what: "% of the reference",
        bound: 25.0,
        value: |row| row.ratio() * 100.0,
    },
    Gate { path: "settled-ipv4", flows: FEW, what: "ns above empty", bound: 15.0, value: |row| row.ns_above_empty },
    Gate { path: "settled-ipv6", flows: FEW, what: "ns above empty", bound: 27.0, value: |row| row.ns_above_empty },
    Gate { path: "new-flow", flows: 1 << 17, what: "ns above empty", bound: 600.0, value: |row| row.ns_above_empty },
    Gate {
        path: "inspect-bittorrent",
        flows: 1 << 14,
        what: "ns above empty",
        bound: 250.0,
        value: |row| row.ns_above_empty,
    },
    Gate { path: "inspect-tls", flows: 1 << 14, what: "ns above empty", bound: 250.0, value: |row| row.ns_above_empty },
    Gate {
        path: "inspect-quic",
        flows: 1 << 14,
        what: "ns above empty",
        bound: 250.0,
        value: |row| row.ns_above_empty,
    },
];

/// Drain of a million tallies by mapped memory, in ms.
const DRAIN_MS: f64 = 40.0;
/// How many times faster than batch calls a drain must be.
const DRAIN_FACTOR: f64 = 10.0;
/// Upper bounds of the endpoints' answers, in ms.
const SCRAPE_MS: &[(&str, f64)] = &[("/metrics", 50.0), ("/metrics/subscribers", 300.0)];

/// Bounds that this run missed; rows that were not measured are not looked at.
pub(super) fn missed(report: &Report) -> Vec<Failure> {
    let mut failures = Vec::new();
    for gate in GATES {
        let Some(row) = report.row(gate.path, gate.flows) else { continue };
        let value = (gate.value)(row);
        if value > gate.bound {
            let message = format!("{}: {value:.1} {}, promised at most {:.0}", row.name(), gate.what, gate.bound);
            failures.push(Failure { path: row.path.clone(), message });
        }
    }
    let mut agent = |message| failures.push(Failure { path: String::new(), message });
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
    for scrape in &report.scrape {
        for (_, bound) in SCRAPE_MS.iter().filter(|(endpoint, _)| *endpoint == scrape.endpoint) {
            if scrape.ms > *bound {
                agent(format!("{}: {:.1} ms, promised at most {bound:.0}", scrape.endpoint, scrape.ms));
            }
        }
    }
    failures
}
