//! Two CPUs and the reassembly slots: flows that share one slot overwrite each other all the time. Each flow must be
//! labelled by its own stream, or not at all.

use std::{collections::HashMap, thread};

use aya::{TestRun as _, TestRunOptions};
use monitor_common::{
    abi::{
        event::KernelEvent,
        key::{Address, FlowKey},
        protocol::Protocol,
    },
    parse::ip_protocol,
    tables::reassembly,
};
use peertally_datapath::{TableSizes, object::LoadedObject, view::TableRead};
use peertally_tests::{
    both_datapaths,
    kernel::{may_use_kernel, pin},
    tables::Tables,
    wire::{flag, tcp_at},
};

use crate::{CPUS, both_cpus};

/// Signatures cut in two: in which segments a stream begins.
const CUT: [(Protocol, &[u8], &[u8]); 4] = [
    (Protocol::Gnutella, b"GNUT", b"ELLA CONNECT/0.6\r\nUser-Agent: a\r\n\r\n"),
    (Protocol::BitTorrent, b"\x13BitT", b"orrent protocol\0\0\0\0\0\0\0\0"),
    (Protocol::DirectConnect, b"HSU", b"P ADBASE ADTIGR\n"),
    (Protocol::EDonkey, b"\xe3\x06\0\0\0", b"\x15\x01\x02\x03\x04\x05"),
];
/// Flows: each start with each end, and each twice.
const FLOWS: usize = 2 * CUT.len() * CUT.len();
/// Kinds of segments of a flow: opening, start, end.
const KINDS: usize = 3;
/// Conversations that each CPU plays.
const ROUNDS: u32 = 60_000;
/// Conversations of the first CPU in a second of the program's clock.
const ROUNDS_PER_SECOND: u32 = 2_000;

fn halves(flow: usize) -> (usize, usize) {
    (flow % CUT.len(), flow / CUT.len() % CUT.len())
}

/// Protocol that the flow's own stream shows.
fn shows(flow: usize) -> Protocol {
    let (first, second) = halves(flow);
    if first == second { CUT[first].0 } else { Protocol::Unclassified }
}

fn subscriber(flow: usize) -> u32 {
    0x0a00_0001 + flow as u32
}

const SERVER: u32 = 0xc000_0207;
const SERVER_PORT: u16 = 6881;

/// A client port with which the flow's stream shares one entry with those of all other flows.
fn port(flow: usize) -> u16 {
    let shares = |port: &u16| {
        let key = FlowKey {
            lower: Address::v4(subscriber(flow)),
            higher: Address::v4(SERVER),
            lower_port: *port,
            higher_port: SERVER_PORT,
            protocol: ip_protocol::TCP,
            fragment: 0,
            tunnel: 0,
        };
        reassembly::index(key.tag(&both_datapaths::SEED), 1) == 0
    };
    (1024..=u16::MAX).find(shares).expect("one in 2,048 does")
}

/// The segments of a flow, by kind. All streams have equal sequence numbers: only the flow distinguishes them.
fn segments(flow: usize) -> [Vec<u8>; KINDS] {
    let client = (std::net::Ipv4Addr::from_bits(subscriber(flow)), port(flow)).into();
    let server = (std::net::Ipv4Addr::from_bits(SERVER), SERVER_PORT).into();
    let (begins, ends) = (CUT[halves(flow).0].1, CUT[halves(flow).1].2);
    // All second segments start at 1,000.
    let start = 1_000 - begins.len() as u32;
    [
        tcp_at(client, server, flag::SYN, (start - 1, 0), b""),
        tcp_at(client, server, flag::PUSH, (start, 1), begins),
        tcp_at(client, server, flag::PUSH, (1_000, 1), ends),
    ]
}

/// Packets and IP bytes of each subscriber, by protocol number.
fn counted(object: &LoadedObject, reading: &TableRead) -> HashMap<(Address, u8), (u64, u64)> {
    let view = object.view();
    assert_eq!((reading.pending.packets, reading.internal_errors), (0, 0), "reading settles what is pending");
    let mut counted: HashMap<_, (u64, u64)> = HashMap::new();
    for (key, totals) in view.keys.iter().zip(&reading.totals) {
        let Some(key) = key.read() else { continue };
        let sum = counted.entry((Address::v6(key.address), key.protocol)).or_default();
        *sum = (sum.0 + totals.packets_up, sum.1 + totals.bytes_up);
    }
    counted
}

