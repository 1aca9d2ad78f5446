//! `cargo xtask test`: every test there is, in lanes, with one summary at the end.
//!
//! Lanes that need no set-up run first, then those that need packages, then those that need a tool that cargo compiles.
//! Each lane's time is printed, with a warning above its ceiling. `--quick` runs the first lanes alone: the loop while
//! working.
//!
//! A lane that fails does not stop the others, but fails the whole; the end of the output says why. Tests run in strict
//! mode (`PEERTALLY_STRICT=1`): a test that a developer's machine would skip for lack of rights or tools fails here. A
//! lane of tests that ran none is a failure, too. Lanes that are left out are printed with the reason.

mod ceilings;
mod failures;
mod lanes;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::setup::{self, Need};
use failures::{FailedLane, Failures};
pub use lanes::Lane;

/// Arguments of `test`.
#[derive(Debug, Default, clap::Args)]
pub struct Arguments {
    /// Only the lanes that need nothing but stable Rust: format, habits, lints, docs, unit tests
    #[arg(long, conflicts_with = "lane")]
    pub quick: bool,
    /// Only these lanes
    #[arg(long, value_name = "LANE", value_delimiter = ',')]
    pub lane: Vec<Lane>,
    /// The long form of tests that repeat something, ten times as often: before a release, or before an issue is closed
    #[arg(long, conflicts_with = "quick")]
    pub soak: bool,
    /// All but these lanes
    #[arg(long, value_name = "LANE", value_delimiter = ',', conflicts_with = "lane")]
    pub skip: Vec<Lane>,
}

/// Result of a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneOutcome {
    /// Tests that passed; a lane without single tests counts as one.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that were not run, by cargo's count.
    pub skipped: u64,
    /// Omitted checks with the reason.
    pub notes: Vec<String>,
    /// Why the lane failed, if it did.
    error: String,
    /// The tests that failed.
    failures: Failures,
}

impl LaneOutcome {
    /// A lane that is one check.
    pub fn one() -> Self {
        Self { passed: 1, ..Self::default() }
    }

    /// Adds up cargo's closing lines: `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; ..`,
    /// and takes lines of tests that say `SKIPPED: ..`, and the output of failed tests.
    pub fn read(&mut self, line: &str) {
        self.failures.read(line);
        if let Some(reason) = line.trim().strip_prefix("SKIPPED: ") {
            self.notes.push(format!("skipped: {reason}"));
            return;
        }
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        for part in rest.split([';', '.']) {
            let words: Vec<&str> = part.split_whitespace().collect();
            let [count, what] = words.as_slice() else { continue };
            let Ok(count) = count.parse::<u64>() else { continue };
            match *what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.skipped += count,
                _ => {}
            }
        }
    }
}

/// Runs the lanes.
///
/// # Errors
/// When a lane fails.
pub fn run(arguments: &Arguments) -> Result<()> {
    let lanes: Vec<Lane> = Lane::ALL
        .iter()
        .copied()
        .filter(|lane| arguments.lane.is_empty() || arguments.lane.contains(lane))
        .filter(|lane| !arguments.quick || Lane::QUICK.contains(lane))
        .filter(|lane| !arguments.skip.contains(lane))
        .collect();
    let mode = match (arguments.quick, arguments.soak) {
        (true, _) => Mode::Quick,
        (false, false) => Mode::Strict,
        (false, true) => Mode::Soak,
    };
    for lane in Lane::ALL.iter().filter(|lane| !lanes.contains(lane)) {
        println!("test: lane {} is left out: not asked for", lane.word());
    }
    let started = Instant::now();
    let mut setup = Setup::new(mode, &lanes);
    let mut rows = Vec::new();
    for (index, lane) in lanes.iter().enumerate() {
        println!("\n=== {}/{} {}: {} ===", index + 1, lanes.len(), lane.word(), lane.about());
        let mut outcome = LaneOutcome::default();
        let ready = setup.prepare(*lane);
        let start = Instant::now();
        let error = ready.and_then(|()| lane.run(mode, &mut outcome)).err();
        if let Some(error) = &error {
            println!("lane {} FAILED: {error:#}", lane.word());
            outcome.failed = outcome.failed.max(1);
            outcome.error = format!("{error:#}");
            outcome.failures.end();
        }
        rows.push((*lane, outcome, start.elapsed()));
    }
    println!("\n=== summary ===");
    println!("{:12} {:60} {:5.1} min", "setup", "", minutes(setup.elapsed));
    let result = summary(&rows);
    println!("all lanes: {:.1} minutes", minutes(started.elapsed()));
    let times: Vec<_> = rows.iter().map(|(lane, _, time)| (*lane, *time)).collect();
    for line in ceilings::exceeded(&times) {
        println!("WARNING: {line}");
    }
    if arguments.quick && started.elapsed() > ceilings::QUICK {
        println!(
            "WARNING: the quick lanes took over {:.0} minutes: run them again, now warm",
            minutes(ceilings::QUICK)
        );
    }
    print_failures(&rows);
    result
}

