//! The rows of the bench: which packets, which flows, in which order.

use crate::{
    frames::{Framing, Transport, bittorrent_handshake, ciphertext, frame, quic_initial, tls_client_hello},
    layout::{DOWN, MIXED, UP},
};

/// Subscribers of every row but those that say otherwise (design section 4).
const SUBSCRIBERS: u32 = 1 << 16;

/// What a row measures.
pub(crate) enum Kind {
    /// Packets of flows whose inspection is over, in random order.
    Settled,
    /// First packets of flows.
    New,
    /// Packets of flows that one packet each opened: `passes` packets of each flow.
    Inspected { opening: Vec<u8>, passes: u32 },
    /// Packets between two addresses outside every pool.
    Transit,
}

/// One row.
pub(crate) struct Row {
    /// Name in the output (design section 4).
    pub(crate) path: &'static str,
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
    /// Encapsulation.
    pub(crate) framing: Framing,
    /// The measured packets' template.
    pub(crate) frame: Vec<u8>,
    /// What is measured.
    pub(crate) kind: Kind,
}

impl Row {
    /// Name in the baseline.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.path, self.flows)
    }

    /// Flows that the tables are sized for. Rows that open new flows in each round have room for those of every round.
    pub(crate) fn table_flows(&self) -> u32 {
        match self.kind {
            Kind::Settled | Kind::Transit => self.flows,
            Kind::New | Kind::Inspected { .. } => 1 << 19,
        }
    }
}

/// Every row, or with `quick` one for each path that a gate or an operator's sizing rests on.
pub(crate) fn rows(quick: bool) -> Vec<Row> {
    let settled = |path, flows, framing, direction, pools| Row {
        path,
        flows,
        subscribers: SUBSCRIBERS,
        cpus: 1,
        pools,
        direction,
        framing,
        frame: frame(framing, Transport::Tcp, &tls_client_hello()),
        kind: Kind::Settled,
    };
    let new = |path, framing, pools| Row {
        path,
        flows: 1 << 17,
        subscribers: SUBSCRIBERS,
        cpus: 1,
        pools,
        direction: UP,
        framing,
        frame: frame(framing, Transport::Tcp, &tls_client_hello()),
        kind: Kind::New,
    };
    let inspected = |path, transport, opening: Vec<u8>, payload: Vec<u8>, passes| Row {
        path,
        flows: 1 << 14,
        subscribers: SUBSCRIBERS,
        cpus: 1,
        pools: 1,
        direction: UP,
        framing: Framing::Ipv4,
        frame: frame(Framing::Ipv4, transport, &payload),
        kind: Kind::Inspected { opening: frame(Framing::Ipv4, transport, &opening), passes },
    };
    let transit = |path, flows, pools| Row {
        path,
        flows,
        subscribers: SUBSCRIBERS,
        cpus: 1,
        pools,
        direction: MIXED,
        framing: Framing::Ipv4,
        frame: frame(Framing::Ipv4, Transport::Tcp, &tls_client_hello()),
        kind: Kind::Transit,
    };
    let mut rows = vec![
        settled("settled-ipv4", 1 << 10, Framing::Ipv4, UP, 1),
        settled("settled-ipv4", 1 << 19, Framing::Ipv4, UP, 1),
        settled("settled-ipv4-64-pools", 1 << 17, Framing::Ipv4, UP, 64),
        settled("settled-ipv6", 1 << 10, Framing::Ipv6, UP, 1),
        settled("settled-ipv6", 1 << 19, Framing::Ipv6, UP, 1),
        settled("qinq-pppoe", 1 << 10, Framing::QinqPppoe, UP, 1),
        new("new-flow", Framing::Ipv4, 1),
        inspected("inspect-bittorrent", Transport::Tcp, b"opening".to_vec(), bittorrent_handshake(), 1),
        // A hello or an Initial ends the inspection, so each flow has one such packet; ciphertext without a face is looked into
        // packet after packet.
        inspected("inspect-tls", Transport::Tcp, Vec::new(), tls_client_hello(), 1),
        inspected("inspect-quic", Transport::Udp, Vec::new(), quic_initial(), 1),
        inspected("inspect-opaque", Transport::Tcp, ciphertext(), ciphertext(), 6),
        // Few flows: among many, the reference alone costs 80 or 115 ns from one load to the next.
        transit("transit", 1 << 10, 1),
    ];
    if !quick {
        rows.extend([
            settled("settled-ipv4", 1 << 17, Framing::Ipv4, UP, 1),
            settled("settled-ipv4", 1 << 20, Framing::Ipv4, UP, 1),
            settled("settled-ipv4-down", 1 << 17, Framing::Ipv4, DOWN, 1),
            settled("settled-ipv4-mixed", 1 << 17, Framing::Ipv4, MIXED, 1),
            settled("settled-ipv4-64-pools", 1 << 19, Framing::Ipv4, UP, 64),
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
    }
    rows.sort_by_key(|row| (row.path, row.flows));
    rows
}
