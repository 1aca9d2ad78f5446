//! `cargo xtask bench --compare`: a comparison with ndpiReader, and the cost on real interfaces, as a section of the
//! documentation. The section does not name this machine or its folders.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{build_ebpf, cargo_bench, processor::Processor};
use crate::{
    command::output,
    setup::{self, Need},
    workspace::root,
};

const DOCUMENT: &str = "docs/performance.md";
const BEGIN: &str = "<!-- written by cargo xtask bench --compare -->\n";
const END: &str = "<!-- end -->\n";

/// Output of the bench.
#[derive(Debug, Deserialize)]
struct Comparison {
    captures: Captures,
    lab: Lab,
}

#[derive(Debug, Deserialize)]
struct Captures {
    captures: u64,
    packets: u64,
    bytes: u64,
    ndpi: String,
    rows: Vec<EngineRow>,
}

#[derive(Debug, Deserialize)]
struct EngineRow {
    engine: String,
    ns_per_packet: f64,
    packets_per_second: f64,
}

#[derive(Debug, Deserialize)]
struct Lab {
    connections: Connections,
    small_packets: SmallPackets,
}

#[derive(Debug, Deserialize)]
struct Connections {
    connections: u64,
    seconds: u64,
    rounds: u64,
    rows: Vec<ConnectionRow>,
}

#[derive(Debug, Deserialize)]
struct ConnectionRow {
    state: String,
    up_bits_per_second: f64,
    down_bits_per_second: f64,
    program_ns_per_packet: f64,
}

#[derive(Debug, Deserialize)]
struct SmallPackets {
    packets: u64,
    flows: u64,
    rounds: u64,
    rows: Vec<SmallRow>,
}

#[derive(Debug, Deserialize)]
struct SmallRow {
    state: String,
    packets_per_second: f64,
    arrived: f64,
    program_ns_per_packet: f64,
}

/// Measures, prints, and rewrites the section.
pub(super) fn run(folder: &Path) -> Result<()> {
    setup::ensure(&[Need::Compare])?;
    let folder = folder.canonicalize().with_context(|| format!("no folder {}", folder.display()))?;
    let arguments = ["--object", &build_ebpf::bench_object().display().to_string(), "--captures"].map(str::to_owned);
    let arguments = [&arguments[..], &[folder.display().to_string()]].concat();
    let comparison: Comparison = cargo_bench("compare", &arguments)?;
    let section = section(&comparison, &machine()?);
    print!("{section}");
    let path = root().join(DOCUMENT);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = replaced(&text, &section).with_context(|| format!("{DOCUMENT} has no place for the section"))?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The text with another section between the two marks.
fn replaced(text: &str, section: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{section}{END}{after}"))
}

/// Date, processor and kernel, for people.
fn machine() -> Result<String> {
    let date = output(Command::new("date").args(["-u", "+%-d %B %Y"]))?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    let processor = Processor::read()?;
    let kind = if processor.field("flags").contains("hypervisor") { "virtual machine" } else { "machine" };
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    Ok(format!(
        "{}; {kind} with {} CPUs ({}), Linux {}, load {} when it ended",
        date.trim(),
        processor.count(),
        processor.kind(),
        // What a builder appends to the version names the machine more than the kernel.
        kernel.trim().split('-').next().unwrap_or("unknown"),
        load.split(' ').next().unwrap_or("unknown")
    ))
}

fn section(comparison: &Comparison, machine: &str) -> String {
    let Comparison { captures, lab } = comparison;
    let mut text = format!("`cargo xtask bench --compare FOLDER`, {machine}.\n\n");
    let mut line = |cells: std::fmt::Arguments<'_>| {
        let _cannot_fail = writeln!(text, "{cells}");
    };
    line(format_args!(
        "**{} captures, {} packets, {:.0} MB**, ndpiReader {}. Medians, or means for ndpiReader, of nine runs.\n",
        captures.captures,
        captures.packets,
        captures.bytes as f64 / 1e6,
        captures.ndpi
    ));
    line(format_args!("| | ns a packet | million packets/s on one core |\n|---|---|---|"));
    for row in &captures.rows {
        line(format_args!("| {} | {:.0} | {:.2} |", row.engine, row.ns_per_packet, row.packets_per_second / 1e6));
    }
    let connections = &lab.connections;
    line(format_args!(
        "\n**{} TCP connections of iperf3** through a router of two veth pairs, forwarded by the kernel, {} s a run, medians of {} \
         rounds, native mode on both interfaces.\n",
        connections.connections, connections.seconds, connections.rounds
    ));
    line(format_args!("| attached | up, Gbit/s | down, Gbit/s | program, ns a packet |\n|---|---|---|---|"));
    for row in &connections.rows {
        let (up, down) = (row.up_bits_per_second / 1e9, row.down_bits_per_second / 1e9);
        line(format_args!("| {} | {up:.2} | {down:.2} | {} |", row.state, program_ns(row.program_ns_per_packet)));
    }
    let small = &lab.small_packets;
    line(format_args!(
        "\n**{} packets of 60 bytes in {} settled flows**, random order, from the live-frame test runner into one veth interface; \
         the sender runs on the same CPU. Medians of {} rounds, native mode.\n",
        small.packets, small.flows, small.rounds
    ));
    line(format_args!("| attached | million packets/s | arrived | program, ns a packet |\n|---|---|---|---|"));
    for row in &small.rows {
        let (rate, arrived) = (row.packets_per_second / 1e6, row.arrived * 100.0);
        line(format_args!(
            "| {} | {rate:.2} | {arrived:.1} % | {} |",
            row.state,
            program_ns(row.program_ns_per_packet)
        ));
    }
    text
}

fn program_ns(ns: f64) -> String {
    if ns > 0.0 { format!("{ns:.0}") } else { "-".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_section_changes() {
        let text = format!("before\n{BEGIN}old\n{END}after\n");
        assert_eq!(replaced(&text, "new\n").as_deref(), Some(&*format!("before\n{BEGIN}new\n{END}after\n")));
        assert_eq!(replaced("no marks\n", "new\n"), None);
    }

    #[test]
    fn the_document_has_a_place_for_the_section() {
        let text = fs::read_to_string(root().join(DOCUMENT)).expect("the document");
        assert!(replaced(&text, "").is_some());
    }
}
