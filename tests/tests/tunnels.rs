//! Who is charged for what a tunnel carries: the subscriber at an outer end, else one inside between endpoints that the
//! operator named, else nobody. Whoever is charged, the flow has its label, and the node's counters are exact.
//!
//! Each test plays an attack and its harmless twin.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use monitor_common::abi::{
    event::KernelEvent,
    protocol::{Confidence, Protocol, Verdict},
    settings::{Heuristic, InspectionDepth},
    tally::Direction,
    watch::ContentHash,
};
use peertally_core::content_list::Watchlist;
use peertally_datapath::{
    TableSizes,
    object::LoadOptions,
    view::{View, node_rows},
};
use peertally_tests::{
    both_datapaths::{self, BothDatapaths},
    wire::{Carrier, Connection, at, ciphertext, udp},
    wrap_both_datapaths,
};

const BITTORRENT: Verdict = Verdict { protocol: Protocol::BitTorrent, confidence: Confidence::Signature };
const ASSOCIATED: Verdict = Verdict { protocol: Protocol::BitTorrent, confidence: Confidence::Association };

/// Endpoints that [`peertally_tests::kernel::load_options`] names, and a machine that it does not.
const NAMED: [&str; 2] = ["203.0.113.1", "203.0.113.15"];
const NAMED_V6: [&str; 2] = ["2001:db9:1::1", "2001:db9:1::2"];
const STRANGER: &str = "203.0.113.16";
const STRANGER_V6: &str = "2001:db9:2::1";

const VICTIM: &str = "10.9.9.9:50000";
const VICTIM_V6: &str = "[2001:db8:0:900::9]:50000";
const REMOTE: &str = "198.51.100.5:6881";
const REMOTE_V6: &str = "[2001:db9:5::5]:6881";

const PING: &[u8] = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe";
const PONG: &[u8] = b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re";

/// Packets and bytes up, then down, by subscriber.
type Charges = BTreeMap<IpAddr, [u64; 4]>;
/// Flows, packets and bytes by direction and verdict.
type NodeCounts = BTreeMap<(&'static str, &'static str, &'static str), [u64; 3]>;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Carries a frame from or to the subscriber through a tunnel; `None` leaves it as it is.
type Route<'a> = Option<(Carrier, [&'a str; 2])>;

fn route(route: Route<'_>, forth: bool, frame: &[u8]) -> Vec<u8> {
    let Some((carrier, [near, far])) = route else { return frame.to_vec() };
    let (from, to) = if forth { (near, far) } else { (far, near) };
    carrier.carry(ip(from), ip(to), frame)
}

/// A BitTorrent connection of eight packets, which both sides take part in: true for packets of the opener.
fn connection(opener: SocketAddr, other: SocketAddr) -> Vec<(bool, Vec<u8>)> {
    let handshake = |id: &[u8]| [b"\x13BitTorrent protocol".as_slice(), &[0; 8], &[7; 20], id].concat();
    let (mut connection, [syn, answer]) = Connection::open(opener, other);
    let mut frames = vec![(true, syn), (false, answer)];
    for (forth, payload) in [
        (true, handshake(b"-TR4000-0123456789ab")),
        (false, handshake(b"-qB5000-0123456789ab")),
        (true, vec![0x55; 900]),
        (false, vec![0x55; 1300]),
        (true, vec![0x55; 30]),
        (false, vec![0x55; 1300]),
    ] {
        frames.push((forth, connection.says(forth, &payload)));
    }
    frames
}

fn options() -> LoadOptions {
    both_datapaths::options(TableSizes { flows: 4096, tallies: 256, peers: 1024 })
}

wrap_both_datapaths!(
    /// Both data paths, and conversations through tunnels.
    Network
);

impl Network {
    fn new() -> Self {
        Self::with(&options())
    }

    fn with(options: &LoadOptions) -> Self {
        Self(BothDatapaths::new("tunnels", options))
    }

    /// Names other endpoints, as a restart of the agent does.
    fn name(&mut self, endpoints: &[&str]) {
        let endpoints: Vec<_> = endpoints.iter().map(|prefix| prefix.parse().expect("a prefix")).collect();
        self.host.set_tunnel_endpoints(&endpoints);
        if let Some(kernel) = &mut self.kernel {
            kernel.object().configure(&LoadOptions { tunnel_endpoints: endpoints, ..options() }).expect("writes");
        }
    }

