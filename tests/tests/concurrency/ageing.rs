//! Slots are given back and taken again while two CPUs count: each packet is in the books of its own subscriber, once.
//!
//! Runs for six seconds, or for `PEERTALLY_AGEING_SECONDS`. The agent's side is killed at random moments.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::{TestRun as _, TestRunOptions, programs::Xdp};
use monitor_common::{
    abi::{event::KernelEvent, settings::InspectionDepth},
    bpf::shared_u64::SharedU64,
};
use peertally_core::testing::MemoryBooks;
use peertally_datapath::{
    TableSizes,
    ageing::{Ageing, RcuGrace, SlotIndex},
    object::{LoadOptions, LoadedObject},
};
use peertally_tests::{
    both_datapaths,
    kernel::{may_use_kernel, pin},
    random::Random,
    tables::Tables,
    wire::udp,
};

use crate::CPUS;

/// Names the length of the test in seconds.
const SECONDS_VARIABLE: &str = "PEERTALLY_AGEING_SECONDS";
const SECONDS: u64 = 6;
/// Subscribers that come and go.
const SUBSCRIBERS: u64 = 512;
/// Subscribers that send at a time: a part of the table's room for tallies.
const ACTIVE: u64 = 24;
const TALLIES: u32 = 256;
/// Room for all flows: none is evicted while it is active. A CPU that has found its flow in that moment would count one
/// packet for the flow that comes after it.
const FLOWS: u32 = 8192;
/// Seconds of the program's clock until others send.
const ACTIVE_S: u64 = 40;
/// Seconds of the program's clock without traffic until a tally leaves.
const AGE_S: u64 = 120;
/// Packets of the first CPU in one second of the program's clock.
const PACKETS_PER_SECOND: u64 = 200;
/// Ports of a subscriber, each of them a flow.
const PORTS: u64 = 4;

/// Packets of each subscriber.
type Sent = HashMap<u32, u64>;

fn frame(subscriber: u64, port: u64) -> Vec<u8> {
    let from = format!("10.0.{}.{}:{}", subscriber / 256, subscriber % 256, 50_000 + port);
    let to = "192.0.2.1:6881".parse().expect("an address");
    udp(from.parse().expect("an address"), to, b"a payload that no rule knows")
}

/// Sends on one CPU until `stop`.
///
/// The program's clock runs a thousand times too fast, and a hypervisor may stop a CPU for long. So the clock stands
/// while the other CPU is within a packet: `done` has the packets of each. No packet takes a minute, in which its flow
/// would be idle.
fn send(cpu: usize, program: &Xdp, clock: &SharedU64, done: &[AtomicU64; CPUS], stop: Instant) -> Result<Sent> {
    pin(cpu);
    let frames: Vec<Vec<u8>> = (0..SUBSCRIBERS * PORTS).map(|flow| frame(flow / PORTS, flow % PORTS)).collect();
    let mut sent = Sent::new();
    let mut numbers = Random(0x9e37_79b9_7f4a_7c15 + cpu as u64);
    let mut seen = 0;
    for packet in 0_u64.. {
        if packet.is_multiple_of(1024) && Instant::now() >= stop {
            break;
        }
        if cpu == 0 && packet.is_multiple_of(PACKETS_PER_SECOND) {
            let others = done[1].load(Ordering::SeqCst);
            if others != seen {
                seen = others;
                clock.add(1);
            }
        }
        let random = numbers.next();
        let subscriber = (clock.load() / ACTIVE_S * 8 + (random >> 8) % ACTIVE) % SUBSCRIBERS;
        let flow = subscriber * PORTS + (random >> 20) % PORTS;
        let options = TestRunOptions { data_in: Some(&frames[flow as usize]), ..TestRunOptions::new() };
        program.test_run(options).context("test run")?;
        *sent.entry(subscriber as u32).or_default() += 1;
        done[cpu].store(packet + 1, Ordering::SeqCst);
    }
    Ok(sent)
}

fn start(books: &MemoryBooks) -> Ageing {
    let grace = RcuGrace::start().expect("a thread");
    Ageing::new(Duration::from_secs(AGE_S), Box::new(books.clone()), Box::new(grace))
}

