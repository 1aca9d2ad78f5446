//! The baseline in the repository: each number's cost as a part of its reference's cost, which carries over between machines.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{Failure, processor::Processor, ratios, report::Report};
use crate::workspace::root;

/// A ratio may grow by this factor before it fails.
const TOLERANCE: f64 = 1.25;
/// The same on another processor than the baseline's.
const TOLERANCE_ELSEWHERE: f64 = 2.0;

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Baseline {
    /// Ratio to the reference by name: the median of the runs that were blessed.
    ratios: BTreeMap<String, f64>,
    /// Lowest and highest of those runs: says how far the comparison can be trusted. Not looked at by the gate.
    #[serde(default)]
    range: BTreeMap<String, (f64, f64)>,
    /// The processor of those runs.
    #[serde(default)]
    processor: String,
    /// See [`Self::set_tolerance`].
    #[serde(skip)]
    tolerance: Option<f64>,
}

#[cfg(test)]
impl Baseline {
    /// One row.
    pub(super) fn for_tests(name: &str, ratio: f64) -> Self {
        Self { ratios: [(name.to_owned(), ratio)].into(), ..Self::default() }
    }
}

fn path() -> PathBuf {
    root().join("tests/baselines/bench.json")
}

/// Reads the file.
pub(super) fn read() -> Result<Baseline> {
    let path = path();
    let text = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}: run `cargo xtask bench --bless`", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no baseline", path.display()))
}

/// Writes the ratios of several runs; with `keep`, what the runs have not stays as it is.
pub(super) fn write(runs: &[Report], keep: bool) -> Result<()> {
    let mut baseline = if keep { read()? } else { Baseline::default() };
    baseline.take(runs);
    baseline.processor = Processor::read()?.kind();
    let path = path();
    fs::write(&path, serde_json::to_string_pretty(&baseline)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))
}

impl Baseline {
    /// Lets ratios grow more where they were not measured, and says so.
    pub(super) fn set_tolerance(&mut self, processor: &Processor) {
        if processor.kind() != self.processor {
            eprintln!(
                "bench: the baseline is of another processor ({} instead of {}): a ratio fails at {TOLERANCE_ELSEWHERE} times its value, not \
                 at {TOLERANCE}",
                self.processor,
                processor.kind()
            );
            self.tolerance = Some(TOLERANCE_ELSEWHERE);
        }
    }

    /// Takes median, lowest and highest of each ratio, in thousandths.
    fn take(&mut self, runs: &[Report]) {
        let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for ratio in runs.iter().flat_map(ratios::of) {
            values.entry(ratio.name).or_default().push((ratio.value * 1000.0).round() / 1000.0);
        }
        for (name, mut values) in values {
            values.sort_by(f64::total_cmp);
            self.ratios.insert(name.clone(), values[values.len() / 2]);
            self.range.insert(name, (values[0], values[values.len() - 1]));
        }
    }
}

/// Numbers whose ratio has grown too much, or that no baseline knows.
pub(super) fn compare(report: &Report, baseline: &Baseline) -> Vec<Failure> {
    let mut failures = Vec::new();
    for ratio in ratios::of(report) {
        let message = match baseline.ratios.get(&ratio.name) {
            None => format!("{}: not in the baseline; run `cargo xtask bench --bless`", ratio.name),
            Some(before) if ratio.value > before * baseline.tolerance.unwrap_or(TOLERANCE) => {
                format!("{}: {:.1} % of the reference, was {:.1} %", ratio.name, ratio.value * 100.0, before * 100.0)
            }
            Some(_) => continue,
        };
        let timed = baseline.ratios.contains_key(&ratio.name);
        failures.push(Failure { row: ratio.is_row.then_some(ratio.name), message, timed });
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::{super::report::Row, *};

    fn report(ratio: f64) -> Report {
        Report { rows: vec![Row::for_tests("settled-ipv4", ratio)], ..Report::default() }
    }

    #[test]
    fn a_quarter_more_passes_and_more_fails() {
        let baseline = Baseline::for_tests("settled-ipv4/1024", 0.2);
        assert_eq!(compare(&report(0.249), &baseline), []);
        assert_eq!(compare(&report(0.251), &baseline).len(), 1);
    }

    #[test]
    fn elsewhere_twice_as_much_passes() {
        let mut baseline = Baseline::for_tests("settled-ipv4/1024", 0.2);
        baseline.set_tolerance(&Processor::read().expect("a processor"));
        assert_eq!(compare(&report(0.39), &baseline), []);
        assert_eq!(compare(&report(0.41), &baseline).len(), 1);
        let mut baseline = Baseline { processor: Processor::read().expect("a processor").kind(), ..baseline };
        baseline.tolerance = None;
        baseline.set_tolerance(&Processor::read().expect("a processor"));
        assert_eq!(compare(&report(0.39), &baseline).len(), 1);
    }

    #[test]
    fn a_row_without_baseline_fails() {
        assert_eq!(compare(&report(0.01), &Baseline::default()).len(), 1);
    }

    #[test]
    fn the_median_is_compared_and_the_range_is_noted() {
        let mut baseline = Baseline::for_tests("transit/1024", 3.0);
        baseline.take(&[report(0.2), report(0.5), report(0.24)]);
        assert_eq!(baseline.ratios, [("settled-ipv4/1024".to_owned(), 0.24), ("transit/1024".to_owned(), 3.0)].into());
        assert_eq!(baseline.range["settled-ipv4/1024"], (0.2, 0.5));
    }
}
