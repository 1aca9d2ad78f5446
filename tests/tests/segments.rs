//! Signatures that the sender cut over the first segments of a TCP stream: each is found wherever it was cut, and
//! nothing that is held meanwhile is taken for something else. See `monitor-common/src/dissect/hold_rules.rs`.
//!
//! Every frame goes to the host's data path and, with the rights for it, to the kernel's, which must agree.

use std::net::SocketAddr;

use monitor_common::{
    abi::{
        event::KernelEvent,
        limits::{HOLD_SECONDS, REASSEMBLY_SLOTS, SWEPT_SLOTS},
        protocol::Protocol,
    },
    parse::payload::Transport,
    tables::reassembly::ReassemblySlot,
};
use peertally_datapath::TableSizes;
use peertally_tests::{
    both_datapaths::{self, BothDatapaths},
    p2p::{Exchange, exchanges},
    wire::Connection,
    wrap_both_datapaths,
};

const SUBSCRIBER: &str = "10.0.0.1";
const REMOTE: &str = "192.0.2.7";

wrap_both_datapaths!(
    /// Both data paths, and conversations over them.
    Network
);

impl Network {
    fn new() -> Self {
        let sizes = TableSizes { flows: 1 << 16, tallies: 1024, peers: 1024 };
        Self(BothDatapaths::new("segments", &both_datapaths::options(sizes)))
    }

    /// A connection of the subscriber.
    fn open(&mut self, ports: (u16, u16)) -> Connection {
        let end = |address: &str, port| SocketAddr::new(address.parse().expect("an address"), port);
        let (connection, opening) = Connection::open(end(SUBSCRIBER, ports.0), end(REMOTE, ports.1));
        for frame in opening {
            self.send(&frame);
        }
        connection
    }

    /// Plays a conversation; its label, and the message that brought it.
    fn play(&mut self, exchange: &Exchange) -> (Protocol, usize) {
        let mut connection = self.open(exchange.ports);
        for (number, (forth, payload)) in exchange.messages.iter().enumerate() {
            let protocol = self.send(&connection.says(*forth, payload)).protocol;
            if protocol != Protocol::Unclassified {
                return (protocol, number);
            }
        }
        (Protocol::Unclassified, exchange.messages.len())
    }
}

/// Conversations with a deciding message that is not found at every cut, and the reason.
const NOT_CUT: [(&str, &str); 13] = [
    ("bittorrent-midstream", "a message of a stream that began earlier"),
    ("bittorrent-midstream-pipelined", "a message of a stream that began earlier"),
    ("acestream-midstream", "a message of a stream that began earlier"),
    ("edonkey-part-midstream", "its end, many segments later, tells as well"),
    ("edonkey-requests", "not in the header of its second message: the held bytes may not have the hash in its first"),
    ("soulseek-login", "starts with any byte; its length alone in a segment is found"),
    ("soulseek-peer", "starts with any byte; its length alone in a segment is found"),
    ("soulseek-pierce", "starts with any byte; its length alone in a segment is found"),
    ("soulseek-obfuscated-peer", "starts with any byte"),
    ("soulseek-obfuscated-pierce", "starts with any byte"),
    ("ares-link", "three fixed bytes are too few to wait for"),
    ("opennap-login", "starts with any byte; its length and type alone in a segment are found"),
    ("openft-download", "a request by a file's name: nothing of it is held"),
];