    /// Plays a conversation through a tunnel; the last verdict, and the packets and bytes of each side.
    fn play(&mut self, through: Route<'_>, conversation: &[(bool, Vec<u8>)]) -> (Verdict, [u64; 4]) {
        let (mut verdict, mut counts) = (Verdict::UNCLASSIFIED, [0; 4]);
        for (forth, frame) in conversation {
            let frame = route(through, *forth, frame);
            verdict = self.send(&frame);
            let side = if *forth { 0 } else { 2 };
            counts[side] += 1;
            counts[side + 1] += frame.len() as u64 - 14;
        }
        (verdict, counts)
    }

    /// A DHT ping and its answer.
    fn ping(&mut self, through: Route<'_>, from: SocketAddr, to: SocketAddr) -> Verdict {
        self.play(through, &[(true, udp(from, to, PING)), (false, udp(to, from, PONG))]).0
    }

    /// The last verdict of a connection that looks like MSE.
    fn obfuscated(&mut self, through: Route<'_>, from: SocketAddr, to: SocketAddr) -> Verdict {
        let salt = u64::from(from.port()) << 32 | u64::from(to.port()) << 16;
        let (mut connection, [syn, answer]) = Connection::open(from, to);
        let mut frames = vec![(true, syn), (false, answer)];
        for number in 0..9 {
            let bytes = |number| ciphertext(200 + number as usize, salt | number);
            frames.push((true, connection.says(true, &bytes(2 * number))));
            frames.push((false, connection.says(false, &bytes(2 * number + 1))));
        }
        self.play(through, &frames).0
    }

    /// What was charged, and the node's counters, on which both paths agree.
    fn counts(&self) -> (Charges, NodeCounts) {
        let found = counts(&self.host.view());
        if let Some(kernel) = &self.kernel {
            assert_eq!(counts(&kernel.view()), found, "kernel and host");
        }
        found
    }
}

fn counts(view: &View<'_>) -> (Charges, NodeCounts) {
    let read = view.read(0);
    let mut charges = Charges::new();
    for (key, totals) in view.keys.iter().zip(&read.totals) {
        let counts = [totals.packets_up, totals.bytes_up, totals.packets_down, totals.bytes_down];
        let Some(key) = key.read() else { continue };
        if counts != [0; 4] {
            let address = Ipv6Addr::from(key.address);
            let address = address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4);
            let sum = charges.entry(address).or_default();
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }
    let rows = node_rows(&read.node, &[]).into_iter().map(|row| {
        let key = (row.direction.label(), row.verdict.protocol.label(), row.verdict.confidence.label());
        (key, [row.flows, row.packets, row.bytes])
    });
    (charges, rows.collect())
}

