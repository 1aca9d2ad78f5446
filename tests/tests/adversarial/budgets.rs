//! One side alone cannot hide what a flow is: whatever it puts in front of its stream, the flow keeps its label. So
//! does a flow whose harmless network does alike.

use std::net::SocketAddr;

use monitor_common::abi::{
    event::KernelEvent,
    limits::{INSPECTED_PER_DIRECTION, JUNK_PER_DIRECTION, MAX_IPV6_EXTENSIONS, PENDING_PACKETS_MAX},
    protocol::{Confidence, Protocol, Verdict},
};
use peertally_tests::wire::{Connection, at, ciphertext, flag, tcp_at, udp};

use super::world::{World, handshake, outside, ping, pong, subscriber};

const LABEL: Verdict = Verdict { protocol: Protocol::BitTorrent, confidence: Confidence::Signature };
/// The opener's first sequence number in [`Connection::open`].
const FIRST: u32 = u32::MAX - 10;
/// That of the other side.
const FIRST_OF_OTHER: u32 = 0x1fff_ffff;

/// The frame of an IPv4 packet with so many hops left.
fn with_hops(frame: &[u8], hops: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[14 + 8] = hops;
    frame
}

/// The fragments of an IPv4 packet; the first has so many bytes of its payload.
fn cut(frame: &[u8], first: usize) -> [Vec<u8>; 2] {
    let (headers, content) = frame.split_at(14 + 20);
    let fragment = |field: u16, content: &[u8]| {
        let mut frame = [headers, content].concat();
        let length = (20 + content.len()) as u16;
        frame[16..18].copy_from_slice(&length.to_be_bytes());
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        frame
    };
    [fragment(0x2000, &content[..first]), fragment(first as u16 / 8, &content[first..])]
}

/// A connection to or from the subscriber that has opened.
fn open(world: &mut World, subscriber_opens: bool) -> Connection {
    let (opener, other) =
        if subscriber_opens { (subscriber(50_000), outside(6881)) } else { (outside(50_000), subscriber(6881)) };
    let (connection, opening) = Connection::open(opener, other);
    world.play(&opening);
    connection
}

/// Both sides' handshakes and an acknowledgement: the label in the end.
fn shake_hands(world: &mut World, connection: &mut Connection) -> Verdict {
    for forth in [true, false] {
        world.frame(&connection.says(forth, &handshake()));
    }
    world.send(&connection.says(true, b""))
}

/// Checks that the subscriber is charged with the flow.
fn is_charged(world: &World) {
    let charged = world.charged_p2p();
    assert!(matches!(charged[..], [(Protocol::BitTorrent, Confidence::Signature, 1, _)]), "{charged:?}");
}

#[test]
fn segments_that_the_receiver_never_takes_hide_nothing() {
    for (of_opener, subscriber_opens) in [(true, true), (false, true), (true, false), (false, false)] {
        let first = if of_opener { FIRST } else { FIRST_OF_OTHER };
        let kinds: [(&str, u32, u8); 3] =
            [("outside the window", 0x7f00_0000, 1), ("with hops enough", 0x7f00_0000, 64), ("in it", first + 1, 1)];
        for (kind, sequence, hops) in kinds {
            // The other side of a connection shows its own hops first.
            if kind == "in it" && !of_opener && subscriber_opens {
                continue;
            }
            let mut world = World::new("junk segments");
            let mut connection = open(&mut world, subscriber_opens);
            let (from, to) =
                if of_opener { (connection.opener, connection.other) } else { (connection.other, connection.opener) };
            for number in 0..u32::from(INSPECTED_PER_DIRECTION) {
                let junk = tcp_at(from, to, flag::PUSH, (sequence.wrapping_add(number), 1), b"x");
                world.frame(&with_hops(&junk, hops));
            }
            assert_eq!(shake_hands(&mut world, &mut connection), LABEL, "{kind}");
            assert_eq!(world.events(KernelEvent::JunkSegment), u64::from(INSPECTED_PER_DIRECTION), "{kind}");
            assert_eq!(world.events(KernelEvent::ExhaustedJunk), 0, "{kind}");
            is_charged(&world);
        }
    }
}

#[test]
fn too_much_junk_ends_its_direction_alone() {
    for of_opener in [true, false] {
        let mut world = World::new("much junk");
        let mut connection = open(&mut world, of_opener);
        for number in 0..JUNK_PER_DIRECTION + 10 {
            world.frame(&tcp_at(
                subscriber_end(&connection),
                outside_end(&connection),
                0x18,
                (0x7000_0000 + number, 1),
                b"x",
            ));
        }
        assert_eq!(world.events(KernelEvent::JunkSegment), u64::from(JUNK_PER_DIRECTION));
        assert_eq!(world.events(KernelEvent::ExhaustedJunk), 1);
        assert_eq!(shake_hands(&mut world, &mut connection), LABEL, "by the other side");
    }
}

