//! Cost of the packet path in the kernel, beside a conventional design: `cargo xtask bench` runs this and prints the table.
//!
//! Everything is ns of CPU time per packet above an empty XDP program in the same run. Writes one JSON object to standard output.

#[path = "../shared/clock.rs"]
mod clock;
mod frames;
mod kernel;
#[path = "../../../monitor-ebpf/src/bin/bench/layout.rs"]
mod layout;
mod measure;
#[path = "../shared/options.rs"]
mod options;
mod rows;
mod subject;

use anyhow::{Context as _, Result};
use clap::Parser;
use serde_json::{Value, json};

use rows::Row;

/// Arguments.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    shared: options::Shared,
    /// The rows that gates look at, few rounds.
    #[arg(long)]
    quick: bool,
    /// Only rows whose path contains this.
    #[arg(long)]
    only: Option<String>,
    /// Only this row, by path and flows: `settled-ipv4/1024`. Repeatable.
    #[arg(long = "row")]
    row: Vec<String>,
    /// Rounds; the median is taken over them.
    #[arg(long)]
    rounds: Option<u32>,
    /// The reference program alone.
    #[arg(long)]
    reference_only: bool,
}

impl Arguments {
    fn asks_for(&self, row: &Row) -> bool {
        self.only.as_ref().is_none_or(|only| row.path.contains(only.as_str()))
            && (self.row.is_empty() || self.row.contains(&row.name()))
    }
}

fn main() -> Result<()> {
    let Some(arguments) = options::read::<Arguments>() else { return Ok(()) };
    let rounds = arguments.rounds.unwrap_or(if arguments.quick { 9 } else { 15 });
    let mut rows = Vec::new();
    for row in rows::rows(arguments.quick).iter().filter(|row| arguments.asks_for(row)) {
        if row.cpus > std::thread::available_parallelism()?.get() {
            eprintln!("{}: left out, this machine has fewer than {} CPUs", row.name(), row.cpus);
            continue;
        }
        let result = measure::measure(row, &arguments.shared.object, !arguments.reference_only, rounds)
            .with_context(|| format!("{} with {} flows", row.path, row.flows))?;
        eprintln!(
            "{:<24}{:>9} flows{:>4} pools  peertally {:>7.1}  reference {:>7.1} ±{:>5.1}  empty {:>6.1} ±{:>4.1}",
            row.path,
            row.flows,
            row.pools,
            result.subject.map_or(f64::NAN, |subject| subject.ns),
            result.reference.ns,
            result.reference.spread_ns,
            result.empty.ns,
            result.empty.spread_ns,
        );
        let mut value = json!({
            "path": row.path,
            "flows": row.flows,
            "subscribers": row.subscribers,
            "cpus": row.cpus,
            "pools": row.pools,
            "reference_ns_above_empty": tenth(result.reference.ns),
            "reference_spread_ns": tenth(result.reference.spread_ns),
            "empty_ns": tenth(result.empty.ns),
        });
        if let Some(subject) = result.subject {
            value["ns_above_empty"] = tenth(subject.ns);
            value["spread_ns"] = tenth(subject.spread_ns);
        }
        rows.push(value);
    }
    println!("{}", serde_json::to_string(&json!({ "rows": rows }))?);
    Ok(())
}

/// One decimal: the rest is noise.
fn tenth(ns: f64) -> Value {
    json!((ns * 10.0).round() / 10.0)
}
