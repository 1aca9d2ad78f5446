//! What the agent pays at scale: draining a million tallies, answering scrapes, evaluating policies, and waiting. `cargo xtask bench`
//! runs this.
//!
//! The drain is the agent's own reading of its mapped tables, in a loaded object with a flow cache of the default size; beside it,
//! batch map calls over a hash of as many entries. All times are CPU time of the working thread, medians of several runs. Writes
//! one JSON object to standard output.

mod batch;
#[path = "../shared/clock.rs"]
mod clock;
mod idle;
#[path = "../shared/options.rs"]
mod options;
mod policies;
mod scrape;
mod snapshot;

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use monitor_common::{
    key::Address,
    limits::{DEFAULT_ENDPOINTS, DEFAULT_FLOWS},
    protocol::{Confidence, Protocol},
    store::Inspection,
    tally::KeyWords,
};
use peertally::datapath::{
    host::TableSizes,
    object::{LoadOptions, LoadedObject},
};
use serde_json::{Value, json};

use clock::cpu_time;

/// Tallies of the drain (issue of design section 4).
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
}

fn main() -> Result<()> {
    let Some(arguments) = options::read::<Arguments>() else { return Ok(()) };
    let mapped = drain()?;
    let mut hash = batch::Hash::new(&arguments.shared.object, TALLIES)?;
    let mut batch = Vec::new();
    for _ in 0..RUNS {
        let (took, sum) = hash.drain()?;
        ensure!(sum == u64::from(TALLIES), "the batch calls read {sum} in place of {TALLIES}");
        batch.push(took);
    }
    let drain = json!({ "tallies": TALLIES, "ms": ms(mapped), "batch_ms": ms(median(batch)) });
    drop(hash);
    let (scrape, policies, idle) = (scrape::measure()?, policies::measure()?, idle::measure()?);
    println!("{}", json!({ "drain": drain, "scrape": scrape, "policies": policies, "idle": idle }));
    Ok(())
}

/// The agent's reading of its tables.
fn drain() -> Result<Duration> {
    let options = LoadOptions {
        sizes: TableSizes { flows: DEFAULT_FLOWS, tallies: TALLIES + 1, endpoints: DEFAULT_ENDPOINTS },
        pools: Vec::new(),
        inspection: Inspection::Framing,
        watchlist: std::sync::Arc::default(),
        heuristic: None,
        seed: None,
        replaying: false,
        pin_folder: None,
        log_level: 0,
        interfaces: Vec::new(),
    };
    let object = LoadedObject::load(&options)?;
    let view = object.view();
    let verdict = (Protocol::BitTorrent as u8, Confidence::Signature as u8);
    for slot in 1..=TALLIES {
        let address = Address::v4(0x1000_0000 + slot);
        view.keys[slot as usize].write(Some(&KeyWords::new(address, 0, 128, verdict.0, verdict.1)));
        view.tallies[slot as usize].packets_up.add(1);
    }
    view.settings.next_slot.store(u64::from(TALLIES) + 1);
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let start = cpu_time();
        let reading = view.read(IDLE_S);
        times.push(cpu_time() - start);
        let sum: u64 = reading.totals.iter().map(|totals| totals.packets_up).sum();
        ensure!(sum == u64::from(TALLIES), "the drain read {sum} in place of {TALLIES}");
    }
    Ok(median(times))
}

/// The median.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Milliseconds, in tenths.
pub(crate) fn ms(time: Duration) -> Value {
    json!((time.as_secs_f64() * 10_000.0).round() / 10.0)
}
