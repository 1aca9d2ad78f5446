//! One row of the bench: its packets, its flows, their order, and what its packets must do.

use monitor_common::{abi::protocol::Protocol, parse::payload::Transport};
use peertally_tests::packet_paths::PacketPath;

use crate::{
    frames::{Framing, frame},
    layout::{RANDOM, UP},
};

/// Subscribers of every row, unless the row has its own number (`docs/performance.md#how-it-is-measured`).
const SUBSCRIBERS: u32 = 1 << 16;
/// Number of flows in rows with tables that fit into the caches.
pub(crate) const FEW: u32 = 1 << 10;
/// Port of the far end in rows that do not need another one.
const HTTPS: u16 = 443;

/// Rounds of every row but those that say otherwise.
const ROUNDS: u32 = 15;
/// Maximum of rounds with `--quick` for rows of many settled flows, which take longest.
const QUICK_ROUNDS: u32 = 9;

/// Packets of one timed run of new flows: few against the flows in the table.
pub(crate) const NEW_PACKETS: u32 = 1 << 13;
/// New flows before a timed run, to load the program into the caches.
pub(crate) const WARM_NEW_PACKETS: u32 = NEW_PACKETS / 8;
/// Least packets of one measurement of inspected packets.
const INSPECTED_PACKETS: u32 = 1 << 14;
/// Flows in the tables before a row of new flows begins. Every subscriber then has tallies, and consecutive new flows
/// get table rows far apart. Without them the reference's first rounds cost a third of its later ones.
const FILLED_FLOWS: u32 = 1 << 18;
/// Flows that fill every way, as a multiple of the ways: each set of four ways is the first choice of sixteen on
/// average. With half as many, up to 15 % of new flows found an empty way under some seeds of the hash.
const FLOWS_TO_FILL: u32 = 4;

/// The flow table when a new flow arrives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableState {
    /// At most half full.
    HalfFull,
    /// Full of flows without packets for so long that they may be evicted.
    FullOfOld,
    /// Full of flows with packets in the last second: none may be evicted.
    FullOfFresh,
}

/// Kind of a row.
pub(crate) enum RowKind {
    /// Packets of flows whose inspection is over, in random order.
    Settled,
    /// First packets of flows.
    New(TableState),
    /// Packets of flows that these packets opened, one of each for a flow: `passes` packets of each flow.
    Inspected { opening: Vec<Packet>, passes: u32 },
    /// Packets between two addresses outside every pool.
    Transit,
}

/// A packet of every flow of a row.
pub(crate) struct Packet {
    /// Direction, by the generator's numbers.
    pub(crate) direction: u32,
    /// Template of the frame.
    pub(crate) frame: Vec<u8>,
}

/// One row.
pub(crate) struct Row {
    /// Name in the output (`docs/performance.md#json-output`).
    pub(crate) path: String,
    /// Flows: a power of two.
    pub(crate) flows: u32,
    /// Subscribers: a power of two.
    pub(crate) subscribers: u32,
    /// CPUs that send at once, each its own packets of the same flows.
    pub(crate) cpus: usize,
    /// Address pools: 1 or 64.
    pub(crate) pools: u32,
    /// Order of settled flows and of transit packets, as the generator has it.
    pub(crate) order: u32,
    /// Direction of the packets, as the generator has it.
    pub(crate) direction: u32,
    /// Port of the flows' far ends.
    pub(crate) remote_port: u16,
    /// Realm of the interface that the packets arrive on.
    pub(crate) realm: u32,
    /// Encapsulation.
    pub(crate) framing: Framing,
    /// The measured packets' template.
    pub(crate) frame: Vec<u8>,
    /// Measured quantity.
    pub(crate) kind: RowKind,
    /// What each measured packet does to the flow table.
    pub(crate) takes: PacketPath,
    /// The verdict that the measured packets give their flows.
    pub(crate) shows: Option<Protocol>,
    /// Whether the program that knows the first protocols only is measured, too.
    pub(crate) beside_first: bool,
    /// Rounds, unless others are asked for.
    pub(crate) rounds: u32,
}

impl Row {
    /// A row of packets from the subscriber, in random order, over one pool and without a realm.
    pub(crate) fn new(
        path: impl Into<String>,
        flows: u32,
        (framing, transport, payload): (Framing, Transport, &[u8]),
        (kind, takes): (RowKind, PacketPath),
    ) -> Self {
        Self {
            path: path.into(),
            flows,
            subscribers: SUBSCRIBERS,
            cpus: 1,
            pools: 1,
            order: RANDOM,
            direction: UP,
            remote_port: HTTPS,
            realm: 0,
            framing,
            frame: frame(framing, transport, payload),
            kind,
            takes,
            shows: None,
            beside_first: false,
            rounds: ROUNDS,
        }
    }

    /// Name in the baseline.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.path, self.flows)
    }

    /// Rounds when there is little time.
    pub(crate) fn quick_rounds(&self) -> u32 {
        let long = matches!(self.kind, RowKind::Settled | RowKind::Transit) && self.flows > FEW;
        if long { self.rounds.min(QUICK_ROUNDS) } else { self.rounds }
    }

    /// Flows that the tables are sized for: half of their room. Rows that open new flows have room for the flows of
    /// many rounds. Rows of cached flows do not: in so large a table each flow would lie on a page of its own, and the
    /// row would measure page tables.
    pub(crate) fn table_flows(&self) -> u32 {
        match self.kind {
            RowKind::Settled | RowKind::Transit => self.flows,
            RowKind::Inspected { .. } if self.flows == FEW => FEW * 8,
            RowKind::New(TableState::HalfFull) | RowKind::Inspected { .. } => 1 << 19,
            // As many flows as ways.
            RowKind::New(TableState::FullOfOld | TableState::FullOfFresh) => self.flows / 2,
        }
    }

    /// Flows that fill the tables before anything is measured, and are never measured themselves.
    pub(crate) fn filling_flows(&self) -> u32 {
        match self.kind {
            RowKind::Settled | RowKind::Transit => 0,
            RowKind::New(TableState::FullOfOld | TableState::FullOfFresh) => self.flows * FLOWS_TO_FILL,
            RowKind::New(TableState::HalfFull) | RowKind::Inspected { .. } => FILLED_FLOWS.min(self.table_flows() / 2),
        }
    }

    /// Runs over all flows in one measurement of inspected packets: few flows are too short a run alone, and more of
    /// them at once would not be in the caches.
    pub(crate) fn batches(&self) -> u32 {
        match self.kind {
            RowKind::Inspected { passes, .. } => (INSPECTED_PACKETS / (self.flows * passes)).max(1),
            _ => 1,
        }
    }

    /// Flows that one measurement opens in the flow table.
    pub(crate) fn opened_flows(&self) -> u32 {
        match self.kind {
            RowKind::Settled | RowKind::Transit | RowKind::New(TableState::FullOfFresh) => 0,
            RowKind::New(_) => NEW_PACKETS + WARM_NEW_PACKETS,
            RowKind::Inspected { .. } => self.flows * self.batches(),
        }
    }

    /// Flows that measurements may open before the tables must be emptied and filled anew. A way whose flow is younger
    /// than `FRESH_SECONDS` is not given up: at most half of all ways are taken, or fresh in a table full of old flows.
    pub(crate) fn room(&self) -> u32 {
        match self.kind {
            RowKind::New(TableState::FullOfOld) => self.table_flows(),
            _ => self.table_flows().saturating_sub(self.filling_flows()),
        }
    }
}
