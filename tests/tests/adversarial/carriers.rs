//! What carries a forged packet makes no difference: ICMP, fragments, and tunnels with optional fields.

use std::net::SocketAddr;

use monitor_common::abi::{
    event::KernelEvent,
    protocol::{Confidence, Protocol},
};
use peertally_core::words::Role;
use peertally_tests::wire::{Carrier, at, frame, udp};

use super::world::{World, outside, ping, pong, subscriber};

/// Protocol number of ICMP (RFC 792).
const ICMP: u8 = 1;
/// Exchanges of three packets each way, which answer any flow.
const EXCHANGES: u64 = 3;

/// The fragments of an IPv4 packet; the first has eight bytes of its payload.
fn fragments(packet: &[u8]) -> [Vec<u8>; 2] {
    let (headers, content) = packet.split_at(14 + 20);
    let fragment = |field: u16, content: &[u8]| {
        let mut frame = [headers, content].concat();
        frame[16..18].copy_from_slice(&(20 + content.len() as u16).to_be_bytes());
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        frame
    };
    [fragment(0x2000, &content[..8]), fragment(1, &content[8..])]
}

/// An echo request or its answer (RFC 792), which carries these bytes.
fn echo(from: SocketAddr, to: SocketAddr, content: &[u8]) -> Vec<u8> {
    let kind = if from.ip() == subscriber(0).ip() { 0 } else { 8 };
    frame(from, to, ICMP, &[&[kind, 0, 0, 0, 0x12, 0x34, 0, 1], content].concat())
}

/// How a carrier transports a DHT message as one or more frames.
type Carry = fn(SocketAddr, SocketAddr, &[u8]) -> Vec<Vec<u8>>;

const CARRIERS: [(&str, Protocol, Carry); 3] = [
    ("echo", Protocol::Unclassified, |from, to, message| vec![echo(from, to, message)]),
    ("an error that quotes a packet", Protocol::Unclassified, |from, to, message| {
        // Destination unreachable, with the packet that it answers.
        let quoted = udp(to, from, message);
        vec![frame(from, to, ICMP, &[&[3, 3, 0, 0, 0, 0, 0, 0], &quoted[14..]].concat())]
    }),
    ("fragments", Protocol::Fragment, |from, to, message| fragments(&udp(from, to, message)).into()),
];

#[test]
fn what_nobody_answers_charges_nobody_whatever_carries_it() {
    for (name, _, carry) in CARRIERS {
        let mut world = World::new(name);
        let (mine, theirs) = (subscriber(40_000), outside(6_881));
        let mut packets = 0;
        for _ in 0..50 {
            let frames = carry(theirs, mine, &ping(b"aa"));
            packets += frames.len() as u64;
            world.play(&frames);
        }
        assert_eq!(world.charged(), [], "{name}");
        assert_eq!((world.node().0.packets, world.node().1.packets), (packets, packets), "{name}");
    }
}

#[test]
fn what_both_sides_send_in_turn_charges_the_subscriber() {
    for (name, protocol, carry) in CARRIERS {
        let mut world = World::new(name);
        let (mine, theirs) = (subscriber(40_000), outside(6_881));
        let mut packets = 0;
        for _ in 0..EXCHANGES {
            for frames in [carry(theirs, mine, &ping(b"aa")), carry(mine, theirs, &pong(b"aa"))] {
                packets += frames.len() as u64;
                world.play(&frames);
            }
        }
        let charged: u64 = world.charged().iter().map(|row| row.packets).sum();
        assert_eq!(charged, packets, "{name}: {:?}", world.charged());
        assert!(world.charged().iter().any(|row| row.protocol == protocol), "{name}");
    }
}

#[test]
fn a_subscribers_source_from_the_core_charges_nobody_whatever_carries_it() {
    for (name, _, carry) in CARRIERS {
        let mut world = World::new(name);
        let (mine, theirs) = (subscriber(40_000), outside(6_881));
        let mut packets = 0;
        for _ in 0..2 * EXCHANGES {
            for frames in [carry(mine, theirs, &ping(b"aa")), carry(theirs, mine, &pong(b"aa"))] {
                packets += frames.len() as u64;
                world.set_role(Role::Core);
                world.play(&frames);
                world.set_role(Role::Access);
            }
        }
        assert_eq!(world.charged(), [], "{name}");
        assert_eq!(world.node().0.packets, packets, "{name}");
    }
}

#[test]
fn a_tunnels_optional_fields_vouch_for_nobody() {
    let (mine, theirs) = (at("10.9.9.9:40000"), at("198.51.100.5:6881"));
    let ends = [at("203.0.113.1:0").ip(), at("203.0.113.15:0").ip()];
    let stranger = at("203.0.113.66:0").ip();
    for carrier in [Carrier::GreFull, Carrier::Gre, Carrier::Ip, Carrier::Gtpu(3)] {
        let conversation = |world: &mut World, near, far| {
            for transaction in [b"aa", b"ab", b"ac"] {
                world.frame(&carrier.carry(near, far, &udp(mine, theirs, &ping(transaction))));
                world.frame(&carrier.carry(far, near, &udp(theirs, mine, &pong(transaction))));
            }
        };
        let mut world = World::new("a stranger's tunnel");
        for (near, far) in [(ends[0], stranger), (stranger, ends[1]), (stranger, at("203.0.113.67:0").ip())] {
            conversation(&mut world, near, far);
        }
        assert_eq!(world.charged(), [], "{carrier:?}");
        assert_eq!(world.unanswered(Protocol::BitTorrent), 3 * 6, "the label stays: {carrier:?}");
        assert_eq!(world.events(KernelEvent::TunnelUnvouched), 3, "{carrier:?}");
        let mut twin = World::new("a tunnel of the operator");
        conversation(&mut twin, ends[0], ends[1]);
        assert_eq!(twin.charged_p2p(), [(Protocol::BitTorrent, Confidence::Signature, 1, 6)], "{carrier:?}");
        // Between those ends, too, a stranger's query alone is nobody's.
        let mut alone = World::new("a query in a tunnel");
        for _ in 0..20 {
            alone.frame(&carrier.carry(ends[1], ends[0], &udp(theirs, mine, &ping(b"aa"))));
        }
        assert_eq!(alone.charged(), [], "{carrier:?}");
    }
}
