//! `cargo xtask bench`: what the packet path and the agent cost, beside a conventional design, in one run.
//!
//! Builds the benchmark objects, runs the benches of the `tests` crate in release mode, and prints a table or JSON
//! (design section 4). With `--check` the run fails when a ratio to a reference is more than 25 % above the baseline in
//! `tests/baselines/bench.json`, or when a bound of `gates.rs` does not hold, in every attempt; `--bless` rewrites the baseline.
//! On another processor than the baseline's, a ratio fails at twice its value only: what memory costs beside instructions differs.
//! While other programs take a good part of a processor (`others.rs`), missed ratios are printed and fail nothing.
//! Absolute times are never compared with other runs: they belong to the machine. Needs root.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::de::DeserializeOwned;

use crate::{build_ebpf, command::shown, workspace::root};

mod baseline;
mod compare;
mod gates;
mod others;
mod processor;
mod promises;
mod ratios;
mod report;

use baseline::Baseline;
use others::{QUIET, Ticks};
use processor::Processor;
use report::Report;

/// What `bench` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Form of the result on standard output; progress goes to standard error
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// One row for each path, with fewer rounds, and the agent: a minute after the build
    #[arg(long)]
    pub quick: bool,
    /// Fail when a ratio to a reference has worsened by more than 25 %, or all protocols cost others 30 % more than the first
    #[arg(long)]
    pub check: bool,
    /// Fail when a promised time does not hold: on a quiet machine only
    #[arg(long)]
    pub promises: bool,
    /// Rewrite the baseline from five runs; with `--quick` or `--only`, those rows of it. On a quiet machine only
    #[arg(long, conflicts_with_all = ["check", "promises"])]
    pub bless: bool,
    /// Only packet-path rows whose path contains this, of all rows
    #[arg(long)]
    pub only: Option<String>,
    /// Makes the packet path slower by so many percent, to see that `--check` fails
    #[arg(long, value_name = "PERCENT", hide = true, conflicts_with = "bless")]
    pub handicap: Option<u32>,
    /// Instead: ndpiReader and both engines over the captures below this folder, and iperf3 and small packets through a
    /// laboratory; rewrites its section of docs/performance.md
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["format", "quick", "check", "promises", "bless", "only", "rounds", "handicap"])]
    pub compare: Option<PathBuf>,
    /// Rounds per row; medians are taken over them
    #[arg(long)]
    pub rounds: Option<u32>,
}

/// Form of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// How often a missed bound is measured before it counts as missed: another program on the machine, or a neighbour of a
/// virtual one, may have disturbed the rounds. With more attempts, what became slower by 40 % would pass too often by luck.
const ATTEMPTS: u32 = 3;

/// Runs of which a baseline takes the median, number by number: where a table lies in memory changes from load to load.
const PASSES: usize = 5;

/// Measures, prints, and compares.
///
/// # Errors
/// When something cannot be built or measured; with `--check`, when a bound or the baseline is missed in every attempt.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut xtask = Command::new(std::env::current_exe().context("cannot find this program")?);
    // A process of its own, so that its progress cannot mix with the result on standard output.
    to_stderr(xtask.args(["build-ebpf", "--bench"]))?;
    if let Some(folder) = &arguments.compare {
        return compare::run(folder);
    }
    let agent = arguments.only.is_none() && arguments.handicap.is_none();
    let before = Ticks::read()?;
    let mut report = measure(arguments, None, agent)?;
    report.not_measured = report::not_measured();
    if arguments.bless {
        let more = (1..PASSES).map(|_| measure(arguments, None, agent)).collect::<Result<Vec<_>>>()?;
        let runs = [&[report.clone()], &more[..]].concat();
        baseline::write(&runs, arguments.only.is_some() || arguments.quick)?;
        ratios::take_median(&mut report, &more);
    }
    let mut failures = if arguments.check {
        let mut baseline = baseline::read()?;
        baseline.set_tolerance(&Processor::read()?);
        attempts(&mut report, &baseline, |rows, agent| measure(arguments, Some(rows), agent))?
    } else {
        Vec::new()
    };
    report.promises = promises::promises(&report);
    match arguments.format {
        Format::Table => print!("{}", report.table()),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    let others = before.others_until(Ticks::read()?, Processor::read()?.count());
    if others > QUIET {
        for missed in failures.extract_if(.., |failure| failure.timed) {
            let line =
                format!("SKIPPED: {} (others took {others:.2} of a processor: too busy to tell)", missed.message);
            match arguments.format {
                Format::Table => println!("{line}"),
                // Standard output is one JSON value.
                Format::Json => eprintln!("{line}"),
            }
        }
    }
    if !failures.is_empty() {
        let lines: Vec<String> = failures.into_iter().map(|failure| failure.message).collect();
        bail!("bench: {} bound(s) missed in each of {ATTEMPTS} attempts:\n  {}", lines.len(), lines.join("\n  "));
    }
    let broken: Vec<String> =
        report.promises.iter().filter(|promise| !promise.holds()).map(ToString::to_string).collect();
    if arguments.promises && !broken.is_empty() {
        bail!("bench: {} promise(s) not kept:\n  {}", broken.len(), broken.join("\n  "));
    }
    Ok(())
}

/// Measures what missed a bound again, up to [`ATTEMPTS`] times in all; what is still missed then.
///
/// `again` takes the names of rows, and whether the agent's bench is to be run.
fn attempts(
    report: &mut Report,
    baseline: &Baseline,
    mut again: impl FnMut(&[String], bool) -> Result<Report>,
) -> Result<Vec<Failure>> {
    for attempt in 1.. {
        let failures = failures(report, baseline);
        if failures.is_empty() || attempt == ATTEMPTS {
            return Ok(failures);
        }
        let mut rows: Vec<String> = failures.iter().filter_map(|failure| failure.row.clone()).collect();
        rows.dedup();
        for failure in &failures {
            eprintln!("bench: attempt {attempt}: {}; measuring it again", failure.message);
        }
        ratios::keep_better(report, again(&rows, failures.iter().any(|failure| failure.row.is_none()))?);
    }
    Ok(Vec::new())
}

