//! A flow charges nobody who did not take part in it.

use monitor_common::abi::{
    limits::ANSWER_SECONDS,
    protocol::{Confidence, Protocol},
};
use peertally_core::snapshot::Counts;
use peertally_datapath::object::LoadOptions;
use peertally_tests::wire::{Connection, ciphertext, flag, tcp_at, udp};

use super::world::{World, handshake, outside, ping, pong, subscriber};

const SIGNATURE: Confidence = Confidence::Signature;

#[test]
fn datagrams_that_nobody_answers_charge_nobody() {
    let mut world = World::new("unanswered datagrams");
    world.datagram(false, &ping(b"aa"));
    for _ in 0..200 {
        world.datagram(false, &ciphertext(1_400, 7));
    }
    for port in 0..150 {
        world.frame(&udp(outside(10_000 + port), subscriber(40_000), &ping(b"aa")));
    }
    assert_eq!(world.charged(), [], "who sent nothing is charged nothing");
    assert_eq!(world.node().0, world.node().1, "all of it is nobody's");
    assert_eq!(world.node().0, Counts { flows: 151, packets: 351, bytes: 351 * 28 + 151 * 56 + 200 * 1_400 });
    assert_eq!(world.unanswered(Protocol::BitTorrent), 351, "the label stays");
}

#[test]
fn an_answered_query_charges_what_came_before_it() {
    let mut world = World::new("a lone query");
    world.datagram(true, &ping(b"aa"));
    assert_eq!(world.charged_p2p(), []);
    let mut world = World::new("answered datagrams");
    world.datagram(true, &ping(b"aa"));
    world.datagram(false, &pong(b"aa"));
    assert_eq!(world.charged_p2p(), [(Protocol::BitTorrent, SIGNATURE, 1, 2)]);
    assert_eq!(world.node().1, Counts::default());
}

#[test]
fn a_subscriber_who_answers_the_query_of_a_stranger_takes_part() {
    let mut world = World::new("a stranger's query");
    world.datagram(false, &ping(b"aa"));
    world.datagram(true, &pong(b"aa"));
    assert_eq!(world.charged_p2p(), [(Protocol::BitTorrent, SIGNATURE, 1, 2)]);
}

#[test]
fn an_answer_of_another_protocol_is_no_part_in_it() {
    let mut world = World::new("a stranger's query to another server");
    for _ in 0..4 {
        world.datagram(false, &ping(b"aa"));
        world.datagram(true, b"this is a game server, what do you want");
    }
    assert_eq!(world.charged_p2p(), [], "it only answers");
    assert_eq!(world.unanswered(Protocol::BitTorrent), 8);
}

#[test]
fn what_is_proved_late_charges_what_follows() {
    let mut world = World::new("a late answer");
    for _ in 0..20 {
        world.datagram(false, &ping(b"aa"));
    }
    world.now_s += u64::from(ANSWER_SECONDS);
    world.datagram(true, &pong(b"aa"));
    for _ in 0..5 {
        world.datagram(true, &ping(b"bb"));
        world.datagram(false, &pong(b"bb"));
    }
    let charged = world.charged_p2p();
    assert_eq!(charged, [(Protocol::BitTorrent, SIGNATURE, 1, 10)], "neither the wait nor the proof");
    assert_eq!(world.node().1.packets, 21);
    assert_eq!(world.node().0, Counts { flows: 1, ..world.node().0 }, "one flow");
}

#[test]
fn datagrams_without_a_repeated_value_must_alternate() {
    for (turns, charged) in [(5, 0), (6, 6)] {
        let mut world = World::new("turns");
        for turn in 0..turns {
            world.datagram(turn % 2 == 0, b"neither random nor of any protocol, and long enough to be seen");
        }
        let packets: u64 = world.charged().iter().map(|row| row.packets).sum();
        assert_eq!(packets, charged, "{turns} packets that alternate");
    }
    let mut world = World::new("no turns");
    for _ in 0..3 {
        world.datagram(false, b"three packets of each side");
    }
    for _ in 0..3 {
        world.datagram(true, b"one after the other prove nothing");
    }
    assert_eq!(world.charged(), []);
}

/// A connection in which both sides say these, the opener first.
fn connection(subscriber_opens: bool, mine: &[u8], theirs: &[u8]) -> Vec<Vec<u8>> {
    let (opener, other) =
        if subscriber_opens { (subscriber(50_000), outside(6881)) } else { (outside(50_000), subscriber(6881)) };
    let (mut connection, opening) = Connection::open(opener, other);
    let mut frames = opening.to_vec();
    frames.push(connection.says(subscriber_opens, mine));
    frames.push(connection.says(!subscriber_opens, theirs));
    frames.push(connection.says(subscriber_opens, b""));
    frames
}

