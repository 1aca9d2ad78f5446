//! Flows without a signature that are labelled by an endpoint or a subscriber known from earlier flows, or by behaviour
//! if that is switched on. Most tests play flows that must stay unlabelled (`monitor-common/src/engine/learn.rs`).
//!
//! Each conversation runs on the host data path and, with the necessary rights, on the kernel's. Both must agree on
//! every packet.

mod announce;
mod behaviour;
mod early_label;
mod kad;
mod named_destination;
mod referred;
mod shared_frames;
mod stream_start;

use std::net::SocketAddr;

use monitor_common::{
    abi::{
        event::KernelEvent,
        limits::{PEER_SECONDS, PENDING_PACKETS},
        protocol::{Confidence, Protocol, Verdict},
        settings::Heuristic,
        spoofing::SpoofReason,
    },
    bpf::shared_u64::SharedU64,
    tables::flow_table::{FlowSet, FlowState},
};
use peertally_core::words::Role;
use peertally_datapath::{
    TableSizes,
    host::{ACCESS, CORE},
    object::{LoadOptions, MonitoredInterface},
};
use peertally_tests::{
    both_datapaths::{self, BothDatapaths},
    wire::{Connection, at, ciphertext, flag, tcp, udp},
    wrap_both_datapaths,
};

const SUBSCRIBER: &str = "10.0.0.1";
const NEIGHBOUR: &str = "10.0.0.2";
const PEER: &str = "192.0.2.7:51413";
const BITTORRENT: Verdict = Verdict { protocol: Protocol::BitTorrent, confidence: Confidence::Association };
const PING: &[u8] = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe";
const PONG: &[u8] = b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re";

fn of(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

wrap_both_datapaths!(
    /// Both data paths, and conversations over them.
    Network
);

impl Network {
    fn new() -> Self {
        Self::with(None, 1024, false)
    }

    /// Frames arrive on a core interface if `core`.
    fn with(heuristic: Option<Heuristic>, peers: u32, core: bool) -> Self {
        let interfaces = vec![MonitoredInterface {
            role: if core { Role::Core } else { Role::Access },
            ..MonitoredInterface::access(1)
        }];
        let sizes = TableSizes { flows: 4096, tallies: 1024, peers };
        let options = LoadOptions { heuristic, interfaces, ..both_datapaths::options(sizes) };
        Self(BothDatapaths::new("association", &options))
    }

    /// A DHT ping and its answer.
    fn ping(&mut self, from: SocketAddr, to: SocketAddr) {
        self.send(&udp(from, to, PING));
        self.send(&udp(to, from, PONG));
    }

    /// The final verdict of a TCP connection in which both sides send the given payloads.
    fn connection(&mut self, from: SocketAddr, to: SocketAddr, payload: impl Fn(u64) -> Vec<u8>) -> Verdict {
        self.send(&tcp(from, to, flag::SYN, b""));
        self.send(&tcp(to, from, flag::SYN_ACK, b""));
        let mut verdict = Verdict::UNCLASSIFIED;
        for number in 0..9 {
            self.send(&tcp(from, to, flag::PUSH, &payload(2 * number)));
            verdict = self.send(&tcp(to, from, flag::PUSH, &payload(2 * number + 1)));
        }
        verdict
    }

    /// An obfuscated connection, as MSE makes it.
    fn obfuscated(&mut self, from: SocketAddr, to: SocketAddr) -> Verdict {
        let salt = u64::from(from.port()) << 32 | u64::from(to.port()) << 16;
        self.connection(from, to, |number| ciphertext(200 + number as usize, salt | number))
    }

    /// An obfuscated exchange of datagrams.
    fn datagrams(&mut self, from: SocketAddr, to: SocketAddr) -> Verdict {
        let mut verdict = Verdict::UNCLASSIFIED;
        for number in 0..9 {
            self.send(&udp(from, to, &ciphertext(120, number)));
            verdict = self.send(&udp(to, from, &ciphertext(130, number + 100)));
        }
        verdict
    }
}

#[test]
fn a_peer_known_from_the_dht_is_known_when_it_speaks_encrypted() {
    let mut network = Network::new();
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_000), at(PEER)), Verdict::UNCLASSIFIED, "nothing is known yet");
    network.ping(of(SUBSCRIBER, 6881), at(PEER));
    assert_eq!(network.events(KernelEvent::PeerLearned), 3, "the subscriber, its endpoint, and the peer's");
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_001), at(PEER)), BITTORRENT);
    assert_eq!(
        network.obfuscated(at("192.0.2.9:40002"), of(SUBSCRIBER, 6881)),
        BITTORRENT,
        "the subscriber's own endpoint"
    );
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_003), at("192.0.2.9:7777")), Verdict::UNCLASSIFIED);
}

