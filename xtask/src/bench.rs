//! `cargo xtask bench`: what the packet path and the agent cost, beside a conventional design, in one run.
//!
//! Builds the benchmark object, runs the benches of the `tests` crate in release mode, and prints a table or JSON
//! (design section 4). With `--check` the run fails when a ratio to the reference is more than 25 % above the baseline in
//! `tests/baselines/bench.json`, or when a promised bound does not hold, in three attempts; `--bless` rewrites the baseline.
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
mod report;

use baseline::Baseline;
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
    /// Fail when a ratio to the reference has worsened by more than 25 %, or a promised bound does not hold
    #[arg(long)]
    pub check: bool,
    /// Rewrite the baseline from three runs; with `--only`, those rows of it
    #[arg(long, conflicts_with_all = ["check", "quick"])]
    pub bless: bool,
    /// Only packet-path rows whose path contains this
    #[arg(long)]
    pub only: Option<String>,
    /// Instead: ndpiReader and both engines over the captures below this folder, and iperf3 and small packets through a
    /// laboratory; rewrites its section of docs/performance.md
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["format", "quick", "check", "bless", "only", "rounds"])]
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
/// virtual one, may have disturbed the rounds.
const ATTEMPTS: u32 = 3;

/// Runs of which a baseline takes the median, row by row.
const PASSES: usize = 3;

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
    let mut report = measure(arguments, None, arguments.only.is_none())?;
    report.not_measured = report::not_measured();
    if arguments.bless {
        // Where a table lies in memory changes from load to load: one run is no baseline.
        let more = (1..PASSES).map(|_| measure(arguments, None, false)).collect::<Result<Vec<_>>>()?;
        report.take_median(&more);
    }
    let failures = if arguments.check {
        let baseline = baseline::read()?;
        attempts(&mut report, &baseline, |rows, agent| measure(arguments, Some(rows), agent))?
    } else {
        Vec::new()
    };
    match arguments.format {
        Format::Table => print!("{}", report.table()),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    if arguments.bless {
        baseline::write(&report, arguments.only.is_some())?;
    }
    if !failures.is_empty() {
        let lines: Vec<String> = failures.into_iter().map(|failure| failure.message).collect();
        bail!("bench: {} bound(s) missed in each of {ATTEMPTS} attempts:\n  {}", lines.len(), lines.join("\n  "));
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
        report.keep_better(again(&rows, failures.iter().any(|failure| failure.row.is_none()))?);
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
        let mut packet_path = Vec::from(object.clone());
        if arguments.quick {
            packet_path.push("--quick".to_owned());
        }
        if let Some(only) = &arguments.only {
            packet_path.extend(["--only".to_owned(), only.clone()]);
        }
        packet_path.extend(rows.into_iter().flatten().flat_map(|row| ["--row".to_owned(), row.clone()]));
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

    fn report(ns_above_empty: f64) -> Report {
        Report { rows: vec![Row::for_tests("transit", ns_above_empty)], ..Report::default() }
    }

    fn baseline() -> Baseline {
        Baseline::for_tests("transit/1024", 0.2)
    }

    #[test]
    fn what_was_only_disturbed_passes() {
        let (mut first, mut later) = (report(40.0), vec![report(19.0), report(30.0)]);
        let left = attempts(&mut first, &baseline(), |rows, agent| {
            assert_eq!((rows, agent), (["transit/1024".to_owned()].as_slice(), false));
            Ok(later.pop().expect("no more attempts than three"))
        });
        assert_eq!(left.expect("measured"), []);
        assert_eq!(later.len(), 0);
        assert!((first.rows[0].ns_above_empty - 19.0).abs() < f64::EPSILON, "the better one is shown");
    }

    #[test]
    fn what_stays_slow_fails() {
        let mut asked = 0;
        let left = attempts(&mut report(40.0), &baseline(), |_, _| {
            asked += 1;
            Ok(report(26.0))
        });
        assert_eq!(left.expect("measured").len(), 1);
        assert_eq!(asked, ATTEMPTS - 1);
    }

    #[test]
    fn what_is_well_is_not_measured_again() {
        let left = attempts(&mut report(20.0), &baseline(), |_, _| panic!("nothing to measure again"));
        assert_eq!(left.expect("measured"), []);
    }
}
