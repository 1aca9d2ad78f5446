//! Remotes of a tally: one bit for each distinct host whose flows counted something since the drain before.

use std::{collections::BTreeMap, net::SocketAddr};

use monitor_common::abi::{
    event::KernelEvent,
    key::Address,
    protocol::Protocol,
    remotes::{RemoteSet, remote_number},
};
use peertally_core::pool::Pool;
use peertally_datapath::{
    TableSizes,
    object::LoadOptions,
    view::{RemoteRead, TableRead, View},
};
use peertally_tests::{
    both_datapaths::{self, BothDatapaths, SEED},
    wire::{at, flag, tcp, udp},
};

/// BEP 3: the handshake's fixed start.
const HANDSHAKE: &[u8] = b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0";
/// BEP 5: a ping and its answer.
const PING: &[u8] = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe";
const PONG: &[u8] = b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re";
/// Idle time that the drain waits for before it settles a flow, in seconds.
const IDLE_S: u16 = 15;

/// Remotes by subscriber address and protocol.
type Remotes = BTreeMap<(Address, Protocol), RemoteSet>;

/// Both data paths, and what a drain keeps of each.
struct Node {
    paths: BothDatapaths,
    drains: [RemoteRead; 2],
}

impl Node {
    fn new(flows: u32, one_way: bool) -> Self {
        let sizes = TableSizes { flows, tallies: 64, peers: 64 };
        let pools: Vec<Pool> = ["10.0.0.0/8", "2001:db8::/32"].map(|pool| pool.parse().expect("a valid pool")).to_vec();
        let options = LoadOptions { one_way, pools, ..both_datapaths::options(sizes) };
        Self { paths: BothDatapaths::new("remotes", &options), drains: [RemoteRead::default(), RemoteRead::default()] }
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        self.paths.send(&tcp(from, to, flag::PUSH, payload));
    }

    /// Drains both, which agree.
    fn drain(&mut self) -> Remotes {
        let [host, kernel] = &mut self.drains;
        let found = drain(&self.paths.host.view(), host);
        if let Some(there) = &self.paths.kernel {
            assert_eq!(drain(&there.view(), kernel), found, "kernel and host");
        }
        found
    }
}

fn drain(view: &View<'_>, remotes: &mut RemoteRead) -> Remotes {
    view.read_into(IDLE_S, &mut TableRead::default(), Some(remotes));
    let taken = std::mem::take(&mut remotes.by_slot);
    let rows = view.keys.iter().zip(taken).filter(|(_, remotes)| !remotes.is_empty());
    rows.map(|(key, remotes)| {
        let key = key.read().expect("a tally that counts has a key");
        ((Address::v6(key.address), Protocol::from_number(key.protocol).expect("known")), remotes)
    })
    .collect()
}

fn address(of: SocketAddr) -> Address {
    match of {
        SocketAddr::V4(v4) => Address::v4(v4.ip().to_bits()),
        SocketAddr::V6(v6) => Address::v6(v6.ip().octets()),
    }
}

fn hosts(hosts: impl IntoIterator<Item = SocketAddr>) -> RemoteSet {
    let mut set = RemoteSet::EMPTY;
    hosts.into_iter().for_each(|host| set.unite(RemoteSet::of(remote_number(address(host), &SEED))));
    set
}

fn only(subscriber: SocketAddr, remotes: RemoteSet) -> Remotes {
    [((address(subscriber), Protocol::BitTorrent), remotes)].into()
}

#[test]
fn a_long_flow_counts_in_every_drain_in_which_it_moved() {
    let mut node = Node::new(64, true);
    let (subscriber, one, other) = (at("10.0.0.1:40000"), at("192.0.2.7:6881"), at("192.0.2.8:6881"));
    for peer in [one, other, at("192.0.2.7:51413")] {
        node.send(subscriber, peer, HANDSHAKE);
    }
    assert_eq!(node.drain(), only(subscriber, hosts([one, other])));
    assert_eq!(node.drain(), Remotes::new(), "nothing moved");
    node.send(other, subscriber, b"what follows");
    assert_eq!(node.drain(), only(subscriber, hosts([other])), "also by what the remote sends");
    for _ in 0..1000 {
        node.send(subscriber, one, b"a settled flow");
    }
    assert_eq!(node.drain(), only(subscriber, hosts([one])));
}

#[test]
fn flows_that_ended_since_the_last_drain_count() {
    let mut node = Node::new(4, true);
    let subscriber = at("10.0.0.1:40000");
    let peers: Vec<SocketAddr> = (1..=20).map(|peer| at(&format!("198.51.100.{peer}:6881"))).collect();
    for peer in &peers {
        node.paths.now_s += 61;
        node.send(subscriber, *peer, HANDSHAKE);
    }
    assert!(node.paths.events(KernelEvent::EvictedIdle) >= 16);
    assert_eq!(node.drain(), only(subscriber, hosts(peers.iter().copied())));
    assert_eq!(node.drain(), Remotes::new());
    let later = at("203.0.113.1:6881");
    node.paths.now_s += 61;
    node.send(subscriber, later, HANDSHAKE);
    assert_eq!(node.drain(), only(subscriber, hosts([later])), "the evicted flow had not moved");
}

#[test]
fn each_subscriber_of_a_flow_has_the_other_as_its_remote() {
    let mut node = Node::new(64, true);
    let (one, other) = (at("10.0.0.1:40000"), at("10.0.0.2:6881"));
    node.send(one, other, HANDSHAKE);
    let mut expected = only(one, hosts([other]));
    expected.extend(only(other, hosts([one])));
    assert_eq!(node.drain(), expected);
}

#[test]
fn a_host_of_ipv6_is_a_prefix() {
    let mut node = Node::new(64, true);
    let subscriber = at("[2001:db8:0:100::1]:40000");
    let peers = ["[2a00:1:2:3::1]:6881", "[2a00:1:2:3:4:5:6:7]:6881", "[2a00:1:2:4::1]:6881"].map(at);
    for peer in peers {
        node.send(subscriber, peer, HANDSHAKE);
    }
    let block = at("[2001:db8:0:100::]:0");
    assert_eq!(node.drain(), only(block, hosts([peers[0], peers[2]])));
}

#[test]
fn only_hosts_of_charged_flows_count() {
    let mut node = Node::new(64, false);
    let (subscriber, stranger, peer) = (at("10.0.0.1:6881"), at("192.0.2.7:6881"), at("192.0.2.9:6881"));
    for _ in 0..10 {
        node.paths.send(&udp(stranger, subscriber, PING));
    }
    node.paths.send(&udp(subscriber, peer, PING));
    assert_eq!(node.drain(), Remotes::new(), "nobody answered");
    node.paths.send(&udp(peer, subscriber, PONG));
    assert_eq!(node.drain(), only(subscriber, hosts([peer])));
    node.paths.now_s += 60;
    node.paths.host.view().settings.clock_s.store(node.paths.now_s);
    if let Some(kernel) = &node.paths.kernel {
        kernel.view().settings.clock_s.store(node.paths.now_s);
    }
    assert_eq!(node.drain(), Remotes::new(), "the stranger's datagrams count for the interface");
}
