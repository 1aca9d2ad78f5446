//! Attacks on two CPUs at the full speed of the kernel's test runner: what they race for is neither lost, nor counted
//! twice, nor charged to somebody else.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use aya::{TestRun as _, TestRunOptions, programs::Xdp};
use monitor_common::abi::{
    event::KernelEvent,
    protocol::Protocol,
    settings::Shedding,
    tally::{TallyKey, Totals},
};
use peertally_core::snapshot::Counts;
use peertally_datapath::{
    TableSizes,
    object::{LoadOptions, LoadedObject},
    view::node_index_parts,
};
use peertally_tests::{
    both_datapaths,
    kernel::{may_use_kernel, pin},
    tables::Tables,
    wire::{Connection, at, flag, tcp_at, udp},
};

use super::world::{handshake, outside, ping, pong, subscriber};

/// The CPUs, for one test at a time.
static BOTH_CPUS: Mutex<()> = Mutex::new(());

/// Packets of a CPU in one second of the program's clock, which is the test's.
const PACKETS_PER_SECOND: u64 = 20_000;

/// Sends frames on one CPU.
struct Sender<'a> {
    program: &'a Xdp,
    tables: &'a Tables,
    /// This CPU moves the clock on.
    first: bool,
    sent: Counts,
}

impl Sender<'_> {
    fn send(&mut self, frame: &[u8]) {
        if self.first && self.sent.packets.is_multiple_of(PACKETS_PER_SECOND) {
            self.tables.clock().add(1);
        }
        let run = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
        self.program.test_run(run).expect("the test runner takes the frame");
        self.sent.packets += 1;
        self.sent.bytes += frame.len() as u64 - 14;
    }
}

/// What two CPUs have sent, and what was counted of it.
struct Outcome {
    sent: Counts,
    node: Counts,
    unanswered: Counts,
    /// Tallies that counted something.
    tallies: Vec<(TallyKey, Totals)>,
    events: Vec<(KernelEvent, u64)>,
}

impl Outcome {
    fn event(&self, wanted: KernelEvent) -> u64 {
        self.events.iter().find(|(event, _)| *event == wanted).map_or(0, |(_, count)| *count)
    }

    fn charged(&self) -> Counts {
        let mut sum = Counts::default();
        for (_, totals) in &self.tallies {
            sum += Counts {
                flows: totals.flows,
                packets: totals.packets_up + totals.packets_down,
                bytes: totals.bytes_up + totals.bytes_down,
            };
        }
        sum
    }

    /// Fails unless every packet was counted for its interface, once, and for a subscriber or as nobody's.
    fn expect_exact(&self) {
        let counts = |counts: Counts| (counts.packets, counts.bytes);
        assert_eq!(counts(self.node), counts(self.sent), "node level");
        let (charged, unanswered) = (self.charged(), self.unanswered);
        let sum = (charged.packets + unanswered.packets, charged.bytes + unanswered.bytes);
        assert_eq!(sum, counts(self.sent), "charged, and nobody's: {charged:?}, {unanswered:?}");
        assert_eq!(self.event(KernelEvent::InternalError), 0);
    }
}

/// Tables with room for so many flows, and no shedding.
fn options(flows: u32) -> LoadOptions {
    let sizes = TableSizes { flows, tallies: 1 << 10, peers: 1 << 10 };
    LoadOptions { one_way: false, ..both_datapaths::options(sizes) }
}

