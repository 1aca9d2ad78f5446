//! `cargo xtask bench`: the cost of the packet path and of the agent, compared with a conventional design, in one run.
//!
//! Builds the benchmark objects, runs the benches of the `tests` crate in release mode, and prints a table or JSON
//! (`docs/performance.md#json-output`). With `--check` the run fails if, in every attempt, a row costs 25 % more than
//! the blessed program (`tests/baselines/`) in the same rounds, an agent number exceeds its record, or another bound of
//! `gates.rs` is missed. `--bless` makes the committed program the new baseline. While other programs use a good part
//! of a processor (`host_load.rs`), comparisons with other days are printed and fail nothing; pairs always fail.
//! Absolute times are never compared with other runs: they belong to the machine. Needs root.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::de::DeserializeOwned;

use crate::{
    build_ebpf,
    command::{cargo, shown},
};

mod attempts;
mod bless;
mod compare;
mod gates;
mod host_load;
mod processor;
mod programs;
mod ratios;
pub(crate) mod record;
mod report;
mod table;
mod targets;

use attempts::{ATTEMPTS, Again, CONTROL_PERCENT};
use gates::{Failure, Gate};
use host_load::{QUIET, Ticks};
use processor::Processor;
use programs::{BASELINE, CONTROL, Programs};
use report::{BenchReport, NotMeasured};

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Form of the result on standard output; progress goes to standard error
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// One row for each path, with fewer rounds, and the agent: a minute after the build
    #[arg(long)]
    pub quick: bool,
    /// Fail if a row costs 25 % more than the blessed program in the same rounds, an agent number exceeds its record,
    /// or all protocols cost other packets 30 % more than the first two
    #[arg(long)]
    pub check: bool,
    /// Fail when a target time is missed: on a quiet machine only
    #[arg(long)]
    pub targets: bool,
    /// Make the committed program the baseline and record five runs; with `--quick` its rows, with `--only` those rows.
    /// Prints the differences. On a quiet machine only
    #[arg(long, conflicts_with_all = ["check", "targets"])]
    pub bless: bool,
    /// Only rows of the packet path with this text in their path
    #[arg(long)]
    pub only: Option<String>,
    /// Measure this object file in place of the committed one; the agent is left out
    #[arg(long, value_name = "OBJECT", conflicts_with = "bless")]
    pub shipped: Option<PathBuf>,
    /// Measure pairs with this object file in place of the baseline; the agent is left out
    #[arg(long, value_name = "OBJECT", conflicts_with = "bless")]
    pub beside: Option<PathBuf>,
    /// Makes the packet path slower by so many percent, to see that `--check` fails
    #[arg(long, value_name = "PERCENT", hide = true, conflicts_with = "bless")]
    pub handicap: Option<u32>,
    /// Instead: ndpiReader and both engines over the captures below this folder (without one, those in
    /// ../shared/corpus/p2p), and iperf3 and small packets through a lab; rewrites its section of docs/performance.md
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, conflicts_with_all = ["quick", "check", "targets", "bless", "only", "rounds", "handicap", "shipped", "beside"])]
    pub compare: Option<Option<PathBuf>>,
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

/// Runs of a baseline, which is their median, number by number: the place of a table in memory changes from load to
/// load.
const PASSES: usize = 5;

/// Measures, prints, and compares.
///
/// # Errors
/// When something cannot be built or measured; with `--check`, when a bound or the baseline is missed in every attempt.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut xtask = Command::new(std::env::current_exe().context("cannot find this program")?);
    // A separate process, so that its progress does not mix with the result on standard output.
    to_stderr(xtask.args(["build-ebpf", "--bench"]))?;
    if let Some(folder) = &arguments.compare {
        return compare::run(folder.as_deref(), arguments.format);
    }
    let (processor, before) = (Processor::read()?, Ticks::read()?);
    let checked = arguments.check || arguments.bless;
    let programs = Programs::new(arguments.shipped.as_deref(), arguments.beside.as_deref(), checked)?;
    let whole = arguments.only.is_none() && arguments.handicap.is_none();
    let unchanged = arguments.check && arguments.quick && whole && programs.are_one()?;
    if unchanged {
        eprintln!("bench: the program is the baseline's, byte for byte: {} rows stand for all", CONTROL.len());
    }
    let mut wanted = Wanted {
        programs: programs.clone(),
        rows: unchanged.then(|| CONTROL.map(str::to_owned).to_vec()),
        agent: whole && arguments.shipped.is_none() && arguments.beside.is_none(),
        handicap: arguments.handicap,
        loads: 1,
    };
    let mut report = measure(arguments, &wanted)?;
    if let Some(refused) = not_in_pairs(&programs, &report, checked) {
        // A row of a newer protocol has no pair with an older object; the other rows still have.
        if arguments.beside.is_some() && report.rows.iter().all(|row| row.beside.is_none()) {
            bail!("bench: {}", refused.reason);
        }
        eprintln!("bench: {}: {}", refused.path, refused.reason);
        report.not_measured.push(refused);
    }
    if arguments.bless {
        let more = (1..PASSES).map(|_| measure(arguments, &wanted)).collect::<Result<Vec<_>>>()?;
        let runs = [&[report.clone()], &more[..]].concat();
        bless::bless(&runs, arguments.only.is_some() || arguments.quick, arguments.only.is_none())?;
        ratios::take_median(&mut report, &more);
    }
    let mut failures = Vec::new();
    if arguments.check {
        let gate = Gate { record: record::read()?, processor: processor.kind() };
        failures = attempts::attempts(&mut report, &gate, |again| {
            wanted.take(again);
            measure(arguments, &wanted)
        })?;
        if let Some(control) = programs.control().filter(|_| whole && report.refused().is_none()) {
            wanted = Wanted { programs: control, handicap: Some(CONTROL_PERCENT), ..wanted };
            eprintln!("bench: does the gate see the baseline program, made {CONTROL_PERCENT} % slower?");
            failures.extend(attempts::control(|again| {
                wanted.take(again);
                measure(arguments, &wanted)
            })?);
        }
    }
    report.targets = targets::targets(&report);
    match arguments.format {
        Format::Table => print!("{}", report.table()),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    tell(arguments, &report, failures, before.host_load_until(Ticks::read()?, processor.count()))
}

