//! IPv4 and IPv6 share no key: no prefix of one family holds an address of the other, and no packet of one belongs to
//! a flow or a subscriber of the other.

use std::net::SocketAddr;

use monitor_common::abi::{
    outcome::Outcome,
    protocol::{Protocol, Verdict},
    reason::Reason,
};
use peertally_datapath::{TableSizes, object::LoadOptions};
use peertally_tests::{
    both_datapaths::{self, BothDatapaths},
    wire::{Carrier, Connection, at, flag, tcp, udp},
    wrap_both_datapaths,
};

wrap_both_datapaths!(
    /// Both data paths.
    Node
);

impl Node {
    fn new(pools: &[&str], endpoints: &[&str]) -> Self {
        let pools = pools.iter().map(|pool| pool.parse().expect("a pool")).collect();
        let tunnel_endpoints = endpoints.iter().map(|prefix| prefix.parse().expect("a prefix")).collect();
        let options = both_datapaths::options(TableSizes { flows: 1024, tallies: 64, peers: 64 });
        Self(BothDatapaths::new("families", &LoadOptions { pools, tunnel_endpoints, ..options }))
    }

    /// Whether an address is a subscriber's.
    fn has_subscriber(&mut self, address: &str) -> bool {
        let outside = if address.starts_with('[') { "[9999::1]:6881" } else { "192.0.2.1:6881" };
        let frame = udp(SocketAddr::new(at(&format!("{address}:40000")).ip(), 40_000), at(outside), b"payload");
        match self.frame(&frame) {
            Outcome::Transit => false,
            Outcome::New(_) => true,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_ipv6_pool_around_all_addresses_holds_no_ipv4_address() {
    // The pool of a /20 leaves the rest of its /16 to the trie.
    let mut node = Node::new(&["::/1/56", "10.64.0.0/20"], &[]);
    for (address, is_subscriber) in [
        ("[3fff::1]", true),
        ("[::1:2]", true),
        ("10.64.0.1", true),
        ("10.64.128.1", false),
        ("10.65.0.1", false),
        ("[fd00::1]", false),
    ] {
        assert_eq!(node.has_subscriber(address), is_subscriber, "{address}");
    }
    let mut node = Node::new(&["::/0/56", "0.0.0.0/0"], &[]);
    for address in ["[fd00::1]", "10.65.0.1"] {
        assert!(node.has_subscriber(address), "{address}");
    }
}

#[test]
fn ipv6_tunnel_endpoints_name_no_ipv4_address() {
    let charged = |endpoints: &[&str]| {
        let mut node = Node::new(&["10.0.0.0/8"], endpoints);
        let inner = udp(at("10.0.0.1:40000"), at("192.0.2.7:6881"), b"payload");
        let (near, far) = (at("203.0.113.1:0").ip(), at("203.0.113.2:0").ip());
        node.send(&Carrier::Ip.carry(near, far, &inner));
        let view = node.host.view();
        let read = view.read(0);
        read.totals.iter().map(|totals| totals.packets_up).sum::<u64>()
    };
    assert_eq!(charged(&["203.0.113.0/24"]), 1);
    assert_eq!(charged(&["::/1"]), 0);
}

#[test]
fn an_ipv4_mapped_address_belongs_to_no_ipv4_flow_and_no_subscriber() {
    let mut node = Node::new(&["10.0.0.0/8", "2001:db8::/32"], &[]);
    let (mine, theirs) = (at("10.0.0.1:40000"), at("192.0.2.7:6881"));
    let mapped = |end: SocketAddr| match end {
        SocketAddr::V4(end) => SocketAddr::new(end.ip().to_ipv6_mapped().into(), end.port()),
        SocketAddr::V6(_) => end,
    };
    let handshake = [b"\x13BitTorrent protocol".as_slice(), &[0; 8], &[7; 40]].concat();
    let (mut connection, opening) = Connection::open(mine, theirs);
    for frame in opening.iter().chain([&connection.says(true, &handshake), &connection.says(false, &handshake)]) {
        node.send(frame);
    }
    let before = node.host.view().read(0).totals;
    for (from, to) in [(mine, theirs), (theirs, mine), (mine, at("[2001:470::9]:51000")), (mine, at("[2001:db8::1]:1"))]
    {
        let (from, to) = (mapped(from), mapped(to));
        for frame in [tcp(from, to, flag::SYN, b""), tcp(from, to, flag::PUSH, &handshake), udp(from, to, &handshake)] {
            assert_eq!(node.frame(&frame), Outcome::Skipped(Reason::Ipv4Mapped), "{from} {to}");
        }
    }
    assert_eq!(node.host.view().read(0).totals, before);
    let verdict = node.send(&connection.says(true, b"payload"));
    assert_eq!(verdict, Verdict { protocol: Protocol::BitTorrent, ..verdict }, "the flow is still there");
    assert_eq!(node.host.skipped(Reason::Ipv4Mapped), 12);
}
