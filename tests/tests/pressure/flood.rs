//! Floods with spoofed source addresses: each packet opens a flow, and no other packet follows.

use monitor_common::abi::{event::KernelEvent, protocol::Protocol};

use crate::{
    Random, SEED,
    frames::{End, HANDSHAKE, PSH_ACK, SYN, tcp, udp},
    path::{Path, Row, on_both, options},
};

/// Flows the table holds.
const CACHE: u32 = 1024;
/// Tallies there are.
const TALLIES: u32 = 4096;
/// Peer-to-peer flows that are settled before, in 10.1.0.0/16, which no packet of the flood touches.
const SETTLED: u8 = 64;
/// Length of the flood, in seconds: shorter than the idle time of flows.
const SECONDS: u64 = 50;
/// Packets of the flood per second: twice the table.
const PER_SECOND: u64 = 2 * CACHE as u64;
/// The second in which the test begins.
const BEGIN: u64 = 1000;

fn subscriber(number: u8) -> End {
    ([10, 1, 0, number], 40_000)
}

fn peer(number: u8) -> End {
    ([198, 51, 100, number], 6881)
}

/// A packet of a settled flow, there or back.
fn data(number: u8, up: bool, payload: &[u8]) -> Vec<u8> {
    let (source, destination) =
        if up { (subscriber(number), peer(number)) } else { (peer(number), subscriber(number)) };
    tcp(source, destination, PSH_ACK, payload)
}

/// The flood's packet of this number: every second one from a spoofed address outside to a subscriber that may not
/// exist, the others from a spoofed subscriber. No two are of one flow.
fn flood_packet(number: u64, random: &mut Random, make: impl Fn(End, End) -> Vec<u8>) -> Vec<u8> {
    let noise = random.next().to_be_bytes();
    let inside: End = ([10, 2 | noise[0], noise[1], noise[2]], u16::from_be_bytes([noise[3], noise[4]]));
    let outside: End = ([203, (number >> 32) as u8, (number >> 24) as u8, (number >> 16) as u8], number as u16);
    if number.is_multiple_of(2) { make(outside, inside) } else { make(inside, outside) }
}

/// Every second, all settled flows but the quiet half send a packet each way; at the end the quiet ones, too.
fn flood(path: &mut Path, make: impl Fn(End, End) -> Vec<u8>) {
    let (mut random, mut sent, mut of_flow) = (Random(1), Row::default(), [Row::default(); SETTLED as usize]);
    let mut send_data = |path: &mut Path, number: u8, up, payload: &[u8], now_s| {
        let frame = data(number, up, payload);
        path.frame(&frame, now_s);
        of_flow[usize::from(number)].sent(&frame);
    };
    for number in 0..SETTLED {
        send_data(path, number, true, HANDSHAKE, BEGIN);
        send_data(path, number, false, HANDSHAKE, BEGIN);
    }
    for second in 0..SECONDS {
        let now_s = BEGIN + second;
        for packet in 0..PER_SECOND {
            let frame = flood_packet(second * PER_SECOND + packet, &mut random, &make);
            path.frame(&frame, now_s);
            sent.sent(&frame);
        }
        for number in (0..SETTLED).filter(|number| number % 2 == 0 || second + 1 == SECONDS) {
            send_data(path, number, true, b"there", now_s);
            send_data(path, number, false, b"and back", now_s);
        }
    }
    let counted = path.counted();
    for number in 0..SETTLED {
        let row = of_flow[usize::from(number)];
        sent.packets += row.packets;
        sent.bytes += row.bytes;
        let found = counted.of(subscriber(number).0, Protocol::BitTorrent);
        assert_eq!(found, Row { flows: 1, ..row }, "flow {number} kept its verdict");
        assert_eq!(counted.of(subscriber(number).0, Protocol::Unclassified), Row::default(), "flow {number}");
    }
    counted.expect_exactly(&sent);
    expect_every_refusal(path, counted.flows_in_cache);
    assert!(counted.catch_all.packets > 0, "more subscribers than tallies");
}

/// Each packet of the flood entered the table or was refused, and each that entered is still there or was evicted.
fn expect_every_refusal(path: &Path, flows_in_cache: u64) {
    let flows = u64::from(SETTLED) + SECONDS * PER_SECOND;
    let (new, refused) = (path.event(KernelEvent::FlowNew), path.event(KernelEvent::FlowRefused));
    let evicted = path.event(KernelEvent::EvictedIdle) + path.event(KernelEvent::EvictedUnclassified);
    assert_eq!(new + refused, flows, "a flow that is not new was refused");
    assert_eq!(new - evicted, flows_in_cache, "what entered and is gone was evicted");
    assert!(refused > 0 && evicted > 0, "no pressure: {refused} refused, {evicted} evicted");
    assert_eq!((path.event(KernelEvent::FlowBusy), path.event(KernelEvent::FlowRestarted)), (0, 0));
    for event in [KernelEvent::FlowRefused, KernelEvent::EvictedUnclassified, KernelEvent::TallyReserved] {
        assert!(path.event(event) > 0, "{event:?}");
        assert_eq!(path.metric(event), path.event(event), "{event:?} as a metric");
    }
}

#[test]
fn a_flood_of_syns_changes_nothing_for_others() {
    on_both("pressure: SYN flood", &options(CACHE, TALLIES, SEED), |path| {
        flood(path, |source, destination| tcp(source, destination, SYN, b""));
    });
}

#[test]
fn a_flood_of_datagrams_changes_nothing_for_others() {
    on_both("pressure: UDP flood", &options(CACHE, TALLIES, SEED), |path| {
        flood(path, |source, destination| udp(source, destination, b"no protocol that anybody speaks"));
    });
}