/// Ends the run, with an error for each missed bound that the host's load does not excuse.
fn tell(arguments: &Arguments, report: &BenchReport, mut failures: Vec<Failure>, host_load: f64) -> Result<()> {
    let say = |line: String| match arguments.format {
        Format::Table => println!("{line}"),
        // Standard output is one JSON value.
        Format::Json => eprintln!("{line}"),
    };
    for NotMeasured { path, reason } in report.not_measured.iter().filter(|missing| missing.path == PAIRS) {
        say(format!("SKIPPED: {path}: {reason}"));
    }
    if host_load > QUIET {
        for missed in failures.extract_if(.., |failure| failure.recorded) {
            say(format!(
                "SKIPPED: {} (other programs took {host_load:.2} of a processor: too busy to judge)",
                missed.message
            ));
        }
    }
    if !failures.is_empty() {
        let lines: Vec<String> = failures.into_iter().map(|failure| failure.message).collect();
        bail!(
            "bench: {} bound(s) missed in {ATTEMPTS} attempts:\n  {}\nWhat to do: for a row `cargo xtask bench --only PATH --beside \
             {BASELINE}` measures it again, compared with the baseline program; `--shipped OBJECT` measures another build. To \
             accept the cost, make it the baseline with `cargo xtask bench --quick --bless`, and put the printed lines into the commit message",
            lines.len(),
            lines.join("\n  ")
        );
    }
    let missed: Vec<String> = report.targets.iter().filter(|target| !target.holds()).map(ToString::to_string).collect();
    if arguments.targets && !missed.is_empty() {
        bail!("bench: {} target(s) missed:\n  {}", missed.len(), missed.join("\n  "));
    }
    Ok(())
}

/// Name in [`not_in_pairs`].
const PAIRS: &str = "pairs with the baseline program";

/// Reason why rows are not measured in pairs, and the remedy.
fn not_in_pairs(programs: &Programs, report: &BenchReport, wanted: bool) -> Option<NotMeasured> {
    let reason = match (&programs.beside, report.refused()) {
        (None, _) if wanted => format!("{BASELINE} is not there"),
        (Some(beside), Some(refused)) => format!("{} cannot run with this agent: {refused}", beside.display()),
        _ => return None,
    };
    let next = "rows are compared with recorded ratios, which is less reliable; `cargo xtask bench --quick --bless` makes the committed program \
                the baseline";
    Some(NotMeasured { path: PAIRS.to_owned(), reason: format!("{reason}; {next}") })
}

/// Scope of a run.
struct Wanted {
    programs: Programs,
    /// Of the packet path only rows of these names, if any are given.
    rows: Option<Vec<String>>,
    /// The agent's bench, too.
    agent: bool,
    handicap: Option<u32>,
    /// How often the programs are loaded.
    loads: u32,
}

impl Wanted {
    fn take(&mut self, again: &Again<'_>) {
        (self.rows, self.agent, self.loads) = (Some(again.rows.to_vec()), again.agent, again.loads);
    }
}

/// Runs the benches and reads their results.
fn measure(arguments: &Arguments, wanted: &Wanted) -> Result<BenchReport> {
    let path = |path: &Path| path.display().to_string();
    let object = ["--object".to_owned(), path(&build_ebpf::bench_object())];
    let mut report = BenchReport::default();
    if wanted.rows.as_ref().is_none_or(|rows| !rows.is_empty()) {
        let mut packet_path = object.to_vec();
        let mut option = |name: &str, value: Option<String>| {
            packet_path.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
        };
        option("--first-protocols", Some(path(&build_ebpf::first_protocols_object())));
        option("--shipped", wanted.programs.shipped.as_deref().map(path));
        option("--beside", wanted.programs.beside.as_deref().map(path));
        option("--only", arguments.only.clone());
        option("--handicap", wanted.handicap.map(|percent| percent.to_string()));
        option("--rounds", arguments.rounds.map(|rounds| rounds.to_string()));
        option("--loads", Some(wanted.loads.to_string()));
        for row in wanted.rows.iter().flatten() {
            option("--row", Some(row.clone()));
        }
        packet_path.extend(arguments.quick.then(|| "--quick".to_owned()));
        report.add(cargo_bench("packet_path", &packet_path)?);
    }
    if wanted.agent {
        report.add(cargo_bench("agent", &object)?);
    }
    Ok(report)
}

/// One bench of the `tests` crate.
fn cargo_bench<T: DeserializeOwned>(name: &str, arguments: &[String]) -> Result<T> {
    let mut command = cargo(&["bench", "--quiet", "--locked", "--package", "peertally-tests", "--bench", name, "--"]);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit());
    eprintln!("  $ {}", shown(&command));
    let output = command.output().with_context(|| format!("cannot start `{}`", shown(&command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", shown(&command), output.status);
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
