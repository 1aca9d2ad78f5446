//! A spray of datagrams that nobody answers: it holds no way of the flow table for long, charges nobody, shows no
//! subscriber, and hides no flow of two sides.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use monitor_common::abi::{
    event::KernelEvent,
    limits::FRESH_SECONDS,
    outcome::Outcome,
    protocol::{Confidence, Protocol, Verdict},
    tally::{TallyKey, Totals},
};
use peertally::{
    agent::AgentState,
    config::{self, Overrides},
    export::{
        collector::{Exposition, drain_histogram},
        subscribers::{self, Shard},
    },
};
use peertally_core::{analysis::Analysis, subscriber::Pseudonyms, testing::Kernel};
use peertally_datapath::TableSizes;
use peertally_tests::wire::{Connection, at, udp};

use super::world::{World, handshake, outside, ping, pong, subscriber};

const BITTORRENT: Verdict = Verdict { protocol: Protocol::BitTorrent, confidence: Confidence::Signature };
const SIZES: TableSizes = TableSizes { flows: 256, tallies: 1 << 10, peers: 1 << 10 };

/// Queries from random sources to one subscriber after the other.
#[derive(Default)]
struct Spray {
    packets: u64,
    bytes: u64,
}

impl Spray {
    /// Counts so many of them.
    fn goes_on(&mut self, world: &mut World, packets: u32) {
        for _ in 0..packets {
            let number = self.packets as u32;
            let source = Ipv4Addr::from(0xcb00_0000 | number.wrapping_mul(0x9e37_79b1) >> 8);
            let target = Ipv4Addr::from(0x0a80_0000 + number % 200);
            let frame = udp((source, 1_024 + (number % 60_000) as u16).into(), (target, 6_881).into(), &ping(b"aa"));
            self.packets += 1;
            self.bytes += frame.len() as u64 - 14;
            world.frame(&frame);
        }
    }
}

#[test]
fn flows_of_two_sides_find_ways_once_a_spray_is_not_fresh_any_more() {
    let mut world = World::of_sizes("a spray that fills the table", SIZES);
    let mut spray = Spray::default();
    spray.goes_on(&mut world, 4_000);
    let refused = world.events(KernelEvent::FlowRefused);
    assert!(refused > 3_000, "the table is full: {refused}");
    world.now_s += u64::from(FRESH_SECONDS);
    for number in 0..40 {
        let mine = at(&format!("10.0.3.{number}:50000"));
        let (mut connection, opening) = Connection::open(mine, outside(6_881));
        world.play(&opening);
        for forth in [true, false] {
            assert_eq!(world.send(&connection.says(forth, &handshake())), BITTORRENT, "{number}");
        }
        world.frame(&connection.says(true, b""));
    }
    assert_eq!(world.events(KernelEvent::FlowRefused), refused, "each finds a way");
    let charged = world.charged();
    assert_eq!((charged.len(), charged.iter().map(|row| row.packets).sum::<u64>()), (40, 40 * 5));
    assert!(charged.iter().all(|row| row.protocol == Protocol::BitTorrent), "{charged:?}");
    let (all, unanswered) = world.node();
    assert_eq!((all.packets, unanswered.packets), (spray.packets + 40 * 5, spray.packets));
    assert_eq!(unanswered.bytes, spray.bytes);
}

/// A DHT conversation of 50 packets, and the handshake, requests and blocks of 50 packets over TCP (BEP 3).
fn conversations() -> [Vec<Vec<u8>>; 2] {
    let (mine, theirs) = (subscriber(40_000), outside(6_881));
    let dht = (0..25_u8).flat_map(|number| {
        let transaction = [b'a', number];
        [udp(mine, theirs, &ping(&transaction)), udp(theirs, mine, &pong(&transaction))]
    });
    let (mut connection, opening) = Connection::open(subscriber(50_000), outside(51_413));
    let mut peers = opening.to_vec();
    peers.extend([connection.says(true, &handshake()), connection.says(false, &handshake())]);
    for block in 0..23_u32 {
        // Length, type, piece, begin: a request has a length, too, and a block its bytes.
        let place = [7_u32.to_be_bytes(), (block << 14).to_be_bytes()].concat();
        let request = [&[0, 0, 0, 13, 6], place.as_slice(), &(1_u32 << 14).to_be_bytes()].concat();
        let answer = [&[0, 0, 0x40, 9, 7], place.as_slice(), &[0x5a; 1_200]].concat();
        peers.extend([connection.says(true, &request), connection.says(false, &answer)]);
    }
    [dht.collect(), peers]
}