/// What to do about missing packages and rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Install nothing. A test that cannot run here is skipped.
    Quick,
    /// Install missing packages. A skipped test is a failure.
    Strict,
    /// As [`Self::Strict`], with the long form of tests.
    Soak,
}

/// Installs packages as late as possible: nothing for the first lanes, cargo tools last.
#[derive(Debug)]
struct Setup {
    mode: Mode,
    /// Needs of all lanes, until their packages are installed, all at once.
    pending: Vec<Need>,
    elapsed: Duration,
}

impl Setup {
    fn new(mode: Mode, lanes: &[Lane]) -> Self {
        let pending = lanes.iter().flat_map(|lane| lane.needs()).copied().collect();
        Self { mode, pending, elapsed: Duration::ZERO }
    }

    /// Installs packages and tools for `lane`.
    fn prepare(&mut self, lane: Lane) -> Result<()> {
        if self.mode == Mode::Quick || lane.needs().is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        let pending = std::mem::take(&mut self.pending);
        if !pending.is_empty()
            && let Err(error) = setup::ensure_packages(&pending)
        {
            // A lane with a missing package fails later, with its own message.
            println!("test: not all packages could be installed: {error:#}");
        }
        let ready = setup::ensure(lane.needs());
        self.elapsed += start.elapsed();
        ready
    }
}

fn minutes(time: Duration) -> f32 {
    time.as_secs_f32() / 60.0
}

fn summary(rows: &[(Lane, LaneOutcome, Duration)]) -> Result<()> {
    let mut total = LaneOutcome::default();
    for (lane, outcome, time) in rows {
        let verdict = if outcome.failed == 0 { "ok" } else { "FAILED" };
        println!(
            "{:12} {verdict:6} {:5} passed {:4} failed {:4} skipped {:17.1} min",
            lane.word(),
            outcome.passed,
            outcome.failed,
            outcome.skipped,
            minutes(*time)
        );
        for note in &outcome.notes {
            println!("{:12} {note}", "");
        }
        total.passed += outcome.passed;
        total.failed += outcome.failed;
        total.skipped += outcome.skipped;
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    if total.failed > 0 {
        bail!("{} lanes failed", rows.iter().filter(|(_, outcome, _)| outcome.failed > 0).count());
    }
    if total.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

/// Prints why lanes failed, if any did.
fn print_failures(rows: &[(Lane, LaneOutcome, Duration)]) {
    let words: Vec<String> = rows.iter().map(|(lane, ..)| lane.word()).collect();
    let failed: Vec<FailedLane<'_>> = rows
        .iter()
        .zip(&words)
        .filter(|((_, outcome, _), _)| outcome.failed > 0)
        .map(|((_, outcome, _), lane)| FailedLane { lane, error: &outcome.error, failures: &outcome.failures })
        .collect();
    if failed.is_empty() {
        return;
    }
    println!("\n=== failures ===");
    for line in failures::report(&failed) {
        println!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_closing_lines_are_added_up() {
        let mut outcome = LaneOutcome::default();
        outcome.read("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s");
        outcome
            .read("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s");
        outcome.read("test x ... ok");
        outcome.read("SKIPPED: no network");
        assert_eq!((outcome.passed, outcome.failed, outcome.skipped), (4, 2, 1));
        assert_eq!(outcome.notes, ["skipped: no network"]);
    }
}
