//! Bounds that hold whatever the baseline says and whatever else the machine does: ratios within one run, and memory. Times belong to
//! `promises.rs`.

use super::{Failure, report::Report};

/// What all protocols may cost a packet that shows none of them, as a multiple of what the first ones did.
const RISE: f64 = 1.3;
/// Memory that a waiting agent may take beside the maps, in MiB: no time, and so the same on a busy machine.
pub(super) const MEMORY_MIB: f64 = 300.0;

/// Bounds that this run missed; what was not measured is not looked at.
pub(super) fn missed(report: &Report) -> Vec<Failure> {
    let mut failures = Vec::new();
    for row in &report.rows {
        if let Some(first) = row.first_protocols.as_ref().filter(|first| first.rise >= RISE) {
            let message = format!("{}: {:.2} times the first protocols, promised below {RISE}", row.name(), first.rise);
            failures.push(Failure { row: Some(row.name()), message, timed: true });
        }
    }
    if let Some(idle) = report.idle.as_ref().filter(|idle| idle.memory_mib >= MEMORY_MIB) {
        let message = format!("agent: {:.0} MiB beside the maps, promised below {MEMORY_MIB:.0}", idle.memory_mib);
        failures.push(Failure { row: None, message, timed: false });
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::{FirstProtocols, Idle, Row},
        *,
    };

    #[test]
    fn protocols_may_not_cost_others_a_third() {
        let report = |rise| {
            let first = FirstProtocols { ns_above_empty: 100.0, spread_ns: 1.0, rise, rise_spread: 0.01 };
            let row = Row { first_protocols: Some(first), ..Row::for_tests("inspect-http", 0.5) };
            Report { rows: vec![row], ..Report::default() }
        };
        assert_eq!(missed(&report(1.29)), []);
        assert_eq!(missed(&report(1.31)).len(), 1);
    }

    #[test]
    fn a_waiting_agents_memory_has_a_bound() {
        let report = |memory_mib| Report { idle: Some(Idle::for_tests(0.4, memory_mib)), ..Report::default() };
        assert_eq!(missed(&report(280.0)), []);
        assert_eq!(missed(&report(300.0)).len(), 1);
    }
}