/// The subscriber's end of a connection.
fn subscriber_end(connection: &Connection) -> SocketAddr {
    if connection.opener.ip() == subscriber(0).ip() { connection.opener } else { connection.other }
}

/// The other end.
fn outside_end(connection: &Connection) -> SocketAddr {
    if connection.opener.ip() == subscriber(0).ip() { connection.other } else { connection.opener }
}

#[test]
fn one_side_cannot_spend_the_budget_of_the_other() {
    for talker in [true, false] {
        let mut world = World::new("one side's budget");
        let mut connection = open(&mut world, true);
        for number in 0..40_u8 {
            world.frame(&connection.says(talker, &[0x9d, number, 3, 4, 5, 6, 7, 8, 9]));
        }
        world.frame(&connection.says(!talker, &handshake()));
        assert_eq!(world.send(&connection.says(talker, b"")), LABEL);
        let mut world = World::new("one side's datagrams");
        for number in 0..40 {
            world.datagram(talker, &ciphertext(24, number));
        }
        world.datagram(talker, &ping(b"aa"));
        world.datagram(!talker, &pong(b"aa"));
        for _ in 0..2 {
            world.datagram(talker, &ping(b"bb"));
            world.datagram(!talker, &pong(b"bb"));
        }
        is_charged(&world);
    }
}

#[test]
fn acknowledgements_cost_no_budget() {
    for of_opener in [true, false] {
        let mut world = World::new("bare acknowledgements");
        let mut connection = open(&mut world, true);
        for _ in 0..200 {
            world.frame(&connection.says(of_opener, b""));
        }
        assert_eq!(shake_hands(&mut world, &mut connection), LABEL);
        is_charged(&world);
    }
}

#[test]
fn what_cannot_be_a_message_costs_no_budget() {
    let mut world = World::new("datagrams of one byte");
    for number in 0..INSPECTED_PER_DIRECTION {
        world.datagram(true, &[number]);
    }
    world.datagram(true, &ping(b"aa"));
    world.datagram(false, &pong(b"aa"));
    is_charged(&world);

    let mut world = World::new("fragments");
    for number in 0..u64::from(2 * INSPECTED_PER_DIRECTION) {
        let frame = udp(subscriber(40_000), outside(6881), &ciphertext(100, number));
        world.play(&cut(&frame, 16));
    }
    world.datagram(true, &ping(b"aa"));
    world.datagram(false, &pong(b"aa"));
    let packets = world.charged_p2p();
    assert!(matches!(packets[..], [(Protocol::BitTorrent, Confidence::Signature, 1, _)]), "{packets:?}");
}

#[test]
fn extension_headers_hide_nothing() {
    let mut world = World::new("extension headers");
    let (mine, theirs) = (at("[2001:db8::1]:40000"), at("[2001:db9::1]:6881"));
    let frame = udp(mine, theirs, &ping(b"aa"));
    let (mut headers, datagram) = (frame[..14 + 40].to_vec(), &frame[14 + 40..]);
    let mut content = datagram.to_vec();
    for index in 0..MAX_IPV6_EXTENSIONS {
        let next = if index == 0 { 17 } else { 60 };
        content = [&[next, 0, 1, 4, 0, 0, 0, 0], content.as_slice()].concat();
    }
    headers[14 + 6] = 60;
    headers[14 + 4..14 + 6].copy_from_slice(&(content.len() as u16).to_be_bytes());
    assert_eq!(world.send(&[headers, content].concat()), LABEL);
}

#[test]
fn reordered_repeated_and_overlapping_segments_are_classified() {
    type Order = fn(&mut Connection) -> Vec<Vec<u8>>;
    let orders: [(&str, Order); 5] = [
        ("reordered", |connection| {
            let first = connection.says(true, &handshake());
            let second = connection.says(true, b"\0\0\0\x05\x04\0\0\0\x07");
            vec![second, first]
        }),
        ("repeated", |connection| {
            let first = connection.says(true, &handshake());
            vec![first.clone(), first.clone(), first]
        }),
        ("overlapping", |connection| {
            let start = connection.says(true, &handshake()[..20]);
            let rest = connection.repeats(true, 20, &handshake());
            connection.says(true, &handshake()[20..]);
            vec![start, rest]
        }),
        ("one byte lost and sent again", |connection| {
            let start = connection.says(true, &handshake()[..1]);
            let rest = connection.says(true, &handshake()[1..]);
            vec![rest.clone(), start, rest]
        }),
        ("another path, with fewer hops", |connection| vec![with_hops(&connection.says(true, &handshake()), 58)]),
    ];
    for (kind, order) in orders {
        for subscriber_opens in [true, false] {
            let mut world = World::new("a network that reorders");
            let mut connection = open(&mut world, subscriber_opens);
            world.play(&order(&mut connection));
            world.play(&[connection.says(false, &handshake()), connection.says(true, b"")]);
            assert_eq!(world.send(&connection.says(false, b"")), LABEL, "{kind}");
            is_charged(&world);
        }
    }
}

