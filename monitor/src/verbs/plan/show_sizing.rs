//! The size of a box for people, in lines of at most 80 columns as long as the numbers are those of real boxes.

use std::fmt::Write as _;

use monitor_common::abi::limits::{FRESH_SECONDS, IDLE_SECONDS};

use super::{
    LoadPlan,
    sizing::{
        FlowTable, PEERS_PER_SUBSCRIBER, Recommended, Sizing, TALLIES_PER_SUBSCRIBER, Turnover,
        bucket::Bucket,
        cores::{Cores, INSPECTED_PER_FLOW},
        costs::{MEASURED_ON, NEW_FLOW, TRANSIT},
    },
};

const COLUMNS: usize = 80;

/// The tables and cores for a load, and what the configured tables do under it.
pub(super) fn show(plan: &LoadPlan) -> String {
    let load = plan.sizing.load;
    let given = [
        (load.packets_per_second, "packets/s"),
        (load.new_flows_per_second, "new flows/s"),
        (load.subscribers, "subscribers"),
    ];
    let given: Vec<String> = given.into_iter().filter_map(|(value, unit)| Some(format!("{} {unit}", value?))).collect();
    let cores = plan.sizing.cores.as_ref().map_or_else(String::new, show_cores);
    let sections = [format!("load: {}\n", given.join(", ")), configured(plan), recommended(plan), cores, notes(plan)];
    sections.into_iter().filter(|section| !section.is_empty()).collect::<Vec<_>>().join("\n")
}

/// The configured tables under the load.
fn configured(plan: &LoadPlan) -> String {
    let mut out = String::from("configured tables\n");
    let mut row = |key: &str, entries: u64, note: &str| {
        let _infallible = writeln!(out, "  {key:<19}{entries:>11}  {note}");
    };
    let mut warnings = Vec::new();
    if let Some(table) = plan.sizing.flow_table {
        row("capacity.flows", table.flows, &turnover(table));
        warnings.extend(flow_warning(table, plan.sizing.flows));
        warnings.extend(plan.shedding.iter().flat_map(|bucket| shedding_warnings(bucket, &plan.sizing)));
    }
    if let Some(table) = plan.sizing.tally_table {
        let note = format!("room for {} subscribers of {TALLIES_PER_SUBSCRIBER} tallies", table.subscribers);
        row("capacity.tallies", table.tallies, &note);
        if !table.suffices {
            warnings.push(format!(
                "WARNING: The tallies will be full after {} subscribers. Traffic of others then counts for the \
                 catch-all (events `tally_reserved` and `tally_refused`). Tallies are never given back. {}",
                table.subscribers,
                remedy("capacity.tallies", plan.sizing.tallies)
            ));
        }
    }
    if plan.sizing.flow_table.is_none() && plan.sizing.tally_table.is_none() {
        return String::new();
    }
    for warning in warnings {
        out += &wrap(&warning, "  ");
    }
    out
}

fn turnover(table: FlowTable) -> String {
    table
        .turnover_seconds
        .map_or_else(|| "never turns over".to_owned(), |seconds| format!("turns over in {}", span(seconds)))
}

/// What follows from the turnover of the configured table, unless only idle flows are evicted.
fn flow_warning(table: FlowTable, recommended: Recommended) -> Option<String> {
    let remedy = remedy("capacity.flows", recommended);
    let after = table.turnover_seconds.map_or_else(String::new, span);
    let refused = "is refused: until one is free, its packets count as unclassified and show no protocol (event \
                   `flow_refused`)";
    match table.turnover {
        Turnover::Refuses => Some(format!(
            "WARNING: The flow table turns over in less than the {FRESH_SECONDS} s in which a flow is never evicted. A \
             new flow that finds no way {refused}. {remedy}"
        )),
        Turnover::RefusesSome => Some(format!(
            "WARNING: The flow table turns over in less than twice the {FRESH_SECONDS} s in which a flow is never \
             evicted. Its sets fill unevenly, and a new flow of a full set {refused}. {remedy}"
        )),
        Turnover::EvictsPausing => Some(format!(
            "WARNING: The flow table turns over in less than the {IDLE_SECONDS} s after which a flow is idle. An \
             unclassified flow that pauses for about {after} is evicted (event `evicted_unclassified`). If it goes on, it costs and counts as a new \
             flow. Packets and bytes stay exact. {remedy}"
        )),
        Turnover::EvictsIdle => None,
    }
}

/// What is shed of the load.
fn shedding_warnings(bucket: &Bucket, sizing: &Sizing) -> Vec<String> {
    let shed = "Packets of others pass, but count under no subscriber (metric `peertally_shed_packets_total`).";
    let mut warnings = Vec::new();
    if bucket.sheds_flows(sizing.load) {
        warnings.push(format!(
            "WARNING: Shedding lets {} new flows/s through, a quarter of capacity.flows. {shed} {}",
            bucket.new_flows_per_second,
            remedy("capacity.flows", sizing.flows)
        ));
    }
    // Without settled packets, the cores are not those of the box.
    let cores = sizing.cores.as_ref().filter(|_| sizing.load.packets_per_second.is_some());
    let needed = bucket.cpus(sizing.load);
    if cores.is_some_and(|cores| needed > cores.random_with_reserve) {
        warnings.push(format!(
            "WARNING: Shedding lets {} packets/s that open flows or are inspected through on each CPU. {shed} Use {needed} \
             CPUs, or set shedding.packets_per_second higher.",
            bucket.packets_per_second
        ));
    }
    warnings
}