#[test]
fn a_node_that_asks_back_before_it_answers_is_known() {
    let (own, ask) = (of(SUBSCRIBER, 6881), b"d1:ad2:id20:mnopqrstuvwxyz123456e1:q4:ping1:t4:pn\x00\x001:y1:qe");
    let mut network = Network::new();
    network.send(&udp(own, at(PEER), PING));
    network.send(&udp(at(PEER), own, ask));
    network.send(&udp(at(PEER), own, PONG));
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_000), at(PEER)), BITTORRENT);
    // The node's question alone proves nothing, but the flow is still learned from.
    let mut network = Network::new();
    network.send(&udp(own, at(PEER), PING));
    network.send(&udp(at(PEER), own, ask));
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_000), at(PEER)), Verdict::UNCLASSIFIED);
    network.ping(own, at(PEER));
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_001), at(PEER)), BITTORRENT);
}

#[test]
fn a_peer_known_from_the_dht_over_ipv6() {
    let mut network = Network::new();
    let (subscriber, peer) = (at("[2001:db8::1]:6881"), at("[2001:db9::7]:51413"));
    network.ping(subscriber, peer);
    assert_eq!(network.obfuscated(at("[2001:db8::1]:40000"), peer), BITTORRENT);
}

#[test]
fn a_flow_that_ended_unclassified_is_labelled_once_its_endpoint_is_known() {
    let mut network = Network::new();
    let from = of(SUBSCRIBER, 40_000);
    assert_eq!(network.obfuscated(from, at(PEER)), Verdict::UNCLASSIFIED);
    network.ping(of(SUBSCRIBER, 6881), at(PEER));
    let packet = tcp(from, at(PEER), flag::PUSH, &ciphertext(1000, 1));
    assert_eq!(network.send(&packet), Verdict::UNCLASSIFIED, "the peer cache is not looked up with every packet");
    network.now_s += 8;
    assert_eq!(network.send(&packet), BITTORRENT);
    assert_eq!(network.send(&packet), BITTORRENT);
    assert_eq!(network.events(KernelEvent::FlowRelabelled), 1);
    let reading = network.host.view().read(0);
    let packets: u64 = reading.totals.iter().map(|totals| totals.packets_up + totals.packets_down).sum();
    assert_eq!(packets, 20 + 2 + 3, "every packet counts once");
    let labelled = network.host.view().keys.iter().zip(&reading.totals).find_map(|(key, totals)| {
        let key = key.read()?;
        (key.confidence == Confidence::Association as u8).then_some(*totals)
    });
    assert_eq!(labelled.map(|totals| (totals.flows, totals.packets_up)), Some((1, 1)), "only packets after the label");
}

#[test]
fn one_forged_packet_labels_nothing() {
    for forged in [
        // A DHT query and an answer, from an address and to a port of the attacker's choice.
        udp(at("192.0.2.66:4500"), of(SUBSCRIBER, 5000), PING),
        udp(at("192.0.2.66:4500"), of(SUBSCRIBER, 5000), PONG),
        // A handshake without a connection.
        tcp(
            at("192.0.2.66:4500"),
            of(SUBSCRIBER, 5000),
            flag::PUSH,
            &[b"\x13BitTorrent protocol".as_slice(), &[0; 48]].concat(),
        ),
        // With the subscriber's own address.
        udp(of(SUBSCRIBER, 5000), at("192.0.2.66:4500"), PING),
    ] {
        let mut network = Network::new();
        network.send(&forged);
        assert_eq!(network.events(KernelEvent::PeerLearned), 0);
        // The subscriber runs BitTorrent elsewhere: that alone labels nothing, either.
        network.ping(of(SUBSCRIBER, 6881), at(PEER));
        assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_000), at("192.0.2.66:4500")), Verdict::UNCLASSIFIED);
        assert_eq!(network.obfuscated(at("192.0.2.67:40001"), of(SUBSCRIBER, 5000)), Verdict::UNCLASSIFIED);
        assert_eq!(network.datagrams(of(SUBSCRIBER, 5000), at("192.0.2.67:4500")), Verdict::UNCLASSIFIED);
    }
}

