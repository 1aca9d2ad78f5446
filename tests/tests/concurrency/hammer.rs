//! Two CPUs, two interfaces, both directions, connections that restart all the time, and a constant drain.
//!
//! Runs for ten seconds, or for `PEERTALLY_HAMMER_SECONDS`. Frames go through the kernel's test runner with the number
//! of their interface, so the number of sent bytes is known exactly.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::{
    TestRun as _, TestRunOptions,
    programs::{Xdp, xdp::XdpMode},
};
use monitor_common::{
    abi::{event::KernelEvent, key::Address, protocol::Protocol, tally::Direction},
    bpf::shared_u64::SharedU64,
};
use peertally_datapath::{
    TableSizes,
    object::{LoadOptions, LoadedObject, MonitoredInterface},
    view::{TableRead, node_index_parts},
};
use peertally_lab::{CORE, Lab, access, output, require};
use peertally_tests::{both_datapaths, kernel::pin, random::Random, tables::Tables};

use crate::CPUS;

/// Names the length of the test in seconds.
const SECONDS_VARIABLE: &str = "PEERTALLY_HAMMER_SECONDS";
const SECONDS: u64 = 10;
/// Number of flows: four times the room of the table.
const FLOWS: usize = 64;
const CACHE: u32 = 16;
/// One flow of so many speaks BitTorrent: together they fill half the table, where they stay for a minute of the clock.
const P2P_EVERY: usize = 8;
/// Flows that are active at a time.
const ACTIVE: u64 = 12;
/// Seconds of the program's clock that they are: then others come, and may take their place once they are not fresh any
/// more.
const ACTIVE_S: u64 = 4;
/// Packets of the first CPU in one second of the program's clock.
const PACKETS_PER_SECOND: u64 = 1_000;
/// Idle seconds after which a drain settles pending flows: few, so that it does so under the packets' feet.
const IDLE_S: u16 = 3;

/// The kinds of frames of a flow: up and down, opening and data.
const KINDS: usize = 4;

/// A frame of a flow between a subscriber and a server of its own. The first kind opens, the others carry data; the
/// last two come from the server.
fn frame(flow: usize, kind: usize) -> Vec<u8> {
    let (up, opens) = (kind < 2, kind == 0);
    let payload: &[u8] = match (opens, flow.is_multiple_of(P2P_EVERY)) {
        (true, _) => b"",
        (false, true) => b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0",
        (false, false) => &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and more"[..11 + kind * 3],
    };
    let subscriber = ([10, 0, 0, flow as u8], 0xc000 | flow as u16);
    let server = ([192, 0, 2, flow as u8], 0x1a00 | flow as u16);
    let (source, destination) = if up { (subscriber, server) } else { (server, subscriber) };
    let mut bytes = vec![0; 12];
    bytes.extend([0x08, 0x00, 0x45, 0]);
    bytes.extend((40 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0, 0, 0, 64, 6, 0, 0]);
    bytes.extend(source.0);
    bytes.extend(destination.0);
    bytes.extend(source.1.to_be_bytes());
    bytes.extend(destination.1.to_be_bytes());
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, if opens { 0x02 } else { 0x18 }, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(payload);
    bytes
}

/// `struct xdp_md` (include/uapi/linux/bpf.h) of a frame of this length on this interface.
fn context(frame: &[u8], interface: u32) -> Vec<u8> {
    let fields = [0, frame.len() as u32, 0, interface, 0, 0];
    fields.iter().flat_map(|field: &u32| field.to_ne_bytes()).collect()
}

/// Packets and bytes of one flow, up and down.
type Counts = [(u64, u64); 2];

/// Counts of each flow's subscriber in a reading, by protocol number.
fn by_flow(tables: &Tables, reading: &TableRead) -> HashMap<(usize, u8), Counts> {
    let view = tables.view();
    let mut found: HashMap<(usize, u8), Counts> = HashMap::new();
    for (slot, totals) in reading.totals.iter().enumerate() {
        let Some(key) = view.keys[slot].read() else { continue };
        let address = Address::v6(key.address);
        let Some(flow) = (0..FLOWS).find(|flow| address == Address::v4(0x0a00_0000 + *flow as u32)) else {
            assert_eq!(totals.packets_up + totals.packets_down, 0, "{key:?} is no subscriber of the test");
            continue;
        };
        let counts = found.entry((flow, key.protocol)).or_default();
        counts[0] = (counts[0].0 + totals.packets_up, counts[0].1 + totals.bytes_up);
        counts[1] = (counts[1].0 + totals.packets_down, counts[1].1 + totals.bytes_down);
    }
    found
}

