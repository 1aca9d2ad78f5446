//! The lanes of `cargo xtask test`, with commands, packages and time limits. A new lane is an entry here.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum as _;
use peertally_lab::{SOAK_VARIABLE, STRICT_VARIABLE};

use super::{LaneOutcome, Mode};
use crate::command::{cargo, shown, stream, stream_some};
use crate::live_run::agent_to_run;
use crate::setup::Need;
use crate::workspace::{members, root};
use crate::{accuracy, build_ebpf, dist, fuzz, habits, kernels};

/// One lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Lane {
    /// Formatting
    Format,
    /// Comment width, unused dependencies, dead references, commit subjects
    Habits,
    /// Compiler and clippy warnings
    Lints,
    /// Documentation warnings
    Docs,
    /// Dependencies: licences, sources, bans
    Deny,
    /// The committed eBPF object against its sources
    Object,
    /// The demonstration
    Demo,
    /// The package in fresh Debian systems
    Package,
    /// Unit and property tests inside the crates
    Unit,
    /// Integration, differential and kernel tests
    Tests,
    /// Attacks, each beside its harmless twin
    Adversarial,
    /// Real clients and servers between network namespaces
    E2e,
    /// The labels on the corpus, compared with nDPI's
    Accuracy,
    /// Fuzzing for a bounded time
    Fuzz,
    /// The object in other kernels
    Kernels,
    /// Costs relative to the reference program, compared with the baseline
    Bench,
}

/// Limit of a lane that only compiles.
const COMPILING: Duration = Duration::from_secs(15 * 60);

/// Limit of all tests of the workspace, their compilation included.
const TESTING: Duration = Duration::from_secs(30 * 60);

/// The integration test that is a lane of its own.
const ADVERSARIAL: &str = "adversarial";

impl Lane {
    /// Every lane, in this order: those without set-up, those that need packages, those that need a compiled tool.
    pub const ALL: &[Self] = &[
        Self::Format,
        Self::Habits,
        Self::Lints,
        Self::Docs,
        Self::Unit,
        Self::Kernels,
        Self::Demo,
        Self::Package,
        Self::Accuracy,
        Self::Tests,
        Self::Adversarial,
        Self::E2e,
        Self::Deny,
        Self::Object,
        Self::Bench,
        Self::Fuzz,
    ];

    /// The lanes that need nothing but stable Rust.
    pub const QUICK: &[Self] = &[Self::Format, Self::Habits, Self::Lints, Self::Docs, Self::Unit];

    /// The word of `--lane`.
    pub fn word(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    pub(super) fn about(self) -> &'static str {
        match self {
            Self::Format => "every file is formatted",
            Self::Habits => "rules that no compiler holds",
            Self::Lints => "no warning of the compiler or of clippy",
            Self::Docs => "the documentation builds without warnings",
            Self::Deny => "licences, sources and bans of dependencies",
            Self::Object => "the eBPF object is what its sources give, byte for byte",
            Self::Demo => "`cargo xtask demo`, as a person starts it",
            Self::Package => "`cargo xtask dist --test`: the package in Debian 12 and 13, with traffic",
            Self::Unit => "unit and property tests inside the crates",
            Self::Tests => "integration, differential and kernel tests, strict",
            Self::Adversarial => "attacks on counts, tables and labels, each beside its harmless twin, strict",
            Self::E2e => "real clients and servers between namespaces, one test at a time, strict",
            Self::Fuzz => "libFuzzer on each target, a fixed number of inputs from the named seeds",
            Self::Accuracy => "docs/detection.md says what the captures, the sources and nDPI give",
            Self::Kernels => "the eBPF object on the oldest and on newer kernels",
            Self::Bench => {
                "`cargo xtask bench --quick --check`: no packet costs a quarter more than in the program that was blessed"
            }
        }
    }

