//! The rows of the bench: which packets, which flows, in which order.

use monitor_common::{
    abi::protocol::Protocol,
    parse::payload::Transport::{self, Tcp, Udp},
};
use peertally_tests::packet_paths::PacketPath;

use crate::{
    frames::{Framing, HTTP_REQUEST, bittorrent_handshake, ciphertext, frame, quic_initial, tls_client_hello},
    layout::{DOWN, MIXED, SKEWED, TRAINS, UP},
    protocols,
    row::{FEW, Packet, Row, RowKind, TableState},
};

/// Rounds of rows of few flows: with as many, loading is still the longer part.
const ROUNDS_OF_FEW: u32 = 31;
/// Rounds of rows of few inspected flows: each round takes a few milliseconds.
const ROUNDS_OF_FEW_INSPECTED: u32 = 101;
/// Rounds of rows that fill or refresh a whole table in front of each measurement.
const ROUNDS_OF_FULL: u32 = 9;

/// A row of packets that are inspected.
pub(crate) fn inspected(path: impl Into<String>, transport: Transport, payload: &[u8], opening: Vec<Packet>) -> Row {
    let kind = RowKind::Inspected { opening, passes: 1 };
    Row::new(path, 1 << 14, (Framing::Ipv4, transport, payload), (kind, PacketPath::Known))
}

/// A packet from the subscriber.
pub(crate) fn up(transport: Transport, payload: &[u8]) -> Packet {
    Packet { direction: UP, frame: frame(Framing::Ipv4, transport, payload) }
}

fn settled(path: &str, flows: u32, framing: Framing) -> Row {
    Row::new(path, flows, (framing, Tcp, &tls_client_hello()), (RowKind::Settled, PacketPath::Known))
}

/// A row of new flows in a table that is at most half full.
fn new(path: &str, framing: Framing) -> Row {
    let kind = RowKind::New(TableState::HalfFull);
    Row::new(path, 1 << 17, (framing, Tcp, &tls_client_hello()), (kind, PacketPath::New))
}

/// A row of new flows in a table with so many ways, all of them taken.
fn new_in_full(path: &str, ways: u32, table: TableState, takes: PacketPath) -> Row {
    let row = Row::new(path, ways, (Framing::Ipv4, Tcp, &tls_client_hello()), (RowKind::New(table), takes));
    Row { rounds: ROUNDS_OF_FULL, ..row }
}

fn transit(path: &str, flows: u32) -> Row {
    let kind = (RowKind::Transit, PacketPath::Transit);
    Row { direction: MIXED, ..Row::new(path, flows, (Framing::Ipv4, Tcp, &tls_client_hello()), kind) }
}

/// Every row, or with `quick` one for each path that a gate or an operator's sizing rests on.
pub(crate) fn rows(quick: bool) -> Vec<Row> {
    let mut rows = vec![
        settled("settled-ipv4", 1 << 10, Framing::Ipv4),
        settled("settled-ipv4", 1 << 19, Framing::Ipv4),
        Row { order: TRAINS, ..settled("settled-ipv4-trains", 1 << 19, Framing::Ipv4) },
        Row { pools: 64, ..settled("settled-ipv4-64-pools", 1 << 17, Framing::Ipv4) },
        // In a realm: its number goes into the flow's tag and the subscriber's key.
        Row { realm: 7, ..settled("realm-keys", 1 << 10, Framing::Ipv4) },
        settled("settled-ipv6", 1 << 10, Framing::Ipv6),
        settled("settled-ipv6", 1 << 19, Framing::Ipv6),
        settled("qinq-pppoe", 1 << 10, Framing::QinqPppoe),
        Row { beside_first: true, ..new("new-flow", Framing::Ipv4) },
        // The default size of the flow table.
        new_in_full("new-flow-full", 1 << 19, TableState::FullOfOld, PacketPath::Evicting),
        // Each measurement sends a packet of every flow first, so the table is smaller.
        new_in_full("refused-flow", 1 << 16, TableState::FullOfFresh, PacketPath::Refused),
        // What a new flow costs once the slow path is at its bound.
        Row { takes: PacketPath::Shed, ..new("shed-flow", Framing::Ipv4) },
        Row {
            shows: Some(Protocol::BitTorrent),
            beside_first: true,
            ..inspected("inspect-bittorrent", Tcp, &bittorrent_handshake(), vec![up(Tcp, b"")])
        },
        // One hello or Initial each of many flows; ciphertext is inspected packet after packet.
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
        transit("transit", 1 << 10),
    ];
    // Each packet that is inspected while its flow is in the caches, as a flow's first packets are when they come at
    // once: the verdict and the packets after it, from which peers are learned, or packets without one. The inspection
    // of a flow ends with the eighth payload of a direction, so all of them are inspected.
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
        rows.extend(further());
        rows.extend(protocols::rows());
    }
    for row in rows.iter_mut().filter(|row| row.flows == FEW) {
        let inspected = matches!(row.kind, RowKind::Inspected { .. });
        row.rounds = if inspected { ROUNDS_OF_FEW_INSPECTED } else { ROUNDS_OF_FEW };
    }
    rows.sort_by(|left, right| (&left.path, left.flows).cmp(&(&right.path, right.flows)));
    rows
}

/// Rows that show how a cost grows with flows, pools, subscribers and CPUs, and with the order of flows.
fn further() -> Vec<Row> {
    vec![
        settled("settled-ipv4", 1 << 17, Framing::Ipv4),
        settled("settled-ipv4", 1 << 20, Framing::Ipv4),
        Row { order: TRAINS, ..settled("settled-ipv4-trains", 1 << 10, Framing::Ipv4) },
        Row { order: SKEWED, ..settled("settled-ipv4-skewed", 1 << 19, Framing::Ipv4) },
        Row { direction: DOWN, ..settled("settled-ipv4-down", 1 << 17, Framing::Ipv4) },
        Row { direction: MIXED, ..settled("settled-ipv4-mixed", 1 << 17, Framing::Ipv4) },
        Row { pools: 64, ..settled("settled-ipv4-64-pools", 1 << 19, Framing::Ipv4) },
        Row { realm: 7, ..settled("realm-keys", 1 << 19, Framing::Ipv4) },
        Row { realm: 7, ..new("new-flow-realm-keys", Framing::Ipv4) },
        settled("settled-ipv6", 1 << 17, Framing::Ipv6),
        settled("settled-ipv6", 1 << 20, Framing::Ipv6),
        Row { cpus: 2, ..settled("settled-ipv4-2-cpus", 1 << 10, Framing::Ipv4) },
        Row { cpus: 2, ..settled("settled-ipv4-2-cpus", 1 << 19, Framing::Ipv4) },
        Row { subscribers: 1 << 20, ..settled("settled-ipv4-1m-subscribers", 1 << 19, Framing::Ipv4) },
        Row { subscribers: 1 << 20, ..new("new-flow-1m-subscribers", Framing::Ipv4) },
        new("new-flow-ipv6", Framing::Ipv6),
        Row { pools: 64, ..new("new-flow-64-pools", Framing::Ipv4) },
        // Between ports that peers choose, where the entropy of a direction's first payload is measured.
        Row { remote_port: 51_413, ..inspected("inspect-ciphertext-first", Tcp, &ciphertext(), vec![up(Tcp, b"")]) },
        transit("transit", 1 << 17),
        Row { pools: 64, ..transit("transit-64-pools", 1 << 17) },
    ]
}
