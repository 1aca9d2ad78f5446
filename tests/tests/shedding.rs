//! Shedding: a flood of packets that each open a flow costs a bounded number of flows and inspections, loses no count,
//! and lets flows through that both sides speak. On the host and in the kernel, frame by frame.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use aya::{TestRun as _, TestRunOptions};
use monitor_common::abi::{
    event::KernelEvent,
    limits::{SHED_BATCH, SHED_BUCKET_NS, SHED_WAYS},
    outcome::Outcome,
    protocol::{Confidence, Protocol, Verdict},
    settings::Shedding,
};
use peertally_core::words::Role;
use peertally_datapath::{
    TableSizes,
    object::{LoadOptions, LoadedObject, MonitoredInterface},
    view::TableRead,
};
use peertally_tests::{
    both_datapaths::{BothDatapaths, options},
    kernel::may_use_kernel,
    wire::{Connection, at, flag, tcp, udp},
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

const BITTORRENT: Verdict = Verdict { protocol: Protocol::BitTorrent, confidence: Confidence::Signature };
/// First bytes of the BitTorrent handshake (BEP 3), at its length.
const HANDSHAKE: &[u8; 68] = b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0aaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbb";
/// A payload of no protocol, from and to ports that peers choose.
const OPAQUE: &[u8] = b"no protocol that anybody speaks";
/// Packets a second for a CPU.
const PACKETS_PER_SECOND: u32 = 1_000;
/// Tokens of a full bucket.
const BUCKET: u64 = PACKETS_PER_SECOND as u64 * SHED_BUCKET_NS / 1_000_000_000;

/// Both data paths. This thread stays on one CPU, since each CPU has tokens of its own.
fn both(test: &str, options: &LoadOptions) -> BothDatapaths {
    stay_on_one_cpu();
    BothDatapaths::new(&format!("shedding: {test}"), options)
}

fn stay_on_one_cpu() {
    let mut first = CpuSet::new();
    let allowed = sched_getaffinity(None).expect("this thread's CPUs");
    first.set((0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).expect("a CPU"));
    sched_setaffinity(None, &first).expect("pinned");
}

/// A data path whose bucket of new flows is never empty before a CPU's.
fn bounded() -> LoadOptions {
    let sizes = TableSizes { flows: 1 << 16, tallies: 1 << 14, peers: 1024 };
    LoadOptions { shedding: Some(Shedding { packets_per_second: PACKETS_PER_SECOND }), ..options(sizes) }
}

fn subscriber() -> SocketAddr {
    at("10.0.0.1:40000")
}

fn peer() -> SocketAddr {
    at("198.51.100.1:51413")
}

/// A flood from outside to one subscriber after the other, none of two flows.
#[derive(Default)]
struct Flood {
    packets: u32,
    bytes: u64,
}

impl Flood {
    fn ends(&mut self) -> (SocketAddr, SocketAddr) {
        self.packets += 1;
        let outside = Ipv4Addr::from(0xcb00_0000 + self.packets);
        let inside = Ipv4Addr::from(0x0a80_0000 + self.packets % 1024);
        ((outside, 50_000).into(), (inside, 50_001).into())
    }

    fn packet(&mut self) -> Vec<u8> {
        let (outside, inside) = self.ends();
        let frame = tcp(outside, inside, flag::SYN, b"");
        self.bytes += frame.len() as u64 - 14;
        frame
    }
}

/// Packets and bytes of all tallies, and those at node level, once every flow is settled.
fn sums(read: &TableRead) -> [(u64, u64); 2] {
    let tallies = read.totals.iter().map(|each| (each.packets_up + each.packets_down, each.bytes_up + each.bytes_down));
    let node = read.node.iter().map(|each| (each.packets, each.bytes));
    let sum = |all: (u64, u64), each: (u64, u64)| (all.0 + each.0, all.1 + each.1);
    [tallies.fold((0, 0), sum), node.fold((0, 0), sum)]
}

/// Fails unless both have counted all packets at node level, and all but the shed ones in tallies.
fn expect_exactly(both: &BothDatapaths, packets: u64, bytes: u64) {
    let shed = both.shed();
    let mut reads = vec![both.host.view().read(0)];
    reads.extend(both.kernel.as_ref().map(|kernel| kernel.view().read(0)));
    for read in reads {
        assert_eq!((read.pending.packets, read.internal_errors), (0, 0));
        let [tallies, node] = sums(&read);
        assert_eq!(node, (packets, bytes), "node level");
        assert_eq!(tallies, (packets - shed.packets, bytes - shed.bytes), "tallies");
    }
    assert_eq!(both.events(KernelEvent::InternalError), 0);
}

#[test]
fn a_flow_of_two_sides_is_labelled_amid_a_flood_and_nothing_is_lost() {
    let mut both = both("a flow of two sides", &bounded());
    let (mut flood, mut bytes) = (Flood::default(), 0);
    let (mut conversation, opening) = Connection::open(subscriber(), peer());
    let mut frames = opening.to_vec();
    frames.push(conversation.says(true, b""));
    frames.extend([conversation.says(true, HANDSHAKE), conversation.says(false, HANDSHAKE)]);
    while frames.len() < 50 {
        let forth = frames.len().is_multiple_of(2);
        frames.push(conversation.says(forth, OPAQUE));
    }
    let mut outcomes = Vec::new();
    for (number, frame) in frames.iter().enumerate() {
        if number.is_multiple_of(10) {
            both.now_s += 1;
        }
        for _ in 0..40 {
            both.frame(&flood.packet());
        }
        outcomes.push(both.frame(frame));
        bytes += frame.len() as u64 - 14;
    }
    let labelled =
        outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Known(verdict) if *verdict == BITTORRENT));
    assert!(labelled.count() >= 45, "{outcomes:?}");
    assert!(both.shed().packets > 1_000, "there was no flood: {:?}", both.shed());
    expect_exactly(&both, u64::from(flood.packets) + 50, flood.bytes + bytes);
    let opened = both.events(KernelEvent::FlowNew);
    assert_eq!(opened + both.shed().packets, u64::from(flood.packets) + 1 + shed_of(&outcomes), "each is one or other");
}

