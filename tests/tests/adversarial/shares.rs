//! No line spends the tables of others: each subscriber has a share.

use std::net::SocketAddr;

use monitor_common::abi::{
    event::KernelEvent,
    limits::{FRESH_SECONDS, IDLE_SECONDS},
    protocol::{Confidence, Protocol},
};
use peertally_datapath::TableSizes;
use peertally_tests::wire::{Connection, at, ciphertext, udp};

use super::world::{World, outside, ping, pong};

/// Two sets of four flows.
const TWO_SETS: TableSizes = TableSizes { flows: 8, tallies: 1 << 10, peers: 1 << 10 };

fn line(subscriber: u8, port: u16) -> SocketAddr {
    at(&format!("10.0.0.{subscriber}:{port}"))
}

/// A DHT query of a subscriber and its answer.
fn exchange(world: &mut World, mine: SocketAddr, theirs: SocketAddr) {
    world.frame(&udp(mine, theirs, &ping(b"aa")));
    world.frame(&udp(theirs, mine, &pong(b"aa")));
}

/// Thousands of exchanges, with pauses in which the flows of those before go idle.
fn many(world: &mut World, ends: impl Fn(u16) -> (SocketAddr, SocketAddr)) {
    for number in 0..8_000 {
        let (mine, theirs) = ends(number);
        exchange(world, mine, theirs);
        if number % 2_000 == 1_999 {
            world.now_s += u64::from(IDLE_SECONDS);
        }
    }
}

fn subscribers(world: &World) -> Vec<(u8, u64)> {
    let p2p = world.charged().into_iter().filter(|row| row.protocol == Protocol::BitTorrent);
    p2p.map(|row| (row.subscriber, row.packets)).collect()
}

#[test]
fn one_line_with_a_helper_leaves_ways_for_others() {
    let mut world = World::of_sizes("a line that fills the flow table", TWO_SETS);
    for port in 0..64 {
        exchange(&mut world, line(1, 20_000 + port), outside(30_000));
    }
    world.now_s += u64::from(FRESH_SECONDS);
    exchange(&mut world, line(2, 20_000), outside(6_881));
    let charged = subscribers(&world);
    assert_eq!(charged.last(), Some(&(2, 2)), "the other line finds a way: {charged:?}");
    assert_eq!(world.events(KernelEvent::EvictedCrowding), 1);
}

#[test]
fn flows_of_as_many_lines_as_the_table_has_ways_keep_them() {
    let mut world = World::of_sizes("as many lines as ways", TWO_SETS);
    for subscriber in 1..=64 {
        exchange(&mut world, line(subscriber, 20_000), outside(30_000));
    }
    let before = subscribers(&world);
    world.now_s += u64::from(FRESH_SECONDS);
    for subscriber in 65..=128 {
        exchange(&mut world, line(subscriber, 20_000), outside(30_000));
    }
    assert_eq!(subscribers(&world), before, "who holds a way keeps it");
    assert_eq!(world.events(KernelEvent::EvictedCrowding), 0);
}

/// An encrypted connection from outside to a subscriber's port.
fn encrypted(world: &mut World, mine: SocketAddr, theirs: SocketAddr) {
    let (mut connection, opening) = Connection::open(theirs, mine);
    world.play(&opening);
    for (forth, seed) in [(true, 3), (false, 4), (true, 5), (false, 6)] {
        world.frame(&connection.says(forth, &ciphertext(300, seed)));
    }
}

/// Protocol and confidence of what a line is charged with over TCP.
fn associated(world: &World, subscriber: u8) -> bool {
    let rows = world.charged().into_iter();
    rows.filter(|row| row.subscriber == subscriber).any(|row| row.confidence == Confidence::Association)
}

#[test]
fn one_line_with_a_helper_does_not_wipe_what_others_taught() {
    for (attack, name) in [(false, "a client whose port is known"), (true, "a line that fills the peer cache")] {
        let mut world = World::new(name);
        let client = line(2, 51_413);
        exchange(&mut world, client, outside(6_881));
        if attack {
            many(&mut world, |port| (line(1, 20_000 + port), outside(30_000)));
            assert!(world.events(KernelEvent::PeerShareUsed) > 7_900);
        }
        encrypted(&mut world, client, outside(50_000));
        assert!(associated(&world, 2), "{name}");
    }
}

#[test]
fn a_helper_with_many_addresses_does_not_wipe_them_either() {
    let mut world = World::new("a helper with many ports");
    let client = line(2, 51_413);
    exchange(&mut world, client, outside(6_881));
    many(&mut world, |port| (line(1, 20_000), outside(30_000 + port)));
    encrypted(&mut world, client, outside(50_000));
    assert!(associated(&world, 2));
    assert!(world.events(KernelEvent::PeerShareUsed) > 7_900);
}

#[test]
fn of_what_others_taught_a_set_loses_one_entry_at_most() {
    // A known peer of each of many lines, then one line with a helper that uses many ports.
    let known = [false, true].map(|attack| {
        let mut world = World::new(if attack { "what others taught, and one line" } else { "what others taught" });
        let peer = |number: u8| at(&format!("198.51.100.{number}:6881"));
        for number in 1..=200 {
            exchange(&mut world, line(number + 2, 6_881), peer(number));
        }
        if attack {
            many(&mut world, |port| (line(1, 20_000), outside(30_000 + port)));
        }
        for number in 1..=200 {
            encrypted(&mut world, line(number + 2, 40_000), peer(number));
        }
        (1..=200).filter(|number| associated(&world, number + 2)).count()
    });
    let [before, after] = known;
    println!("{before} of 200 peers are known, and {after} after the attack");
    assert!(before > 150 && after >= before * 3 / 4, "{before} and {after}");
}
