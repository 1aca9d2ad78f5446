//! Requirements of a lab on the machine; a test without them skips loudly, and fails in strict mode.

use std::{env, io::Write, path::Path};

use rustix::process::geteuid;

/// Set to 1, a skip is a failure.
pub const STRICT_VARIABLE: &str = "PEERTALLY_STRICT";

/// Whether a skip is a failure.
#[must_use]
pub fn strict() -> bool {
    env::var(STRICT_VARIABLE).is_ok_and(|value| value == "1")
}

/// Set to 1, tests that repeat something run their long form.
pub const SOAK_VARIABLE: &str = "PEERTALLY_SOAK";

/// How often a test repeats something: `short`, or ten times as often in the long form.
#[must_use]
pub fn repetitions(short: u32) -> u32 {
    if env::var(SOAK_VARIABLE).is_ok_and(|value| value == "1") { short * 10 } else { short }
}

/// Whether the test `name` can run: with root, and with `programs` on the path. Otherwise it says so on standard error,
/// past the test harness, in a line that starts with `SKIPPED`.
///
/// # Panics
/// Something is missing in strict mode.
#[must_use]
pub fn require(name: &str, programs: &[&str]) -> bool {
    let basics = ["ip", "nsenter", "ethtool", "mount"];
    let missing: Vec<_> = basics
        .iter()
        .chain(programs)
        .filter(|program| !on_path(program))
        .map(|program| (*program).to_owned())
        .collect();
    let reason = if !geteuid().is_root() {
        "needs root".to_owned()
    } else if !missing.is_empty() {
        format!("needs {} (`cargo xtask setup` installs them)", missing.join(", "))
    } else {
        return true;
    };
    assert!(!strict(), "{name}: {reason}, and {STRICT_VARIABLE}=1 forbids skipping");
    writeln!(std::io::stderr(), "SKIPPED: {name}: {reason}").ok();
    false
}

/// A program on the path, or anything that exists if it is named by an absolute path.
fn on_path(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .any(|folder| Path::new(&folder).join(program).is_file())
}