/// Adds a flow of a subscriber's conversation to the node's counters.
fn add_flow(node: &mut NodeCounts, verdict: Verdict, sides: [u64; 4]) {
    for (direction, counts) in [(Direction::Up, [1, sides[0], sides[1]]), (Direction::Down, [0, sides[2], sides[3]])] {
        let key = (direction.label(), verdict.protocol.label(), verdict.confidence.label());
        let sum = node.entry(key).or_default();
        sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
}

#[test]
fn a_subscriber_inside_is_charged_between_named_endpoints_only() {
    let (v4, v6) = ((at(VICTIM), at(REMOTE)), (at(VICTIM_V6), at(REMOTE_V6)));
    let cases = [
        (Carrier::Gtpu(0), v4, NAMED, STRANGER),
        (Carrier::Gtpu(2), v6, NAMED, STRANGER),
        (Carrier::Gtpu(1), v4, NAMED_V6, STRANGER_V6),
        (Carrier::Ip, v4, NAMED, STRANGER),
        (Carrier::Ip, v6, NAMED, STRANGER),
        (Carrier::Ip, v4, NAMED_V6, STRANGER_V6),
        (Carrier::Gre, v4, NAMED, STRANGER),
        (Carrier::Gre, v6, NAMED_V6, STRANGER_V6),
    ];
    let (mut honest, mut forged) = (Network::new(), Network::new());
    let (mut charges, mut honest_node, mut forged_node) = (Charges::new(), NodeCounts::new(), NodeCounts::new());
    for (number, (carrier, (victim, remote), named, stranger)) in (0..).zip(cases) {
        // A subscriber for each case.
        let (victim, block) = match victim.ip() {
            IpAddr::V4(address) => {
                let address = IpAddr::from((address.to_bits() - number).to_be_bytes());
                (SocketAddr::new(address, victim.port()), address)
            }
            IpAddr::V6(address) => {
                let block = address.to_bits() >> 72 << 72 | u128::from(number) << 72;
                (
                    SocketAddr::new(Ipv6Addr::from_bits(block | 9).into(), victim.port()),
                    Ipv6Addr::from_bits(block).into(),
                )
            }
        };
        let conversation = connection(victim, remote);
        let (verdict, sides) = honest.play(Some((carrier, named)), &conversation);
        assert_eq!(verdict, BITTORRENT, "{carrier:?}");
        assert_eq!(charges.insert(block, sides), None);
        add_flow(&mut honest_node, BITTORRENT, sides);

        // One named end proves nothing: the sender chooses the other one.
        for ends in [[named[0], stranger], [stranger, named[1]], [stranger, stranger]] {
            let (verdict, sides) = forged.play(Some((carrier, ends)), &conversation);
            assert_eq!(verdict, BITTORRENT, "the label stands: {carrier:?}");
            add_flow(&mut forged_node, BITTORRENT, sides);
        }
    }
    assert_eq!(honest.counts(), (charges, honest_node));
    assert_eq!(honest.events(KernelEvent::TunnelUnvouched), 0);
    assert_eq!(forged.counts(), (Charges::new(), forged_node));
    assert_eq!(forged.events(KernelEvent::TunnelUnvouched), 3 * cases.len() as u64, "one for each flow");
}

#[test]
fn two_subscribers_inside_are_both_charged_or_neither_is() {
    let other = at("10.1.1.1:6881");
    let conversation = connection(at(VICTIM), other);
    for (ends, charged) in [(NAMED, true), ([NAMED[0], STRANGER], false)] {
        let mut network = Network::new();
        let (_, sides) = network.play(Some((Carrier::Gtpu(0), ends)), &conversation);
        let [up, up_bytes, down, down_bytes] = sides;
        let (charges, node) = network.counts();
        let both = [(at(VICTIM).ip(), sides), (other.ip(), [down, down_bytes, up, up_bytes])];
        assert_eq!(charges, if charged { both.into() } else { Charges::new() });
        let key = (Direction::Local.label(), BITTORRENT.protocol.label(), BITTORRENT.confidence.label());
        assert_eq!(node, [(key, [1, up + down, up_bytes + down_bytes])].into());
    }
}

#[test]
fn an_outer_end_that_is_a_subscriber_is_charged_alone() {
    let mut network = Network::new();
    let (mut charges, mut node) = (Charges::new(), NodeCounts::new());
    // DS-Lite and 6in4: the line's own address is outside. Its owner writes what is inside.
    for (number, conversation) in [
        connection(at("192.168.1.2:50000"), at(REMOTE)),
        connection(at(VICTIM), at(REMOTE)),
        connection(at("192.168.1.2:50000"), at("10.9.9.9:6881")),
        connection(at("[2001:db8:0:900::9]:50000"), at("[2001:db8:0:a00::9]:6881")),
    ]
    .iter()
    .enumerate()
    {
        for (digit, far) in [STRANGER, NAMED[0]].iter().enumerate() {
            let line = format!("10.0.{digit}.{number}");
            let (verdict, sides) = network.play(Some((Carrier::Ip, [&line, far])), conversation);
            assert_eq!(verdict, BITTORRENT);
            charges.insert(ip(&line), sides);
            add_flow(&mut node, BITTORRENT, sides);
        }
    }
    assert_eq!(network.counts(), (charges, node));
    assert_eq!(network.events(KernelEvent::TunnelUnvouched), 0);
}

#[test]
fn other_prefixes_at_the_next_start_replace_the_former_ones() {
    let through = Some((Carrier::Gtpu(0), NAMED));
    let mut network = Network::new();
    network.name(&["203.0.113.15/32", "198.51.100.0/24"]);
    network.play(through, &connection(at(VICTIM), at(REMOTE)));
    assert_eq!(network.counts().0, Charges::new());
    network.name(&["203.0.113.15/32", "203.0.113.0/30"]);
    let (_, sides) = network.play(through, &connection(at("10.9.9.9:50001"), at(REMOTE)));
    assert_eq!(network.counts().0, [(at(VICTIM).ip(), sides)].into());
}

#[test]
fn a_packet_that_finds_the_flow_table_full_is_charged_by_the_same_rule() {
    // One set of four ways: four flows of this second leave none for a fifth.
    let full = |through| {
        let mut network = Network::with(&both_datapaths::options(TableSizes { flows: 4, tallies: 256, peers: 64 }));
        for port in 0..4 {
            network.send(&udp(SocketAddr::new(ip("10.0.0.1"), 1000 + port), at(REMOTE), b"x"));
        }
        let inner = udp(at(VICTIM), at(REMOTE), PING);
        network.frame(&route(through, true, &inner));
        assert_eq!(network.events(KernelEvent::FlowRefused), 1);
        let (charges, node) = network.counts();
        let packets: u64 = node.values().map(|counts| counts[1]).sum();
        assert_eq!(packets, 5, "every packet counts at node level");
        charges.contains_key(&at(VICTIM).ip())
    };
    assert!(!full(Some((Carrier::Gtpu(0), [NAMED[0], STRANGER]))));
    assert_eq!(full(Some((Carrier::Gtpu(0), NAMED))), full(None), "as without a tunnel");
}

#[test]
fn a_strangers_tunnel_teaches_nothing_of_a_subscriber_outside_it() {
    let (peer, own) = (at("192.0.2.7:51413"), at("10.9.9.9:6881"));
    let neighbour = at("10.0.0.2:6881");
    let label = |through: Route<'_>| {
        let mut network = Network::new();
        // The peer is known from a neighbour. The victim has an encrypted connection to it, of whatever kind.
        network.ping(None, neighbour, peer);
        assert_eq!(network.obfuscated(None, at("10.9.9.9:40000"), peer), Verdict::UNCLASSIFIED);
        // Anybody may play both sides of a conversation inside a tunnel.
        network.ping(through, own, at("192.0.2.9:6881"));
        network.obfuscated(None, at("10.9.9.9:40001"), peer)
    };
    assert_eq!(label(Some((Carrier::Gtpu(0), [NAMED[0], STRANGER]))), Verdict::UNCLASSIFIED);
    assert_eq!(label(Some((Carrier::Gtpu(0), NAMED))), ASSOCIATED);
    assert_eq!(label(None), ASSOCIATED);
}