    pub(super) fn needs(self) -> &'static [Need] {
        match self {
            Self::Format | Self::Habits | Self::Lints | Self::Docs => &[],
            Self::Deny => &[Need::Deny],
            Self::Object => &[Need::Ebpf],
            // The demonstration's packages are the lab's: a running agent is measured in one.
            Self::Bench => &[Need::Ebpf, Need::Demo],
            Self::Demo => &[Need::Demo],
            Self::Package => &[Need::Dist],
            Self::Unit | Self::Tests | Self::Adversarial | Self::E2e => &[Need::Tests],
            Self::Accuracy => &[Need::Accuracy],
            Self::Fuzz => &[Need::Fuzz],
            Self::Kernels => &[Need::Kernels],
        }
    }

    pub(super) fn run(self, mode: Mode, outcome: &mut LaneOutcome) -> Result<()> {
        match self {
            Self::Format => check(outcome, cargo(&["fmt", "--all", "--check"]), COMPILING),
            Self::Habits => {
                habits::run(&habits::Arguments::default())?;
                *outcome = LaneOutcome::one();
                Ok(())
            }
            Self::Lints => {
                let arguments = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
                check(outcome, cargo(&arguments), COMPILING)
            }
            Self::Docs => {
                let mut command = cargo(&["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"]);
                command.env("RUSTDOCFLAGS", "-D warnings");
                check(outcome, command, COMPILING)
            }
            Self::Deny => deny(outcome),
            Self::Object => {
                build_ebpf::run(&build_ebpf::Arguments { check: true, force: false, ..Default::default() })?;
                *outcome = LaneOutcome::one();
                Ok(())
            }
            Self::Demo => check(outcome, cargo(&["xtask", "demo"]), TESTING),
            Self::Package => {
                let binary = Some(agent_to_run(None)?);
                dist::run(&dist::Arguments { binary, test: true, soak: mode == Mode::Soak, ..Default::default() })?;
                *outcome = LaneOutcome::one();
                Ok(())
            }
            Self::Bench => {
                // The output names checks that a busy machine skipped, and a baseline program that cannot run.
                stream(&mut cargo(&["xtask", "bench", "--quick", "--check"]), TESTING, |line| outcome.read(line))?;
                outcome.passed = 1;
                Ok(())
            }
            Self::Unit => tests(mode, outcome, &["--lib", "--bins"], &[], &[]),
            Self::Tests => {
                let (mut plain, _) = integration_tests()?;
                plain.retain(|name| name != ADVERSARIAL);
                tests(mode, outcome, &[], &plain, &[])?;
                stream(&mut cargo(&["test", "--workspace", "--locked", "--doc"]), TESTING, |line| outcome.read(line))
            }
            Self::Adversarial => tests(mode, outcome, &[], &[ADVERSARIAL.to_owned()], &[]),
            // Clients that share two cores with others retransmit late packets, and counts would differ.
            Self::E2e => tests(mode, outcome, &[], &integration_tests()?.1, &["--test-threads=1"]),
            Self::Fuzz => {
                outcome.passed = fuzz::lane()?;
                Ok(())
            }
            Self::Accuracy => {
                accuracy::run(&accuracy::Arguments { check: true, ..Default::default() })?;
                *outcome = LaneOutcome::one();
                Ok(())
            }
            Self::Kernels => {
                kernels::run(&kernels::Arguments::default())?;
                *outcome = LaneOutcome::one();
                Ok(())
            }
        }
    }
}

fn check(outcome: &mut LaneOutcome, mut command: Command, limit: Duration) -> Result<()> {
    stream(&mut command, limit, |line| outcome.read(line))?;
    *outcome = LaneOutcome::one();
    Ok(())
}