#[test]
fn a_forged_question_that_a_real_client_answers_names_no_peer() {
    let mut network = Network::new();
    // Somebody sends a ping in the name of a VPN server; the subscriber's client answers it.
    network.ping(at("192.0.2.66:4500"), of(SUBSCRIBER, 6881));
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_000), at("192.0.2.66:4500")), Verdict::UNCLASSIFIED);
    assert_eq!(network.datagrams(of(SUBSCRIBER, 40_000), at("192.0.2.66:4500")), Verdict::UNCLASSIFIED);
    // So does a uTP SYN.
    let syn = [&[0x41, 0, 0x6d, 0x0a, 1, 2, 3, 4, 0, 0, 0, 0, 0, 4, 0, 0, 0x9f, 0x31, 0, 0][..]].concat();
    let state = [&[0x21, 0, 0x6d, 0x0a, 1, 2, 3, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0x12, 0x34, 0x9f, 0x31][..]].concat();
    network.send(&udp(at("192.0.2.68:4500"), of(SUBSCRIBER, 6881), &syn));
    let verdict = network.send(&udp(of(SUBSCRIBER, 6881), at("192.0.2.68:4500"), &state));
    assert_eq!(verdict.confidence, Confidence::Structural);
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_001), at("192.0.2.68:4500")), Verdict::UNCLASSIFIED);
}

#[test]
fn nothing_is_learned_from_subscriber_addresses_on_a_core_interface() {
    let mut network = Network::with(None, 1024, true);
    network.ping(of(SUBSCRIBER, 6881), at(PEER));
    network.ping(at(PEER), of(SUBSCRIBER, 6882));
    assert_eq!(network.spoofed(SpoofReason::Spoofed), 2);
    assert_eq!(network.obfuscated(at("192.0.2.9:40002"), of(SUBSCRIBER, 6881)), Verdict::UNCLASSIFIED);
}

#[test]
fn no_subscriber_is_labelled_for_a_neighbours_flows() {
    let mut network = Network::new();
    network.ping(of(SUBSCRIBER, 6881), at(PEER));
    assert_eq!(network.obfuscated(of(NEIGHBOUR, 40_000), at(PEER)), Verdict::UNCLASSIFIED, "never spoke it");
    assert_eq!(network.obfuscated(of(NEIGHBOUR, 40_001), of(SUBSCRIBER, 6881)), Verdict::UNCLASSIFIED);
    network.ping(of(NEIGHBOUR, 6881), at("192.0.2.8:6881"));
    assert_eq!(network.obfuscated(of(NEIGHBOUR, 40_002), at(PEER)), BITTORRENT);
}

#[test]
fn a_payload_with_recognisable_structure_is_not_labelled() {
    let mut network = Network::new();
    network.ping(of(SUBSCRIBER, 6881), at(PEER));
    let tls = |number: u64| [&[0x16, 3, 1, 2, 0], &ciphertext(300, number)[..]].concat();
    assert_eq!(network.connection(of(SUBSCRIBER, 40_000), at(PEER), tls), Verdict::UNCLASSIFIED);
    let http = |_: u64| {
        b"GET /status HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\nUser-Agent: curl/7.88.1\r\n\r\n".to_vec()
    };
    assert_eq!(network.connection(of(SUBSCRIBER, 40_001), at(PEER), http), Verdict::UNCLASSIFIED);
    // A server's encrypted records after a plain hello.
    let mixed = |number: u64| if number < 2 { tls(number) } else { ciphertext(900, number) };
    assert_eq!(network.connection(of(SUBSCRIBER, 40_002), at(PEER), mixed), Verdict::UNCLASSIFIED);
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_003), at("192.0.2.7:443")), Verdict::UNCLASSIFIED, "another port");
}

#[test]
fn datagrams_are_labelled_by_the_subscribers_own_endpoint_only() {
    let mut network = Network::new();
    network.ping(of(SUBSCRIBER, 6881), at(PEER));
    assert_eq!(network.datagrams(of(SUBSCRIBER, 6881), at("192.0.2.9:7000")), BITTORRENT);
    assert_eq!(network.datagrams(of(SUBSCRIBER, 51_820), at(PEER)), Verdict::UNCLASSIFIED);
}

#[test]
fn one_datagram_each_way_is_enough_when_both_look_random() {
    let mut network = Network::new();
    network.ping(of(SUBSCRIBER, 6881), at(PEER));
    let own = of(SUBSCRIBER, 6881);
    let mut once = |own, other, asks: &[u8], answers: &[u8]| {
        assert_eq!(network.send(&udp(own, other, asks)), Verdict::UNCLASSIFIED);
        network.send(&udp(other, own, answers))
    };
    // Lengths of obfuscated Kad packets.
    let (asks, answers) = (ciphertext(51, 1), ciphertext(35, 2));
    assert_eq!(once(own, at("192.0.2.9:7000"), &asks, &answers), BITTORRENT);
    assert_eq!(once(own, at("192.0.2.10:53"), &asks, &answers), Verdict::UNCLASSIFIED, "a service's port");
    assert_eq!(
        once(of(SUBSCRIBER, 6882), at("192.0.2.11:7000"), &asks, &answers),
        Verdict::UNCLASSIFIED,
        "another port"
    );
    let status = b"status: 200 and some more words of it".as_slice();
    assert_eq!(once(own, at("192.0.2.12:7000"), &asks, status), Verdict::UNCLASSIFIED, "plain");
    assert_eq!(once(own, at("192.0.2.13:7000"), &asks, &[1, 2, 3]), Verdict::UNCLASSIFIED, "too short to tell");
}

