//! Tables that are full: of flows, of tallies, of one subscriber's flows.

use std::time::Duration;

use monitor_common::abi::{event::KernelEvent, limits::PENDING_IDLE_SECONDS, protocol::Protocol};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    SEED,
    frames::{End, HANDSHAKE, PSH_ACK, tcp},
    path::{Path, Row, on_both, options},
};

/// The second in which the tests begin.
const BEGIN: u64 = 1000;

fn server(number: u32) -> End {
    let [_, a, b, c] = number.to_be_bytes();
    ([198, a, b, c], 6881)
}

fn subscriber(number: u32) -> End {
    let [_, a, b, c] = number.to_be_bytes();
    ([10, a, b, c], 40_000)
}

#[test]
fn a_full_flow_table_counts_what_it_refuses() {
    const FLOWS: u32 = 64;
    on_both("pressure: flow table full", &options(FLOWS, 8192, SEED), |path| {
        let mut sent = Row::default();
        let mut send = |path: &mut Path, number, payload: &[u8], now_s| {
            let frame = tcp(subscriber(number), server(number), PSH_ACK, payload);
            path.frame(&frame, now_s);
            sent.sent(&frame);
        };
        // All in one second, so that every flow in the table is an active one.
        for number in 0..1000 {
            for _ in 0..3 {
                send(path, number, HANDSHAKE, BEGIN);
            }
        }
        let admitted = path.event(KernelEvent::FlowNew);
        assert!(admitted > 0 && admitted <= u64::from(FLOWS), "{admitted} flows entered");
        assert_eq!(
            path.event(KernelEvent::FlowRefused),
            3 * (1000 - admitted),
            "each packet of a refused flow is counted"
        );
        // Others come for as long as the flows in the table are not idle: none is evicted for them.
        for second in 1..50 {
            (2000..2100).for_each(|number| send(path, number, b"no protocol", BEGIN + second));
        }
        let evicted = [KernelEvent::EvictedIdle, KernelEvent::EvictedUnclassified].map(|event| path.event(event));
        let counted = path.counted();
        counted.expect_exactly(&sent);
        let bittorrent = counted.by_protocol[&(Protocol::BitTorrent as u8)];
        assert_eq!((bittorrent.packets, bittorrent.flows), (3 * admitted, admitted), "node level");
        let subscribers =
            (0..1000).filter(|number| counted.of(subscriber(*number).0, Protocol::BitTorrent).packets == 3);
        assert_eq!(subscribers.count() as u64, admitted, "no flow with a verdict was given up: {evicted:?}");
        assert_eq!(path.metric(KernelEvent::FlowRefused), path.event(KernelEvent::FlowRefused));
    });
}

#[test]
fn a_full_tally_table_keeps_the_sums() {
    const TALLIES: u32 = 64;
    on_both("pressure: tally table full", &options(4096, TALLIES, SEED), |path| {
        let mut sent = Row::default();
        // Those without a verdict come first, and may not take all.
        for number in 0..600 {
            let payload = if number < 100 { b"no protocol".as_slice() } else { HANDSHAKE };
            let frame = tcp(subscriber(number), server(number), PSH_ACK, payload);
            path.frame(&frame, BEGIN);
            sent.sent(&frame);
        }
        let counted = path.counted();
        counted.expect_exactly(&sent);
        assert_eq!(counted.by_protocol[&(Protocol::BitTorrent as u8)].packets, 500, "the node's verdicts are complete");
        let in_tallies = 600 - counted.catch_all.packets;
        assert!((1..u64::from(TALLIES)).contains(&in_tallies), "{in_tallies} in tallies of their own");
        let refused = [KernelEvent::TallyRefused, KernelEvent::TallyReserved].map(|event| path.event(event));
        assert!(refused[0] > 0 && refused[1] > 0, "{refused:?}");
        assert_eq!(refused[0] + refused[1], counted.catch_all.packets, "each flow without a tally is a refusal");
        for event in [KernelEvent::TallyRefused, KernelEvent::TallyReserved] {
            assert_eq!(path.metric(event), path.event(event));
        }
    });
}

/// Flows of the one subscriber.
const MANY: u32 = 100_000;

/// CPU time of a drain, the median of five: the agent's work between two scrapes.
fn drain(path: &Path) -> Duration {
    let cpu_time = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let mut times: Vec<_> = (0..5)
        .map(|_| {
            let begun = cpu_time();
            std::hint::black_box(path.view().read(PENDING_IDLE_SECONDS));
            cpu_time() - begun
        })
        .collect();
    times.sort();
    times[2]
}

#[test]
fn one_subscriber_with_many_flows_is_one_row() {
    on_both("pressure: one subscriber", &options(1 << 18, 1024, SEED), |path| {
        let neighbour = |up: bool| {
            let (inside, outside) = (([10, 9, 9, 9], 40_000), ([192, 0, 2, 9], 6881));
            let (source, destination) = if up { (inside, outside) } else { (outside, inside) };
            tcp(source, destination, PSH_ACK, HANDSHAKE)
        };
        let mut sent = Row::default();
        let mut send = |path: &mut Path, frame: &[u8], now_s| {
            path.frame(frame, now_s);
            sent.sent(frame);
        };
        send(path, &neighbour(true), BEGIN);
        let idle = drain(path);
        for round in 0..2 {
            for number in 0..MANY {
                let frame = tcp(([10, 0, 0, 1], number as u16), server(number), PSH_ACK, b"no protocol");
                send(path, &frame, BEGIN + round);
            }
        }
        let busy = drain(path);
        send(path, &neighbour(false), BEGIN + 2);
        let counted = path.counted();
        counted.expect_exactly(&sent);
        let one = counted.of([10, 0, 0, 1], Protocol::Unclassified);
        assert_eq!(one.packets, 2 * u64::from(MANY));
        let refused = path.event(KernelEvent::FlowRefused);
        assert!(one.flows >= u64::from(MANY) - refused && refused < u64::from(MANY) / 50, "{one:?}, {refused} refused");
        assert_eq!(counted.of([10, 9, 9, 9], Protocol::BitTorrent), Row { flows: 1, packets: 2, bytes: 2 * 68 });
        assert_eq!(counted.rows.len(), 2, "one row for each subscriber");
        // The tables are as large as before: reading them costs more, but not with the number of packets.
        assert!(busy < idle * DRAIN_FACTOR, "a drain took {busy:?} in place of {idle:?}");
    });
}

/// Allowed cost of a drain of a table that is 40 % full, in drains of an empty one.
const DRAIN_FACTOR: u32 = 8;
