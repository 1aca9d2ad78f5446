//! Packets in a subscriber's name from where that subscriber is not.

use monitor_common::abi::{
    protocol::{Confidence, Protocol},
    spoofing::SpoofReason,
};
use peertally_core::{pool::Pool, words::Role};
use peertally_datapath::{
    host::CORE,
    object::{LoadOptions, MonitoredInterface},
};
use peertally_tests::wire::{Connection, ciphertext, flag, tcp_at, udp};

use super::world::{World, handshake, outside, ping, pong, subscriber};

const BITTORRENT: (Protocol, Confidence) = (Protocol::BitTorrent, Confidence::Signature);

impl World {
    /// Counts a frame that arrives on a core interface.
    fn core_frame(&mut self, frame: &[u8]) {
        self.set_role(Role::Core);
        self.frame(frame);
        self.set_role(Role::Access);
    }
}

#[test]
fn a_subscribers_source_from_the_core_charges_nobody() {
    let mut world = World::new("forged segments");
    let (mine, theirs) = (subscriber(51_413), outside(6881));
    world.core_frame(&tcp_at(mine, theirs, flag::PUSH, (1, 1), &handshake()));
    for number in 0..50 {
        world.core_frame(&tcp_at(mine, theirs, flag::PUSH, (69 + 1_400 * number, 1), &ciphertext(1_400, 3)));
        // The receiver cannot but answer a stream that is new to it.
        world.core_frame(&tcp_at(theirs, mine, 0x14, (1, 69 + 1_400 * number), b""));
    }
    assert_eq!(world.charged(), []);
    assert_eq!((world.spoofed(SpoofReason::Spoofed), world.node().0.packets), (51, 101));
}

#[test]
fn forged_packets_in_a_real_flow_are_counted_apart() {
    let mut world = World::new("forged segments of a real flow");
    let (mut connection, opening) = Connection::open(subscriber(50_000), outside(6881));
    world.play(&opening[..1]);
    world.core_frame(&opening[1]);
    world.frame(&connection.says(true, &handshake()));
    world.core_frame(&connection.says(false, &handshake()));
    let forged = connection.repeats(true, 0, &ciphertext(1_400, 3));
    for _ in 0..50 {
        world.core_frame(&forged);
    }
    world.frame(&connection.says(true, b"\0\0\0\x01\x02"));
    assert_eq!(world.charged_p2p(), [(BITTORRENT.0, BITTORRENT.1, 1, 5)]);
    assert_eq!(world.spoofed(SpoofReason::Spoofed), 50);
}

#[test]
fn a_neighbour_with_a_helper_outside_charges_nobody_else() {
    let mut world = World::new("a neighbour with a helper outside");
    let (victim, attacker) = (subscriber(50_000), "10.0.0.9:6881".parse().expect("an address"));
    let (mut connection, opening) = Connection::open(victim, attacker);
    world.core_frame(&opening[0]);
    world.frame(&opening[1]);
    world.core_frame(&connection.says(true, &handshake()));
    world.frame(&connection.says(false, b""));
    // The victim's host refuses what it did not ask for.
    world.frame(&tcp_at(victim, attacker, 0x04, (0x2000_0000, 0), b""));
    for seed in 0..6 {
        world.frame(&connection.says(false, &handshake()));
        world.frame(&connection.says(false, &ciphertext(1_400, seed)));
    }
    let charged: Vec<_> = world.charged().iter().map(|row| row.subscriber).collect();
    assert!(!charged.contains(&1), "{charged:?}");
}

#[test]
fn a_subscriber_of_another_router_is_no_reason_to_miss_ours() {
    let mut world = World::new("a subscriber of another router");
    let (ours, other) = (subscriber(40_000), "10.9.9.9:6881".parse().expect("an address"));
    // What may be forged leaves no value that an answer could repeat, so they take turns.
    for transaction in [b"aa", b"ab", b"ac"] {
        world.core_frame(&udp(other, ours, &ping(transaction)));
        world.frame(&udp(ours, other, &pong(transaction)));
    }
    let charged: Vec<_> = world.charged().iter().map(|row| (row.subscriber, row.packets)).collect();
    assert_eq!(charged, [(1, 6)], "ours alone");
}

/// An access interface with subscribers of these prefixes.
fn access(prefixes: &[&str]) -> MonitoredInterface {
    let prefixes = prefixes.iter().map(|prefix| prefix.parse().expect("a prefix")).collect();
    MonitoredInterface { prefixes, ..MonitoredInterface::access(1) }
}