/// Telling messages besides those of the table of conversations: how a stream of either side may begin.
fn messages() -> Vec<(Protocol, bool, String)> {
    use Protocol::{BitTorrent, DirectConnect, FastTrack, Gnutella, OpenFt};
    let (hash, passkey) = ("%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%124Vx%9A", "0123456789abcdef0123456789abcdef");
    let urn = "urn:sha1:PLSTHIPQGSSZTS5FJUPAKUZWUGYQYPFB";
    let ask = |protocol, text: String| (protocol, true, text);
    let answer = |protocol, text: String| (protocol, false, text);
    let get = |path: &str, line: &str| format!("GET {path} HTTP/1.1\r\nHost: 192.0.2.7\r\n{line}\r\n\r\n");
    vec![
        ask(BitTorrent, get(&format!("/announce?info_hash={hash}&port=6881"), "User-Agent: a")),
        ask(BitTorrent, get(&format!("/announce.php?passkey={passkey}&info_hash={hash}"), "User-Agent: a")),
        ask(BitTorrent, get(&format!("/scrape?info_hash={hash}"), "User-Agent: a")),
        ask(BitTorrent, get(&format!("/webseed?info_hash={hash}"), "User-Agent: a")),
        ask(Gnutella, get(&format!("/uri-res/N2R?{urn}"), "User-Agent: a")),
        ask(Gnutella, get(&format!("/uri-res/N2X?{urn}"), "User-Agent: a")),
        ask(Gnutella, get(&format!("/uri-res/N2R?{urn}"), "User-Agent: a").replace("GET", "HEAD")),
        ask(Gnutella, get("/gnutella/push-proxy?ServerId=A", "User-Agent: a")),
        ask(Gnutella, get("/gnutella/tigertree/v2?urn:tree:tiger/:A", "User-Agent: a")),
        ask(Gnutella, "GNUTELLA CONNECT/0.6\r\nUser-Agent: a\r\n\r\n".into()),
        ask(Gnutella, "PUSH guid:809BC12168A1852CFF5D7A785833F600\r\n\r\n".into()),
        ask(Gnutella, "GIV 1234567890:809BC12168A1852CFF5D7A785833F600/a.mp3\n\n".into()),
        answer(Gnutella, "GNUTELLA/0.6 200 OK\r\n\r\n".into()),
        answer(Gnutella, format!("HTTP/1.1 503 Busy\r\nServer: a\r\nX-Gnutella-Content-URN: {urn}\r\n\r\n")),
        answer(FastTrack, "HTTP/1.1 200 OK\r\nX-Kazaa-Username: someone\r\n\r\n".into()),
        ask(FastTrack, "GET /.hash=ea97adc32b795a9ab45937c5e151dfda397a5d0f HTTP/1.1\r\n\r\n".into()),
        ask(FastTrack, "GIVE 1234567\r\n\r\n".into()),
        answer(OpenFt, "HTTP/1.1 200 OK\r\nX-OpenftAlias: someone\r\n\r\n".into()),
        ask(DirectConnect, "$MyNick someone|$Lock EXTENDEDPROTOCOLABC Pk=a|".into()),
        ask(DirectConnect, "$MyNick someone_with_a_long_name|".into()),
        answer(DirectConnect, "$Lock EXTENDEDPROTOCOLABCABCABCABC Pk=DCPLUSPLUS0.868|".into()),
        ask(DirectConnect, "$ADCGET file TTH/PPUROLR2WSYTGPLCM3KV4V6LJC36SCTFQJFDJKA 0 -1|".into()),
        ask(DirectConnect, "$ADCGET file files.xml.bz2 0 -1|".into()),
        ask(DirectConnect, "$ADCSND list / 0 100|".into()),
        ask(DirectConnect, "HSUP ADBASE ADTIGR\n".into()),
        answer(DirectConnect, "ISUP ADBASE ADTIGR\nISID AAAB\n".into()),
        ask(DirectConnect, "CSUP ADBASE ADTIGR ADBZIP ADZLIG\n".into()),
        ask(DirectConnect, "CGET tthl TTH/PPUROLR2WSYTGPLCM3KV4V6LJC36SCTFQJFDJKA 0 -1\n".into()),
        ask(DirectConnect, "CGET file files.xml.bz2 0 -1\n".into()),
        ask(DirectConnect, "CSND list /files.xml.bz2 0 100\n".into()),
    ]
}

/// Every TCP conversation that is to be found at every cut.
fn conversations() -> Vec<Exchange> {
    let mut all: Vec<Exchange> = exchanges();
    all.retain(|exchange| {
        exchange.transport == Transport::Tcp && NOT_CUT.iter().all(|(name, _)| *name != exchange.name)
    });
    all.extend(messages().into_iter().map(|(protocol, forth, text)| Exchange {
        name: "message",
        protocol,
        transport: Transport::Tcp,
        ports: (50_000, 6346),
        messages: vec![(forth, text.into_bytes())],
    }));
    all
}

