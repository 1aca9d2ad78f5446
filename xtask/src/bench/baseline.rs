//! The baseline in the repository: each row's cost as a part of the reference's cost, which carries over between machines.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{Failure, report::Report};
use crate::workspace::root;

/// A ratio may grow by this factor before it fails.
const TOLERANCE: f64 = 1.25;

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Baseline {
    /// Ratio to the reference by row name.
    ratios: BTreeMap<String, f64>,
}

#[cfg(test)]
impl Baseline {
    /// One row.
    pub(super) fn for_tests(name: &str, ratio: f64) -> Self {
        Self { ratios: [(name.to_owned(), ratio)].into() }
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

/// Writes a run's ratios, in thousandths; with `keep`, the rows that the run has not stay as they are.
pub(super) fn write(report: &Report, keep: bool) -> Result<()> {
    let mut baseline = if keep { read()? } else { Baseline::default() };
    baseline.ratios.extend(report.rows.iter().map(|row| (row.name(), (row.ratio() * 1000.0).round() / 1000.0)));
    let path = path();
    fs::write(&path, serde_json::to_string_pretty(&baseline)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Rows whose ratio has grown too much, or that no baseline knows.
pub(super) fn compare(report: &Report, baseline: &Baseline) -> Vec<Failure> {
    let mut failures = Vec::new();
    for row in &report.rows {
        let message = match baseline.ratios.get(&row.name()) {
            None => format!("{}: not in the baseline; run `cargo xtask bench --bless`", row.name()),
            Some(before) if row.ratio() > before * TOLERANCE => {
                format!("{}: {:.1} % of the reference, was {:.1} %", row.name(), row.ratio() * 100.0, before * 100.0)
            }
            Some(_) => continue,
        };
        failures.push(Failure { row: Some(row.name()), message });
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::{super::report::Row, *};

    fn report(ns_above_empty: f64) -> Report {
        Report { rows: vec![Row::for_tests("settled-ipv4", ns_above_empty)], ..Report::default() }
    }

    #[test]
    fn a_quarter_more_passes_and_more_fails() {
        let baseline = Baseline::for_tests("settled-ipv4/1024", 0.2);
        assert_eq!(compare(&report(24.9), &baseline), []);
        assert_eq!(compare(&report(25.1), &baseline).len(), 1);
    }

    #[test]
    fn a_row_without_baseline_fails() {
        assert_eq!(compare(&report(1.0), &Baseline::default()).len(), 1);
    }
}
