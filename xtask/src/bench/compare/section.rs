//! The comparison as a section of the documentation.

use std::fmt::Write as _;

use super::results::{Captures, Comparison};

/// Section of the page.
pub(super) fn section(comparison: &Comparison, machine: &str) -> String {
    let Comparison { captures, lab } = comparison;
    let mut text = format!("`cargo xtask bench --compare FOLDER`, {machine}.\n\n");
    let mut line = |cells: std::fmt::Arguments<'_>| {
        let _cannot_fail = writeln!(text, "{cells}");
    };
    line(format_args!(
        "**{} captures of Ethernet frames, {} packets, {:.0} MB, as one file**; {} captures and {} packets of other link types left \
         out. ndpiReader {}.\n",
        captures.captures,
        captures.packets,
        captures.bytes as f64 / 1e6,
        captures.skipped_captures,
        captures.skipped_packets,
        captures.ndpi
    ));
    let Captures { processes, frames_in_memory, named, .. } = captures;
    line(format_args!(
        "Whole processes, **reading included**: user and system time above that of a capture of one packet (\"start\"). {} rounds \
         of {} runs of each program over each file, in turns.\n",
        processes.rounds, processes.runs
    ));
    line(format_args!("| program | ns a packet | quartiles | start, ms | quartiles |\n|---|---|---|---|---|"));
    for row in &processes.rows {
        line(format_args!("| `{}` | {} | {:.1} |", row.program, row.ns_per_packet, row.start_ms));
    }
    let names: Vec<_> = processes.rows.iter().map(|row| format!("`{}`", row.program)).collect();
    line(format_args!("| {}, in the same round | {:.2} | | |", names.join(" / "), processes.ratio));
    line(format_args!(
        "\nEngines alone, **frames in memory**, {} runs. Both rows leave out the reading of the file, and the clock: the capture's \
         time is given. The kernel engine's row (`BPF_PROG_TEST_RUN`, time by the kernel's run statistics) also leaves out the \
         network driver and the system call for each packet.\n",
        frames_in_memory.runs
    ));
    line(format_args!("| engine | ns a packet | quartiles |\n|---|---|---|"));
    for row in &frames_in_memory.rows {
        line(format_args!("| {} | {} |", row.engine, row.ns_per_packet));
    }
    line(format_args!(
        "\nNames in the same file:\n\n| program | flows | flows named | protocols named |\n|---|---|---|---|"
    ));
    for row in named {
        line(format_args!("| {} | {} | {} | {} |", row.program, row.flows, row.named, row.protocols.len()));
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