/// Plays it cut, and checks its label.
fn check(network: &mut Network, exchange: &Exchange, message: usize, places: &[usize]) {
    let cut = exchange.cut(message, places);
    let (found, _) = network.play(&cut);
    let whole = exchange.messages[message].1[..places[0]].escape_ascii().to_string();
    assert_eq!(found, exchange.protocol, "{} cut at {places:?}: {whole}", exchange.name);
}

/// The longest message that may be cut anywhere: the bytes held of it and of the segment after it.
const LONGEST: usize = monitor_common::abi::limits::HELD_BYTES;

#[test]
fn every_signature_is_found_at_every_cut_in_two() {
    let mut network = Network::new();
    let mut cuts = 0;
    for exchange in conversations() {
        let (protocol, message) = network.play(&exchange);
        assert_eq!(protocol, exchange.protocol, "{} uncut", exchange.name);
        // MUTE's key is longer than the bytes held.
        for place in 1..exchange.messages[message].1.len().min(LONGEST + 1) {
            check(&mut network, &exchange, message, &[place]);
            cuts += 1;
        }
    }
    println!("{cuts} cuts in two");
    assert!(cuts > 2_000, "{cuts}");
}

#[test]
fn every_signature_is_found_at_cuts_in_three_and_more() {
    let mut network = Network::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    for exchange in conversations() {
        let (_, message) = network.play(&exchange);
        let len = exchange.messages[message].1.len().min(LONGEST);
        for round in 0..60 {
            let mut places: Vec<usize> = (0..2 + round / 30).map(|_| 1 + below(len - 1)).collect();
            places.sort_unstable();
            places.dedup();
            check(&mut network, &exchange, message, &places);
        }
    }
}

/// A signature in three segments, of which the first two are held.
const PARTS: [&[u8]; 3] = [b"GNUT", b"ELLA CON", b"NECT/0.6\r\nUser-Agent: a\r\n\r\n"];

#[test]
fn retransmissions_are_not_doubled_and_gaps_are_no_continuation() {
    let mut network = Network::new();
    let mut connection = network.open((50_000, 6346));
    network.send(&connection.says(true, PARTS[0]));
    network.send(&connection.repeats(true, 4, PARTS[0]));
    network.send(&connection.says(true, PARTS[1]));
    network.send(&connection.repeats(true, 8, PARTS[1]));
    network.send(&connection.repeats(true, 12, PARTS[0]));
    // A probe, whether the other side is alive.
    network.send(&connection.repeats(true, 1, b"N"));
    assert_eq!(network.send(&connection.says(true, PARTS[2])).protocol, Protocol::Gnutella);

    // The second segment is lost on its way here, and is sent again after the third.
    let mut connection = network.open((50_001, 6346));
    network.send(&connection.says(true, PARTS[0]));
    let second = connection.says(true, PARTS[1]);
    let third = connection.says(true, PARTS[2]);
    assert_eq!(network.send(&third).protocol, Protocol::Unclassified);
    network.send(&second);
    assert_eq!(network.send(&third).protocol, Protocol::Gnutella);

    // A sender may put what it sends again and what is new in one segment.
    let mut connection = network.open((50_002, 6346));
    network.send(&connection.says(true, PARTS[0]));
    assert_eq!(network.send(&connection.repeats(true, 4, &PARTS.concat())).protocol, Protocol::Gnutella);
}

#[test]
fn the_other_side_does_not_continue_and_both_may_be_cut() {
    let mut network = Network::new();
    let mut connection = network.open((50_000, 6346));
    network.send(&connection.says(true, PARTS[0]));
    network.send(&connection.says(false, PARTS[0]));
    assert_eq!(network.send(&connection.says(false, b"something else")).protocol, Protocol::Unclassified);
    network.send(&connection.says(true, PARTS[1]));
    assert_eq!(network.send(&connection.says(true, PARTS[2])).protocol, Protocol::Gnutella);
}

