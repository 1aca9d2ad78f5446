//! A row for each message that gives a flow its verdict, of every protocol: the conversations of
//! `peertally_tests::p2p`, which the tests compare with the rules.
//!
//! Each row measures the packet that decides the verdict. Earlier packets open the flow; where nothing did, a packet
//! without payload does.

use monitor_common::{
    abi::{key::Seed, outcome::Outcome, settings::InspectionDepth},
    parse::payload::Transport,
};
use peertally_datapath::{TableSizes, host::HostDataPath};
use peertally_tests::p2p::{Exchange, exchanges};

use crate::{
    frames::{Framing, frame_behind},
    layout::{DOWN, UP},
    row::{Packet, Row},
    rows::{inspected, up},
};

/// There are many of these rows, and the gate of every change looks at none.
const ROUNDS: u32 = 9;

/// Every row.
pub(crate) fn rows() -> Vec<Row> {
    exchanges().iter().map(row).collect()
}

fn row(exchange: &Exchange) -> Row {
    let label = exchange.protocol.label();
    let message = exchange.name.strip_prefix(label).unwrap_or(exchange.name).trim_start_matches('-');
    let telling = telling(exchange);
    let direction = |forth| if forth { UP } else { DOWN };
    // Where each direction of the stream has come to.
    let mut sent = [0; 2];
    let mut packet = |(forth, payload): &(bool, Vec<u8>)| {
        let sent = &mut sent[usize::from(*forth)];
        let frame = frame_behind(Framing::Ipv4, exchange.transport, *sent, payload);
        *sent += payload.len() as u32;
        Packet { direction: direction(*forth), frame }
    };
    let mut opening: Vec<Packet> = exchange.messages[..telling].iter().map(&mut packet).collect();
    let Packet { frame, .. } = packet(&exchange.messages[telling]);
    if opening.is_empty() {
        opening.push(up(exchange.transport, b""));
    }
    let (forth, payload) = &exchange.messages[telling];
    let row = inspected(format!("inspect-{label}-{message}"), exchange.transport, payload, opening);
    // The reassembly table has a slot for few streams at once: of 256, 6 % lose their first bytes to another one.
    let continues =
        exchange.transport == Transport::Tcp && exchange.messages[..telling].iter().any(|(before, _)| before == forth);
    Row {
        flows: if continues { 1 << 6 } else { row.flows },
        direction: direction(*forth),
        remote_port: exchange.ports.1,
        shows: Some(exchange.protocol),
        rounds: ROUNDS,
        frame,
        ..row
    }
}

/// The message after which the rules know the protocol.
fn telling(exchange: &Exchange) -> usize {
    let pools = ["10.0.0.0/8".parse().expect("a pool")];
    let sizes = TableSizes { flows: 64, tallies: 64, peers: 64 };
    let mut host = HostDataPath::new(&sizes, &pools, Seed::from_random([1, 2, 3]), InspectionDepth::Framing);
    let frames = exchange.frames([10, 0, 0, 1].into(), [192, 0, 2, 1].into());
    // A connection's opening comes before its messages.
    let opening = frames.len() - exchange.messages.len();
    let tells = |frame: &Vec<u8>| {
        let (Outcome::Known(verdict) | Outcome::New(verdict)) = host.frame(frame, frame.len(), 1) else {
            return false;
        };
        verdict.protocol == exchange.protocol
    };
    let frame = frames.iter().position(tells).expect("every conversation shows its protocol");
    frame - opening
}
