//! The reasons of failed lanes, for the end of the output: a record of a run may keep nothing else.
//!
//! Reads the standard output of test programs (the pretty formatter of Rust's libtest): a section `failures:` holds the
//! output of each failed test, a second one their names.

use std::collections::VecDeque;

/// Lines kept of each failed test, and of a lane without single tests.
const KEPT_LINES: usize = 40;
/// Lines of all reports together.
const TOTAL_LINES: usize = 150;
/// Name of a failure that no test reports: a crash, or the time limit.
const NO_RESULT: &str = "a test program ended without a result; its last lines";

/// Failed tests of a lane, collected line by line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Failures {
    tests: Vec<FailedTest>,
    section: Section,
    /// A test program has started, and its result is not there yet.
    running: bool,
    /// Lines of no failed test.
    rest: LastLines,
}

/// A failed test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct FailedTest {
    name: String,
    output: LastLines,
}

/// The part of a test program's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Section {
    /// Results, and output of passed tests.
    #[default]
    Results,
    /// The first `failures:`, before the output of any test.
    Outputs,
    /// Output of the last failed test.
    Output,
    /// Names of failed tests.
    Names,
}

impl Failures {
    /// Takes the next line of the lane's output.
    pub(super) fn read(&mut self, line: &str) {
        if line.starts_with("running ") && (line.ends_with(" tests") || line.ends_with(" test")) {
            self.end();
            self.running = true;
            self.rest = LastLines::default();
        } else if line.starts_with("test result: ") {
            self.running = false;
            self.section = Section::Results;
        } else if line == "failures:" {
            self.section = if self.section == Section::Results { Section::Outputs } else { Section::Names };
        } else {
            self.read_within(line);
        }
    }

    /// Takes a line that begins or ends no section.
    fn read_within(&mut self, line: &str) {
        let heading = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"));
        match (self.section, heading) {
            (Section::Results, _) => self.rest.push(line),
            (_, Some(name)) => {
                self.add(name, LastLines::default());
                self.section = Section::Output;
            }
            (Section::Output, None) => {
                if let Some(test) = self.tests.last_mut() {
                    test.output.push(line);
                }
            }
            (Section::Names, None) => {
                // A test without output has no part in the first section.
                if let Some(name) = line.strip_prefix("    ")
                    && self.tests.iter().all(|test| test.name != name)
                {
                    self.add(name, LastLines::default());
                }
            }
            (Section::Outputs, None) => {}
        }
    }

    /// Takes the end of the output.
    pub(super) fn end(&mut self) {
        self.section = Section::Results;
        if std::mem::take(&mut self.running) {
            let output = std::mem::take(&mut self.rest);
            self.add(NO_RESULT, output);
        }
    }

    fn add(&mut self, name: &str, output: LastLines) {
        self.tests.push(FailedTest { name: name.to_owned(), output });
    }
}

/// The last lines of a text, without empty ones and stack backtraces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct LastLines {
    lines: VecDeque<String>,
    in_backtrace: bool,
}

impl LastLines {
    fn push(&mut self, line: &str) {
        // anyhow's heading, and that of a panic. anyhow's causes look like frames.
        let heading = ["Stack backtrace:", "stack backtrace:"].contains(&line);
        self.in_backtrace = heading || (self.in_backtrace && is_frame(line));
        if self.in_backtrace || line.is_empty() {
            return;
        }
        self.lines.push_back(line.to_owned());
        if self.lines.len() > KEPT_LINES {
            self.lines.pop_front();
        }
    }

    fn last(&self, count: usize) -> impl Iterator<Item = &String> {
        self.lines.iter().skip(self.lines.len().saturating_sub(count))
    }
}

/// Whether a line is of a stack backtrace: `   3: function`, or `             at file:line`.
fn is_frame(line: &str) -> bool {
    let Some(text) = line.strip_prefix("  ").map(str::trim_start) else { return false };
    let is_function = text.split_once(": ").is_some_and(|(number, _)| number.parse::<u16>().is_ok());
    is_function || text.starts_with("at ")
}

/// A failed lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct FailedLane<'a> {
    pub(super) lane: &'a str,
    pub(super) error: &'a str,
    pub(super) failures: &'a Failures,
}