#[test]
fn a_neighbours_address_on_an_access_interface_charges_nobody() {
    let mut world = World::new("forged segments of a neighbour");
    world.set_interface(access(&["10.64.0.0/10", "fd00::/8"]));
    let (mine, theirs) = (subscriber(51_413), outside(6881));
    world.frame(&tcp_at(mine, theirs, flag::PUSH, (1, 1), &handshake()));
    for number in 0..50 {
        world.frame(&tcp_at(mine, theirs, flag::PUSH, (69 + 1_400 * number, 1), &ciphertext(1_400, 3)));
        world.core_frame(&tcp_at(theirs, mine, 0x14, (1, 69 + 1_400 * number), b""));
    }
    assert_eq!(world.charged(), []);
    assert_eq!((world.spoofed(SpoofReason::Spoofed), world.node().0.packets), (51, 101));
    assert_eq!(world.spoofed(SpoofReason::CoreSource), 0);
}

#[test]
fn a_subscriber_within_the_prefixes_is_charged() {
    for prefixes in [&["10.0.0.0/16"][..], &["192.0.2.0/24", "10.0.0.1/32"], &["::/0", "10.0.0.0/8"], &[]] {
        let mut world = World::new("a subscriber within the prefixes");
        world.set_interface(access(prefixes));
        for (up, payload) in [(true, ping(b"aa")), (false, pong(b"aa"))] {
            world.datagram(up, &payload);
        }
        assert_eq!(world.charged_p2p(), [(BITTORRENT.0, BITTORRENT.1, 1, 2)], "{prefixes:?}");
        assert_eq!(world.spoofed(SpoofReason::Spoofed), 0, "{prefixes:?}");
    }
    let mut world = World::new("prefixes of the other family");
    world.set_interface(access(&["::/0"]));
    world.datagram(true, &ping(b"aa"));
    assert_eq!(world.spoofed(SpoofReason::Spoofed), 1);
}

#[test]
fn a_forged_neighbour_charges_the_receiver_as_usual() {
    let mut world = World::new("a neighbour of a neighbour");
    let (ours, other) = (subscriber(40_000), "10.9.9.9:6881".parse().expect("an address"));
    for transaction in [b"aa", b"ab", b"ac"] {
        world.set_interface(access(&["10.0.0.0/16"]));
        world.frame(&udp(other, ours, &ping(transaction)));
        world.frame(&udp(ours, other, &pong(transaction)));
    }
    let charged: Vec<_> = world.charged().iter().map(|row| (row.subscriber, row.packets)).collect();
    assert_eq!(charged, [(1, 6)], "the receiver alone");
}

#[test]
fn forged_packets_from_another_access_interface_stay_out_of_a_settled_flow() {
    let mut world = World::new("a settled flow and a neighbour");
    // The kernel's test runner has one interface.
    world.kernel = None;
    let other = MonitoredInterface { index: u32::from(CORE), ..access(&["10.64.0.0/10"]) };
    world.host.set_interfaces(&[access(&["10.0.0.0/16"]), other]);
    let (mut connection, opening) = Connection::open(subscriber(50_000), outside(6881));
    world.play(&opening);
    world.frame(&connection.says(true, &handshake()));
    world.frame(&connection.says(false, &handshake()));
    for _ in 0..9 {
        world.frame(&connection.says(true, b"\0\0\0\x01\x02"));
        world.frame(&connection.says(false, b"\0\0\0\x01\x02"));
    }
    let honest = world.charged_p2p();
    assert_eq!(honest, [(BITTORRENT.0, BITTORRENT.1, 1, 22)]);
    world.interface = CORE;
    world.frame(&connection.repeats(true, 0, &ciphertext(1_400, 3)));
    assert_eq!((world.charged_p2p(), world.spoofed(SpoofReason::Spoofed)), (honest, 1));
}

#[test]
fn a_pool_that_others_serve_too_has_a_reason_of_its_own() {
    let pools = |shared: &[&str], own: &[&str]| {
        let parse = |pool: &&str| pool.parse().expect("a pool");
        let shared = shared.iter().map(parse).map(|pool: Pool| Pool { shared: true, ..pool });
        shared.chain(own.iter().map(parse)).collect::<Vec<Pool>>()
    };
    for (pools, reasons) in [
        (pools(&["10.0.0.0/8"], &[]), (0, 1)),
        (pools(&["10.0.0.0/8"], &["10.0.0.0/24"]), (1, 0)),
        (pools(&["10.64.0.0/16"], &["10.0.0.0/8"]), (1, 0)),
        (pools(&[], &["10.0.0.0/8"]), (1, 0)),
    ] {
        let mut world = World::with("shared pools", LoadOptions { pools: pools.clone(), ..LoadOptions::default() });
        world.core_frame(&udp(subscriber(40_000), outside(6881), &ping(b"aa")));
        let found = (world.spoofed(SpoofReason::Spoofed), world.spoofed(SpoofReason::CoreSource));
        assert_eq!(found, reasons, "{pools:?}");
    }
}
