//! Repeats rows and numbers that missed a bound: a slower program is slow in most attempts, a disturbance is not.
//!
//! Errors of a pair are small and equally often in either direction, so two of three attempts decide. Ratios to a
//! reference have large errors on a busy machine, so all attempts must miss the bound.

use std::collections::HashMap;

use anyhow::Result;

use super::{
    gates::{Failure, Gate},
    programs::CONTROL,
    ratios,
    record::TOLERANCE,
    report::{BenchReport, Beside},
};

/// Attempts before a missed bound counts as missed: another program, or a neighbour of a virtual machine, may have
/// disturbed the rounds.
pub(super) const ATTEMPTS: u32 = 3;

/// Loads of programs and tables in later attempts, with equally many rounds each.
const LATER_LOADS: u32 = 2;

/// Slowdown of the control, in percent.
pub(super) const CONTROL_PERCENT: u32 = 40;

/// Rows and numbers to measure again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Again<'a> {
    /// Names of rows.
    pub(super) rows: &'a [String],
    /// Whether the agent's bench is to be run.
    pub(super) agent: bool,
    /// How often programs and tables are loaded.
    pub(super) loads: u32,
}

/// Measures rows with a missed bound again, up to [`ATTEMPTS`] times in all. Returns the bounds that are still missed.
pub(super) fn attempts(
    report: &mut BenchReport,
    gate: &Gate,
    mut again: impl FnMut(&Again<'_>) -> Result<BenchReport>,
) -> Result<Vec<Failure>> {
    let mut pairs: HashMap<String, Vec<Beside>> = HashMap::new();
    remember(&mut pairs, report);
    for attempt in 1.. {
        let failures = gate.missed(report);
        if failures.is_empty() || attempt == ATTEMPTS {
            return Ok(failures);
        }
        let mut rows: Vec<String> = failures.iter().filter_map(|failure| failure.row.clone()).collect();
        rows.dedup();
        for failure in &failures {
            eprintln!("bench: attempt {attempt}: {}; measuring it again", failure.message);
        }
        let agent = failures.iter().any(|failure| failure.row.is_none());
        let later = again(&Again { rows: &rows, agent, loads: LATER_LOADS })?;
        remember(&mut pairs, &later);
        ratios::keep_better(report, later);
        for row in &mut report.rows {
            row.beside = pairs.get(&row.name()).cloned().and_then(Beside::median);
        }
    }
    Ok(Vec::new())
}

fn remember(pairs: &mut HashMap<String, Vec<Beside>>, report: &BenchReport) {
    for row in &report.rows {
        pairs.entry(row.name()).or_default().extend(row.beside.clone());
    }
}

/// Measures the blessed program paired with a slowed-down copy; returns the rows in which the gate misses that.
pub(super) fn control(mut slowed: impl FnMut(&Again<'_>) -> Result<BenchReport>) -> Result<Vec<Failure>> {
    let mut rows = CONTROL.map(str::to_owned).to_vec();
    let mut failures = Vec::new();
    for attempt in 1..=ATTEMPTS {
        let loads = if attempt == 1 { 1 } else { LATER_LOADS };
        let report = slowed(&Again { rows: &rows, agent: false, loads })?;
        failures = rows.iter().filter_map(|name| unseen(&report, name)).collect();
        rows.retain(|name| failures.iter().any(|failure| failure.row.as_ref() == Some(name)));
        if rows.is_empty() {
            break;
        }
    }
    Ok(failures)
}

fn unseen(report: &BenchReport, name: &str) -> Option<Failure> {
    let fail = |message| Failure { row: Some(name.to_owned()), message, recorded: false };
    let Some(beside) = report.rows.iter().find(|row| row.name() == name).and_then(|row| row.beside.as_ref()) else {
        return Some(fail(format!("{name}: the control was not measured in pairs: is there a row of that name?")));
    };
    let multiple = beside.multiple;
    let message = format!(
        "{name}: the gate does not see a program that was made {CONTROL_PERCENT} % slower: {multiple:.2} times the same \
         program, should be above {TOLERANCE}"
    );
    (multiple <= TOLERANCE).then(|| fail(message))
}

#[cfg(test)]
mod tests {
    use super::{super::report::Row, *};

    fn report(multiple: f64) -> BenchReport {
        BenchReport { rows: vec![Row::for_tests("transit", 0.5).with_beside(multiple)], ..BenchReport::default() }
    }

    fn missed(first: &mut BenchReport, again: impl FnMut(&Again<'_>) -> Result<BenchReport>) -> Vec<Failure> {
        attempts(first, &Gate::default(), again).expect("measured")
    }

    #[test]
    fn what_was_only_disturbed_passes() {
        let (mut first, mut later, mut loads) = (report(2.0), vec![report(0.95), report(1.2)], Vec::new());
        let left = missed(&mut first, |again| {
            assert_eq!((again.rows, again.agent), (["transit/1024".to_owned()].as_slice(), false));
            loads.push(again.loads);
            Ok(later.pop().expect("no more attempts than three"))
        });
        assert_eq!(left, []);
        assert_eq!(loads, [LATER_LOADS; 2], "later attempts look longer");
        let shown = first.rows[0].beside.as_ref().map(|beside| beside.multiple);
        assert_eq!(shown, Some(1.2), "the median is shown");
    }

    #[test]
    fn one_lucky_attempt_of_three_does_not_help() {
        let mut later = vec![report(1.3), report(1.2)];
        assert_eq!(missed(&mut report(1.4), |_| Ok(later.pop().expect("no more attempts than three"))).len(), 1);
    }

    #[test]
    fn what_stays_slow_fails() {
        let mut asked = 0;
        let left = missed(&mut report(2.0), |_| {
            asked += 1;
            Ok(report(1.3))
        });
        assert_eq!(left.len(), 1);
        assert_eq!(asked, ATTEMPTS - 1);
    }

    #[test]
    fn what_is_well_is_not_measured_again() {
        assert_eq!(missed(&mut report(1.0), |_| panic!("nothing to measure again")), []);
    }

    #[test]
    fn a_control_that_is_not_seen_fails() {
        let of = |multiples: [f64; 3]| {
            let rows = CONTROL.iter().zip(multiples).map(|(name, multiple)| {
                let (path, flows) = name.split_once('/').expect("path and flows");
                let row = Row::for_tests(path, 0.5).with_beside(multiple);
                Row { flows: flows.parse().expect("a number"), ..row }
            });
            BenchReport { rows: rows.collect(), ..BenchReport::default() }
        };
        assert_eq!(control(|_| Ok(of([1.4, 1.35, 1.45]))).expect("measured"), []);
        let mut asked = Vec::new();
        let failures = control(|again| {
            asked.push(again.rows.len());
            Ok(of([1.4, 1.0, 1.45]))
        });
        assert_eq!(failures.expect("measured").len(), 1);
        assert_eq!(asked, [3, 1, 1]);
        let unmeasured = control(|_| Ok(BenchReport::default())).expect("measured");
        assert_eq!(unmeasured.len(), CONTROL.len(), "what was not measured was not seen");
    }

    /// Of a thousand runs, the number in which the gate fails a program slower by `slower`, if each attempt's
    /// multiple has a normal error of `noise`. (Several loads reduce the error, which this ignores.)
    fn failed(slower: f64, noise: f64) -> usize {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        // Twelve uniform numbers add up to a normal one of variance 1 (Irwin and Hall).
        let mut run = move || report(slower * (1.0 + noise * ((0..12).map(|_| uniform()).sum::<f64>() - 6.0)));
        (0..1000).filter(|_| !missed(&mut run(), |_| Ok(run())).is_empty()).count()
    }

    #[test]
    fn the_gate_finds_forty_percent_and_spares_what_did_not_change() {
        let counts = [(1.0, 0.10), (1.15, 0.05), (1.4, 0.03), (1.4, 0.05), (1.5, 0.07)]
            .map(|(slower, noise)| failed(slower, noise));
        let [same, within, quiet, noisy, more] = counts;
        assert!(same <= 1 && within <= 10 && quiet >= 995 && noisy >= 970 && more >= 975, "{counts:?}");
    }
}