/// The error of each failed lane, and each failed test with the end of its output.
pub(super) fn report(failed: &[FailedLane<'_>]) -> Vec<String> {
    let tests: usize = failed.iter().map(|each| each.failures.tests.len().max(1)).sum();
    // One line of each share is the name.
    let share = (TOTAL_LINES / tests.max(1)).saturating_sub(1).min(KEPT_LINES);
    let mut lines = Vec::new();
    for FailedLane { lane, error, failures } in failed {
        let (first, further) = error.split_once('\n').unwrap_or((error, ""));
        lines.push(format!("lane {lane}: {first}"));
        if failures.tests.is_empty() {
            let mut text = failures.rest.clone();
            further.lines().for_each(|line| text.push(line));
            lines.extend(text.last(share).map(|line| format!("    {line}")));
        }
        for test in &failures.tests {
            lines.push(format!("lane {lane}: {}:", test.name));
            lines.extend(test.output.last(share).map(|line| format!("    {line}")));
        }
    }
    let more = lines.len().saturating_sub(TOTAL_LINES);
    if more > 0 {
        lines.truncate(TOTAL_LINES);
        lines.push(format!("and {more} lines more"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Output of `cargo test -- --show-output`.
    const OUTPUT: &str = "
running 4 tests
test a ... ok
test b ... FAILED
test c ... FAILED
test d - should panic ... FAILED

successes:

---- a stdout ----
noise of a passed test

successes:
    a

failures:

---- b stdout ----
Error: 2357 packets, 2358 frames

Caused by:
    0: no agreement
    1: within 20 s

Stack backtrace:
   0: anyhow::error::msg
             at /registry/anyhow/src/backtrace.rs:10:14
  10: core::ops::function
             at ./nptl/pthread_create.c:442:8

---- c stdout ----

thread 'c' (7) panicked at tests/tests/x.rs:3:5:
assertion failed: left == right

failures:
    b
    c
    d - should panic

test result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    fn read(text: &str) -> Failures {
        let mut failures = Failures::default();
        text.lines().for_each(|line| failures.read(line));
        failures.end();
        failures
    }

    fn reported(failures: &Failures, error: &str) -> Vec<String> {
        report(&[FailedLane { lane: "e2e", error, failures }])
    }

    #[test]
    fn each_failed_test_is_named_with_the_end_of_its_output() {
        let expected = [
            "lane e2e: exit status: 101",
            "lane e2e: b:",
            "    Error: 2357 packets, 2358 frames",
            "    Caused by:",
            "        0: no agreement",
            "        1: within 20 s",
            "lane e2e: c:",
            "    thread 'c' (7) panicked at tests/tests/x.rs:3:5:",
            "    assertion failed: left == right",
            "lane e2e: d - should panic:",
        ];
        assert_eq!(reported(&read(OUTPUT), "exit status: 101"), expected);
    }

    #[test]
    fn programs_that_pass_leave_nothing() {
        let passed = "running 1 test\ntest a ... ok\n\ntest result: ok. 1 passed; 0 failed\n";
        assert_eq!(read(&passed.repeat(3)).tests, []);
        assert_eq!(read(&[passed, OUTPUT, passed].concat()).tests, read(OUTPUT).tests);
    }

    #[test]
    fn a_program_without_a_result_is_a_failure() {
        let crashed = "running 2 tests\ntest a ... ok\ntest b ...\n";
        let expected = [
            "lane e2e: killed",
            "lane e2e: a test program ended without a result; its last lines:",
            "    test a ... ok",
            "    test b ...",
        ];
        assert_eq!(reported(&read(crashed), "killed"), expected);
        let failures = read(&[crashed, OUTPUT].concat());
        assert_eq!(failures.tests.len(), 4);
        assert_eq!(failures.tests[0].name, NO_RESULT);
    }

    #[test]
    fn a_lane_without_tests_has_its_error_and_its_last_lines() {
        let failures = read("Diff in main.rs:\n-a\n+b\n");
        let expected =
            ["lane e2e: cargo fmt: exit status: 1", "    Diff in main.rs:", "    -a", "    +b", "    next line"];
        assert_eq!(reported(&failures, "cargo fmt: exit status: 1\nnext line"), expected);
        assert_eq!(
            reported(&Failures::default(), "two checks found something"),
            ["lane e2e: two checks found something"]
        );
    }

    #[test]
    fn many_failures_stay_within_bounds_and_name_many_tests() {
        let of = |tests: usize| {
            let part = |test: usize| format!("---- t{test} stdout ----\n{}last of t{test}\n", "x\n".repeat(90));
            let parts: String = (0..tests).map(part).collect();
            format!("running {tests} tests\nfailures:\n{parts}\nfailures:\n    t0\ntest result: FAILED.\n")
        };
        let two = reported(&read(&of(2)), "error");
        assert_eq!(two.len(), 1 + 2 * (1 + KEPT_LINES));
        assert_eq!(two.last().map(String::as_str), Some("    last of t1"));
        let many = reported(&read(&of(70)), "error");
        assert_eq!(many.len(), 1 + 70 * 2);
        assert!(many.iter().any(|line| line == "lane e2e: t69:"), "{many:?}");
        let lines = reported(&read(&of(500)), "error");
        assert_eq!(lines.len(), TOTAL_LINES + 1);
        assert_eq!(lines.last().map(String::as_str), Some("and 351 lines more"));
    }
}
