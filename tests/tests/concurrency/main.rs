//! Two CPUs on shared sets: every packet counts once, for its own subscriber, and no flow shows another flow's verdict.

mod ageing;
mod hammer;
mod reassembly;

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use aya::{TestRun as _, TestRunOptions};
use monitor_common::abi::{event::KernelEvent, key::Address, protocol::Protocol};
use peertally_datapath::{
    TableSizes,
    object::{LoadOptions, LoadedObject},
    view::{TableRead, node_index_parts},
};
use peertally_tests::{
    both_datapaths,
    kernel::{may_use_kernel, pin},
    tables::Tables,
};

const CPUS: usize = 2;

/// The CPUs, for one test at a time: two that share them wait for each other more than they collide.
static BOTH_CPUS: Mutex<()> = Mutex::new(());

fn both_cpus() -> MutexGuard<'static, ()> {
    BOTH_CPUS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Packets and IP bytes that count for no subscriber: a SYN on one CPU restarted their flow before the other CPU had
/// charged it.
fn uncharged(reading: &TableRead) -> (u64, u64) {
    let nodes = reading.node.iter().enumerate().filter(|(index, _)| node_index_parts(*index).uncharged);
    nodes.fold((0, 0), |sum, (_, node)| (sum.0 + node.packets, sum.1 + node.bytes))
}

/// Number of flows: 16 times the room of the table's single set.
const FLOWS: u8 = 64;
/// Packets each CPU sends.
const PACKETS: u32 = 320_000;
/// Packets of the first CPU per second of the program's clock.
const PACKETS_PER_SECOND: u32 = 20_000;
/// Flows that are active in one second: twice the room of the set. Older flows go idle and are replaced.
const ACTIVE: u32 = 8;

/// A TCP segment of one flow: a subscriber of its own to one server. Every fourth flow speaks BitTorrent.
fn frame(flow: u8) -> Vec<u8> {
    let payload: &[u8] = if flow.is_multiple_of(4) {
        b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0"
    } else {
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    };
    let mut bytes = vec![0; 12];
    bytes.extend([0x08, 0x00]);
    let total = 40 + payload.len() as u16;
    bytes.extend([0x45, 0, (total >> 8) as u8, total as u8, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, flow, 192, 0, 2, 1]);
    bytes.extend([0xc0, flow, 0x1a, 0xe1, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(payload);
    bytes
}

/// Packets up of each subscriber, by protocol number.
fn counted(object: &LoadedObject) -> HashMap<(Address, u8), u64> {
    let view = object.view();
    let reading = view.read(0);
    assert_eq!(reading.pending.packets, 0, "reading settles what is pending");
    assert_eq!(reading.internal_errors, 0);
    let mut counted = HashMap::new();
    for (slot, totals) in reading.totals.iter().enumerate() {
        let Some(key) = view.keys[slot].read() else { continue };
        assert_eq!(totals.packets_down, 0);
        *counted.entry((Address::v6(key.address), key.protocol)).or_default() += totals.packets_up;
    }
    counted
}

#[test]
fn two_cpus_on_one_set_count_every_packet_once() {
    if !may_use_kernel("concurrency").expect("rights") {
        return;
    }
    let _alone = both_cpus();
    let sizes = TableSizes { flows: 4, tallies: 1024, peers: 4 };
    let mut object = LoadedObject::load(&LoadOptions { seed: None, ..both_datapaths::options(sizes) }).expect("loads");
    let tables = Tables::new(&object).expect("mapped");
    tables.replay_wire_len(1500);
    // The clock is the test's: flows go idle without waiting.
    let clock = tables.clock();
    let program = &*object.program().expect("program");
    let sent: Vec<[u64; FLOWS as usize]> = thread::scope(|scope| {
        let cpus: Vec<_> = (0..CPUS)
            .map(|cpu| {
                scope.spawn(move || {
                    pin(cpu);
                    let frames: Vec<_> = (0..FLOWS).map(frame).collect();
                    let mut sent = [0; FLOWS as usize];
                    // Another order on each CPU, bursts of one flow among them: sets are fought over and flows shared.
                    let mut random = 0x9e37_79b9_u32 + cpu as u32;
                    for packet in 0..PACKETS {
                        if cpu == 0 && packet % PACKETS_PER_SECOND == 0 {
                            clock.add(1);
                        }
                        random ^= random << 13;
                        random ^= random >> 17;
                        random ^= random << 5;
                        let group = clock.load() as u32 * ACTIVE;
                        let flow = ((group + random % ACTIVE) % u32::from(FLOWS)) as usize;
                        let run = TestRunOptions { data_in: Some(&frames[flow]), ..TestRunOptions::new() };
                        program.test_run(run).expect("test run");
                        sent[flow] += 1;
                    }
                    sent
                })
            })
            .collect();
        cpus.into_iter().map(|cpu| cpu.join().expect("thread")).collect()
    });
    let counted = counted(&object);
    let of = |flow: u8, protocol: Protocol| {
        let address = Address::v4(0x0a00_0000 + u32::from(flow));
        counted.get(&(address, protocol as u8)).copied().unwrap_or_default()
    };
    let mut labelled = 0;
    for flow in 0..FLOWS {
        let sent: u64 = sent.iter().map(|cpu| cpu[flow as usize]).sum();
        let (bittorrent, unclassified) = (of(flow, Protocol::BitTorrent), of(flow, Protocol::Unclassified));
        assert_eq!(bittorrent + unclassified, sent, "flow {flow}");
        if flow % 4 != 0 {
            assert_eq!(bittorrent, 0, "flow {flow} shows another flow's verdict");
        }
        labelled += bittorrent;
    }
    // How many depends on which flows come first, second by second: far fewer when both CPUs have other work.
    assert!(labelled > u64::from(PACKETS) / 2_000, "only {labelled} packets in the BitTorrent flows of the table");
    let events = object.events().expect("events");
    let of = |event| object.event(event).expect("reads");
    assert!(of(KernelEvent::FlowRefused) > 0 && of(KernelEvent::EvictedUnclassified) > 0, "no pressure: {events:?}");
    assert_eq!(of(KernelEvent::InternalError), 0);
    let node: u64 = object.view().read(0).node.iter().map(|counts| counts.packets).sum();
    assert_eq!(node, u64::from(PACKETS) * CPUS as u64, "node level");
}
