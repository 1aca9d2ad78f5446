//! Cost of the agent at scale: draining a million tallies, answering scrapes, evaluating policies, and waiting.
//! `cargo xtask bench` runs this.
//!
//! The drain reads the mapped tables of a loaded object with a flow table of the default size. Its reference is batch
//! map calls over a hash of as many entries. Each other number also has a reference that takes turns with it: a plain
//! pass over the same data, or a plain text of equal length. Runs are compared by the ratios to the references. All
//! times are CPU time of the working thread, medians of several runs. Writes one JSON object to standard output.

mod batch;
#[path = "../shared/clock.rs"]
mod clock;
mod idle;
#[path = "../shared/options.rs"]
mod options;
mod policies;
mod scrape;
mod snapshot;

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use monitor_common::abi::{
    key::Address,
    protocol::{Confidence, Protocol},
    tally::KeyWords,
};
use peertally_datapath::{
    TableSizes,
    object::{LoadOptions, LoadedObject},
    view::RemoteRead,
};
use serde_json::{Value, json};

use clock::cpu_time;

/// Tallies of the drain (`docs/performance.md#how-it-is-measured`).
pub(crate) const TALLIES: u32 = 1_000_000;
/// Runs; the median is taken over them.
const RUNS: usize = 7;
/// Idle seconds after which a drain settles pending flows; nothing is pending here.
const IDLE_S: u16 = 15;

/// Arguments.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    shared: options::Shared,
    /// Measure this part only; repeatable, all when not given
    #[arg(long, value_enum, value_name = "PART")]
    part: Vec<Part>,
}

/// Measured quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Drain,
    Scrape,
    Policies,
    Idle,
}

fn main() -> Result<()> {
    let Some(arguments) = options::read::<Arguments>() else { return Ok(()) };
    let mut results = serde_json::Map::new();
    for part in Part::value_variants() {
        if !arguments.part.is_empty() && !arguments.part.contains(part) {
            continue;
        }
        let (name, result) = match part {
            Part::Drain => {
                let (mapped, batch) = drain(&arguments.shared.object)?;
                ("drain", json!({ "tallies": TALLIES, "ms": ms(mapped), "batch_ms": ms(batch) }))
            }
            Part::Scrape => ("scrape", json!(scrape::measure()?)),
            Part::Policies => ("policies", json!(policies::measure()?)),
            Part::Idle => ("idle", json!(idle::measure()?)),
        };
        results.insert(name.to_owned(), result);
    }
    println!("{}", Value::Object(results));
    Ok(())
}

/// The agent's reading of its tables, and batch calls, in turn.
fn drain(bench: &Path) -> Result<(Duration, Duration)> {
    let options =
        LoadOptions { sizes: TableSizes { tallies: TALLIES + 1, ..TableSizes::default() }, ..LoadOptions::default() };
    let object = LoadedObject::load(&options)?;
    let view = object.view();
    let verdict = (Protocol::BitTorrent as u8, Confidence::Signature as u8);
    for slot in 1..=TALLIES {
        let address = Address::v4(0x1000_0000 + slot);
        view.keys[slot as usize].write(Some(&KeyWords::new(address, 0, 128, verdict.0, verdict.1)));
        view.tallies[slot as usize].packets_up.add(1);
    }
    view.settings.next_slot.store(u64::from(TALLIES) + 1);
    let mut hash = batch::Hash::new(bench, TALLIES)?;
    // As the agent reads: into the memory of the reading before the last one.
    let mut reading = view.read(IDLE_S);
    let (mut mapped, mut batch, mut remotes) = (Vec::new(), Vec::new(), RemoteRead::default());
    for _ in 0..RUNS {
        let start = cpu_time();
        view.read_into(IDLE_S, &mut reading, Some(&mut remotes));
        mapped.push(cpu_time() - start);
        let sum: u64 = reading.totals.iter().map(|totals| totals.packets_up).sum();
        ensure!(sum == u64::from(TALLIES), "the drain read {sum} in place of {TALLIES}");
        let (took, sum) = hash.drain()?;
        batch.push(took);
        ensure!(sum == u64::from(TALLIES), "the batch calls read {sum} in place of {TALLIES}");
    }
    Ok((median(mapped), median(batch)))
}

/// The median.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Milliseconds, in thousandths.
pub(crate) fn ms(time: Duration) -> Value {
    json!((time.as_secs_f64() * 1e6).round() / 1000.0)
}
