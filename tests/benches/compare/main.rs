//! Comparison with ndpiReader, and cost on real interfaces: `cargo xtask bench --compare` runs this.
//!
//! First the same captures through `ndpiReader`, `peertally replay` and both engines. Then connections and small
//! packets through a lab's router with no program, an empty one and the shipped one attached natively. The kernel's
//! numbers come from its run statistics, which are on for the measurement only. Writes one JSON object to standard
//! output.

mod captures;
#[path = "../shared/clock.rs"]
mod clock;
mod lab;
#[path = "../../../monitor-ebpf/src/bin/bench/layout.rs"]
#[expect(dead_code, reason = "only one order and one direction are used here")]
mod layout;
mod named;
#[path = "../shared/options.rs"]
mod options;
mod processes;
mod spread;
mod stats;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use serde_json::json;

/// Arguments.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    shared: options::Shared,
    /// Folder with captures, searched through.
    #[arg(long)]
    captures: PathBuf,
    /// The agent, a release build.
    #[arg(long)]
    peertally: PathBuf,
}

fn main() -> Result<()> {
    let Some(arguments) = options::read::<Arguments>() else { return Ok(()) };
    let captures = captures::measure(&arguments.captures, &arguments.peertally)?;
    let lab = lab::measure(&arguments.shared.object)?;
    println!("{}", json!({ "captures": captures, "lab": lab }));
    Ok(())
}

/// The median.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
