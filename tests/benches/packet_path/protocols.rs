//! A row for each message that gives a flow its verdict, of every protocol: the conversations of `peertally_tests::p2p`, which the
//! tests compare with the rules.
//!
//! Measured is the packet with which the flow is told. What came before it opens the flow; where nothing did, a packet without
//! payload does.

use monitor_common::{
    classify::classify,
    payload::{FlowState, Payload},
};
use peertally_tests::p2p::{Exchange, exchanges};

use crate::{
    frames::{Framing, frame},
    layout::{DOWN, UP},
    rows::{Packet, Row, inspected, up},
};

/// There are many of these rows, and no gate of every change rests on one.
const ROUNDS: u32 = 5;

/// Every row.
pub(crate) fn rows() -> Vec<Row> {
    exchanges().iter().map(row).collect()
}

fn row(exchange: &Exchange) -> Row {
    let label = exchange.protocol.label();
    let message = exchange.name.strip_prefix(label).unwrap_or(exchange.name).trim_start_matches('-');
    let telling = telling(exchange);
    let direction = |forth| if forth { UP } else { DOWN };
    let mut opening: Vec<Packet> = exchange.messages[..telling]
        .iter()
        .map(|(forth, payload)| Packet {
            direction: direction(*forth),
            frame: frame(Framing::Ipv4, exchange.transport, payload),
        })
        .collect();
    if opening.is_empty() {
        opening.push(up(exchange.transport, b""));
    }
    let (forth, payload) = &exchange.messages[telling];
    Row {
        direction: direction(*forth),
        remote_port: exchange.ports.1,
        shows: Some(exchange.protocol),
        rounds: ROUNDS,
        ..inspected(format!("inspect-{label}-{message}"), exchange.transport, payload, opening)
    }
}

/// The message after which the rules know the protocol.
fn telling(exchange: &Exchange) -> usize {
    let mut state = FlowState::default();
    let tells = |(forth, bytes): &(bool, Vec<u8>)| {
        let (near, far) = exchange.ports;
        let (source, destination) = if *forth { (near, far) } else { (far, near) };
        let mut payload = Payload::from_bytes(bytes, source, destination, *forth);
        classify(exchange.transport, &mut payload, &mut state).is_some()
    };
    exchange.messages.iter().position(tells).expect("every conversation shows its protocol")
}