#[test]
fn a_conversation_over_tcp_charges_its_subscriber() {
    for subscriber_opens in [true, false] {
        let mut world = World::new("a conversation over TCP");
        world.play(&connection(subscriber_opens, &handshake(), &handshake()));
        assert_eq!(world.charged_p2p(), [(Protocol::BitTorrent, SIGNATURE, 1, 5)]);
        assert_eq!(world.node().1, Counts::default());
    }
}

#[test]
fn a_stranger_who_speaks_to_a_web_server_charges_nobody_with_it() {
    let mut world = World::new("a stranger at a web server");
    world.play(&connection(false, b"HTTP/1.1 400 Bad Request\r\n\r\n", &handshake()));
    assert_eq!(world.charged_p2p(), []);
    let mut twin = World::new("a stranger at a peer");
    twin.play(&connection(false, &handshake(), &handshake()));
    assert_eq!(twin.charged_p2p().len(), 1);
}

#[test]
fn who_dials_a_speaker_and_speaks_no_other_protocol_is_charged() {
    let mut world = World::new("a server that speaks first");
    let (mut connection, opening) = Connection::open(subscriber(50_000), outside(411));
    world.play(&opening);
    let lock = b"$Lock EXTENDEDPROTOCOLABCABCABCABCABCABC Pk=verlihub|";
    world.frame(&connection.says(false, lock));
    world.frame(&connection.says(true, b""));
    // What a program says that no rule knows.
    world.frame(&connection.says(true, &ciphertext(40, 3)));
    world.frame(&connection.says(false, b""));
    world.frame(&connection.says(true, b""));
    assert_eq!(world.charged_p2p(), [(Protocol::DirectConnect, SIGNATURE, 1, 7)]);
}

#[test]
fn who_only_dials_a_speaker_charges_nobody() {
    let hello = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), &ciphertext(506, 3)].concat();
    let openings: [(&str, &[u8]); 4] = [
        ("nothing", b""),
        ("a request", b"GET / HTTP/1.1\r\nHost: a.example\r\nUser-Agent: Mozilla/5.0\r\n\r\n"),
        ("a hello of TLS", &hello),
        ("a mail client's line", b"EHLO mail.example.org\r\n"),
    ];
    for (name, said) in openings {
        for server_first in [false, true] {
            let mut world = World::new(name);
            let (mut connection, opening) = Connection::open(subscriber(50_000), outside(81));
            world.play(&opening);
            world.frame(&connection.says(true, b""));
            let mut segments = [(true, said.to_vec()), (false, handshake())];
            if server_first {
                segments.reverse();
            }
            for (forth, payload) in &segments {
                world.frame(&connection.says(*forth, payload));
            }
            for seed in 0..6 {
                world.frame(&connection.says(false, &ciphertext(1_400, seed)));
                world.frame(&connection.says(true, b""));
            }
            assert_eq!(world.charged_p2p(), [], "{name}, server first: {server_first}");
        }
    }
}

#[test]
fn a_stream_joined_midway_waits_for_both_sides() {
    // Pieces are on their way before the peer sees a request: it acknowledges one only after a while.
    let (mine, theirs) = (subscriber(50_000), outside(6881));
    let mut world = World::new("a stream joined midway, with a round trip");
    let request = [b"\0\0\0\x0d\x06\0\0\0\x01\0\0\0\0\0\0\x40\0".as_slice(); 2].concat();
    let piece = |number: u32| tcp_at(theirs, mine, flag::PUSH, (5_000 + 1_400 * number, 900), &ciphertext(1_400, 9));
    let asks = |number: u32, acknowledged: u32| {
        tcp_at(mine, theirs, flag::PUSH, (900 + 34 * number, 5_000 + 1_400 * acknowledged), &request)
    };
    world.frame(&piece(0));
    world.frame(&tcp_at(mine, theirs, flag::ACK, (900, 6_400), b""));
    world.frame(&asks(0, 1));
    for number in 1..20 {
        world.frame(&piece(number));
    }
    world.frame(&asks(1, 20));
    assert_eq!(world.charged_p2p(), [], "the peer has acknowledged nothing yet");
    world.frame(&tcp_at(theirs, mine, flag::ACK, (33_000, 968), b""));
    world.frame(&asks(2, 20));
    let charged = world.charged_p2p();
    assert!(matches!(charged[..], [(Protocol::BitTorrent, _, 1, _)]), "{charged:?}");
}

