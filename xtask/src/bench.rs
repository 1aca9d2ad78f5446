//! `cargo xtask bench`: what the packet path and the agent cost, beside a conventional design, in one run.
//!
//! Builds the benchmark object, runs the benches of the `tests` crate in release mode, and prints a table or JSON
//! (design section 4). With `--check` the run fails when a ratio to the reference is more than 25 % above the baseline in
//! `tests/baselines/bench.json`, or when a promised bound does not hold; `--bless` rewrites the baseline. Absolute times are
//! never compared with other runs: they belong to the machine. Needs root and a quiet machine.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{build_ebpf, command::shown, workspace::root};

mod baseline;
mod gates;
mod report;

use report::Report;

/// What `bench` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Form of the result on standard output; progress goes to standard error
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Only the rows that the gates look at, with fewer rounds: under a minute
    #[arg(long)]
    pub quick: bool,
    /// Fail when a ratio to the reference has worsened by more than 25 %, or a promised bound does not hold
    #[arg(long)]
    pub check: bool,
    /// Rewrite the baseline from this run
    #[arg(long, conflicts_with_all = ["check", "quick", "only"])]
    pub bless: bool,
    /// Only packet-path rows whose path contains this
    #[arg(long)]
    pub only: Option<String>,
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

/// Measures, prints, and compares.
///
/// # Errors
/// When something cannot be built or measured; with `--check`, when a bound or the baseline is missed twice.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut xtask = Command::new(std::env::current_exe().context("cannot find this program")?);
    // A process of its own, so that its progress cannot mix with the result on standard output.
    to_stderr(xtask.args(["build-ebpf", "--bench"]))?;
    let mut report = measure(arguments, arguments.only.as_deref(), !arguments.quick && arguments.only.is_none())?;
    let mut failures = if arguments.check { failures(&report)? } else { Vec::new() };
    let again: Vec<String> = failures.iter().map(|failure| failure.path.clone()).collect();
    for path in again.iter().filter(|path| !path.is_empty()) {
        // Another program on the machine may have disturbed the rounds: what fails counts only if it fails again.
        eprintln!("bench: {path} missed its bound, measuring it again");
        report.replace(measure(arguments, Some(path), false)?);
    }
    if !again.is_empty() {
        failures = self::failures(&report)?;
    }
    match arguments.format {
        Format::Table => print!("{}", report.table()),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    if arguments.bless {
        baseline::write(&report)?;
    }
    if !failures.is_empty() {
        let lines: Vec<String> = failures.into_iter().map(|failure| failure.message).collect();
        bail!("bench: {} bound(s) missed:\n  {}", lines.len(), lines.join("\n  "));
    }
    Ok(())
}

/// A bound that was missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The row's path; empty when it is no row of the packet path.
    path: String,
    /// What was expected and what was measured.
    message: String,
}

fn failures(report: &Report) -> Result<Vec<Failure>> {
    let mut failures = baseline::compare(report, &baseline::read()?);
    failures.extend(gates::missed(report));
    Ok(failures)
}

/// Runs the benches and reads their results.
fn measure(arguments: &Arguments, only: Option<&str>, agent: bool) -> Result<Report> {
    let object = ["--object".to_owned(), build_ebpf::bench_object().display().to_string()];
    let mut packet_path = Vec::from(object.clone());
    if arguments.quick {
        packet_path.push("--quick".to_owned());
    }
    if let Some(only) = only {
        packet_path.extend(["--only".to_owned(), only.to_owned()]);
    }
    if let Some(rounds) = arguments.rounds {
        packet_path.extend(["--rounds".to_owned(), rounds.to_string()]);
    }
    let mut report = cargo_bench("packet_path", &packet_path)?;
    if agent {
        report.add(cargo_bench("agent", &object)?);
    }
    Ok(report)
}

/// One bench of the `tests` crate.
fn cargo_bench(name: &str, arguments: &[String]) -> Result<Report> {
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