#[test]
fn held_bytes_are_not_used_later_or_after_a_restart() {
    let mut network = Network::new();
    let mut connection = network.open((50_000, 6346));
    network.send(&connection.says(true, PARTS[0]));
    network.now_s += u64::from(HOLD_SECONDS);
    network.send(&connection.says(true, PARTS[1]));
    assert_eq!(network.send(&connection.says(true, PARTS[2])).protocol, Protocol::Unclassified);

    let mut connection = network.open((50_001, 6346));
    network.send(&connection.says(true, PARTS[0]));
    let mut again = network.open((50_001, 6346));
    network.send(&again.says(true, b"\x01\x02\x03\x04"));
    network.send(&again.says(true, PARTS[1]));
    assert_eq!(network.send(&again.says(true, PARTS[2])).protocol, Protocol::Unclassified);
}

#[test]
fn what_a_few_binary_bytes_frame_is_no_signature() {
    let mut network = Network::new();
    let socks: &[&[u8]] = &[b"\x05\x01\0", b"\x05\x01\0\x01\xc0\0\x02\x07\x18\xca"];
    let cases: [(&[&[u8]], Protocol); 4] = [
        (&[b"\0\0\0\x2f"], Protocol::Unclassified),
        (&[b"\x82\x01\x02", b"\0\0\0\x2f"], Protocol::Unclassified),
        (socks, Protocol::Gnutella),
        (&[&[0x9d; 16]], Protocol::Gnutella),
    ];
    for (port, (before, expected)) in (50_000..).zip(cases) {
        let mut connection = network.open((port, 6346));
        for payload in before {
            network.send(&connection.says(true, payload));
        }
        assert_eq!(network.send(&connection.says(true, &PARTS.concat())).protocol, expected, "{before:02x?}");
        // The other direction is another stream.
        let answer = network.send(&connection.says(false, b"GNUTELLA/0.6 200 OK\r\n"));
        assert_eq!(answer.protocol, Protocol::Gnutella, "{before:02x?}");
    }
}

#[test]
fn a_crowd_overwrites_and_is_counted() {
    let mut network = Network::new();
    let crowd = REASSEMBLY_SLOTS as u16;
    for port in 0..crowd {
        let mut connection = network.open((10_000 + port, 6346));
        network.send(&connection.says(true, PARTS[0]));
    }
    assert!(network.events(KernelEvent::ReassemblyEvicted) > 0);
    let waiting = network.host.view().expire_reassembly();
    assert!(waiting > u64::from(crowd) / 4, "{waiting}");
    network.now_s += u64::from(HOLD_SECONDS);
    let mut connection = network.open((9_999, 6346));
    network.send(&connection.says(true, PARTS[0]));
    assert_eq!(network.host.view().expire_reassembly(), 1, "the drain zeroes what waits in vain");
}

#[test]
fn without_an_agent_held_bytes_are_zeroed_by_later_packets() {
    let mut network = Network::new();
    let held = |network: &Network| {
        let on = |slots: &[ReassemblySlot]| slots.iter().filter(|slot| slot.is_used()).count();
        let host = on(network.host.view().reassembly);
        if let Some(kernel) = &network.kernel {
            assert_eq!(on(kernel.view().reassembly), host, "kernel and host");
        }
        host
    };
    for port in 0..40 {
        let mut connection = network.open((40_000 + port, 6346));
        network.send(&connection.says(true, PARTS[0]));
    }
    let before = held(&network);
    assert!(before > 30, "{before}");
    network.now_s += u64::from(HOLD_SECONDS) - 1;
    network.open((50_000, 6346));
    assert_eq!(held(&network), before, "they may still be used");
    network.now_s += 1;
    // Packets of the slow path at one reading of the clock make one step.
    for step in 0..(REASSEMBLY_SLOTS / SWEPT_SLOTS) as u16 {
        network.open((10_000 + step, 6346));
        if step == 0 {
            assert!(held(&network) > before / 2, "a step looks at a few slots");
        }
        network.now_s += 1;
    }
    assert_eq!(held(&network), 0);
}

#[test]
fn a_settled_flow_holds_no_segments() {
    let mut network = Network::new();
    let mut connection = network.open((50_000, 6346));
    network.send(&connection.says(true, PARTS[0]));
    assert_eq!(network.host.view().expire_reassembly(), 1);
    assert_eq!(network.send(&connection.says(false, &PARTS.concat())).protocol, Protocol::Gnutella);
    assert_eq!(network.host.view().expire_reassembly(), 0);
}
