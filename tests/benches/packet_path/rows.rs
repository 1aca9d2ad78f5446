//! The rows of the bench: which packets, which flows, in which order.

use monitor_common::{
    abi::protocol::Protocol,
    parse::payload::Transport::{self, Tcp, Udp},
};

use crate::{
    frames::{Framing, HTTP_REQUEST, bittorrent_handshake, ciphertext, frame, quic_initial, tls_client_hello},
    layout::{DOWN, MIXED, UP},
    protocols,
};

/// Subscribers of every row, unless the row has its own number (`docs/performance.md#how-it-is-measured`).
const SUBSCRIBERS: u32 = 1 << 16;
/// Number of flows in rows with tables that fit into the caches.
const FEW: u32 = 1 << 10;
/// Port of the far end in rows that do not need another one.
const HTTPS: u16 = 443;

/// Rounds of every row but those that say otherwise.
const ROUNDS: u32 = 15;
/// Rounds of rows of few flows: with as many, loading is still the longer part. Rows that open many flows in each round
/// have no more than their tables hold.
const ROUNDS_OF_FEW: u32 = 31;
/// Rounds of rows of few inspected flows: each round takes a few milliseconds.
const ROUNDS_OF_FEW_INSPECTED: u32 = 101;
/// Maximum of rounds with `--quick` for rows of many settled flows, which take longest.
const QUICK_ROUNDS: u32 = 9;

/// Kind of a row.
pub(crate) enum RowKind {
    /// Packets of flows whose inspection is over, in random order.
    Settled,
    /// First packets of flows.
    New,
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
    /// The verdict that the measured packets give their flows.
    pub(crate) shows: Option<Protocol>,
    /// Whether the program that knows the first protocols only is measured, too.
    pub(crate) beside_first: bool,
    /// Rounds, unless others are asked for.
    pub(crate) rounds: u32,
}

impl Row {
    /// Name in the baseline.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.path, self.flows)
    }

    /// Rounds when there is little time.
    pub(crate) fn quick_rounds(&self) -> u32 {
        let long = matches!(self.kind, RowKind::Settled | RowKind::Transit) && self.flows > FEW;
        if long { self.rounds.min(QUICK_ROUNDS) } else { self.rounds }
    }

    /// Flows that the tables are sized for. Rows that open new flows in each round have room for the flows of every
    /// round. Rows of cached flows do not: in so large a table each flow would lie on a page of its own, and the row
    /// would measure page tables. There, each round's flows evict earlier ones while they are opened, not while they
    /// are timed.
    pub(crate) fn table_flows(&self) -> u32 {
        match self.kind {
            RowKind::Settled | RowKind::Transit => self.flows,
            RowKind::Inspected { .. } if self.flows == FEW => FEW * 8,
            RowKind::New | RowKind::Inspected { .. } => 1 << 19,
        }
    }
}

/// A row of packets that are inspected.
pub(crate) fn inspected(path: impl Into<String>, transport: Transport, payload: &[u8], opening: Vec<Packet>) -> Row {
    Row {
        path: path.into(),
        flows: 1 << 14,
        subscribers: SUBSCRIBERS,
        cpus: 1,
        pools: 1,
        direction: UP,
        remote_port: HTTPS,
        realm: 0,
        framing: Framing::Ipv4,
        frame: frame(Framing::Ipv4, transport, payload),
        kind: RowKind::Inspected { opening, passes: 1 },
        shows: None,
        beside_first: false,
        rounds: ROUNDS,
    }
}

/// A packet from the subscriber.
pub(crate) fn up(transport: Transport, payload: &[u8]) -> Packet {
    Packet { direction: UP, frame: frame(Framing::Ipv4, transport, payload) }
}

