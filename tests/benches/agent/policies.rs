//! A thousand policies over a drain in which a million tallies moved.

use std::{hint::black_box, path::Path};

use anyhow::{Result, ensure};
use peertally::{
    agent::pseudonym_key,
    config::{self, Overrides},
};
use peertally_core::{analysis::Analysis, snapshot::Snapshot};
use serde_json::{Value, json};

use crate::{TALLIES, clock::cpu_time, median, ms, snapshot::snapshot};

/// Policies.
const POLICIES: u32 = 1000;
/// Number of different windows; each window costs memory and time.
const WINDOWS: [u32; 2] = [1, 10];
/// Drains that are measured; the two before them make what is kept of each tally.
const RUNS: usize = 5;

/// Times the evaluation, for each number of windows.
pub(crate) fn measure() -> Result<Vec<Value>> {
    WINDOWS.into_iter().map(with_windows).collect()
}

fn with_windows(windows: u32) -> Result<Value> {
    let mut text = String::new();
    for number in 0..POLICIES {
        // The lowest is what a few thousand subscribers reach in the last drain; most are below all of them.
        let (window, mib) = (number % windows + 1, 15_970 + number / 10 * 1024);
        text += &format!(
            "[[policies]]\nname = \"p{number}\"\nthreshold = \"{mib} MiB\"\nwindow = \"{window}h\"\ncool_down = \"1d\"\n"
        );
    }
    let resolved = config::parse(Path::new("bench.toml"), &text, &Overrides::default())?;
    let folder = tempfile::tempdir()?;
    let pseudonyms = pseudonym_key::open(&folder.path().join("key"))?;
    let mut analysis = Analysis::new(resolved.analysis_options(), pseudonyms);
    let (mut times, mut references, mut fired) = (Vec::new(), Vec::new(), 0);
    let mut sums = vec![0; TALLIES as usize + 1];
    let mut drain = snapshot(TALLIES);
    for run in 0..RUNS + 2 {
        let taken = drain.clone();
        let begun = cpu_time();
        let (_, events) = analysis.take(taken, Default::default);
        if run >= 2 {
            times.push(cpu_time() - begun);
        }
        let begun = cpu_time();
        black_box(plain(&drain, &mut sums));
        if run >= 2 {
            references.push(cpu_time() - begun);
        }
        fired += events.len();
        drain.taken += drain.interval;
        drain.taken_at += drain.interval;
    }
    ensure!(fired > 0, "no policy fired: nothing was evaluated");
    Ok(json!({
        "policies": POLICIES,
        "windows": windows,
        "tallies": TALLIES,
        "ms": ms(median(times)),
        "reference_ms": ms(median(references)),
    }))
}

/// Lower bound of an evaluation: adds the changes to each tally's sum and counts the sums above a threshold.
fn plain(drain: &Snapshot, sums: &mut [u64]) -> usize {
    let mut above = 0;
    for change in &drain.changes {
        let sum = &mut sums[change.slot as usize];
        *sum += change.delta.bytes_up + change.delta.bytes_down;
        above += usize::from(*sum > 1 << 40);
    }
    above
}
