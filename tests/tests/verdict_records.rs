//! Verdict records: one for each flow and subscriber that the flow charges with P2P protocol traffic, and none else.
//!
//! Each conversation runs on the host data path and, with the necessary rights, on the kernel's. Both must agree on
//! every record.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use monitor_common::abi::{
    event::KernelEvent,
    key::Address,
    protocol::{Confidence, Protocol},
    record::VerdictRecord,
    rule::Rule,
};
use peertally_capture::{Capture, Item};
use peertally_core::pool::Pool;
use peertally_datapath::{TableSizes, object::LoadOptions};
use peertally_tests::{
    both_datapaths::{self, BothDatapaths},
    wire::{Carrier, Connection, at, ciphertext, udp},
};

const PING: &[u8] = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe";
const PONG: &[u8] = b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re";
const SIZES: TableSizes = TableSizes { flows: 1 << 12, tallies: 1 << 10, peers: 1 << 10 };

fn world(test: &str) -> BothDatapaths {
    BothDatapaths::new(test, &LoadOptions { one_way: false, ..both_datapaths::options(SIZES) })
}

fn handshake() -> Vec<u8> {
    [b"\x13BitTorrent protocol".as_slice(), &[0; 8], &[0xab; 20], b"-TR4000-0123456789ab"].concat()
}

/// The frames of a connection in which the opener speaks first, and both take turns.
fn connection(opener: SocketAddr, other: SocketAddr, payloads: &[&[u8]]) -> Vec<Vec<u8>> {
    let (mut connection, opening) = Connection::open(opener, other);
    let turns = payloads.iter().enumerate().map(|(turn, payload)| connection.says(turn % 2 == 0, payload));
    opening.into_iter().chain(turns).collect()
}

fn play(world: &mut BothDatapaths, frames: &[Vec<u8>]) {
    for frame in frames {
        world.frame(frame);
    }
}

fn address(text: &str) -> Address {
    let ip: std::net::IpAddr = text.parse().expect("an address");
    match ip {
        std::net::IpAddr::V4(v4) => Address::v4(v4.into()),
        std::net::IpAddr::V6(v6) => Address::v6(v6.octets()),
    }
}

/// What a record says of its flow, without its verdict.
fn ends(record: &VerdictRecord) -> (Address, u16, Address, u16) {
    (record.own, record.own_port, record.remote, record.remote_port)
}

#[test]
fn an_answered_conversation_has_one_record() {
    let mut world = world("a record over TCP");
    let hello = handshake();
    let (mine, theirs) = (at("10.0.0.1:50000"), at("203.0.113.66:6881"));
    let frames = connection(mine, theirs, &[&hello, &hello, b"", b"", &[0; 5], &[0; 5]]);
    play(&mut world, &frames);
    let expected = VerdictRecord {
        time_s: world.now_s,
        block: address("10.0.0.1"),
        own: address("10.0.0.1"),
        remote: address("203.0.113.66"),
        realm: 0,
        own_port: 50_000,
        remote_port: 6881,
        block_len: 128,
        protocol: Protocol::BitTorrent as u8,
        confidence: Confidence::Signature as u8,
        rule: Rule::BtHandshake as u8,
        transport: 6,
        answered: 1,
        reserved: 0,
    };
    assert_eq!(world.records(), [expected]);
    world.now_s += 1;
    play(&mut world, &frames);
    assert_eq!(world.records(), [VerdictRecord { time_s: world.now_s, ..expected }], "its SYN begins another flow");
    assert_eq!(world.events(KernelEvent::RecordLost), 0);
}

#[test]
fn whom_nobody_charges_has_no_record() {
    let mut world = world("no record");
    let (mine, theirs) = (at("10.0.0.1:50000"), at("203.0.113.66:6881"));
    world.frame(&udp(theirs, mine, PING));
    world.frame(&udp(mine, at("203.0.113.67:6881"), PING));
    let web = at("203.0.113.66:80");
    play(
        &mut world,
        &connection(mine, web, &[b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"", b""]),
    );
    let tls = [&b"\x16\x03\x01\x02\x00"[..], &ciphertext(300, 7)].concat();
    play(&mut world, &connection(at("10.0.0.1:50001"), at("203.0.113.66:443"), &[&tls, &tls, b"", b""]));
    assert_eq!(world.records(), []);
    world.frame(&udp(mine, theirs, PONG));
    let found: Vec<_> = world.records().iter().map(ends).collect();
    let expected = (address("10.0.0.1"), 50_000, address("203.0.113.66"), 6881);
    assert_eq!(found, [expected], "the answer to the query charges the subscriber");
}

