//! The blessed numbers: costs relative to their references, by processor model.
//!
//! The cost of memory relative to instructions differs between processors, and so do the ratios of one program. Rows of
//! the packet path are therefore compared with the blessed program (`programs.rs`), and with these numbers only when
//! that one cannot run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{ratios, report::BenchReport};
use crate::workspace::root;

/// Allowed cost of a program as a multiple of its pair.
pub(super) const TOLERANCE: f64 = 1.25;
/// Allowed multiple of the highest recorded ratio: an unchanged program reached 1.27.
const TOLERANCE_OF_DAYS: f64 = 1.5;
/// The tolerance for a number that only other processors have.
const TOLERANCE_ELSEWHERE: f64 = 2.0;

/// The file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// Blessed numbers by processor, as it names itself.
    processors: BTreeMap<String, Numbers>,
}

/// Blessed numbers of one processor.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbers {
    /// Ratio to the reference by name: the median of the runs that were blessed.
    ratios: BTreeMap<String, f64>,
    /// Lowest and highest of those runs: says how far the comparison can be trusted.
    #[serde(default)]
    range: BTreeMap<String, (f64, f64)>,
}

/// A number to compare with.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    /// Ratio to the reference.
    pub(super) ratio: f64,
    /// How many times that is too much.
    pub(super) tolerance: f64,
    /// Processor of the record.
    pub(super) processor: String,
}

fn path() -> PathBuf {
    root().join("tests/baselines/bench.json")
}

/// Reads the file.
pub(super) fn read() -> Result<Record> {
    let path = path();
    let text = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}: run `cargo xtask bench --bless`", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no baseline", path.display()))
}

/// Names of all recorded numbers.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn names() -> Result<BTreeSet<String>> {
    Ok(read()?.processors.into_values().flat_map(|numbers| numbers.ratios.into_keys()).collect())
}

impl Record {
    /// Writes the file.
    pub(super) fn write(&self) -> Result<()> {
        let path = path();
        fs::write(&path, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reference of a number: this processor's highest blessed ratio, which an unchanged program may reach again, or
    /// the highest of other processors.
    pub(super) fn known(&self, name: &str, processor: &str) -> Option<Known> {
        if let Some(ratio) = self.on(name, processor) {
            let range = self.processors.get(processor).and_then(|numbers| numbers.range.get(name));
            let ratio = range.map_or(ratio, |(_, highest)| highest.max(ratio));
            return Some(Known { ratio, tolerance: TOLERANCE_OF_DAYS, processor: processor.to_owned() });
        }
        let of = |(processor, numbers): (&String, &Numbers)| Some((*numbers.ratios.get(name)?, processor.clone()));
        let (ratio, processor) =
            self.processors.iter().filter_map(of).max_by(|one, other| one.0.total_cmp(&other.0))?;
        Some(Known { ratio, tolerance: TOLERANCE_ELSEWHERE, processor })
    }

    /// The number of this processor.
    pub(super) fn on(&self, name: &str, processor: &str) -> Option<f64> {
        self.processors.get(processor)?.ratios.get(name).copied()
    }

    /// Records median, lowest and highest of each ratio of several runs, in thousandths, for this processor. With
    /// `keep`, numbers that the runs lack stay; other processors' numbers always stay.
    pub(super) fn take(&mut self, runs: &[BenchReport], processor: &str, keep: bool) {
        let numbers = self.processors.entry(processor.to_owned()).or_default();
        if !keep {
            *numbers = Numbers::default();
        }
        let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for ratio in runs.iter().flat_map(ratios::of) {
            values.entry(ratio.name).or_default().push((ratio.value * 1000.0).round() / 1000.0);
        }
        for (name, mut values) in values {
            values.sort_by(f64::total_cmp);
            numbers.ratios.insert(name.clone(), values[values.len() / 2]);
            numbers.range.insert(name, (values[0], values[values.len() - 1]));
        }
    }
}

#[cfg(test)]
impl Record {
    /// One number of one processor.
    pub(super) fn for_tests(processor: &str, name: &str, ratio: f64) -> Self {
        let numbers = Numbers { ratios: [(name.to_owned(), ratio)].into(), ..Numbers::default() };
        Self { processors: [(processor.to_owned(), numbers)].into() }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::report::Row, *};

    fn report(ratio: f64) -> BenchReport {
        BenchReport { rows: vec![Row::for_tests("settled-ipv4", ratio)], ..BenchReport::default() }
    }

    #[test]
    fn another_processor_tells_less() {
        let mut record = Record::for_tests("here", "transit/1024", 2.0);
        let known = |record: &Record, processor| record.known("transit/1024", processor).expect("known");
        assert_eq!(
            known(&record, "here"),
            Known { ratio: 2.0, tolerance: TOLERANCE_OF_DAYS, processor: "here".to_owned() }
        );
        let there = Known { ratio: 2.0, tolerance: TOLERANCE_ELSEWHERE, processor: "here".to_owned() };
        assert_eq!(known(&record, "there"), there);
        record.processors.extend(Record::for_tests("far", "transit/1024", 3.0).processors);
        assert_eq!(known(&record, "there").ratio, 3.0, "the highest");
        assert_eq!(record.known("settled-ipv4/1024", "here"), None);
    }

    #[test]
    fn a_processors_numbers_do_not_replace_anothers() {
        let mut record = Record::for_tests("there", "settled-ipv4/1024", 0.2);
        record.take(&[report(0.2), report(0.5), report(0.24)], "here", false);
        assert_eq!(record.on("settled-ipv4/1024", "here"), Some(0.24), "the median");
        assert_eq!(record.processors["here"].range["settled-ipv4/1024"], (0.2, 0.5));
        assert_eq!(record.known("settled-ipv4/1024", "here").map(|known| known.ratio), Some(0.5), "the highest");
        assert_eq!(record.on("settled-ipv4/1024", "there"), Some(0.2));
    }

    #[test]
    fn what_was_not_measured_stays_when_asked() {
        let mut record = Record::for_tests("here", "transit/1024", 3.0);
        record.take(&[report(0.2)], "here", true);
        assert_eq!(record.on("transit/1024", "here"), Some(3.0));
        record.take(&[report(0.2)], "here", false);
        assert_eq!(record.on("transit/1024", "here"), None);
    }
}