/// A bound that was missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The row's name; `None` when it is no row of the packet path.
    row: Option<String>,
    /// What was expected and what was measured.
    message: String,
    /// Whether it is about time, which a busy machine says little about.
    timed: bool,
}

fn failures(report: &Report, baseline: &Baseline) -> Vec<Failure> {
    let mut failures = baseline::compare(report, baseline);
    failures.extend(gates::missed(report));
    failures
}

/// Runs the benches and reads their results; of the packet path only the rows of these names, if any are given.
fn measure(arguments: &Arguments, rows: Option<&[String]>, agent: bool) -> Result<Report> {
    let object = ["--object".to_owned(), build_ebpf::bench_object().display().to_string()];
    let mut report = Report::default();
    if rows.is_none_or(|rows| !rows.is_empty()) {
        let first = build_ebpf::first_protocols_object().display().to_string();
        let mut packet_path = [&object[..], &["--first-protocols".to_owned(), first]].concat();
        if arguments.quick {
            packet_path.push("--quick".to_owned());
        }
        if let Some(only) = &arguments.only {
            packet_path.extend(["--only".to_owned(), only.clone()]);
        }
        packet_path.extend(rows.into_iter().flatten().flat_map(|row| ["--row".to_owned(), row.clone()]));
        if let Some(percent) = arguments.handicap {
            packet_path.extend(["--handicap".to_owned(), percent.to_string()]);
        }
        if let Some(rounds) = arguments.rounds {
            packet_path.extend(["--rounds".to_owned(), rounds.to_string()]);
        }
        report.add(cargo_bench("packet_path", &packet_path)?);
    }
    if agent {
        report.add(cargo_bench("agent", &object)?);
    }
    Ok(report)
}

/// One bench of the `tests` crate.
fn cargo_bench<T: DeserializeOwned>(name: &str, arguments: &[String]) -> Result<T> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(root())
        .args(["bench", "--quiet", "--locked", "--package", "peertally-tests", "--bench", name, "--"])
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    eprintln!("  $ {}", shown(&cargo));
    let output = cargo.output().with_context(|| format!("cannot start `{}`", shown(&cargo)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", shown(&cargo), output.status);
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("the bench {name} wrote no result"))
}

/// Runs a command with all its output on standard error.
fn to_stderr(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{report::Row, *};

    fn report(ratio: f64) -> Report {
        Report { rows: vec![Row::for_tests("transit", ratio)], ..Report::default() }
    }

    fn baseline() -> Baseline {
        Baseline::for_tests("transit/1024", 0.2)
    }

    #[test]
    fn what_was_only_disturbed_passes() {
        let (mut first, mut later) = (report(0.4), vec![report(0.19), report(0.3)]);
        let left = attempts(&mut first, &baseline(), |rows, agent| {
            assert_eq!((rows, agent), (["transit/1024".to_owned()].as_slice(), false));
            Ok(later.pop().expect("no more attempts than three"))
        });
        assert_eq!(left.expect("measured"), []);
        assert_eq!(later.len(), 0);
        assert!((first.rows[0].ratio - 0.19).abs() < f64::EPSILON, "the better one is shown");
    }

    #[test]
    fn what_stays_slow_fails() {
        let mut asked = 0;
        let left = attempts(&mut report(0.4), &baseline(), |_, _| {
            asked += 1;
            Ok(report(0.26))
        });
        assert_eq!(left.expect("measured").len(), 1);
        assert_eq!(asked, ATTEMPTS - 1);
    }

    #[test]
    fn what_is_well_is_not_measured_again() {
        let left = attempts(&mut report(0.2), &baseline(), |_, _| panic!("nothing to measure again"));
        assert_eq!(left.expect("measured"), []);
    }

    /// How often of a thousand the gate fails a program that is slower by `slower`, when each run's ratio is off by a normal
    /// error of `noise`; the baseline is the median of runs with the same error.
    fn failed(slower: f64, noise: f64) -> usize {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        // Twelve uniform numbers add up to a normal one of variance 1 (Irwin and Hall).
        let mut ratio = move |of: f64| of * (1.0 + noise * ((0..12).map(|_| uniform()).sum::<f64>() - 6.0));
        let one = |ratio: f64| Report { rows: vec![Row::for_tests("transit", ratio)], ..Report::default() };
        let failed = (0..1000).filter(|_| {
            let mut runs: Vec<f64> = (0..PASSES).map(|_| ratio(0.2)).collect();
            runs.sort_by(f64::total_cmp);
            let baseline = Baseline::for_tests("transit/1024", runs[PASSES / 2]);
            let mut first = one(ratio(0.2 * slower));
            !attempts(&mut first, &baseline, |_, _| Ok(one(ratio(0.2 * slower)))).expect("measured").is_empty()
        });
        failed.count()
    }

    #[test]
    fn the_gate_finds_forty_percent_and_spares_what_did_not_change() {
        let counts = [(1.0, 0.10), (1.15, 0.05), (1.4, 0.03), (1.4, 0.05), (1.5, 0.07)]
            .map(|(slower, noise)| failed(slower, noise));
        let [same, within, quiet, noisy, more] = counts;
        assert!(same == 0 && within <= 5 && quiet >= 990 && noisy >= 900 && more >= 950, "{counts:?}");
    }
}