#[test]
fn a_strangers_tunnel_has_its_own_labels_by_association() {
    for ends in [NAMED, [NAMED[0], STRANGER]] {
        let through = Some((Carrier::Gtpu(0), ends));
        let mut network = Network::new();
        network.ping(through, at("10.9.9.9:6881"), at(REMOTE));
        assert_eq!(network.obfuscated(through, at("10.9.9.9:40000"), at(REMOTE)), ASSOCIATED, "{ends:?}");
    }
}

#[test]
fn connections_in_a_strangers_tunnel_are_no_behaviour_of_a_subscriber() {
    let label = |through: Route<'_>| {
        let heuristic = Some(Heuristic { endpoints: 4, window_s: 60 });
        let mut network = Network::with(&LoadOptions { heuristic, ..options() });
        network.ping(None, at("10.9.9.9:6881"), at("192.0.2.7:51413"));
        for number in 1..30 {
            let peer = SocketAddr::new(ip(&format!("192.0.2.{number}")), 20_000 + 7 * number);
            network.obfuscated(through, SocketAddr::new(at(VICTIM).ip(), 41_000 + number), peer);
        }
        network.obfuscated(None, at("10.9.9.9:40001"), at("198.51.100.77:20000")).confidence
    };
    assert_eq!(label(Some((Carrier::Gtpu(0), [NAMED[0], STRANGER]))), Confidence::None);
    assert_eq!(label(Some((Carrier::Gtpu(0), NAMED))), Confidence::Heuristic);
}

#[test]
fn content_named_in_a_strangers_tunnel_is_no_hit() {
    let hash = [7; 20];
    let watchlist = Arc::new(Watchlist::of(vec![ContentHash::from_bytes(&hash)]));
    let options = LoadOptions { inspection: InspectionDepth::Watchlist, watchlist, ..options() };
    let hits = |through| {
        let mut network = Network::with(&options);
        network.play(through, &connection(at(VICTIM), at(REMOTE)));
        let (reported, tallies) = network.host.watchlist_hits();
        assert_eq!(reported.is_empty(), tallies.is_empty());
        assert_eq!(network.events(KernelEvent::WatchlistHit), reported.len() as u64);
        reported.len()
    };
    assert_eq!(hits(Some((Carrier::Gtpu(0), [NAMED[0], STRANGER]))), 0);
    assert_eq!(hits(Some((Carrier::Gtpu(0), NAMED))), 1);
    assert_eq!(hits(None), 1);
}
