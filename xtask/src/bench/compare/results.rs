//! What the bench `compare` of the `tests` crate writes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Output of the bench.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Comparison {
    pub(super) captures: Captures,
    pub(super) lab: Lab,
}

/// The same captures through everything.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Captures {
    pub(super) captures: u64,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    /// Captures without Ethernet frames.
    pub(super) skipped_captures: u64,
    /// Packets that are no Ethernet frames.
    pub(super) skipped_packets: u64,
    /// nDPI's version.
    pub(super) ndpi: String,
    pub(super) processes: Processes,
    pub(super) frames_in_memory: FramesInMemory,
    pub(super) named: Vec<NamedRow>,
}

/// Programs as whole processes over the same file.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Processes {
    pub(super) rounds: u64,
    /// Runs of a program over a file in a round.
    pub(super) runs: u64,
    pub(super) rows: Vec<ProcessRow>,
    /// The first row's time by the second row's, within a round.
    pub(super) ratio: Spread,
}

/// CPU time of a program without its start.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct ProcessRow {
    pub(super) program: String,
    pub(super) ns_per_packet: Spread,
    /// CPU time of the start: a run over a capture of one packet.
    pub(super) start_ms: Spread,
}

/// Engines alone.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct FramesInMemory {
    pub(super) runs: u64,
    pub(super) rows: Vec<EngineRow>,
}

/// CPU time of an engine.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct EngineRow {
    pub(super) engine: String,
    pub(super) ns_per_packet: Spread,
}

/// What a program names.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct NamedRow {
    pub(super) program: String,
    /// Flows it lists.
    pub(super) flows: u64,
    /// Flows that it gives the name of a protocol.
    pub(super) named: u64,
    /// The names.
    pub(super) protocols: Vec<String>,
}

/// Median and quartiles.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Spread {
    pub(super) lower: f64,
    pub(super) median: f64,
    pub(super) upper: f64,
}

impl fmt::Display for Spread {
    /// Median and quartiles, as cells of a table: `730 | 700 to 760`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = f.precision().unwrap_or(0);
        write!(f, "{:.decimals$} | {:.decimals$} to {:.decimals$}", self.median, self.lower, self.upper)
    }
}

/// Through the lab's router.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Lab {
    pub(super) connections: Connections,
    pub(super) small_packets: SmallPackets,
}

/// Connections of iperf3.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Connections {
    pub(super) connections: u64,
    pub(super) seconds: u64,
    pub(super) rounds: u64,
    pub(super) rows: Vec<ConnectionRow>,
}

/// One state of the router's interfaces, with connections.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct ConnectionRow {
    pub(super) state: String,
    pub(super) up_bits_per_second: f64,
    pub(super) down_bits_per_second: f64,
    pub(super) program_ns_per_packet: f64,
}

/// Small packets from the kernel's live-frame test runner.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct SmallPackets {
    pub(super) packets: u64,
    pub(super) flows: u64,
    pub(super) rounds: u64,
    pub(super) rows: Vec<SmallRow>,
}

/// One state of the router's interfaces, with small packets.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct SmallRow {
    pub(super) state: String,
    pub(super) packets_per_second: f64,
    pub(super) arrived: f64,
    pub(super) program_ns_per_packet: f64,
}
