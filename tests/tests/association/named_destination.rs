//! HyperDHT's messages name the address and the port that they go to.

use std::net::IpAddr;

use super::*;

const FOUND: Verdict = Verdict { protocol: Protocol::HyperDht, confidence: Confidence::Structural };

/// A request with a target, as it is sent to `to`.
fn request(to: SocketAddr) -> Vec<u8> {
    let IpAddr::V4(address) = to.ip() else { panic!("{to} is no IPv4 address") };
    [&[0x03, 0x0c, 0x34, 0x12][..], &address.octets(), &to.port().to_le_bytes(), &[2], &[0x5a; 32]].concat()
}

#[test]
fn a_lookup_counts_where_it_names_its_destination() {
    let mut network = Network::new();
    let (node, other) = (at("192.0.2.7:49737"), at("192.0.2.8:49737"));
    let mut send = |from, to, named| network.send(&udp(from, to, &request(named)));
    assert_eq!(send(of(SUBSCRIBER, 40_001), node, node), FOUND);
    assert_eq!(send(node, of(SUBSCRIBER, 40_002), of(SUBSCRIBER, 40_002)), FOUND, "from the network");
    assert_eq!(send(of(SUBSCRIBER, 40_003), node, other), Verdict::UNCLASSIFIED, "another address");
    assert_eq!(send(of(SUBSCRIBER, 40_004), node, at("192.0.2.7:49738")), Verdict::UNCLASSIFIED, "another port");
    assert_eq!(send(node, of(SUBSCRIBER, 40_005), other), Verdict::UNCLASSIFIED, "behind an address translation");
}