/// Runs cargo-deny. Known vulnerabilities are left out if the advisory database cannot be reached.
fn deny(outcome: &mut LaneOutcome) -> Result<()> {
    check(outcome, cargo(&["deny", "--locked", "check", "bans", "licenses", "sources"]), COMPILING)?;
    let mut advisories = cargo(&["deny", "--locked", "check", "advisories"]);
    println!("  $ {}", shown(&advisories));
    let ended = advisories.stdin(Stdio::null()).output().context("cannot start cargo deny")?;
    let said = String::from_utf8_lossy(&ended.stderr);
    if ended.status.success() {
        outcome.passed += 1;
    } else if ["failed to fetch advisory database", "failed to load advisory database"]
        .iter()
        .any(|text| said.contains(text))
    {
        outcome.notes.push("left out: known vulnerabilities (the advisory database cannot be reached)".to_owned());
    } else {
        bail!("cargo deny check advisories: {}\n{said}", ended.status);
    }
    Ok(())
}

/// Runs the given targets of the workspace; `named` are integration tests.
fn tests(mode: Mode, outcome: &mut LaneOutcome, targets: &[&str], named: &[String], arguments: &[&str]) -> Result<()> {
    let mut command = cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
    command.args(targets);
    for name in named {
        command.args(["--test", name]);
    }
    // Also show the output of passed tests, for their `SKIPPED:` lines.
    command.args(["--", "--show-output"]).args(arguments);
    match mode {
        Mode::Strict => command.env(STRICT_VARIABLE, "1"),
        Mode::Soak => command.env(STRICT_VARIABLE, "1").env(SOAK_VARIABLE, "1"),
        Mode::Quick => command.env_remove(STRICT_VARIABLE),
    };
    let mut shown = Shown::default();
    let result = stream_some(&mut command, TESTING, |line| {
        outcome.read(line);
        mode != Mode::Quick || shown.keeps(line)
    });
    if outcome.passed + outcome.failed == 0 {
        bail!(
            "no test ran: {}",
            result.err().map_or_else(|| "cargo said nothing".to_owned(), |error| error.to_string())
        );
    }
    result
}

/// Selects the lines of a test run to print: results, failures and skipped tests.
#[derive(Debug, Default)]
struct Shown {
    /// In the part with the output of passed tests.
    successes: bool,
}

impl Shown {
    fn keeps(&mut self, line: &str) -> bool {
        match line {
            "successes:" => self.successes = true,
            "failures:" => self.successes = false,
            _ => {}
        }
        if line.starts_with("test result: ") {
            self.successes = false;
        }
        let passed = line.starts_with("test ") && line.ends_with(" ... ok");
        line.trim_start().starts_with("SKIPPED: ") || !(self.successes || passed || line.is_empty())
    }
}

/// Names of all integration tests of the workspace: those that need the machine to themselves (`e2e_..`) apart.
fn integration_tests() -> Result<(Vec<String>, Vec<String>)> {
    let mut names = Vec::new();
    for member in members()? {
        let Ok(entries) = fs::read_dir(root().join(member).join("tests")) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").is_file() {
                names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
            }
        }
    }
    names.sort();
    let (apart, plain) = names.into_iter().partition(|name| name.starts_with("e2e_"));
    Ok((plain, apart))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integration_tests_of_every_member_are_found() {
        let (plain, apart) = integration_tests().expect("the repository can be read");
        for name in ["differential", "object", ADVERSARIAL] {
            assert!(plain.iter().any(|test| test == name), "{name} in {plain:?}");
        }
        assert!(apart.iter().any(|test| test == "e2e_lab"), "{apart:?}");
    }

    #[test]
    fn output_of_passed_tests_is_left_out() {
        let lines = [
            "running 3 tests",
            "test a ... ok",
            "test b ... FAILED",
            "",
            "successes:",
            "---- a stdout ----",
            "noise",
            "SKIPPED: no promtool",
            "failures:",
            "---- b stdout ----",
            "reason",
            "test result: FAILED. 1 passed; 1 failed",
        ];
        let mut shown = Shown::default();
        let kept: Vec<_> = lines.into_iter().filter(|line| shown.keeps(line)).collect();
        let expected = [
            "running 3 tests",
            "test b ... FAILED",
            "SKIPPED: no promtool",
            "failures:",
            "---- b stdout ----",
            "reason",
            "test result: FAILED. 1 passed; 1 failed",
        ];
        assert_eq!(kept, expected);
    }
}