#[test]
fn both_subscribers_of_a_flow_have_a_record_each() {
    let mut world = world("a record for each subscriber");
    let (lower, higher) = (at("10.0.0.1:50000"), at("10.0.0.2:6881"));
    world.frame(&udp(higher, lower, PING));
    world.frame(&udp(lower, higher, PONG));
    world.frame(&udp(higher, lower, PING));
    let mut found: Vec<_> = world.records().iter().map(ends).collect();
    found.sort();
    let (lower, higher) = (address("10.0.0.1"), address("10.0.0.2"));
    assert_eq!(found, [(lower, 50_000, higher, 6881), (higher, 6881, lower, 50_000)]);
}

#[test]
fn a_late_proof_brings_the_rule_of_the_verdict_before_it() {
    let mut world = world("a late record");
    let (mine, theirs) = (at("10.0.0.1:40000"), at("203.0.113.66:6881"));
    for _ in 0..20 {
        world.frame(&udp(theirs, mine, PING));
    }
    assert_eq!(world.records(), []);
    world.now_s += 60;
    world.frame(&udp(mine, theirs, PONG));
    let records = world.records();
    let [record] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!((record.rule, record.time_s), (Rule::DhtQuery as u8, world.now_s));
}

#[test]
fn a_certain_verdict_after_a_provisional_one_brings_no_second_record() {
    let mut world = world("a provisional record");
    let (mine, peer) = (at("10.0.0.1:6881"), at("203.0.113.66:51413"));
    world.frame(&udp(mine, peer, PING));
    world.frame(&udp(peer, mine, PONG));
    assert_eq!(world.records().len(), 1, "the flow that makes both known");
    let mut random: Vec<Vec<u8>> = (0..4).map(|number| ciphertext(40 + 60 * number, number as u64)).collect();
    random.push(handshake());
    let payloads: Vec<&[u8]> = random.iter().map(Vec::as_slice).collect();
    play(&mut world, &connection(at("10.0.0.1:40000"), peer, &payloads));
    let found: Vec<_> = world.records().iter().map(|record| (record.own_port, record.confidence)).collect();
    assert_eq!(found, [(40_000, Confidence::Association as u8)]);
}

#[test]
fn a_record_in_a_tunnel_has_the_subscriber_outside_and_the_ends_inside() {
    let mut world = world("a record in a tunnel");
    let (mine, theirs) = (at("198.51.100.7:50000"), at("198.51.100.9:6881"));
    let (subscriber, gateway) = (at("10.0.0.1:0").ip(), at("203.0.113.200:0").ip());
    world.frame(&Carrier::Ip.carry(subscriber, gateway, &udp(mine, theirs, PING)));
    world.frame(&Carrier::Ip.carry(gateway, subscriber, &udp(theirs, mine, PONG)));
    let records = world.records();
    let [record] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!((record.block, record.own), (address("10.0.0.1"), address("198.51.100.7")));
    assert_eq!(record.remote, address("198.51.100.9"));
}

#[test]
fn a_router_that_sees_one_direction_says_that_flows_are_not_answered() {
    let mut world = BothDatapaths::new("one-way records", &both_datapaths::options(SIZES));
    world.frame(&udp(at("10.0.0.1:40000"), at("203.0.113.66:6881"), PING));
    let records = world.records();
    let [record] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!(record.answered, 0);
}

