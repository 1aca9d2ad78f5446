//! Cost of the packet path in the kernel, compared with a conventional design: `cargo xtask bench` runs this and prints
//! the table.
//!
//! Everything is ns of CPU time per packet above an empty XDP program in the same run. Writes one JSON object to
//! standard output.

#[path = "../shared/clock.rs"]
mod clock;
mod frames;
mod kernel;
#[path = "../../../monitor-ebpf/src/bin/bench/layout.rs"]
mod layout;
mod measure;
#[path = "../shared/options.rs"]
mod options;
mod protocols;
mod rounds;
mod row;
mod rows;
mod subject;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;
use serde_json::{Value, json};

use measure::Subjects;
use row::Row;

/// Arguments.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    shared: options::Shared,
    /// The rows that gates look at, fewer rounds where a round takes long.
    #[arg(long)]
    quick: bool,
    /// Only rows with this text in their path.
    #[arg(long)]
    only: Option<String>,
    /// Only this row, by path and flows: `settled-ipv4/1024`. Repeatable.
    #[arg(long = "row")]
    row: Vec<String>,
    /// Rounds; the median is taken over them.
    #[arg(long)]
    rounds: Option<u32>,
    /// Loads the programs so many times, with as many rounds each time.
    #[arg(long, default_value_t = 1)]
    loads: u32,
    /// The reference program alone.
    #[arg(long)]
    reference_only: bool,
    /// Object of the program under test, in place of the shipped one.
    #[arg(long)]
    shipped: Option<PathBuf>,
    /// Object of another build, to measure in pairs with the program under test.
    #[arg(long)]
    beside: Option<PathBuf>,
    /// Object of the program that knows the first protocols only.
    #[arg(long)]
    first_protocols: Option<PathBuf>,
    /// Makes the program under test slower by so many percent of its cost.
    #[arg(long)]
    handicap: Option<u32>,
}

impl Arguments {
    fn selects(&self, row: &Row) -> bool {
        self.only.as_ref().is_none_or(|only| row.path.contains(only.as_str()))
            && (self.row.is_empty() || self.row.contains(&row.name()))
    }
}

fn main() -> Result<()> {
    let Some(arguments) = options::read::<Arguments>() else { return Ok(()) };
    let subjects = Subjects {
        under_test: !arguments.reference_only,
        shipped: arguments.shipped.as_deref(),
        beside: arguments.beside.as_deref(),
        first: arguments.first_protocols.as_deref(),
        handicap: arguments.handicap,
    };
    kernel::leave_network()?;
    let mut rows = Vec::new();
    for row in rows::rows(arguments.quick).iter().filter(|row| arguments.selects(row)) {
        if row.cpus > std::thread::available_parallelism()?.get() {
            eprintln!("{}: left out, this machine has fewer than {} CPUs", row.name(), row.cpus);
            continue;
        }
        let rounds = arguments.rounds.unwrap_or(if arguments.quick { row.quick_rounds() } else { row.rounds });
        let result = measure::measure(row, &arguments.shared.object, &subjects, rounds, arguments.loads)
            .with_context(|| format!("{} with {} flows", row.path, row.flows))?;
        eprintln!(
            "{:<40}{:>9} flows{:>4} pools  peertally {:>7.1}  reference {:>7.1} ±{:>5.1}  empty {:>6.1} ±{:>4.1}  {}",
            row.path,
            row.flows,
            row.pools,
            result.subject.map_or(f64::NAN, |(subject, _)| subject.median),
            result.reference.median,
            result.reference.spread,
            result.empty.median,
            result.empty.spread,
            result.paths,
        );
        let mut value = json!({
            "path": row.path,
            "flows": row.flows,
            "subscribers": row.subscribers,
            "cpus": row.cpus,
            "pools": row.pools,
            "reference_ns_above_empty": rounded(result.reference.median, 1),
            "reference_spread_ns": rounded(result.reference.spread, 1),
            "empty_ns": rounded(result.empty.median, 1),
        });
        if let Some((subject, ratio)) = result.subject {
            value["ns_above_empty"] = rounded(subject.median, 1);
            value["spread_ns"] = rounded(subject.spread, 1);
            value["ratio"] = rounded(ratio.median, 4);
            value["ratio_spread"] = rounded(ratio.spread, 4);
        }
        match result.beside {
            Some(Ok((beside, multiple))) => {
                value["beside"] = json!({
                    "ns_above_empty": rounded(beside.median, 1),
                    "spread_ns": rounded(beside.spread, 1),
                    "multiple": rounded(multiple.median, 4),
                    "multiple_spread": rounded(multiple.spread, 4),
                });
            }
            Some(Err(reason)) => value["beside_refused"] = json!(reason),
            None => {}
        }
        if let Some((first, rise)) = result.first {
            value["first_protocols"] = json!({
                "ns_above_empty": rounded(first.median, 1),
                "spread_ns": rounded(first.spread, 1),
                "rise": rounded(rise.median, 4),
                "rise_spread": rounded(rise.spread, 4),
            });
        }
        rows.push(value);
    }
    println!("{}", serde_json::to_string(&json!({ "rows": rows }))?);
    Ok(())
}

/// So many decimals: the rest is noise.
fn rounded(value: f64, decimals: i32) -> Value {
    let unit = 10_f64.powi(decimals);
    json!((value * unit).round() / unit)
}