/// IP packets that the node's counters hold of subscribers.
fn node_packets(reading: &TableRead) -> u64 {
    let of_subscribers = |index: usize| node_index_parts(index).direction != Direction::Transit;
    reading.node.iter().enumerate().filter(|(index, _)| of_subscribers(*index)).map(|(_, node)| node.packets).sum()
}

/// Sends on one CPU until `stop`. Returns the sent packets of each flow.
fn send(
    cpu: usize,
    program: &Xdp,
    interfaces: [u32; 2],
    clock: &SharedU64,
    begun: &AtomicU64,
    stop: Instant,
) -> Result<[Counts; FLOWS]> {
    pin(cpu);
    let frames: Vec<Vec<u8>> = (0..FLOWS * KINDS).map(|number| frame(number / KINDS, number % KINDS)).collect();
    let contexts: Vec<_> = frames.iter().map(|frame| interfaces.map(|interface| context(frame, interface))).collect();
    let mut sent = [Counts::default(); FLOWS];
    let mut numbers = Random(0x9e37_79b9_7f4a_7c15 + cpu as u64);
    for packet in 0.. {
        if packet % 1024 == 0 && Instant::now() >= stop {
            break;
        }
        if cpu == 0 && packet % PACKETS_PER_SECOND == 0 {
            clock.add(1);
        }
        let random = numbers.next();
        let flow = ((clock.load() / ACTIVE_S * ACTIVE + (random >> 8) % ACTIVE) % FLOWS as u64) as usize;
        // One packet in 64 opens the connection again.
        let kind = if random.is_multiple_of(64) { 0 } else { 1 + (random >> 20) as usize % (KINDS - 1) };
        let number = flow * KINDS + kind;
        // Upwards from the access side; one packet in eight takes another way than its flow's last.
        let other_way = (random >> 30).is_multiple_of(8);
        let interface = usize::from((kind >= 2) != other_way);
        begun.fetch_add(1, Ordering::SeqCst);
        let options = TestRunOptions {
            data_in: Some(&frames[number]),
            ctx_in: Some(&contexts[number][interface]),
            ..TestRunOptions::new()
        };
        program.test_run(options).context("test run")?;
        let counts = &mut sent[flow][usize::from(kind >= 2)];
        *counts = (counts.0 + 1, counts.1 + frames[number].len() as u64 - 14);
    }
    Ok(sent)
}

/// Reads without a pause, as no agent does; each reading must be one that could have been taken.
fn drain(tables: &Tables, begun: &AtomicU64, done: &AtomicBool) -> u64 {
    let mut readings = 0;
    while !done.load(Ordering::SeqCst) {
        let reading = tables.view().read(IDLE_S);
        assert_eq!(reading.internal_errors, 0);
        let (packets, sent) = (node_packets(&reading), begun.load(Ordering::SeqCst));
        assert!(packets <= sent, "a reading shows {packets} packets of {sent}");
        let shown = by_flow(tables, &reading);
        let strayed = shown
            .keys()
            .find(|(flow, protocol)| !flow.is_multiple_of(P2P_EVERY) && *protocol != 0 && is_p2p(*protocol));
        assert_eq!(strayed, None, "a flow shows another flow's verdict");
        readings += 1;
    }
    readings
}

fn is_p2p(protocol: u8) -> bool {
    protocol != Protocol::Unclassified as u8 && protocol != Protocol::Fragment as u8
}

/// Index of a router's interface, from the output of iproute2: `7: acc1@if2: <..`.
fn index_of(lab: &Lab, interface: &str) -> Result<u32> {
    let shown = output(lab.router().command("ip").args(["-o", "link", "show", "dev", interface]))?;
    let text = String::from_utf8(shown.stdout)?;
    text.split(':').next().context("an index")?.trim().parse().with_context(|| text.clone())
}

