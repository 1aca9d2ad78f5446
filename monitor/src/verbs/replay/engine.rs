//! The interface between the replay driver and an engine: the kernel's program, or its source in user space.
//!
//! The driver reads captures and keeps flow rows; an engine gets every frame in order and owns all counters.

use ipnet::IpNet;
use monitor_common::abi::{
    key::Seed,
    outcome::Outcome,
    reason::Reason,
    rule::Rule,
    tally::{TallyKey, Totals},
};
use peertally_capture::Frame;
use peertally_core::{
    exit::{Exit, ExitCause},
    pool::Pool,
    snapshot::NodeRow,
};
use peertally_datapath::{
    ObjectError, TableSizes,
    view::{View, node_rows},
};

use super::args::EngineKind;

/// Bytes of a frame that engines get. The kernel's test runner, like a driver, splits longer frames into buffers of
/// which the program reads the first, 3,520 bytes with pages of 4 KiB (`bpf_prog_test_run_xdp` in net/bpf/test_run.c).
/// Both engines see as much; lengths come from the wire length.
const FIRST_BUFFER_BYTES: usize = 3_072;

/// The part of a frame that an engine gets.
#[must_use]
pub fn first_buffer(frame: Frame<'_>) -> Frame<'_> {
    Frame { bytes: &frame.bytes[..frame.bytes.len().min(FIRST_BUFFER_BYTES)], ..frame }
}

/// Table sizes of both engines, those of the agent.
pub(super) const SIZES: TableSizes = TableSizes::DEFAULT;

/// Hash seed of both engines: fixed, so that flows meet in the same sets and the results are equal. (Digits of pi.)
pub(super) const SEED: Seed = Seed::from_random([0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0]);

/// What an engine is opened with.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Subscriber pools.
    pub pools: Vec<Pool>,
    /// Endpoints inside whose tunnels subscribers are charged.
    pub tunnel_endpoints: Vec<IpNet>,
    /// Whether the captures hold one direction of each flow only.
    pub one_way: bool,
}

/// Something that counts frames as the XDP program does.
pub trait ReplayEngine {
    /// Which engine this is.
    fn kind(&self) -> EngineKind;

    /// Counts one frame at `now_s`, a coarse clock in seconds that never runs backwards.
    ///
    /// The frame may be shorter than an Ethernet header, and shorter than it was on the wire.
    ///
    /// # Errors
    /// The kernel refused the frame.
    fn packet(&mut self, frame: &Frame<'_>, now_s: u64) -> Result<Outcome, EngineError>;

    /// The rule that gave a flow its verdict with the latest frame.
    fn rule(&self) -> Option<Rule>;

    /// Whether the flow of the latest frame is charged to a subscriber.
    fn is_charged(&self) -> bool;

    /// Settles every flow and hands over the counters.
    ///
    /// # Errors
    /// The kernel's tables could not be read.
    fn finish(self: Box<Self>) -> Result<EngineTotals, EngineError>;
}

/// Every counter of an engine at the end of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineTotals {
    /// Node-level counters. Each IP packet is in exactly one of them.
    pub node: Vec<NodeRow>,
    /// Subscribers' counters.
    pub tallies: Vec<(TallyKey, Totals)>,
    /// Frames that were not counted as IP, by reason.
    pub skipped: Vec<(Reason, u64)>,
}

impl EngineTotals {
    /// Settles every flow, then reads the tables.
    #[must_use]
    pub fn read(view: &View<'_>, skipped: Vec<(Reason, u64)>) -> Self {
        let read = view.read(0);
        let tallies = view.keys.iter().zip(&read.totals).filter_map(|(key, totals)| Some((key.read()?, *totals)));
        Self { node: node_rows(&read.node, &[]), tallies: tallies.collect(), skipped }
    }
}

/// Why an engine cannot count.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The rights to load BPF programs are missing.
    #[error("{}; run as root, or use --engine host", shorten(.0))]
    Rights(#[source] ObjectError),
    /// The kernel cannot run the program.
    #[error("{}; or use --engine host, which needs no kernel support", shorten(.0))]
    Kernel(#[source] ObjectError),
}

/// The first line and the last lines of a message: the verifier may write a hundred thousand lines between them.
fn shorten(error: &dyn std::error::Error) -> String {
    const LINES: usize = 4;
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    if lines.len() <= 2 * LINES {
        return lines.join("\n");
    }
    let (middle, last) = lines[1..].split_at(lines.len() - 1 - LINES);
    format!("{}\n... {} lines ...\n{}", lines[0], middle.len(), last.join("\n"))
}

impl ExitCause for EngineError {
    fn exit(&self) -> Exit {
        match self {
            Self::Rights(_) => Exit::Rights,
            Self::Kernel(_) => Exit::Unavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Text(String);

    #[test]
    fn the_verifiers_log_is_cut_to_what_a_person_reads() {
        let log: Vec<String> = (0..1000).map(|line| format!("line {line}")).collect();
        let shorten = shorten(&Text(log.join("\n")));
        assert_eq!(shorten, "line 0\n... 995 lines ...\nline 996\nline 997\nline 998\nline 999");
        assert_eq!(super::shorten(&Text("one\n\ntwo\n".to_owned())), "one\ntwo");
    }
}