#[test]
fn one_non_p2p_payload_does_not_hide_a_flow() {
    let mut network = Network::new();
    let initial = [&[0xc3, 0, 0, 0, 1, 8], &ciphertext(1200, 1)[..]].concat();
    assert_eq!(network.send(&udp(of(SUBSCRIBER, 6881), at(PEER), &initial)), Verdict::UNCLASSIFIED);
    assert_eq!(network.send(&udp(of(SUBSCRIBER, 6881), at(PEER), PING)).protocol, Protocol::BitTorrent);
}

#[test]
fn emules_hello_makes_its_obfuscated_flows_known() {
    let mut network = Network::new();
    let (client, remote) = (of(SUBSCRIBER, 40_000), at("192.0.2.7:4662"));
    let hello = |opcode: u8, port: u16| {
        let mut body = vec![opcode];
        if opcode == 1 {
            body.push(16);
        }
        body.extend([0xab; 16]);
        body.extend([1, 2, 3, 4]);
        body.extend(port.to_le_bytes());
        body.extend([0, 0, 0, 0]);
        [&[0xe3][..], &(body.len() as u32).to_le_bytes(), &body].concat()
    };
    network.send(&tcp(client, remote, flag::SYN, b""));
    network.send(&tcp(remote, client, flag::SYN_ACK, b""));
    network.send(&tcp(client, remote, flag::PUSH, &hello(1, 4664)));
    network.send(&tcp(remote, client, flag::PUSH, &hello(0x4c, 4662)));
    let edonkey = Verdict { protocol: Protocol::EDonkey, confidence: Confidence::Association };
    assert_eq!(network.obfuscated(at("192.0.2.9:40001"), of(SUBSCRIBER, 4664)), edonkey, "the port that it named");
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_002), remote), edonkey, "the port that it connected to");
}

#[test]
fn knowledge_expires_and_ports_of_clients_are_not_endpoints() {
    let mut network = Network::new();
    network.ping(of(SUBSCRIBER, 6881), at(PEER));
    network.now_s += u64::from(PEER_SECONDS);
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_000), at(PEER)), Verdict::UNCLASSIFIED);

    let mut network = Network::new();
    let handshake = |_: u64| [b"\x13BitTorrent protocol".as_slice(), &[0; 48]].concat();
    let verdict = network.connection(of(SUBSCRIBER, 40_000), at(PEER), handshake);
    assert_eq!(verdict.confidence, Confidence::Signature);
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_001), at(PEER)), BITTORRENT, "the accepting side is");
    assert_eq!(network.obfuscated(at("192.0.2.9:40002"), of(SUBSCRIBER, 40_000)), Verdict::UNCLASSIFIED);
}

#[test]
fn the_wait_for_the_other_side_ends() {
    let mut network = Network::new();
    let from = of(SUBSCRIBER, 40_000);
    network.send(&tcp(from, at(PEER), flag::SYN, b""));
    network.send(&tcp(from, at(PEER), flag::PUSH, &[b"\x13BitTorrent protocol".as_slice(), &[0; 48]].concat()));
    let waiting = |network: &Network| {
        // The subscriber is the lower endpoint.
        let waits = |state: &&SharedU64| FlowState(state.load()).is_learning_from(1);
        let flows = |set: &FlowSet| set.states.iter().filter(waits).count();
        network.host.view().flows.iter().map(flows).sum::<usize>()
    };
    assert_eq!(waiting(&network), 1, "the other side has not spoken yet");
    for _ in 0..PENDING_PACKETS {
        network.send(&tcp(from, at(PEER), flag::ACK, b""));
    }
    assert_eq!(waiting(&network), 0);
}

#[test]
fn a_small_table_evicts_old_peers_and_counts_it() {
    let mut network = Network::with(None, 4, false);
    for peer in 0..40 {
        network.ping(of(SUBSCRIBER, 6881), of(&format!("192.0.2.{peer}"), 6881));
    }
    assert!(network.events(KernelEvent::PeerEvicted) > 30);
    assert_eq!(network.events(KernelEvent::PeerShareUsed), 40 - 16, "a subscriber's share of so small a cache");
    assert_eq!(
        network.obfuscated(at("192.0.2.99:40002"), of(SUBSCRIBER, 6881)),
        BITTORRENT,
        "the subscriber's own stay"
    );
}