#[test]
fn two_cpus_on_one_reassembly_slot_label_no_flow_by_another() {
    if !may_use_kernel("reassembly slots").expect("rights") {
        return;
    }
    let _alone = both_cpus();
    // Room for every flow: flows compete for the reassembly slot only.
    let sizes = TableSizes { flows: 2 * FLOWS as u32, tallies: 1024, peers: 64 };
    let mut object = LoadedObject::load(&both_datapaths::options(sizes)).expect("loads");
    let tables = Tables::new(&object).expect("mapped");
    tables.replay_wire_len(0);
    let clock = tables.clock();
    clock.store(1_000);
    let program = &*object.program().expect("program");
    let frames: Vec<[Vec<u8>; KINDS]> = (0..FLOWS).map(segments).collect();
    let frames = &frames;
    let sent: Vec<[(u64, u64); FLOWS]> = thread::scope(|scope| {
        let cpus: Vec<_> = (0..CPUS)
            .map(|cpu| {
                scope.spawn(move || {
                    pin(cpu);
                    let mut sent = [(0, 0); FLOWS];
                    let mut random = 0x9e37_79b9_u32 + cpu as u32;
                    for round in 0..ROUNDS {
                        if cpu == 0 && round % ROUNDS_PER_SECOND == 0 {
                            clock.add(1);
                        }
                        random ^= random << 13;
                        random ^= random >> 17;
                        random ^= random << 5;
                        let flow = random as usize / 64 % FLOWS;
                        // Whole conversations, and now and then a segment of one that the other CPU may be playing.
                        let kinds = if random.is_multiple_of(4) { 1 + random as usize / 4 % 2..3 } else { 0..KINDS };
                        for frame in &frames[flow][kinds] {
                            let run = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
                            program.test_run(run).expect("test run");
                            sent[flow] = (sent[flow].0 + 1, sent[flow].1 + frame.len() as u64 - 14);
                        }
                    }
                    sent
                })
            })
            .collect();
        cpus.into_iter().map(|cpu| cpu.join().expect("thread")).collect()
    });
    let reading = object.view().read(0);
    let counted = counted(&object, &reading);
    let (mut packets, mut labelled, mut missing) = (0, 0, (0, 0));
    for flow in 0..FLOWS {
        let address = Address::v4(subscriber(flow));
        let (own, none) = (shows(flow) as u8, Protocol::Unclassified as u8);
        let of = |protocol: u8| counted.get(&(address, protocol)).copied().unwrap_or_default();
        let strayed = counted.keys().find(|(of, protocol)| *of == address && ![own, none].contains(protocol));
        assert_eq!(strayed, None, "flow {flow} has a label that its stream does not show");
        let sum = if own == none { of(none) } else { (of(own).0 + of(none).0, of(own).1 + of(none).1) };
        let sent = sent.iter().fold((0, 0), |sum, cpu| (sum.0 + cpu[flow].0, sum.1 + cpu[flow].1));
        assert!(sum <= sent, "flow {flow}: {sum:?} of {sent:?}");
        missing = (missing.0 + sent.0 - sum.0, missing.1 + sent.1 - sum.1);
        packets += sent.0;
        labelled += if own == none { 0 } else { of(own).0 };
    }
    let node: u64 = reading.node.iter().map(|node| node.packets).sum();
    assert_eq!(node, packets, "node level");
    assert_eq!(missing, crate::uncharged(&reading), "packets and bytes in no tally");
    assert!(missing.0 <= packets / 10_000, "{missing:?} of {packets} packets in no tally");
    let events = object.events().expect("events");
    let of = |event| object.event(event).expect("reads");
    println!("{packets} packets, {labelled} with a verdict, {events:?}");
    assert_eq!(of(KernelEvent::InternalError), 0);
    assert!(labelled > 0 && of(KernelEvent::ReassemblyEvicted) > 0, "no pressure: {events:?}");
}