/// Runs on each CPU what `play` does with a sender and the CPU's number; `None` without the rights for it.
fn on_two_cpus(test: &str, options: &LoadOptions, play: impl Fn(&mut Sender<'_>, usize) + Sync) -> Option<Outcome> {
    if !may_use_kernel(test).expect("rights") {
        return None;
    }
    let _alone = BOTH_CPUS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut object = LoadedObject::load(options).expect("loads");
    let tables = Tables::new(&object).expect("mapped");
    tables.replay_wire_len(0);
    tables.clock().store(1_000);
    let program = &*object.program().expect("the program");
    let sent: Vec<Counts> = thread::scope(|scope| {
        let (tables, play) = (&tables, &play);
        let cpus: Vec<_> = (0..2)
            .map(|cpu| {
                scope.spawn(move || {
                    pin(cpu);
                    let mut sender = Sender { program, tables, first: cpu == 0, sent: Counts::default() };
                    play(&mut sender, cpu);
                    sender.sent
                })
            })
            .collect();
        cpus.into_iter().map(|cpu| cpu.join().expect("no panic")).collect()
    });
    let view = object.view();
    let reading = view.read(0);
    assert_eq!((reading.pending.packets, reading.internal_errors), (0, 0), "the last drain settles every flow");
    let (mut all, mut node, mut unanswered) = (Counts::default(), Counts::default(), Counts::default());
    sent.into_iter().for_each(|counts| all += counts);
    for (index, counts) in reading.node.iter().enumerate() {
        node += *counts;
        if node_index_parts(index).uncharged {
            unanswered += *counts;
        }
    }
    let tallies = view.keys.iter().zip(&reading.totals).filter_map(|(key, totals)| Some((key.read()?, *totals)));
    let tallies = tallies.filter(|(_, totals)| *totals != Totals::default()).collect();
    let events = object.events().expect("events");
    Some(Outcome { sent: all, node, unanswered, tallies, events })
}

/// A query of a spray, whose source, target and port are written over for each packet.
fn sprayed(frame: &mut [u8], number: u32) {
    frame[26..30].copy_from_slice(&Ipv4Addr::from(0xcb00_0000 | number.wrapping_mul(0x9e37_79b1) >> 8).octets());
    frame[30..34].copy_from_slice(&Ipv4Addr::from(0x0a80_0000 + number % 200).octets());
    frame[34..36].copy_from_slice(&(1_024 + (number % 60_000) as u16).to_be_bytes());
}

#[test]
fn a_spray_at_full_speed_hides_no_flow_and_charges_nobody() {
    const PACKETS: u32 = 150_000;
    let (mine, theirs) = (subscriber(40_000), outside(6_881));
    // As a router does by default: half of what may open flows is for those of two sides.
    let shedding = Some(Shedding { packets_per_second: 500_000 });
    let options = LoadOptions { shedding, ..options(1 << 12) };
    let outcome = on_two_cpus("a spray on two CPUs", &options, |sender, cpu| {
        let mut frame = udp(theirs, at("10.0.128.1:6881"), &ping(b"aa"));
        for packet in 0..PACKETS {
            sprayed(&mut frame, 2 * packet + cpu as u32);
            sender.send(&frame);
            // In the middle, a flow of 50 packets of both sides.
            if cpu == 1 && packet >= PACKETS / 2 && packet % 1_000 == 0 && packet < PACKETS / 2 + 25_000 {
                let transaction = [b'a', (packet / 1_000) as u8];
                sender.send(&udp(mine, theirs, &ping(&transaction)));
                sender.send(&udp(theirs, mine, &pong(&transaction)));
            }
        }
    });
    let Some(outcome) = outcome else { return };
    outcome.expect_exact();
    assert_eq!(outcome.sent.packets, 2 * u64::from(PACKETS) + 50);
    assert!(outcome.event(KernelEvent::FlowNew) < u64::from(PACKETS), "there was no flood: {:?}", outcome.events);
    let [(key, totals)] = outcome.tallies[..] else { panic!("one subscriber's tally: {:?}", outcome.tallies) };
    assert_eq!((key.address[15], key.protocol), (1, Protocol::BitTorrent as u8));
    let packets = totals.packets_up + totals.packets_down;
    assert!((48..=50).contains(&packets), "{packets} of 50 packets of the flow are charged");
}

#[test]
fn forged_segments_on_two_cpus_prove_nothing() {
    const PACKETS: u32 = 60_000;
    let (mine, theirs) = (subscriber(51_413), outside(6_881));
    let outcome = on_two_cpus("a forged stream on two CPUs", &options(1 << 10), |sender, cpu| {
        let mut number = 0x9e37_79b9_u32.wrapping_add(cpu as u32);
        for packet in 0..PACKETS {
            number ^= number << 13;
            number ^= number >> 17;
            number ^= number << 5;
            // Openings, handshakes with guessed acknowledgements, and what the host of the subscriber answers to them.
            sender.send(&match packet % 4 {
                0 => tcp_at(theirs, mine, flag::SYN, (number, 0), b""),
                1 => tcp_at(theirs, mine, flag::PUSH, (number, number.rotate_left(16)), &handshake()),
                2 => tcp_at(mine, theirs, 0x14, (0, number), b""),
                _ => tcp_at(mine, theirs, flag::SYN_ACK, (number, number), b""),
            });
        }
    });
    let Some(outcome) = outcome else { return };
    outcome.expect_exact();
    assert_eq!(outcome.tallies, []);
    assert!(outcome.event(KernelEvent::FlowRestarted) > 0, "no races: {:?}", outcome.events);
}

/// Connection number `index`.
fn ends(index: u32) -> (SocketAddr, SocketAddr) {
    (subscriber(20_000 + (index % 4_096) as u16), outside(6_881 + (index / 4_096) as u16))
}

#[test]
fn both_sides_of_a_connection_on_two_cpus_are_charged_once() {
    const CONNECTIONS: u32 = 4_000;
    // The side that waits sends when the other one has: as many packets as were sent of the connection.
    let turns: Vec<AtomicU64> = (0..CONNECTIONS).map(|_| AtomicU64::new(0)).collect();
    let outcome = on_two_cpus("a connection on two CPUs", &options(1 << 14), |sender, cpu| {
        for (index, turn) in (0..).zip(&turns) {
            let (mine, theirs) = ends(index);
            let (mut connection, [syn, answer]) = Connection::open(mine, theirs);
            let mut frames = vec![(0, syn), (1, answer)];
            for side in [0, 1, 0, 1] {
                let content = if frames.len() < 4 { handshake() } else { vec![0, 0, 0, 1, 2] };
                frames.push((side, connection.says(side == 0, &content)));
            }
            for (number, (side, frame)) in (0..).zip(&frames) {
                // Handshakes and what follows race each other.
                let waits = if number < 2 { number } else { 2 };
                while turn.load(Ordering::Acquire) < waits {
                    thread::yield_now();
                }
                if *side == cpu {
                    sender.send(frame);
                    turn.fetch_add(1, Ordering::Release);
                }
            }
        }
    });
    let Some(outcome) = outcome else { return };
    outcome.expect_exact();
    let charged = outcome.charged();
    assert_eq!(outcome.sent.packets, 6 * u64::from(CONNECTIONS));
    assert!(charged.packets > outcome.sent.packets / 2, "{charged:?} of {:?}", outcome.sent);
    assert!(outcome.tallies.iter().all(|(key, _)| key.address[15] == 1), "{:?}", outcome.tallies);
    assert!(charged.flows <= u64::from(CONNECTIONS), "a flow was charged twice: {charged:?}");
}

#[test]
fn a_flow_that_one_cpu_charges_while_another_restarts_it_is_counted_once() {
    const ROUNDS: u32 = 20_000;
    let outcome = on_two_cpus("charges and restarts", &options(1 << 10), |sender, cpu| {
        let (mut connection, opening) = Connection::open(subscriber(50_000), outside(6_881));
        let data = [
            connection.says(true, &handshake()),
            connection.says(false, &handshake()),
            connection.says(true, &[0, 0, 0, 1, 2]),
            connection.says(false, &[0, 0, 0, 1, 1]),
        ];
        for round in 0..ROUNDS {
            if cpu == 0 || round % 3 == 0 {
                opening.iter().for_each(|frame| sender.send(frame));
            }
            if cpu == 0 || round % 2 == 0 {
                data.iter().for_each(|frame| sender.send(frame));
            }
        }
    });
    let Some(outcome) = outcome else { return };
    outcome.expect_exact();
    let charged = outcome.charged();
    assert!(charged.packets > outcome.sent.packets / 2, "the flow is stuck: {charged:?} of {:?}", outcome.sent);
    assert!(outcome.event(KernelEvent::FlowRestarted) > u64::from(ROUNDS) / 50, "{:?}", outcome.events);
    let of_others = outcome.tallies.iter().find(|(key, _)| key.address[15] != 1);
    assert_eq!(of_others, None);
}