/// Packets of a conversation that were shed.
fn shed_of(outcomes: &[Outcome]) -> u64 {
    outcomes.iter().filter(|outcome| **outcome == Outcome::Uncached).count() as u64
}

#[test]
fn half_of_a_bucket_is_for_packets_that_bring_a_subscribers_own_payload() {
    let mut both = both("the reserved half", &bounded());
    let mut flood = Flood::default();
    let outcomes: Vec<Outcome> = (0..BUCKET).map(|_| both.frame(&flood.packet())).collect();
    assert_eq!(shed_of(&outcomes), BUCKET / 2);
    assert_eq!(both.events(KernelEvent::FlowNew), BUCKET / 2);
    // A subscriber's packet without payload is as any other.
    assert_eq!(both.frame(&tcp(subscriber(), peer(), flag::SYN, b"")), Outcome::Uncached);
    let mut own = |port: u64| both.frame(&udp((Ipv4Addr::new(10, 0, 0, 2), port as u16).into(), peer(), OPAQUE));
    let outcomes: Vec<Outcome> = (0..BUCKET).map(|number| own(20_000 + number)).collect();
    assert_eq!(shed_of(&outcomes), BUCKET / 2);
    // A tenth of a second fills the bucket, and no more.
    both.now_s += 1;
    let outcomes: Vec<Outcome> = (0..BUCKET).map(|_| both.frame(&flood.packet())).collect();
    assert_eq!(shed_of(&outcomes), BUCKET / 2);
}

#[test]
fn nobody_has_a_reserve_on_the_core_side() {
    let mut side = MonitoredInterface::access(1);
    side.role = Role::Core;
    let mut both = both("the core side", &LoadOptions { interfaces: vec![side], ..bounded() });
    // To a subscriber: to anybody else it would open no flow.
    let receiver = (Ipv4Addr::new(10, 0, 0, 3), 6881).into();
    let mut own = |port: u64| both.frame(&udp((Ipv4Addr::new(10, 0, 0, 2), port as u16).into(), receiver, OPAQUE));
    let outcomes: Vec<Outcome> = (0..BUCKET).map(|number| own(20_000 + number)).collect();
    assert_eq!(shed_of(&outcomes), BUCKET / 2, "the source may be spoofed");
}

