//! Equal addresses in two realms are two subscribers, with separate flows and peers.

use std::{collections::BTreeMap, net::SocketAddr};

use monitor_common::abi::{
    outcome::Outcome,
    protocol::{Protocol, Verdict},
    tally::TallyKey,
};
use peertally_datapath::{
    TableSizes,
    object::{LoadOptions, MonitoredInterface},
    view::View,
};
use peertally_tests::{
    both_datapaths::{self, BothDatapaths},
    wire::{at, ciphertext, flag, tcp, udp},
    wrap_both_datapaths,
};

/// BEP 3: the handshake's fixed start.
const HANDSHAKE: &[u8] = b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0";
/// BEP 5: a ping and its answer.
const PING: &[u8] = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe";
const PONG: &[u8] = b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re";

fn options(realm: u32) -> LoadOptions {
    let sizes = TableSizes { flows: 1024, tallies: 64, peers: 64 };
    let interfaces = vec![MonitoredInterface { realm, ..MonitoredInterface::access(1) }];
    LoadOptions { interfaces, ..both_datapaths::options(sizes) }
}

wrap_both_datapaths!(
    /// Both data paths, with frames from one realm after the other.
    Node
);

impl Node {
    fn new(realm: u32) -> Self {
        Self(BothDatapaths::new("realms", &options(realm)))
    }

    fn enter(&mut self, realm: u32) {
        self.set_interface(MonitoredInterface { realm, ..MonitoredInterface::access(1) });
    }

    /// Packets of each tally, on which both paths agree.
    fn packets(&self) -> BTreeMap<(u32, [u8; 16], Protocol), u64> {
        let found = packets(&self.host.view());
        if let Some(kernel) = &self.kernel {
            assert_eq!(packets(&kernel.view()), found, "kernel and host");
        }
        found
    }
}

fn packets(view: &View<'_>) -> BTreeMap<(u32, [u8; 16], Protocol), u64> {
    let reading = view.read(0);
    let rows = view.keys.iter().zip(&reading.totals).filter_map(|(key, totals)| {
        let TallyKey { realm, address, protocol, .. } = key.read()?;
        let packets = totals.packets_up + totals.packets_down;
        (packets > 0).then_some(((realm, address, Protocol::from_number(protocol)?), packets))
    });
    rows.collect()
}

#[test]
fn equal_addresses_of_two_realms_are_two_subscribers() {
    let (subscriber, peer) = (at("10.0.0.1:40000"), at("192.0.2.7:6881"));
    let mut node = Node::new(7);
    node.send(&tcp(subscriber, peer, flag::SYN, b""));
    let verdict = node.send(&tcp(subscriber, peer, flag::PUSH, HANDSHAKE));
    assert_eq!(verdict.protocol, Protocol::BitTorrent);
    node.enter(8);
    let first = node.frame(&tcp(subscriber, peer, flag::ACK, b""));
    assert_eq!(first, Outcome::New(Verdict::UNCLASSIFIED), "the flow of the other realm is another one");
    node.enter(7);
    assert_eq!(node.send(&tcp(peer, subscriber, flag::ACK, b"")), verdict, "and is still what it was");
    let address = "::ffff:10.0.0.1".parse::<std::net::Ipv6Addr>().expect("an address").octets();
    let expected = [((7, address, Protocol::BitTorrent), 3), ((8, address, Protocol::Unclassified), 1)];
    assert_eq!(node.packets(), expected.into());
}

#[test]
fn a_peer_of_one_realm_is_unknown_in_another() {
    let (subscriber, peer) = (at("10.0.0.1:6881"), at("192.0.2.7:6881"));
    // An obfuscated connection (MSE), which nothing but the known peer tells.
    let play = |node: &mut Node, port: u16| {
        let from = SocketAddr::new(subscriber.ip(), port);
        node.send(&tcp(from, peer, flag::SYN, b""));
        node.send(&tcp(peer, from, flag::SYN_ACK, b""));
        let mut verdict = Verdict::UNCLASSIFIED;
        for number in 0..9 {
            let bytes = |number: u64| ciphertext(200 + number as usize, u64::from(port) << 16 | number);
            node.send(&tcp(from, peer, flag::PUSH, &bytes(2 * number)));
            verdict = node.send(&tcp(peer, from, flag::PUSH, &bytes(2 * number + 1)));
        }
        verdict.protocol
    };
    let mut node = Node::new(7);
    for (from, to, payload) in [(subscriber, peer, PING), (peer, subscriber, PONG)] {
        node.send(&udp(from, to, payload));
    }
    assert_eq!(play(&mut node, 50_000), Protocol::BitTorrent, "the peer is known from the DHT");
    node.enter(8);
    assert_eq!(play(&mut node, 50_001), Protocol::Unclassified);
}

#[test]
fn without_realms_all_is_one() {
    let mut node = Node::new(0);
    node.send(&udp(at("10.0.0.1:6881"), at("192.0.2.7:6881"), PING));
    assert!(node.packets().keys().all(|(realm, ..)| *realm == 0));
}
