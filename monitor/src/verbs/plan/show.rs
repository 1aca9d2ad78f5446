//! A plan for people and for programs.

use std::fmt::Write as _;

use monitor_common::abi::limits::TALLIES_PER_BLOCK;

use super::{Plan, TALLIES_EACH, show_sizing, sizing::bucket::Bucket};

const MIB: f64 = 1024.0 * 1024.0;

/// The table for people.
#[must_use]
pub fn show(plan: &Plan) -> String {
    let mut out = String::new();
    let mut line = |name: &str, bytes: u64, note: String| {
        let _infallible = writeln!(out, "{}", format!("{name:<30}{:>10.1} MiB  {note}", bytes as f64 / MIB).trim_end());
    };
    for table in plan.tables.iter().filter(|table| table.bytes >= 1 << 16) {
        // A ring buffer has bytes where other tables have entries, and no key.
        let note = if table.key_bytes == 0 { "ring buffer".to_owned() } else { format!("{} entries", table.entries) };
        line(&format!("  {}", table.name), table.bytes, note);
    }
    let small: u64 = plan.tables.iter().filter(|table| table.bytes < 1 << 16).map(|table| table.bytes).sum();
    line("  smaller tables", small, String::new());
    line("tables in the kernel", plan.kernel_bytes, "allocated at the start, kept while pinned".to_owned());
    line("agent, if every tally moves", plan.agent_bytes, "an estimate from measurements".to_owned());
    line("total", plan.kernel_bytes + plan.agent_bytes, String::new());
    if let Some(available) = plan.available_bytes {
        line("available now", available, String::new());
    }
    let per_tally = plan.agent_bytes / plan.tallies.max(1);
    let _infallible = writeln!(
        out,
        "{} flows of {} bytes; {} tallies of {} bytes, and {per_tally} in the agent",
        plan.flows, plan.bytes_per_flow, plan.tallies, plan.bytes_per_tally
    );
    let _infallible = writeln!(
        out,
        "room for {} subscribers with traffic within `tally_age`, if each has {TALLIES_EACH} tallies (one P2P protocol, \
         and the rest);\n  one subscriber has at most {TALLIES_PER_BLOCK}",
        plan.subscribers
    );
    let _infallible = match plan.shedding {
        Some(Bucket { packets_per_second, cores, new_flows_per_second }) => writeln!(
            out,
            "shedding beyond {new_flows_per_second} new flows/s of all CPUs, and\n  \
             {packets_per_second} packets/s of each CPU that open flows or are inspected ({cores:.2} of a core)"
        ),
        None => writeln!(out, "no shedding: a flood of new flows takes all cores"),
    };
    if let Some(load) = &plan.sizing {
        out += "\n";
        out += &show_sizing::show(load);
    }
    out
}

/// One JSON object.
#[must_use]
pub fn json(plan: &Plan) -> String {
    serde_json::to_string_pretty(plan).expect("a plan is plain data") + "\n"
}