#[test]
fn a_flow_of_two_sides_is_labelled_in_the_middle_of_a_spray() {
    for frames in conversations() {
        assert_eq!(frames.len(), 50);
        let mut world = World::of_sizes("the middle of a spray", SIZES);
        let mut spray = Spray::default();
        spray.goes_on(&mut world, 2_000);
        let mut outcomes = Vec::new();
        for (number, frame) in frames.iter().enumerate() {
            if number % 10 == 9 {
                world.now_s += 1;
            }
            spray.goes_on(&mut world, 40);
            outcomes.push(world.frame(frame));
        }
        assert!(world.events(KernelEvent::FlowRefused) > 1_000, "the table is full");
        // Whichever message of the flow comes first once there is a way for it.
        let labelled =
            |outcome: &Outcome| matches!(outcome, Outcome::Known(verdict) if verdict.protocol == Protocol::BitTorrent);
        assert!(outcomes.last().is_some_and(labelled), "{outcomes:?}");
        let in_flow = outcomes.iter().filter(|outcome| **outcome != Outcome::Uncached).count() as u64;
        assert!(in_flow >= 20, "{outcomes:?}");
        let charged = world.charged();
        assert_eq!(charged.len(), 1, "no tally for a target of the spray: {charged:?}");
        assert_eq!((charged[0].subscriber, charged[0].packets), (1, in_flow), "{outcomes:?}");
        let (all, unanswered) = world.node();
        let bytes: u64 = frames.iter().map(|frame| frame.len() as u64 - 14).sum();
        assert_eq!((all.packets, all.bytes), (spray.packets + 50, spray.bytes + bytes), "nothing is lost");
        assert_eq!(unanswered.packets, spray.packets + 50 - in_flow, "what came before is the interface's");
    }
}

/// What the agent shows of a world: all of `/metrics` and `/metrics/subscribers`, and how many events there were.
fn exported(world: &World) -> (String, usize) {
    let text = "[[policies]]\nname = \"flows\"\nmetric = \"flows\"\nthreshold = 1\nwindow = \"1m\"\n\
                [[policies]]\nname = \"bytes\"\nthreshold = 1\nwindow = \"1m\"\n";
    let resolved = config::parse(Path::new("p.toml"), text, &Overrides::default()).expect("valid");
    let pseudonyms = || Pseudonyms::with_key([3; 32]);
    let state = AgentState::new(resolved.datapath.inspection, resolved.evidence(), Vec::new(), drain_histogram());
    let mut analysis = Analysis::new(resolved.analysis_options(), pseudonyms());
    let mut kernel = Kernel::new();
    analysis.take(kernel.drain_at(Duration::ZERO), Default::default);
    for (key, totals) in world.tallies() {
        kernel.count(key, totals);
    }
    let snapshot = kernel.drain_at(Duration::from_secs(10));
    let mut of_subscribers = String::new();
    subscribers::write(&snapshot, &pseudonyms(), Shard::ALL, |piece| {
        of_subscribers.push_str(&piece);
        true
    });
    let (published, events) = analysis.take(snapshot, Default::default);
    state.publish(published);
    let metrics = String::from_utf8(Exposition::new(Arc::clone(&state)).text()).expect("text");
    (metrics + &of_subscribers, events.len())
}

/// The pseudonyms in what the agent shows.
fn pseudonyms(text: &str) -> BTreeSet<&str> {
    let values = text.split("subscriber=\"").skip(1);
    values.filter_map(|rest| rest.split('"').next()).collect()
}

fn victim(number: u8) -> SocketAddr {
    at(&format!("10.0.50.{number}:40000"))
}

#[test]
fn a_datagram_of_a_length_of_its_own_gives_no_address_away() {
    // Whoever sends one can look for its length among the counts of all subscribers.
    let mut world = World::new("probes");
    for number in 1..=60 {
        let probe = [ping(b"aa"), vec![0; usize::from(number)]].concat();
        world.frame(&udp(outside(6_881), victim(number), &probe));
    }
    let (text, events) = exported(&world);
    assert_eq!((pseudonyms(&text), events), (BTreeSet::new(), 0));
    assert_eq!(world.node().1.packets, 60);

    let mut twin = World::new("answered queries");
    for number in 1..=60 {
        twin.frame(&udp(outside(6_881), victim(number), &ping(b"aa")));
        twin.frame(&udp(victim(number), outside(6_881), &pong(b"aa")));
    }
    let (text, events) = exported(&twin);
    assert_eq!((pseudonyms(&text).len(), events), (60, 2 * 60));
}

#[test]
fn a_spray_fires_no_policy() {
    let mut world = World::of_sizes("a spray and policies", SIZES);
    Spray::default().goes_on(&mut world, 3_000);
    let (text, events) = exported(&world);
    assert_eq!((pseudonyms(&text), events), (BTreeSet::new(), 0));
}

impl World {
    /// Every tally that counted something.
    fn tallies(&self) -> Vec<(TallyKey, Totals)> {
        self.read(|view| {
            let read = view.read(0);
            let rows = view.keys.iter().zip(&read.totals).filter_map(|(key, totals)| Some((key.read()?, *totals)));
            let mut rows: Vec<_> = rows.filter(|(_, totals)| *totals != Totals::default()).collect();
            rows.sort_by_key(|(key, _)| *key);
            rows
        })
    }
}