/// Every row, or with `quick` one for each path that a gate or an operator's sizing rests on.
pub(crate) fn rows(quick: bool) -> Vec<Row> {
    let settled = |path: &str, flows, framing, direction, pools| Row {
        path: path.to_owned(),
        flows,
        subscribers: SUBSCRIBERS,
        cpus: 1,
        pools,
        direction,
        remote_port: HTTPS,
        realm: 0,
        framing,
        frame: frame(framing, Tcp, &tls_client_hello()),
        kind: RowKind::Settled,
        shows: None,
        beside_first: false,
        rounds: ROUNDS,
    };
    let new = |path: &str, framing, pools| Row {
        path: path.to_owned(),
        flows: 1 << 17,
        subscribers: SUBSCRIBERS,
        cpus: 1,
        pools,
        direction: UP,
        remote_port: HTTPS,
        realm: 0,
        framing,
        frame: frame(framing, Tcp, &tls_client_hello()),
        kind: RowKind::New,
        shows: None,
        beside_first: false,
        rounds: ROUNDS,
    };
    let transit = |path: &str, flows, pools| Row {
        path: path.to_owned(),
        flows,
        subscribers: SUBSCRIBERS,
        cpus: 1,
        pools,
        direction: MIXED,
        remote_port: HTTPS,
        realm: 0,
        framing: Framing::Ipv4,
        frame: frame(Framing::Ipv4, Tcp, &tls_client_hello()),
        kind: RowKind::Transit,
        shows: None,
        beside_first: false,
        rounds: ROUNDS,
    };
    let mut rows = vec![
        settled("settled-ipv4", 1 << 10, Framing::Ipv4, UP, 1),
        settled("settled-ipv4", 1 << 19, Framing::Ipv4, UP, 1),
        settled("settled-ipv4-64-pools", 1 << 17, Framing::Ipv4, UP, 64),
        // In a realm: its number goes into the flow's tag and the subscriber's key.
        Row { realm: 7, ..settled("realm-keys", 1 << 10, Framing::Ipv4, UP, 1) },
        settled("settled-ipv6", 1 << 10, Framing::Ipv6, UP, 1),
        settled("settled-ipv6", 1 << 19, Framing::Ipv6, UP, 1),
        settled("qinq-pppoe", 1 << 10, Framing::QinqPppoe, UP, 1),
        Row { beside_first: true, ..new("new-flow", Framing::Ipv4, 1) },
        Row {
            shows: Some(Protocol::BitTorrent),
            beside_first: true,
            ..inspected("inspect-bittorrent", Tcp, &bittorrent_handshake(), vec![up(Tcp, b"")])
        },
        // A hello or an Initial ends the inspection, so each flow has one such packet; ciphertext is inspected
        // packet after packet.
        Row { beside_first: true, ..inspected("inspect-tls", Tcp, &tls_client_hello(), vec![up(Tcp, b"")]) },
        // A browser's request: the text that most rules examine.
        Row { beside_first: true, ..inspected("inspect-http", Tcp, HTTP_REQUEST, vec![up(Tcp, b"")]) },
        Row { beside_first: true, ..inspected("inspect-quic", Udp, &quic_initial(), vec![up(Udp, b"")]) },
        Row {
            kind: RowKind::Inspected { opening: vec![up(Tcp, &ciphertext())], passes: 6 },
            beside_first: true,
            ..inspected("inspect-ciphertext", Tcp, &ciphertext(), Vec::new())
        },
        Row {
            kind: RowKind::Inspected { opening: vec![up(Udp, &ciphertext())], passes: 6 },
            beside_first: true,
            ..inspected("inspect-ciphertext-udp", Udp, &ciphertext(), Vec::new())
        },
        // Few flows: among many, the reference alone costs 80 or 115 ns from one load to the next.
        transit("transit", 1 << 10, 1),
    ];
    // Each packet that is inspected while its flow is in the caches, as a flow's first packets are when they come at
    // once: the verdict and the packets after it, from which peers are learned, or packets without one.
    for (path, transport, payload, opening) in [
        ("inspect-bittorrent", Tcp, bittorrent_handshake(), Vec::new()),
        ("inspect-tls", Tcp, tls_client_hello(), Vec::new()),
        ("inspect-quic", Udp, quic_initial(), Vec::new()),
        ("inspect-ciphertext", Tcp, ciphertext(), ciphertext()),
    ] {
        rows.push(Row {
            flows: FEW,
            kind: RowKind::Inspected { opening: vec![up(transport, &opening)], passes: 6 },
            shows: (path == "inspect-bittorrent").then_some(Protocol::BitTorrent),
            ..inspected(path, transport, &payload, Vec::new())
        });
    }
    if !quick {
        rows.extend([
            settled("settled-ipv4", 1 << 17, Framing::Ipv4, UP, 1),
            settled("settled-ipv4", 1 << 20, Framing::Ipv4, UP, 1),
            settled("settled-ipv4-down", 1 << 17, Framing::Ipv4, DOWN, 1),
            settled("settled-ipv4-mixed", 1 << 17, Framing::Ipv4, MIXED, 1),
            settled("settled-ipv4-64-pools", 1 << 19, Framing::Ipv4, UP, 64),
            Row { realm: 7, ..settled("realm-keys", 1 << 19, Framing::Ipv4, UP, 1) },
            Row { realm: 7, ..new("new-flow-realm-keys", Framing::Ipv4, 1) },
            settled("settled-ipv6", 1 << 17, Framing::Ipv6, UP, 1),
            settled("settled-ipv6", 1 << 20, Framing::Ipv6, UP, 1),
            Row { cpus: 2, ..settled("settled-ipv4-2-cpus", 1 << 10, Framing::Ipv4, UP, 1) },
            Row { cpus: 2, ..settled("settled-ipv4-2-cpus", 1 << 19, Framing::Ipv4, UP, 1) },
            Row { subscribers: 1 << 20, ..settled("settled-ipv4-1m-subscribers", 1 << 19, Framing::Ipv4, UP, 1) },
            Row { subscribers: 1 << 20, ..new("new-flow-1m-subscribers", Framing::Ipv4, 1) },
            new("new-flow-ipv6", Framing::Ipv6, 1),
            new("new-flow-64-pools", Framing::Ipv4, 64),
            transit("transit", 1 << 17, 1),
            transit("transit-64-pools", 1 << 17, 64),
        ]);
        rows.extend(protocols::rows());
    }
    for row in rows.iter_mut().filter(|row| row.flows == FEW) {
        let inspected = matches!(row.kind, RowKind::Inspected { .. });
        row.rounds = if inspected { ROUNDS_OF_FEW_INSPECTED } else { ROUNDS_OF_FEW };
    }
    rows.sort_by(|left, right| (&left.path, left.flows).cmp(&(&right.path, right.flows)));
    rows
}