#[test]
fn two_cpus_two_interfaces_and_a_drain_lose_nothing() {
    if !require("hammer", &[]) {
        return;
    }
    let _alone = crate::both_cpus();
    let seconds = std::env::var(SECONDS_VARIABLE).map_or(SECONDS, |text| text.parse().expect("whole seconds"));
    let lab = Lab::new(1).expect("a lab");
    let interfaces = [access(1), CORE.to_owned()].map(|name| index_of(&lab, &name).expect("an interface"));
    let options = LoadOptions {
        seed: None,
        interfaces: interfaces.map(MonitoredInterface::access).to_vec(),
        ..both_datapaths::options(TableSizes { flows: CACHE, tallies: 1024, peers: 16 })
    };
    let mut object = LoadedObject::load(&options).expect("loads");
    let tables = Tables::new(&object).expect("mapped");
    tables.replay_wire_len(1500);
    let program = object.program().expect("program");
    // The test runner takes the interface of a frame only from devices that XDP runs on.
    lab.router()
        .inside(|| {
            program.attach(&access(1), XdpMode::Driver)?;
            program.attach(CORE, XdpMode::Driver)?;
            Ok(())
        })
        .expect("attaches");
    let (program, begun, done) = (&*program, AtomicU64::new(0), AtomicBool::new(false));
    // The clock is the test's: flows go idle without waiting.
    let clock = tables.clock();
    let stop = Instant::now() + Duration::from_secs(seconds);
    let (sent, readings) = std::thread::scope(|scope| {
        let drain = scope.spawn(|| drain(&tables, &begun, &done));
        let cpus: Vec<_> = (0..CPUS)
            .map(|cpu| {
                let (lab, begun) = (&lab, &begun);
                scope.spawn(move || lab.router().inside(|| send(cpu, program, interfaces, clock, begun, stop)))
            })
            .collect();
        let sent: Vec<_> = cpus.into_iter().map(|cpu| cpu.join().expect("no panic")).collect();
        // Whatever became of the senders, the drain must end.
        done.store(true, Ordering::SeqCst);
        let sent: Vec<[Counts; FLOWS]> = sent.into_iter().map(|cpu| cpu.expect("sends")).collect();
        (sent, drain.join().expect("every reading is possible"))
    });
    let reading = tables.view().read(0);
    assert_eq!((reading.pending.packets, reading.internal_errors), (0, 0));
    let found = by_flow(&tables, &reading);
    let of = |flow, protocol: Protocol| found.get(&(flow, protocol as u8)).copied().unwrap_or_default();
    let (mut labelled, mut missing) = (0, (0, 0));
    for flow in 0..FLOWS {
        let (p2p, rest) = (of(flow, Protocol::BitTorrent), of(flow, Protocol::Unclassified));
        for direction in [0, 1] {
            let sent =
                sent.iter().fold((0, 0), |sum, cpu| (sum.0 + cpu[flow][direction].0, sum.1 + cpu[flow][direction].1));
            let counted = (p2p[direction].0 + rest[direction].0, p2p[direction].1 + rest[direction].1);
            assert!(counted <= sent, "flow {flow}, direction {direction}: {counted:?} of {sent:?}");
            missing = (missing.0 + sent.0 - counted.0, missing.1 + sent.1 - counted.1);
        }
        assert!(flow.is_multiple_of(P2P_EVERY) || p2p == Counts::default(), "flow {flow} shows another flow's verdict");
        labelled += p2p[0].0 + p2p[1].0;
    }
    let packets = begun.load(Ordering::SeqCst);
    assert_eq!(node_packets(&reading), packets, "node level");
    assert_eq!(missing, crate::uncharged(&reading), "packets and bytes in no tally");
    assert!(missing.0 <= packets / 100_000, "{missing:?} of {packets} packets in no tally");
    let events = object.events().expect("events");
    let of = |event| object.event(event).expect("reads");
    println!("{seconds} s: {packets} packets, {labelled} with a verdict, {readings} readings, {events:?}");
    assert_eq!(of(KernelEvent::InternalError), 0);
    assert!(labelled > packets / 20, "only {labelled} of {packets} packets have a verdict");
    let pressure = [KernelEvent::FlowRestarted, KernelEvent::FlowRefused, KernelEvent::EvictedUnclassified].map(of);
    assert!(readings > 0 && pressure.iter().all(|count| *count > 0), "no pressure: {readings} readings, {events:?}");
}