#[test]
fn records_that_find_the_buffer_full_are_counted() {
    let mut world = BothDatapaths::new(
        "a full buffer",
        &LoadOptions { one_way: false, record_bytes: 4096, ..both_datapaths::options(SIZES) },
    );
    const FLOWS: u16 = 300;
    for port in 0..FLOWS {
        let (mine, theirs) = (at("10.0.0.1:40000"), SocketAddr::new(at("203.0.113.66:0").ip(), 10_000 + port));
        world.frame(&udp(mine, theirs, PING));
        world.frame(&udp(theirs, mine, PONG));
    }
    let host = world.host.take_records();
    assert_eq!(host.len(), usize::from(FLOWS), "the host's memory is never full");
    let Some(kernel) = &mut world.kernel else { return };
    let held = kernel.object().take_records();
    let lost = kernel.event(KernelEvent::RecordLost).expect("reads");
    assert_eq!(held.len() as u64 + lost, u64::from(FLOWS));
    assert!(lost > 0 && held.len() >= 4096 / 80 - 1, "{} held", held.len());
    assert_eq!(held, host[..held.len()], "those that came first");
    // Room again.
    kernel.frame(&udp(at("10.0.0.1:1"), at("203.0.113.66:1"), PING), 100, 1_000).expect("runs");
    kernel.frame(&udp(at("203.0.113.66:1"), at("10.0.0.1:1"), PONG), 100, 1_000).expect("runs");
    assert_eq!(kernel.object().take_records().len(), 1);
}

#[test]
fn no_records_are_made_unless_they_are_wanted() {
    let mut world = BothDatapaths::new(
        "records that are off",
        &LoadOptions { record_bytes: 0, one_way: false, ..both_datapaths::options(SIZES) },
    );
    world.frame(&udp(at("10.0.0.1:1"), at("203.0.113.66:1"), PING));
    world.frame(&udp(at("203.0.113.66:1"), at("10.0.0.1:1"), PONG));
    assert_eq!(world.records(), []);
    assert_eq!(world.events(KernelEvent::RecordLost), 0);
}

/// Every capture of the corpus next to the repository; none, loudly, when there is no corpus.
fn corpus() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let folders = ["p2p", "negative"].iter().filter_map(|set| fs::read_dir(root.join(set)).ok()).flatten();
    let mut captures: Vec<PathBuf> = folders
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension != "tsv"))
        .collect();
    captures.sort();
    if captures.is_empty() {
        println!("SKIPPED: no captures in {}", root.display());
    }
    captures
}

/// Flows that each subscriber is charged with for each P2P protocol, by the tallies and by the records.
type Flows = BTreeMap<([u8; 16], u8), (u64, u64)>;

#[test]
fn records_count_the_flows_of_every_capture() {
    let pools = ["0.0.0.0/0/32", "::/0/64"].map(|pool| pool.parse::<Pool>().expect("a pool"));
    let sizes = TableSizes { flows: 1 << 16, tallies: 1 << 16, peers: 1 << 14 };
    let options = LoadOptions { pools: pools.into(), one_way: false, ..both_datapaths::options(sizes) };
    let mut world = BothDatapaths::new("records of the corpus", &options);
    let mut flows = Flows::new();
    for path in corpus() {
        let mut capture = Capture::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut frames = 0_u64;
        while let Ok(Some(item)) = capture.next_item() {
            let Item::Frame(frame) = item else { continue };
            world.now_s = world.now_s.max(frame.timestamp_ns / 1_000_000_000);
            // The test runner takes one page less its head room, and no frame shorter than an Ethernet header.
            let bytes = &frame.bytes[..frame.bytes.len().min(1_500)];
            if bytes.len() >= 14 {
                world.frame(bytes);
                frames += 1;
            }
            if frames.is_multiple_of(2_000) {
                count(&mut flows, &world.records());
            }
        }
        count(&mut flows, &world.records());
    }
    assert_eq!(world.events(KernelEvent::RecordLost), 0);
    let view = world.host.view();
    let read = view.read(0);
    for (key, totals) in view.keys.iter().zip(&read.totals) {
        let Some(key) = key.read().filter(|key| key.protocol > Protocol::Fragment as u8) else { continue };
        flows.entry((key.address, key.protocol)).or_default().0 += totals.flows;
    }
    for (subscriber, (tallies, records)) in &flows {
        assert_eq!(tallies, records, "flows and records of {subscriber:?}");
    }
    println!("{} flows have a record each", flows.values().map(|(_, records)| records).sum::<u64>());
}

fn count(flows: &mut Flows, records: &[VerdictRecord]) {
    for record in records {
        flows.entry((record.block.bytes(), record.protocol)).or_default().1 += 1;
    }
}