#[test]
fn a_path_that_changes_hides_nothing() {
    let mut world = World::new("a longer path");
    let mut connection = open(&mut world, true);
    world.frame(&connection.says(true, b"\x05\x01\0"));
    world.frame(&connection.says(false, b"\x05\0"));
    // All that follows takes three hops more.
    world.frame(&with_hops(&connection.says(true, b"\x05\x01\0\x01\xc0\0\x02\x07\x18\xca"), 61));
    world.frame(&connection.says(false, b"\x05\0\0\x01\xc0\0\x02\x07\x18\xca"));
    world.frame(&with_hops(&connection.says(true, &handshake()), 61));
    assert_eq!(world.send(&connection.says(false, b"")), LABEL);
}

#[test]
fn fast_open_is_classified() {
    let (mine, theirs) = (subscriber(50_000), outside(6881));
    for accepted in [true, false] {
        let mut world = World::new("TCP Fast Open");
        world.frame(&tcp_at(mine, theirs, flag::SYN, (999, 0), &handshake()));
        let acknowledged = if accepted { 1_068 } else { 1_000 };
        world.frame(&tcp_at(theirs, mine, flag::SYN_ACK, (4_999, acknowledged), b""));
        if !accepted {
            world.frame(&tcp_at(mine, theirs, flag::PUSH, (1_000, 5_000), &handshake()));
        }
        world.frame(&tcp_at(theirs, mine, flag::PUSH, (5_000, 1_068), &handshake()));
        assert_eq!(world.send(&tcp_at(mine, theirs, flag::ACK, (1_068, 5_068), b"")), LABEL);
        is_charged(&world);
    }
    // A signature that is cut there goes on behind the SYN.
    let mut world = World::new("TCP Fast Open, cut");
    world.frame(&tcp_at(mine, theirs, flag::SYN, (999, 0), &handshake()[..10]));
    world.frame(&tcp_at(theirs, mine, flag::SYN_ACK, (4_999, 1_010), b""));
    assert_eq!(world.send(&tcp_at(mine, theirs, flag::PUSH, (1_010, 5_000), &handshake()[10..])), LABEL);
    // What a server does not take from a SYN says nothing of the stream.
    let mut world = World::new("TCP Fast Open, refused");
    world.frame(&tcp_at(mine, theirs, flag::SYN, (999, 0), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    world.frame(&tcp_at(theirs, mine, flag::SYN_ACK, (4_999, 1_000), b""));
    assert_eq!(world.send(&tcp_at(mine, theirs, flag::PUSH, (1_000, 5_000), &handshake())), LABEL);
}

#[test]
fn simultaneous_open_is_classified() {
    let (mine, theirs) = (subscriber(50_000), outside(6881));
    let mut world = World::new("simultaneous open");
    world.play(&[
        tcp_at(mine, theirs, flag::SYN, (999, 0), b""),
        tcp_at(theirs, mine, flag::SYN, (4_999, 0), b""),
        tcp_at(mine, theirs, flag::SYN_ACK, (999, 5_000), b""),
        tcp_at(theirs, mine, flag::SYN_ACK, (4_999, 1_000), b""),
        tcp_at(mine, theirs, flag::PUSH, (1_000, 5_000), &handshake()),
        tcp_at(theirs, mine, flag::PUSH, (5_000, 1_068), &handshake()),
    ]);
    assert_eq!(world.send(&tcp_at(mine, theirs, flag::ACK, (1_068, 5_068), b"")), LABEL);
    is_charged(&world);
}

#[test]
fn a_segment_of_an_earlier_connection_hides_nothing() {
    let mut world = World::new("an earlier connection");
    let (mine, theirs) = (subscriber(50_000), outside(6881));
    world.frame(&tcp_at(mine, theirs, flag::ACK, (0x1234_5678, 7), b""));
    let mut connection = open(&mut world, true);
    assert_eq!(shake_hands(&mut world, &mut connection), LABEL);
    is_charged(&world);
}

#[test]
fn a_flow_without_payload_leaves_the_slow_path() {
    use monitor_common::tables::flow_table::{FlowState, Phase};
    let inspecting = |world: &World| {
        let states = world.host.view().flows.iter().flat_map(|set| &set.states).map(|state| FlowState(state.load()));
        states.filter(|state| state.phase() == Phase::Inspecting).count()
    };
    let mut world = World::new("a download");
    let mut connection = open(&mut world, true);
    world.frame(&connection.says(true, &[0x9d; 9]));
    let mut packets = 0;
    while inspecting(&world) != 0 {
        world.frame(&connection.says(false, &ciphertext(1_400, packets)));
        packets += 1;
        assert!(packets <= PENDING_PACKETS_MAX, "a download ends");
    }
    let mut world = World::new("acknowledgements alone");
    let connection = open(&mut world, true);
    for _ in 0..PENDING_PACKETS_MAX {
        world.frame(&connection.repeats(true, 0, b""));
    }
    assert_eq!(inspecting(&world), 0);
}