fn remedy(key: &str, recommended: Recommended) -> String {
    if recommended.is_limited {
        format!(
            "No configuration has room for this load ({key} is at most {}): share it among boxes.",
            recommended.entries
        )
    } else {
        format!("Set {key} to {}.", recommended.entries)
    }
}

fn recommended(plan: &LoadPlan) -> String {
    let mut out = String::from("recommended tables\n");
    let sizing = &plan.sizing;
    let flows_note = sizing.recommended_flow_table.map_or_else(String::new, turnover);
    let tallies_note = format!("{TALLIES_PER_SUBSCRIBER} a subscriber, and the catch-all");
    let peers_note = format!("{PEERS_PER_SUBSCRIBER} a subscriber");
    let rows = [
        ("capacity.flows", sizing.flows, plan.flows_bytes, flows_note),
        ("capacity.tallies", sizing.tallies, plan.tallies_bytes, tallies_note),
        ("capacity.peers", sizing.peers, plan.peers_bytes, peers_note),
    ];
    for (key, value, bytes, by_load) in rows {
        let note = match value {
            Recommended { by_load: false, .. } => "as configured".to_owned(),
            Recommended { is_limited: true, .. } => "the most; too few".to_owned(),
            _ => by_load,
        };
        let _infallible = writeln!(out, "  {key:<19}{:>11}{:>8} MiB  {note}", value.entries, mib(bytes));
    }
    let mut line = |name: &str, bytes: u64, note: &str| {
        let _infallible = writeln!(out, "{}", format!("  {name:<30}{:>8} MiB  {note}", mib(bytes)).trim_end());
    };
    line("all tables in the kernel", plan.kernel_bytes, "");
    line("agent, if every tally moves", plan.agent_bytes, "an estimate from measurements");
    out
}

fn show_cores(cores: &Cores) -> String {
    let mut out =
        format!("{:<28}{:>11}{:>9}{:>14}{:>16}\n", "cores", "packets/s", "ns each", "random flows", "trains of four");
    for part in &cores.parts {
        let ns = if part.ns_random == part.ns_trains {
            part.ns_random.to_string()
        } else {
            format!("{}, {}", part.ns_random, part.ns_trains)
        };
        let (name, random, trains) = (part.packets.name(), part.cores_random, part.cores_trains);
        let _infallible = writeln!(out, "  {name:<26}{:>11}{ns:>9}{random:>14.2}{trains:>16.2}", part.per_second);
    }
    let _infallible = writeln!(out, "  {:<46}{:>14.2}{:>16.2}", "busy", cores.random, cores.trains);
    let (random, trains) = (cores.random_with_reserve, cores.trains_with_reserve);
    let _infallible = writeln!(out, "  {:<46}{random:>14}{trains:>16}", "to have, half of them in reserve");
    out
}

fn notes(plan: &LoadPlan) -> String {
    let load = plan.sizing.load;
    let mut out = String::new();
    let missing = [
        (load.packets_per_second, "settled packets (--packets-per-second)"),
        (load.new_flows_per_second, "the flow table and new flows (--new-flows-per-second)"),
        (load.subscribers, "tallies and peers (--subscriber-count)"),
    ];
    let missing: Vec<&str> = missing.iter().filter(|(value, _)| value.is_none()).map(|(_, text)| *text).collect();
    if !missing.is_empty() {
        out += &wrap(&format!("Not sized, because an option is missing: {}.", missing.join(", ")), "");
    }
    if plan.sizing.cores.is_some() {
        out += &wrap(
            &format!(
                "The costs are those of one processor: {MEASURED_ON}. They leave out the driver, the network stack, and \
                 what cores cost each other. Settled packets are those of a table with 524288 flows; more flows cost \
                 more. Measure yours with `cargo xtask bench` in the source tree. A new flow costs \
                 {} ns until the table is full. A packet outside all pools costs {} ns; none is assumed.",
                NEW_FLOW.ns, TRANSIT.ns
            ),
            "",
        );
    }
    out += &wrap(
        &format!(
            "Assumptions: {INSPECTED_PER_FLOW} inspected packets a new flow, {TALLIES_PER_SUBSCRIBER} tallies and \
             {PEERS_PER_SUBSCRIBER} cached peers a subscriber. docs/performance.md, section \"Sizing\", has the formulas."
        ),
        "",
    );
    out
}

/// Mebibytes, with a decimal if they are few.
fn mib(bytes: u64) -> String {
    let mib = bytes as f64 / 1_048_576.0;
    let decimals = usize::from(mib < 9.95);
    format!("{mib:.decimals$}")
}

/// A time span with one decimal, in the unit that suits it.
fn span(seconds: f64) -> String {
    let (value, unit) = match seconds {
        _ if seconds < 0.1 => return "less than 0.1 s".to_owned(),
        _ if seconds < 120.0 => (seconds, "s"),
        _ if seconds < 7_200.0 => (seconds / 60.0, "minutes"),
        _ if seconds < 172_800.0 => (seconds / 3_600.0, "hours"),
        _ => (seconds / 86_400.0, "days"),
    };
    format!("{value:.1} {unit}")
}

/// Lines of at most [`COLUMNS`], each with this indent.
fn wrap(text: &str, indent: &str) -> String {
    let (mut out, mut line) = (String::new(), String::new());
    for word in text.split_whitespace() {
        if !line.is_empty() && indent.len() + line.len() + 1 + word.len() > COLUMNS {
            let _infallible = writeln!(out, "{indent}{line}");
            line.clear();
        }
        line += if line.is_empty() { "" } else { " " };
        line += word;
    }
    let _infallible = writeln!(out, "{indent}{line}");
    out
}

#[cfg(test)]
mod tests;
