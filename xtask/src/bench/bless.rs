//! `--bless`: a new program and new numbers to compare with. The difference is printed row by row: many small steps,
//! each within the tolerance of the gate, would otherwise stay unseen.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::Result;

use super::{
    processor::Processor,
    programs::{self, BASELINE},
    ratios,
    record::{self, Record, TOLERANCE},
    report::BenchReport,
};

/// Records the median numbers of several runs, and the committed object unless only some rows were measured. With
/// `keep`, numbers that the runs lack stay.
pub(super) fn bless(runs: &[BenchReport], keep: bool, program: bool) -> Result<()> {
    let (mut record, processor) = (record::read()?, Processor::read()?.kind());
    eprint!("{}", changes(runs, &record, &processor));
    record.take(runs, &processor, keep);
    record.write()?;
    if program {
        programs::bless()?;
        eprintln!(
            "bench: {BASELINE} is now the committed program: commit it with bench.json, and with the lines above"
        );
    } else {
        eprintln!("bench: {BASELINE} stays: not every row was measured");
    }
    Ok(())
}

/// A line for each number: the program compared with the one it replaces, and its ratio to the reference then and now.
fn changes(runs: &[BenchReport], before: &Record, processor: &str) -> String {
    let (mut now, mut pairs) = (BTreeMap::<String, Vec<f64>>::new(), BTreeMap::<String, Vec<f64>>::new());
    for ratio in runs.iter().flat_map(ratios::of) {
        now.entry(ratio.name).or_default().push(ratio.value);
    }
    for row in runs.iter().flat_map(|run| &run.rows) {
        if let Some(beside) = &row.beside {
            pairs.entry(row.name()).or_default().push(beside.cost());
        }
    }
    let mut text = format!(
        "bench: new baseline on {processor}: new/old is the program compared with the one it replaces, in shared rounds, the rest the cost \
         in percent of the reference's\n"
    );
    for (name, values) in now {
        let pair = pairs.remove(&name).map(median);
        let ratio = median(values) * 100.0;
        let beside = pair.map_or("new/old    -".to_owned(), |pair| format!("new/old {pair:.2}"));
        let numbers = before.on(&name, processor).map(|before| before * 100.0).map_or_else(
            || format!("{ratio:8.1} %, not known of this processor"),
            |before| format!("{ratio:8.1} %, was {before:.1} % ({:+.0} %)", (ratio / before - 1.0) * 100.0),
        );
        let loud = if pair.is_some_and(|pair| pair > TOLERANCE) { "  MORE THAN THE GATE ALLOWS" } else { "" };
        let _cannot_fail = writeln!(text, "  {name:<40}{beside}  {numbers}{loud}");
    }
    text
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::{super::report::Row, *};

    #[test]
    fn each_number_is_printed_with_the_one_it_replaces() {
        let run = |ratio, multiple| BenchReport {
            rows: vec![Row::for_tests("transit", ratio).with_beside(multiple), Row::for_tests("other", ratio)],
            ..BenchReport::default()
        };
        let runs = [run(0.5, 1.0), run(0.55, 1.3), run(0.7, 1.4)];
        let text = changes(&runs, &Record::for_tests("here", "transit/1024", 0.5), "here");
        let line = |name| text.lines().find(|line| line.contains(name)).expect("a line");
        assert!(line("transit").contains("new/old 1.30      55.0 %, was 50.0 % (+10 %)"), "{text}");
        assert!(line("transit").ends_with("MORE THAN THE GATE ALLOWS"), "{text}");
        assert!(line("other").contains("new/old    -      55.0 %, not known of this processor"), "{text}");
    }
}
