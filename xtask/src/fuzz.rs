//! `cargo xtask fuzz`: libFuzzer on each target for a bounded time, from the named seeds and findings.
//!
//! The lane of `cargo xtask test` runs a fixed number of inputs from a fixed start instead, so that equal sources give
//! equal results. Random findings come from `cargo xtask fuzz` and become cases.
//!
//! Works on stable Rust: cargo-fuzz needs unstable flags only with a sanitizer. Without one nothing is lost, because
//! Rust bounds all memory access of the host build. libFuzzer's corpus stays in the target folder, and the next run
//! starts from it. A crash fails the command, which prints how to make the input a named case.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::command::{cargo, stream};
use crate::setup::{self, Need};
use crate::workspace::{root, target};

/// Names of the targets (`fuzz/README.md`), and the number of inputs that the lane tries on each: about ten seconds.
const TARGETS: [(&str, u32); 4] = [
    ("capture", 1_000_000),
    ("classify", 200_000),
    // Each input makes an engine.
    ("engine", 10_000),
    ("parse", 2_000_000),
];
/// Longest input, in bytes: a jumbo frame and a few packets.
const MAX_LEN: u32 = 16_384;
/// No input may take longer, in seconds.
const INPUT_TIMEOUT: u32 = 10;
/// Limit of one target, its compilation included.
const LIMIT: Duration = Duration::from_secs(20 * 60);
/// Seed of libFuzzer's choices.
const LANE_SEED: u32 = 1;

/// Arguments of `fuzz`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Targets; all when not given
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TARGETS.map(|(name, _)| name)))]
    pub targets: Vec<String>,
    /// Run each target for this many seconds, starting from the saved corpus
    #[arg(long, default_value_t = 20)]
    pub seconds: u32,
}

/// How long a target is fuzzed.
#[derive(Clone, Copy)]
enum Bound {
    /// Run for this many seconds, starting from the saved corpus.
    Seconds(u32),
    /// Run the inputs of [`TARGETS`], starting from the named seeds and findings only.
    Lane,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Seconds(seconds) => write!(text, "{seconds} seconds"),
            Self::Lane => write!(text, "the lane's inputs"),
        }
    }
}

/// Fuzzes; returns the number of targets that held.
///
/// # Errors
/// When a target cannot be built, or an input breaks it.
pub fn run(arguments: &Arguments) -> Result<u64> {
    fuzz_all(&arguments.targets, Bound::Seconds(arguments.seconds))
}

/// Fuzzes every target as the lane does; returns the number of targets that held.
///
/// # Errors
/// As [`run`].
pub fn lane() -> Result<u64> {
    fuzz_all(&[], Bound::Lane)
}

fn fuzz_all(targets: &[String], bound: Bound) -> Result<u64> {
    setup::ensure(&[Need::Fuzz])?;
    let chosen = |name: &&str| targets.is_empty() || targets.iter().any(|target| target == name);
    let (mut held, mut broken) = (0, Vec::new());
    for (name, lane_runs) in TARGETS.into_iter().filter(|(name, _)| chosen(name)) {
        match fuzz(name, bound, lane_runs) {
            Ok(()) => held += 1,
            Err(error) => broken.push(format!("{name}: {error:#}")),
        }
    }
    if !broken.is_empty() {
        bail!(
            "fuzz: {}\nmake each input in fuzz/artifacts a case: mend the code, then move the file to fuzz/findings/TARGET \
             under a name that says what was wrong (`cargo test` replays it)",
            broken.join("\n")
        );
    }
    println!("fuzz: {held} targets held, each for {bound}");
    Ok(held)
}

fn fuzz(name: &str, bound: Bound, lane_runs: u32) -> Result<()> {
    let learned = match bound {
        Bound::Seconds(_) => target().join("fuzz-corpus").join(name),
        Bound::Lane => target().join("fuzz-lane").join(name),
    };
    if matches!(bound, Bound::Lane) && learned.exists() {
        fs::remove_dir_all(&learned).with_context(|| format!("cannot empty {}", learned.display()))?;
    }
    fs::create_dir_all(&learned).with_context(|| format!("cannot create {}", learned.display()))?;
    let named = ["seeds", "findings"].map(|kind| root().join("fuzz").join(kind).join(name));
    let folders: Vec<PathBuf> = [vec![learned], named.into()].concat();
    let mut command = cargo(&["fuzz", "run", "--sanitizer", "none", name]);
    command
        // A folder of its own: other flags, other artefacts.
        .env("CARGO_TARGET_DIR", target().join("fuzz"))
        .args(folders.iter().filter(|folder| folder.is_dir()))
        .arg("--")
        .args([format!("-max_len={MAX_LEN}"), format!("-timeout={INPUT_TIMEOUT}")])
        .arg("-print_final_stats=1");
    let limit = match bound {
        Bound::Seconds(seconds) => {
            command.arg(format!("-max_total_time={seconds}"));
            LIMIT + Duration::from_secs(u64::from(seconds))
        }
        Bound::Lane => {
            // Without reading the folder again, which it does by the clock.
            command.args([format!("-runs={lane_runs}"), format!("-seed={LANE_SEED}"), "-reload=0".to_owned()]);
            LIMIT
        }
    };
    stream(&mut command, limit, |_| {})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_known_and_has_seeds() {
        let mut found: Vec<String> = fs::read_dir(root().join("fuzz/fuzz_targets"))
            .expect("targets")
            .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_string_lossy().into_owned()))
            .collect();
        found.sort();
        assert_eq!(found, TARGETS.map(|(name, _)| name));
        for (name, _) in TARGETS {
            let seeds = fs::read_dir(root().join("fuzz/seeds").join(name)).expect("seeds");
            assert!(seeds.count() > 4, "{name}");
        }
    }
}
