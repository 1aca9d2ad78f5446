//! Packets in a subscriber's name from where that subscriber is not.

use monitor_common::abi::protocol::{Confidence, Protocol};
use peertally_core::words::Role;
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

    /// Packets in the name of a subscriber who is not there.
    fn spoofed(&self) -> u64 {
        let found = self.host.spoofed().iter().map(|tally| tally.packets).sum();
        if let Some(kernel) = &self.kernel {
            let there: u64 = kernel.spoofed().expect("reads").iter().map(|tally| tally.packets).sum();
            assert_eq!(there, found, "kernel and host");
        }
        found
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
    assert_eq!((world.spoofed(), world.node().0.packets), (51, 101));
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
    assert_eq!(world.spoofed(), 50);
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