#[test]
fn a_tunnel_that_nobody_named_has_no_reserve() {
    let mut both = both("tunnels", &LoadOptions { tunnel_endpoints: Vec::new(), ..bounded() });
    let mut inside = |port: u64| {
        let own = udp((Ipv4Addr::new(10, 0, 0, 2), port as u16).into(), peer(), OPAQUE);
        // IP in IP (RFC 2003): anybody can write it.
        let (ethernet, inner) = own.split_at(14);
        let mut outer = vec![0x45, 0, 0, 20 + inner.len() as u8, 0, 0, 0, 0, 64, 4, 0, 0];
        outer.extend([203, 0, 113, 1, 203, 0, 113, 2]);
        both.frame(&[ethernet, &outer, inner].concat())
    };
    let outcomes: Vec<Outcome> = (0..BUCKET).map(|number| inside(20_000 + number)).collect();
    assert_eq!(shed_of(&outcomes), BUCKET / 2);
    assert_eq!(inside(20_000), Outcome::Known(Verdict::UNCLASSIFIED));
    assert_eq!(both.events(KernelEvent::InspectionShed), 1);
    assert_eq!(both.events(KernelEvent::TunnelUnvouched), BUCKET / 2, "of flows");
}

#[test]
fn a_payload_that_is_not_inspected_costs_its_flow_no_inspection() {
    let mut both = both("inspections", &bounded());
    let (mut flood, inside, outside) = (Flood::default(), at("10.0.0.2:50001"), at("203.0.113.9:50000"));
    assert_eq!(both.frame(&udp(outside, inside, OPAQUE)), Outcome::New(Verdict::UNCLASSIFIED));
    while both.frame(&flood.packet()) != Outcome::Uncached {}
    for shed in 1..=20 {
        let found = both.frame(&udp(outside, inside, b"d1:ad2:id20:"));
        assert_eq!(found, Outcome::Known(Verdict::UNCLASSIFIED));
        assert_eq!(both.events(KernelEvent::InspectionShed), shed);
    }
    // The first answer draws on the reserve, and later ones of the subscriber do.
    assert_eq!(both.frame(&udp(inside, outside, OPAQUE)), Outcome::Known(Verdict::UNCLASSIFIED));
    assert_eq!(both.events(KernelEvent::InspectionShed), 20);
    both.now_s += 1;
    let query = b"d1:ad2:id20:aaaaaaaaaaaaaaaaaaaae1:q4:ping1:t2:aa1:y1:qe";
    assert_eq!(both.frame(&udp(outside, inside, query)), Outcome::Known(BITTORRENT), "its inspections are left");
    assert_eq!(both.events(KernelEvent::InspectionShed), 20, "the bucket is full again");
    let payloads = 2 * OPAQUE.len() + 20 * 12 + query.len();
    expect_exactly(&both, u64::from(flood.packets) + 23, flood.bytes + 23 * 28 + payloads as u64);
}

#[test]
fn the_answer_to_a_flow_is_inspected_from_the_reserve() {
    let mut both = both("answers", &bounded());
    let mut flood = Flood::default();
    // Subscribers talk to outside without payload first, so only the answer is inspected.
    assert_eq!(both.frame(&tcp(subscriber(), peer(), flag::SYN, b"")), Outcome::New(Verdict::UNCLASSIFIED));
    while both.frame(&flood.packet()) != Outcome::Uncached {}
    assert_eq!(both.frame(&tcp(peer(), subscriber(), flag::PUSH, HANDSHAKE)), Outcome::Known(BITTORRENT));
    assert_eq!(both.events(KernelEvent::InspectionShed), 0);
}

#[test]
fn a_stream_whose_first_payload_was_not_inspected_has_not_been_seen_from_its_start() {
    let learned = |is_first_shed: bool| {
        let mut both = both("a stream's start", &bounded());
        let (mut conversation, opening) = Connection::open(subscriber(), peer());
        for frame in &opening {
            both.frame(frame);
        }
        if is_first_shed {
            let mut flood = Flood::default();
            while both.frame(&flood.packet()) != Outcome::Uncached {}
            both.frame(&conversation.says(false, OPAQUE));
            assert_eq!(both.events(KernelEvent::InspectionShed), 1);
            both.now_s += 1;
        }
        for forth in [false, true] {
            assert_eq!(both.frame(&conversation.says(forth, HANDSHAKE)), Outcome::Known(BITTORRENT));
        }
        both.events(KernelEvent::PeerLearned)
    };
    // A web server can send these bytes in the middle of a page, and must not become a peer by them: only the
    // subscriber does.
    assert_eq!((learned(false), learned(true)), (2, 1));
}

