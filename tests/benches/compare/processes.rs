//! CPU time of `ndpiReader` and of `peertally replay` as whole processes over the same file.
//!
//! The time for a capture of one packet is taken off: the reading of the file stays in the figure, the start does not.
//! The file is never repeated within a run: a second pass would meet the flows of the first.
#![expect(unsafe_code, reason = "no safe crate of the workspace reads the CPU time of children in microseconds")]

use std::{
    io,
    mem::MaybeUninit,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::spread::Spread;

/// Rounds; a round gives one figure of each program and one ratio.
const ROUNDS: usize = 31;
/// Runs of each program over each file in a round. A run over the file of the corpus differs by some 20 ms from one
/// over a single packet, and the start of a program varies by some milliseconds: the sum over the runs is steady.
const RUNS: usize = 10;

/// The captures that both programs read.
pub(crate) struct Files {
    /// All packets.
    pub(crate) merged: PathBuf,
    /// The first of them.
    pub(crate) single: PathBuf,
}

/// A program over a file.
fn command(program: usize, peertally: &Path, capture: &Path) -> Command {
    let mut command;
    if program == NDPI {
        command = Command::new("ndpiReader");
        command.arg("-i");
    } else {
        command = Command::new(peertally);
        command.args(["replay", "--engine", "host"]);
    }
    command.arg(capture).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

const NDPI: usize = 0;
const PEERTALLY: usize = 1;
/// Programs by number.
const NAMES: [&str; 2] = ["ndpiReader", "peertally replay --engine host"];

/// Runs both in turns. `packets` is how many the merged file has above the single one.
pub(crate) fn measure(peertally: &Path, files: &Files, packets: usize) -> Result<Value> {
    let mut ns = [Vec::new(), Vec::new()];
    let mut start_ms = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        let (mut merged, mut single) = ([Duration::ZERO; 2], [Duration::ZERO; 2]);
        for run in 0..RUNS {
            let order = if (round + run).is_multiple_of(2) { [NDPI, PEERTALLY] } else { [PEERTALLY, NDPI] };
            for program in order {
                merged[program] += cpu_time(&mut command(program, peertally, &files.merged))?;
                single[program] += cpu_time(&mut command(program, peertally, &files.single))?;
            }
        }
        for program in [NDPI, PEERTALLY] {
            let above = merged[program].as_secs_f64() - single[program].as_secs_f64();
            ns[program].push(above * 1e9 / (RUNS * packets) as f64);
            start_ms[program].push(single[program].as_secs_f64() * 1e3 / RUNS as f64);
        }
    }
    let ratios = ns[NDPI].iter().zip(&ns[PEERTALLY]).map(|(ndpi, ours)| ndpi / ours).collect();
    let rows = ns.into_iter().zip(start_ms).zip(NAMES).map(|((ns, start_ms), name)| {
        let (ns, start_ms) = (Spread::of(ns), Spread::of(start_ms));
        eprintln!("{name:<40}{ns} ns a packet, reading included; start {start_ms} ms");
        json!({ "program": name, "ns_per_packet": ns.json(), "start_ms": start_ms.json() })
    });
    let rows: Vec<_> = rows.collect();
    let ratio = Spread::of(ratios);
    eprintln!("{:<40}{ratio}", "ratio within a round");
    Ok(json!({ "rounds": ROUNDS, "runs": RUNS, "rows": rows, "ratio": ratio.json() }))
}

/// User and system time of one run.
fn cpu_time(command: &mut Command) -> Result<Duration> {
    let before = children_cpu_time()?;
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(children_cpu_time()?.saturating_sub(before))
}

/// CPU time of the processes that this one has waited for. The kernel scales both parts so that their sum is the time
/// the scheduler counted, in microseconds (`cputime_adjust` in kernel/sched/cputime.c).
fn children_cpu_time() -> Result<Duration> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a writable `rusage`, which getrusage(2) fills.
    let result = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) };
    ensure!(result == 0, "getrusage: {}", io::Error::last_os_error());
    // SAFETY: `rusage` is made of integers, which zeroes initialise whatever the call left out.
    let usage = unsafe { usage.assume_init() };
    let duration = |time: libc::timeval| -> Result<Duration> {
        Ok(Duration::new(u64::try_from(time.tv_sec)?, u32::try_from(time.tv_usec)? * 1000))
    };
    Ok(duration(usage.ru_utime)? + duration(usage.ru_stime)?)
}

/// nDPI's version, as it prints it: `4.2.0`.
pub(crate) fn ndpi_version() -> Result<String> {
    let output = Command::new("ndpiReader").arg("-h").output().context("start ndpiReader")?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let version = text.lines().find_map(|line| line.strip_prefix("Welcome to nDPI "));
    Ok(version.unwrap_or("of unknown version").trim().to_owned())
}
