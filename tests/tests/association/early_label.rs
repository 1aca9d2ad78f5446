//! A flow is labelled as soon as both sides look random, and inspected further: a rule may still give a certain label.

use peertally_datapath::view::{View, node_index_parts};
use peertally_tests::wire::Connection;

use super::*;

/// Flows and packets of BitTorrent that the node has counted with this confidence, after every flow has ended.
fn counted(network: &Network, confidence: Confidence) -> (u64, u64) {
    let sum = |view: View<'_>| {
        let (wanted, reading) = ((Protocol::BitTorrent as u8, confidence as u8), view.read(0));
        assert_eq!((reading.pending.packets, reading.internal_errors), (0, 0));
        let of = |index| (node_index_parts(index).protocol, node_index_parts(index).confidence);
        let node = reading.node.iter().enumerate().filter(|(index, _)| of(*index) == wanted);
        let node = node.fold((0, 0), |sum, (_, node)| (sum.0 + node.flows, sum.1 + node.packets));
        let keys = view.keys.iter().zip(&reading.totals);
        let tallies = keys.filter(|(key, _)| key.read().is_some_and(|key| (key.protocol, key.confidence) == wanted));
        let tallies = tallies
            .fold((0, 0), |sum, (_, totals)| (sum.0 + totals.flows, sum.1 + totals.packets_up + totals.packets_down));
        assert_eq!(node, tallies, "node and subscriber");
        node
    };
    let found = sum(network.host.view());
    if let Some(kernel) = &network.kernel {
        assert_eq!(sum(kernel.view()), found);
    }
    found
}

/// Plays a TCP connection in which both sides take turns to send a payload. Returns the verdict after each.
fn turns(network: &mut Network, from: SocketAddr, to: SocketAddr, payloads: &[Vec<u8>]) -> Vec<Verdict> {
    let (mut connection, opening) = Connection::open(from, to);
    for frame in opening {
        network.send(&frame);
    }
    let says = |(number, payload): (usize, &Vec<u8>)| network.send(&connection.says(number % 2 == 0, payload));
    payloads.iter().enumerate().map(says).collect()
}

#[test]
fn a_short_connection_is_labelled_once_both_sides_look_random() {
    let mut network = Network::new();
    network.ping(of(SUBSCRIBER, 6881), at(PEER));
    let random: Vec<Vec<u8>> = (0..4).map(|number| ciphertext(40 + 60 * number, number as u64)).collect();
    let found = turns(&mut network, of(SUBSCRIBER, 40_000), at(PEER), &random);
    assert_eq!(found[0], Verdict::UNCLASSIFIED, "the other side has said nothing");
    assert_eq!(found[1..], [BITTORRENT; 3]);
    // A new connection on these ports ends the old flow.
    turns(&mut network, of(SUBSCRIBER, 40_000), at(PEER), &random[..1]);
    let associated = |network: &Network| counted(network, Confidence::Association);
    assert_eq!(associated(&network), (1, 6), "packets before the label count for it");
    turns(&mut network, of(SUBSCRIBER, 40_001), at(PEER), &random[..2]);
    assert_eq!(associated(&network), (2, 6 + 4), "a pause also ends a flow, under its label");
    let mut never = |from: u16, to: &str, payloads: &[Vec<u8>], why: &str| {
        let found = turns(&mut network, of(SUBSCRIBER, from), at(to), payloads);
        assert_eq!(found, vec![Verdict::UNCLASSIFIED; payloads.len()], "{why}");
    };
    never(40_007, "192.0.2.9:7777", &random, "an unknown endpoint");
    never(40_002, "192.0.2.7:443", &random, "another port");
    let tls = [vec![[&b"\x16\x03\x01\x02\x00"[..], &ciphertext(300, 7)].concat()], random.clone()].concat();
    never(40_003, PEER, &tls, "recognisable structure");
    never(40_004, PEER, &[random[0].clone(), b"220 mail.example.org\r\n".to_vec(), random[2].clone()], "text");
    never(40_005, PEER, &[random[0].clone(), b"\x01".to_vec(), random[2].clone()], "too short to tell");
    let found = turns(&mut network, of(NEIGHBOUR, 40_006), at(PEER), &random);
    assert_eq!(found, vec![Verdict::UNCLASSIFIED; 4], "never spoke it");
}

#[test]
fn inspection_goes_on_after_an_early_label_or_without_one() {
    let mut network = Network::new();
    let handshake = [b"\x13BitTorrent protocol".as_slice(), &[0; 48]].concat();
    let opening: Vec<Vec<u8>> = (0..4).map(|number| ciphertext(200, number)).collect();
    let clear = [opening, vec![handshake]].concat();
    let found = turns(&mut network, of(SUBSCRIBER, 40_000), at(PEER), &clear);
    assert_eq!(found[4].confidence, Confidence::Signature, "in clear behind the opening, as MSE allows");
    // A known endpoint labels the flow early. A later signature replaces that label.
    let mut network = Network::new();
    network.ping(of(SUBSCRIBER, 6881), at(PEER));
    let found = turns(&mut network, of(SUBSCRIBER, 40_001), at(PEER), &clear);
    assert_eq!(found[1..4], [BITTORRENT; 3]);
    assert_eq!(found[4].confidence, Confidence::Signature);
    assert_eq!(counted(&network, Confidence::Association), (0, 0));
    assert_eq!(counted(&network, Confidence::Signature), (2, 2 + 2 + 5), "every packet counts for the certain one");

    // The peer cache is looked up when both sides look random, and when the inspection ends.
    let (peer, mut network) = (at("192.0.2.8:6881"), Network::new());
    let (mut connection, opening) = Connection::open(of(SUBSCRIBER, 40_000), peer);
    for frame in opening {
        network.send(&frame);
    }
    let mut found = Vec::new();
    for number in 0..16 {
        found.push(network.send(&connection.says(number % 2 == 0, &ciphertext(200, number))));
        if number == 1 {
            network.ping(of(SUBSCRIBER, 6881), peer);
        }
    }
    assert_eq!(found[..15], [Verdict::UNCLASSIFIED; 15]);
    assert_eq!(found[15], BITTORRENT, "both sides have used up their budgets");
}
