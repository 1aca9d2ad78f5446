//! The bounds of `--check`, and those that a run missed. Times belong to `targets.rs`.
//!
//! Rows of the packet path are compared with the blessed program in the same rounds. This works on every processor and
//! with busy neighbours, because a disturbance slows both programs of a pair. Numbers without a pair are compared with
//! recorded ones, which is unreliable on a busy machine.

use super::{
    record::{Record, TOLERANCE},
    report::{BenchReport, MEMORY_MIB, Row},
};

/// Allowed cost of all protocols for a packet that shows none of them, as a multiple of the cost of the first ones.
const RISE: f64 = 1.3;

/// A bound that was missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The row's name; `None` when it is no row of the packet path.
    pub(super) row: Option<String>,
    /// Expected and measured value.
    pub(super) message: String,
    /// Whether a number of another day was the reference, which is unreliable on a busy machine.
    pub(super) recorded: bool,
}

/// Circumstances outside the run.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate {
    /// The numbers that were blessed.
    pub(super) record: Record,
    /// This machine's processor.
    pub(super) processor: String,
}

impl Gate {
    /// Bounds that this run missed; numbers that were not measured are ignored.
    pub(super) fn missed(&self, report: &BenchReport) -> Vec<Failure> {
        let mut failures: Vec<Failure> =
            report.rows.iter().flat_map(|row| pair(row).into_iter().chain(rise(row))).collect();
        failures.extend(self.recorded(report));
        if let Some(idle) = report.idle.as_ref().filter(|idle| idle.memory_mib >= MEMORY_MIB) {
            let message = format!("agent: {:.0} MiB without the maps, target below {MEMORY_MIB:.0}", idle.memory_mib);
            failures.push(Failure { row: None, message, recorded: false });
        }
        failures
    }

    /// Numbers without a pair that grew too much or are in no record.
    fn recorded(&self, report: &BenchReport) -> Vec<Failure> {
        let mut failures = Vec::new();
        for ratio in super::ratios::of(report).into_iter().filter(|ratio| !ratio.in_pairs) {
            let (message, recorded) = match self.record.known(&ratio.name, &self.processor) {
                None => (format!("{}: in no record; run `cargo xtask bench --bless`", ratio.name), false),
                Some(known) if ratio.value > known.ratio * known.tolerance => {
                    let (now, before) = (ratio.value * 100.0, known.ratio * 100.0);
                    let message = format!(
                        "{}: {now:.1} % of the reference, was {before:.1} % on {}: may be {} times as much",
                        ratio.name, known.processor, known.tolerance
                    );
                    (message, true)
                }
                Some(_) => continue,
            };
            failures.push(Failure { row: ratio.is_row.then_some(ratio.name), message, recorded });
        }
        failures
    }
}

/// A row that costs too much compared with the blessed program.
fn pair(row: &Row) -> Option<Failure> {
    let beside = row.beside.as_ref().filter(|beside| beside.cost() > TOLERANCE)?;
    let message = format!(
        "{}: {:.2} times the baseline program in the same rounds, may be {TOLERANCE} ({:.1} ns, the baseline program {:.1})",
        row.name(),
        beside.multiple,
        row.ns_above_empty,
        beside.ns_above_empty
    );
    Some(Failure { row: Some(row.name()), message, recorded: false })
}

/// A row that all protocols cost too much.
fn rise(row: &Row) -> Option<Failure> {
    let first = row.first_protocols.as_ref().filter(|first| first.rise >= RISE)?;
    let message = format!("{}: {:.2} times the first protocols, target below {RISE}", row.name(), first.rise);
    Some(Failure { row: Some(row.name()), message, recorded: false })
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::{FirstProtocols, Idle},
        *,
    };

    fn report(row: Row) -> BenchReport {
        BenchReport { rows: vec![row], ..BenchReport::default() }
    }

    #[test]
    fn a_quarter_more_than_the_blessed_program_passes_and_more_fails() {
        let gate = Gate::default();
        let row = |multiple| report(Row::for_tests("settled-ipv4", 9.9).with_beside(multiple));
        assert_eq!(gate.missed(&row(1.249)), []);
        let failures = gate.missed(&row(1.251));
        assert_eq!(failures.len(), 1, "and no record is looked at");
        assert!(!failures[0].recorded);
        assert_eq!(gate.missed(&row(-0.3)).len(), 1, "that is no cost");
        assert_eq!(gate.missed(&row(f64::NAN)).len(), 1);
    }

    #[test]
    fn without_a_pair_the_record_is_looked_at() {
        let record = Record::for_tests("here", "settled-ipv4/1024", 0.2);
        let missed = |ratio, processor: &str| {
            let gate = Gate { record: record.clone(), processor: processor.to_owned() };
            gate.missed(&report(Row::for_tests("settled-ipv4", ratio)))
        };
        assert_eq!(missed(0.299, "here"), []);
        assert!(missed(0.301, "here").iter().all(|failure| failure.recorded));
        assert_eq!(missed(0.301, "here").len(), 1);
        assert_eq!(missed(0.39, "there"), []);
        assert_eq!(missed(0.41, "there").len(), 1);
        let unknown = Gate::default().missed(&report(Row::for_tests("settled-ipv4", 0.01)));
        assert!(unknown.iter().all(|failure| !failure.recorded));
        assert_eq!(unknown.len(), 1);
    }

    #[test]
    fn protocols_may_not_cost_others_a_third() {
        let row = |rise| {
            let first = FirstProtocols { ns_above_empty: 100.0, spread_ns: 1.0, rise, rise_spread: 0.01 };
            report(Row { first_protocols: Some(first), ..Row::for_tests("inspect-http", 0.5).with_beside(1.0) })
        };
        assert_eq!(Gate::default().missed(&row(1.29)), []);
        assert_eq!(Gate::default().missed(&row(1.31)).len(), 1);
    }

    #[test]
    fn a_waiting_agents_memory_has_a_bound() {
        let gate =
            Gate { record: Record::for_tests("here", "agent: without traffic", 9.0), processor: "here".to_owned() };
        let report =
            |memory_mib| BenchReport { idle: Some(Idle::for_tests(0.4, memory_mib)), ..BenchReport::default() };
        assert_eq!(gate.missed(&report(280.0)), []);
        assert_eq!(gate.missed(&report(MEMORY_MIB)).len(), 1);
    }
}