/// One drain of an agent.
fn drain(tables: &Tables, ageing: &mut Ageing, index: &mut dyn SlotIndex) {
    let view = tables.view();
    ageing.before_read(&view, index);
    assert_eq!(view.read(15).internal_errors, 0);
    ageing.after_read(&view, index, |_| false);
}

#[test]
fn slots_that_are_used_again_lose_no_packet_under_traffic() {
    if !may_use_kernel("ageing").expect("rights") {
        return;
    }
    let _alone = crate::both_cpus();
    let seconds = std::env::var(SECONDS_VARIABLE).map_or(SECONDS, |text| text.parse().expect("whole seconds"));
    let options = LoadOptions {
        one_way: true,
        inspection: InspectionDepth::Headers,
        ..both_datapaths::options(TableSizes { flows: FLOWS, tallies: TALLIES, peers: 16 })
    };
    let mut object = LoadedObject::load(&options).expect("loads");
    let tables = Tables::new(&object).expect("mapped");
    let mut index = object.slot_index().expect("a map");
    let clock = tables.clock();
    clock.store(100_000);
    let (books, done) = (MemoryBooks::default(), AtomicBool::new(false));
    let packets_done: [AtomicU64; CPUS] = Default::default();
    let program = &*object.program().expect("program");
    let stop = Instant::now() + Duration::from_secs(seconds);
    let (sent, kills) = thread::scope(|scope| {
        let agent = scope.spawn(|| {
            let (mut ageing, mut kills, mut numbers) = (start(&books), 0, Random(7));
            while !done.load(Ordering::SeqCst) {
                drain(&tables, &mut ageing, &mut index);
                if numbers.next().is_multiple_of(64) {
                    ageing = start(&books);
                    kills += 1;
                }
            }
            // All tallies leave.
            clock.add(2 * AGE_S);
            let mut ageing = start(&books);
            let end = Instant::now() + Duration::from_secs(60);
            while tables.view().tallies_in_use() > 1 {
                assert!(Instant::now() < end, "{ageing:?}, {:?}", ageing.counts());
                drain(&tables, &mut ageing, &mut index);
                clock.add(2);
            }
            kills
        });
        let packets_done = &packets_done;
        let cpus: Vec<_> =
            (0..CPUS).map(|cpu| scope.spawn(move || send(cpu, program, clock, packets_done, stop))).collect();
        let sent: Vec<_> = cpus.into_iter().map(|cpu| cpu.join().expect("no panic")).collect();
        done.store(true, Ordering::SeqCst);
        let sent: Vec<Sent> = sent.into_iter().map(|cpu| cpu.expect("sends")).collect();
        (sent, agent.join().expect("all tallies leave"))
    });
    let mut expected = Sent::new();
    sent.iter().flatten().for_each(|(subscriber, packets)| *expected.entry(*subscriber).or_default() += packets);
    let mut booked = Sent::new();
    for (key, totals) in &books.lock().totals {
        let [.., high, low] = key.address;
        *booked.entry(u32::from(high) * 256 + u32::from(low)).or_default() += totals.packets_up;
    }
    let taken = tables.view().settings.next_slot.load();
    let packets: u64 = expected.values().sum();
    println!("{packets} packets of {} subscribers, {taken} slots taken of {TALLIES}, {kills} kills", expected.len());
    for event in [
        KernelEvent::InternalError,
        KernelEvent::TallyRefused,
        KernelEvent::TallyReserved,
        KernelEvent::EvictedUnclassified,
    ] {
        assert_eq!(object.event(event).expect("reads"), 0, "{event:?}");
    }
    assert!(taken > u64::from(TALLIES) + 64, "only {taken} slots were taken");
    assert!(kills > 0);
    booked.retain(|_, packets| *packets != 0);
    let differ: Vec<_> = (0..SUBSCRIBERS as u32)
        .map(|subscriber| (subscriber, booked.get(&subscriber), expected.get(&subscriber)))
        .filter(|(_, booked, expected)| booked != expected)
        .collect();
    assert!(differ.is_empty(), "subscriber, packets booked and sent: {differ:?}");
}