#[test]
fn all_cpus_together_open_a_quarter_of_the_ways_in_a_second() {
    let sizes = TableSizes { flows: 1 << 10, tallies: 1 << 14, peers: 1024 };
    let shedding = Some(Shedding { packets_per_second: 100_000_000 });
    let mut both = both("all CPUs", &LoadOptions { shedding, ..options(sizes) });
    let (mut flood, bucket) = (Flood::default(), u64::from(sizes.flows) / SHED_WAYS);
    let mut opened = || {
        let outcomes: Vec<Outcome> = (0..2 * bucket).map(|_| both.frame(&flood.packet())).collect();
        2 * bucket - shed_of(&outcomes)
    };
    // Time stands still within a second of a test, so its common packets draw on half of the bucket at once.
    let found = [opened(), opened()];
    assert_eq!(found[1], 0);
    assert!(found[0].abs_diff(bucket / 2) <= u64::from(SHED_BATCH), "{found:?} of {bucket}");
    let own = |port: u64| udp((Ipv4Addr::new(10, 0, 0, 2), port as u16).into(), peer(), OPAQUE);
    let outcomes: Vec<Outcome> = (0..bucket).map(|number| both.frame(&own(20_000 + number))).collect();
    let reserved = bucket - shed_of(&outcomes);
    assert!(reserved.abs_diff(bucket / 2) <= 2 * u64::from(SHED_BATCH), "{reserved} of {bucket}");
    assert_eq!(both.events(KernelEvent::FlowRefused), 0, "half of the ways are left");
}

#[test]
fn a_bucket_is_refilled_by_the_kernels_clock() {
    if !may_use_kernel("shedding: the kernel's clock").expect("rights") {
        return;
    }
    stay_on_one_cpu();
    const PER_SECOND: u64 = 100;
    let shedding = Some(Shedding { packets_per_second: PER_SECOND as u32 });
    let options = LoadOptions { shedding, replaying: false, ..bounded() };
    let mut object = LoadedObject::load(&options).expect("the program loads");
    let (mut flood, start) = (Flood::default(), Instant::now());
    while start.elapsed() < Duration::from_secs(1) {
        let frame = flood.packet();
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() };
        object.program().expect("the program").test_run(options).expect("the test runner takes the frame");
    }
    let took = start.elapsed();
    let opened = object.event(KernelEvent::FlowNew).expect("reads");
    let shed: u64 = object.shed().expect("reads").iter().map(|tally| tally.packets).sum();
    assert_eq!(opened + shed, u64::from(flood.packets));
    assert!(shed > 0, "too few packets for a flood: {}", flood.packets);
    // Half of a bucket, what a second brings, and a tick on either side.
    let most = PER_SECOND / 10 / 2 + PER_SECOND * (took.as_millis() as u64 + 20) / 1000;
    assert!((PER_SECOND / 4..=most).contains(&opened), "{opened} flows in {took:?}, at most {most}");
}

#[test]
fn without_a_bound_nothing_is_shed() {
    let mut both = both("off", &LoadOptions { shedding: None, ..bounded() });
    let mut flood = Flood::default();
    let outcomes: Vec<Outcome> = (0..20 * BUCKET).map(|_| both.frame(&flood.packet())).collect();
    assert_eq!(shed_of(&outcomes), 0);
    assert_eq!((both.shed().packets, both.events(KernelEvent::FlowNew)), (0, 20 * BUCKET));
    expect_exactly(&both, 20 * BUCKET, flood.bytes);
}

#[test]
fn a_syn_restarts_a_flow_whatever_is_left() {
    let mut both = both("restarts", &bounded());
    let mut flood = Flood::default();
    assert_eq!(both.frame(&tcp(subscriber(), peer(), flag::PUSH, HANDSHAKE)), Outcome::New(BITTORRENT));
    while both.frame(&flood.packet()) != Outcome::Uncached {}
    // Else the next connection of these ports would inherit the verdict.
    assert_eq!(both.frame(&tcp(subscriber(), peer(), flag::SYN, b"")), Outcome::Restarted(Verdict::UNCLASSIFIED));
}