#[test]
fn a_kad_lookup_and_its_answer_charge_who_asked() {
    let target = [7, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    let lookup = [b"\xe4\x21\x0b".as_slice(), &target, &[0x55; 16]].concat();
    let contact = [&[0x66; 16], [198, 51, 100, 7].as_slice(), &[0x36, 0x12, 0x37, 0x12, 8]].concat();
    let answer = |target: &[u8]| [b"\xe4\x29".as_slice(), target, &[1], &contact].concat();
    let (mine, theirs) = (subscriber(4_672), outside(4_672));
    let mut world = World::new("a Kad lookup");
    world.frame(&udp(mine, theirs, &lookup));
    world.frame(&udp(theirs, mine, &answer(&target)));
    let charged = world.charged_p2p();
    assert!(matches!(charged[..], [(Protocol::Kademlia, _, 1, 2)]), "{charged:?}");
    let mut world = World::new("an answer to another lookup");
    world.frame(&udp(mine, theirs, &lookup));
    world.frame(&udp(theirs, mine, &answer(&[9; 16])));
    assert_eq!(world.charged_p2p(), [], "nobody has repeated what the subscriber chose");
}

#[test]
fn what_came_before_a_late_proof_stays_the_interfaces_though_the_verdict_comes_with_it() {
    let mut world = World::new("rubbish, then a query");
    for seed in 0..7 {
        world.datagram(false, &ciphertext(1_400, seed));
    }
    world.now_s += u64::from(ANSWER_SECONDS);
    world.datagram(false, &ping(b"aa"));
    world.datagram(true, &pong(b"aa"));
    world.datagram(true, &ping(b"bb"));
    world.datagram(false, &pong(b"bb"));
    let charged = world.charged_p2p();
    assert!(charged.iter().all(|(.., packets)| *packets <= 3), "{charged:?}");
    assert_eq!(world.node().0.packets, 11);
}

#[test]
fn a_blind_sender_proves_nothing_over_tcp() {
    let (mine, theirs) = (subscriber(51_413), outside(6881));
    let mut world = World::new("blind segments");
    // Segments of both sides, but the acknowledgements are guesses.
    for number in 0..40_u32 {
        let guess = number.wrapping_mul(0x9e37_79b9);
        world.frame(&tcp_at(theirs, mine, flag::PUSH, (0x1000_0000 + 1_000 * number, guess), &ciphertext(1_000, 1)));
        world.frame(&tcp_at(mine, theirs, flag::PUSH, (number, guess | 0x8000_0000), &handshake()));
    }
    assert_eq!(world.charged(), []);
    assert_eq!(world.node().1.packets, 80);
    // A reset or SYN-ACK is what any host sends.
    let mut world = World::new("answers of any host");
    for port in 0..50 {
        let stranger = outside(20_000 + port);
        world.frame(&tcp_at(stranger, mine, flag::SYN, (7, 0), b""));
        world.frame(&tcp_at(mine, stranger, 0x14, (0, 8), b""));
        world.frame(&tcp_at(stranger, mine, flag::SYN, (9, 0), b""));
        world.frame(&tcp_at(mine, stranger, flag::SYN_ACK, (5, 10), b""));
    }
    assert_eq!(world.charged(), [], "a scan charges nobody");
}

#[test]
fn a_stream_joined_midway_needs_both_sides() {
    let (mine, theirs) = (subscriber(51_413), outside(6881));
    let mine_says = |sequence, ack, payload: &[u8]| tcp_at(mine, theirs, flag::PUSH, (sequence, ack), payload);
    let theirs_says = |sequence, ack, payload: &[u8]| tcp_at(theirs, mine, flag::PUSH, (sequence, ack), payload);
    let mut world = World::new("midway");
    world.play(&[
        mine_says(1_000, 500, &handshake()),
        theirs_says(500, 1_068, &handshake()),
        mine_says(1_068, 568, &[0, 0, 0, 1, 2]),
        theirs_says(568, 1_073, &[0, 0, 0, 1, 1]),
    ]);
    assert_eq!(world.charged_p2p(), [(Protocol::BitTorrent, SIGNATURE, 1, 4)]);
    let mut world = World::new("midway, one side");
    world.play(&[
        mine_says(1_000, 500, b"GET /video HTTP/1.1\r\n\r\n"),
        theirs_says(500, 1_023, &handshake()),
        mine_says(1_023, 568, b""),
        theirs_says(568, 1_023, &handshake()),
        mine_says(1_023, 636, b""),
    ]);
    assert_eq!(world.charged_p2p(), [], "the other side alone");
}

#[test]
fn both_subscribers_of_a_conversation_are_charged_alike() {
    let mut world = World::new("two subscribers");
    let other = "10.0.0.2:6881".parse().expect("an address");
    let (mut connection, opening) = Connection::open(subscriber(50_000), other);
    world.play(&opening);
    world.play(&[connection.says(true, &handshake()), connection.says(false, &handshake())]);
    world.play(&[connection.says(true, b"\0\0\0\x01\x02"), connection.says(false, b"\0\0\0\x01\x01")]);
    let charged: Vec<_> = world.charged().iter().map(|row| (row.subscriber, row.flows, row.packets)).collect();
    assert_eq!(charged.iter().filter(|row| row.2 != 0).collect::<Vec<_>>(), [&(1, 1, 6), &(2, 1, 6)]);
}

#[test]
fn a_router_that_sees_one_direction_takes_every_flow_as_answered() {
    let mut world = World::with("one way", LoadOptions { one_way: true, ..LoadOptions::default() });
    world.datagram(false, &ping(b"aa"));
    assert_eq!(world.charged_p2p(), [(Protocol::BitTorrent, SIGNATURE, 1, 1)]);
}
