//! Peers that a server lists in reply to a subscriber's request (`monitor-common/src/engine/source_requests.rs`).

use std::net::IpAddr;

use peertally_tests::wire::tcp_at;

use super::*;

const SOURCE: &str = "192.0.2.7:4662";
const SERVER: &str = "192.0.2.80:4661";
const TRACKER: &str = "192.0.2.80:6969";
const EDONKEY: Verdict = Verdict { protocol: Protocol::EDonkey, confidence: Confidence::Association };
const HASH: [u8; 16] = [0xab; 16];
const BUDGET: usize = monitor_common::abi::limits::SERVER_FLOW_PACKETS as usize;

/// A TCP connection of a client with a server, with correct sequence numbers.
#[derive(Clone, Copy)]
struct ServerConnection {
    client: SocketAddr,
    server: SocketAddr,
    /// Next sequence number of the client, and of the server.
    next: (u32, u32),
}

impl ServerConnection {
    fn open(network: &mut Network, client: SocketAddr, server: SocketAddr) -> Self {
        // The client's numbers wrap.
        let connection = Self { client, server, next: (u32::MAX - 100, 0x2000_0000) };
        network.send(&tcp_at(client, server, flag::SYN, (connection.next.0.wrapping_sub(1), 0), b""));
        network.send(&tcp_at(server, client, flag::SYN_ACK, (connection.next.1 - 1, connection.next.0), b""));
        connection
    }

    fn says(&mut self, network: &mut Network, payload: &[u8]) -> Verdict {
        let verdict = network.send(&tcp_at(self.client, self.server, flag::PUSH, self.next, payload));
        self.next.0 = self.next.0.wrapping_add(payload.len() as u32);
        verdict
    }

    fn is_answered(&mut self, network: &mut Network, payload: &[u8]) -> Verdict {
        let numbers = (self.next.1, self.next.0);
        self.next.1 += payload.len() as u32;
        network.send(&tcp_at(self.server, self.client, flag::PUSH, numbers, payload))
    }

    /// An eDonkey client that has logged in.
    fn login(network: &mut Network, subscriber: &str) -> Self {
        let mut connection = Self::open(network, of(subscriber, 41_000), at(SERVER));
        connection.says(network, &login());
        connection.is_answered(network, &edonkey(0x38, b"\x05\0hello"));
        connection
    }
}

fn edonkey(opcode: u8, body: &[u8]) -> Vec<u8> {
    [&[0xe3], &(body.len() as u32 + 1).to_le_bytes()[..], &[opcode], body].concat()
}

fn login() -> Vec<u8> {
    edonkey(0x01, &[&HASH[..], &[0; 4], &4662_u16.to_le_bytes(), &[0; 4]].concat())
}

fn get_sources() -> Vec<u8> {
    edonkey(0x19, &HASH)
}

fn found_sources(sources: &[SocketAddr]) -> Vec<u8> {
    let mut body = [&HASH[..], &[sources.len() as u8]].concat();
    for source in sources {
        let SocketAddr::V4(source) = source else { panic!("eDonkey has IPv4 alone") };
        body.extend(source.ip().octets());
        body.extend(source.port().to_le_bytes());
    }
    edonkey(0x42, &body)
}

/// Addresses and ports as trackers list them.
fn compact(peers: &[SocketAddr]) -> Vec<u8> {
    let entry = |peer: &SocketAddr| match peer.ip() {
        IpAddr::V4(ip) => [&ip.octets()[..], &peer.port().to_be_bytes()].concat(),
        IpAddr::V6(ip) => [&ip.octets()[..], &peer.port().to_be_bytes()].concat(),
    };
    peers.iter().flat_map(entry).collect()
}

fn announce(agent: &str) -> Vec<u8> {
    let hash = "%12".repeat(20);
    format!("GET /announce?info_hash={hash}&port=50555&left=9 HTTP/1.1\r\nHost: a\r\nUser-Agent: {agent}\r\n\r\n")
        .into()
}

const HEADER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n";

fn peers(key: &str, peers: &[SocketAddr]) -> Vec<u8> {
    let list = compact(peers);
    [format!("d8:intervali1800e{key}{}:", list.len()).as_bytes(), &list, b"e"].concat()
}

#[test]
fn an_edonkey_server_names_sources_to_the_subscriber_that_asked() {
    let mut network = Network::new();
    let mut connection = ServerConnection::login(&mut network, SUBSCRIBER);
    connection.says(&mut network, &get_sources());
    connection.is_answered(&mut network, &found_sources(&[at("198.51.100.1:4662"), at(SOURCE)]));
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_001), at(SOURCE)), EDONKEY);
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_002), at("192.0.2.7:4663")), Verdict::UNCLASSIFIED, "another port");
    let tls = |number: u64| [&[0x16, 3, 1, 2, 0], &ciphertext(300, number)[..]].concat();
    assert_eq!(
        network.connection(of(SUBSCRIBER, 40_003), at(SOURCE), tls),
        Verdict::UNCLASSIFIED,
        "recognisable structure"
    );
    assert_eq!(network.obfuscated(at(SOURCE), of(SUBSCRIBER, 40_004)), Verdict::UNCLASSIFIED, "opened from outside");
    assert_eq!(network.datagrams(of(SUBSCRIBER, 40_005), at(SOURCE)), Verdict::UNCLASSIFIED, "a port of TCP");
    ServerConnection::login(&mut network, NEIGHBOUR);
    assert_eq!(network.obfuscated(of(NEIGHBOUR, 40_001), at(SOURCE)), Verdict::UNCLASSIFIED, "did not ask");
}

#[test]
fn messages_share_a_segment_and_sources_may_have_hashes() {
    let mut network = Network::new();
    let mut connection = ServerConnection::login(&mut network, SUBSCRIBER);
    connection.says(&mut network, &[edonkey(0x15, &[0; 30]), get_sources(), get_sources()].concat());
    let low_id = [1, 2, 3, 0, 0x36, 0x12];
    let obfuscated = [&HASH[..], &[3], &[198, 51, 100, 2, 0x36, 0x12, 0x83], &HASH, &low_id, &[3]].concat();
    let last = [&[198, 51, 100, 3, 0x36, 0x12][..], &[1]].concat();
    let answer = [edonkey(0x34, &[0; 8]), edonkey(0x44, &[obfuscated, last].concat()), found_sources(&[at(SOURCE)])];
    connection.is_answered(&mut network, &answer.concat());
    for source in ["198.51.100.2:4662", "198.51.100.3:4662", SOURCE] {
        assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_001), at(source)), EDONKEY, "{source}");
    }
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_001), at("1.2.3.0:4662")), Verdict::UNCLASSIFIED, "no address");
}

#[test]
fn a_request_late_in_a_long_connection_is_seen() {
    let mut network = Network::new();
    let mut connection = ServerConnection::login(&mut network, SUBSCRIBER);
    for number in 0..100 {
        connection.says(&mut network, &edonkey(0x15, &[number; 30]));
        connection.is_answered(&mut network, b"");
    }
    let learning = |network: &Network| {
        let flows = |set: &FlowSet| set.states.iter().filter(|state| FlowState(state.load()).is_learning()).count();
        network.host.view().flows.iter().map(flows).sum::<usize>()
    };
    assert_eq!(learning(&network), 0, "a session has a budget");
    connection.says(&mut network, &get_sources());
    connection.is_answered(&mut network, &found_sources(&[at(SOURCE)]));
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_001), at(SOURCE)), Verdict::UNCLASSIFIED);
    network.now_s += 8;
    connection.is_answered(&mut network, b"");
    assert_eq!(learning(&network), 1, "which is renewed");
    connection.says(&mut network, &get_sources());
    connection.is_answered(&mut network, &found_sources(&[at(SOURCE)]));
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_002), at(SOURCE)), EDONKEY);
    for _ in 0..BUDGET {
        connection.says(&mut network, b"");
        connection.is_answered(&mut network, b"");
    }
    assert_eq!(learning(&network), 0, "acknowledgements use it up as well, each side its own");
}

/// Test body, run with the connection of a subscriber that has logged in.
type Attack = fn(&mut Network, ServerConnection);

#[test]
fn a_list_that_answers_no_request_names_no_peer() {
    let attacks: [(&str, Attack); 7] = [
        ("no question", |network, mut connection| {
            connection.is_answered(network, &found_sources(&[at(SOURCE)]));
        }),
        ("another acknowledgement number", |network, mut connection| {
            connection.says(network, &get_sources());
            connection.next.0 = connection.next.0.wrapping_add(65_536);
            connection.is_answered(network, &found_sources(&[at(SOURCE)]));
        }),
        ("one far behind", |network, mut connection| {
            connection.says(network, &get_sources());
            connection.next.0 = connection.next.0.wrapping_sub(65_536);
            connection.is_answered(network, &found_sources(&[at(SOURCE)]));
        }),
        ("another sequence number", |network, mut connection| {
            connection.says(network, &get_sources());
            connection.next.1 += 65_536;
            connection.is_answered(network, &found_sources(&[at(SOURCE)]));
        }),
        ("one behind", |network, mut connection| {
            connection.says(network, &get_sources());
            connection.next.1 -= 1;
            connection.is_answered(network, &found_sources(&[at(SOURCE)]));
        }),
        ("another flow", |network, mut connection| {
            connection.says(network, &get_sources());
            let mut other = ServerConnection::open(network, of(SUBSCRIBER, 41_001), at("192.0.2.81:4661"));
            other.says(network, &login());
            other.next = connection.next;
            other.is_answered(network, &found_sources(&[at(SOURCE)]));
        }),
        ("the server's own question", |network, mut connection| {
            connection.is_answered(network, &get_sources());
            connection.says(network, &found_sources(&[at(SOURCE)]));
            connection.is_answered(network, &found_sources(&[at(SOURCE)]));
        }),
    ];
    for (name, attack) in attacks {
        let mut network = Network::new();
        let connection = ServerConnection::login(&mut network, SUBSCRIBER);
        attack(&mut network, connection);
        assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_001), at(SOURCE)), Verdict::UNCLASSIFIED, "{name}");
    }
}

/// A neighbouring subscriber that answers its own request names no peer to the subscriber it sends to.
#[test]
fn a_neighbour_who_answers_its_own_question_names_nothing() {
    let mut network = Network::new();
    ServerConnection::login(&mut network, SUBSCRIBER);
    let mut connection = ServerConnection::open(&mut network, of("10.0.0.66", 41_000), of(SUBSCRIBER, 4662));
    connection.says(&mut network, &login());
    connection.says(&mut network, &get_sources());
    let (client, server, (sent, received)) = (connection.client, connection.server, connection.next);
    network.send(&tcp_at(client, server, flag::PUSH, (received, sent), &found_sources(&[at(SOURCE)])));
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_001), at(SOURCE)), Verdict::UNCLASSIFIED);
}

#[test]
fn a_forged_question_asks_nothing() {
    let mut network = Network::with(None, 1024, true);
    let mut connection = ServerConnection::login(&mut network, SUBSCRIBER);
    connection.says(&mut network, &get_sources());
    connection.is_answered(&mut network, &found_sources(&[at(SOURCE)]));
    assert_eq!(network.events(KernelEvent::PeerLearned), 0);
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_001), at(SOURCE)), Verdict::UNCLASSIFIED);
}

#[test]
fn a_forged_opening_does_not_make_a_subscriber_the_opener() {
    let mut network = Network::new();
    // The kernel's test runner has one interface.
    network.kernel = None;
    let mut connection = ServerConnection::login(&mut network, SUBSCRIBER);
    connection.says(&mut network, &get_sources());
    connection.is_answered(&mut network, &found_sources(&[at(SOURCE)]));
    let (client, syn) = (of(SUBSCRIBER, 40_001), tcp(of(SUBSCRIBER, 40_001), at(SOURCE), flag::SYN, b""));
    network.interface = CORE;
    network.send(&syn);
    network.interface = ACCESS;
    let mut verdict = Verdict::UNCLASSIFIED;
    for number in 0..9 {
        network.send(&tcp(at(SOURCE), client, flag::PUSH, &ciphertext(200, number)));
        verdict = network.send(&tcp(client, at(SOURCE), flag::PUSH, &ciphertext(300, number)));
    }
    assert_eq!(verdict, Verdict::UNCLASSIFIED);
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_002), at(SOURCE)), EDONKEY);
}

#[test]
fn an_http_tracker_names_peers() {
    for (subscriber, tracker, peer, key) in [
        (SUBSCRIBER, TRACKER, PEER, "5:peers"),
        ("2001:db8::1", "[2001:db9::80]:80", "[2001:db9::7]:51413", "5:peers0:6:peers6"),
    ] {
        for parts in [1, 2] {
            let mut network = Network::new();
            let mut connection = ServerConnection::open(&mut network, of(subscriber, 41_000), at(tracker));
            connection.says(&mut network, &announce("Transmission/3.00"));
            let list = peers(key, &[at(peer)]);
            if parts == 1 {
                connection.is_answered(&mut network, &[HEADER, &list].concat());
            } else {
                connection.is_answered(&mut network, HEADER);
                connection.is_answered(&mut network, &list);
            }
            assert_eq!(network.obfuscated(of(subscriber, 40_001), at(peer)), BITTORRENT);
            assert_eq!(network.datagrams(of(subscriber, 40_002), at(peer)), BITTORRENT, "one port for TCP and uTP");
            assert_eq!(network.obfuscated(at(peer), of(subscriber, 40_003)), Verdict::UNCLASSIFIED);
            let other = SocketAddr::new(at(peer).ip(), 51_414);
            assert_eq!(network.obfuscated(of(subscriber, 40_004), other), Verdict::UNCLASSIFIED);
        }
    }
}

#[test]
fn nothing_is_learned_from_lists_without_a_credible_request() {
    let answer = [HEADER, &peers("5:peers", &[at(PEER)])].concat();
    // A page's request, in a subscriber's browser.
    let mut network = Network::new();
    network.ping(of(SUBSCRIBER, 6881), at("192.0.2.9:6881"));
    let mut connection = ServerConnection::open(&mut network, of(SUBSCRIBER, 41_000), at(TRACKER));
    connection.says(&mut network, &announce("Mozilla/5.0 (X11)"));
    connection.is_answered(&mut network, &answer);
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_001), at(PEER)), Verdict::UNCLASSIFIED);
    // A web seed answers with the file itself.
    let mut connection = ServerConnection::open(&mut network, of(SUBSCRIBER, 41_001), at(TRACKER));
    connection.says(&mut network, b"GET /webseed?info_hash=x&piece=3 HTTP/1.1\r\nUser-Agent: a\r\n\r\n");
    connection.is_answered(&mut network, &answer);
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_002), at(PEER)), Verdict::UNCLASSIFIED);
    // No answer was seen before the request, so the subscriber is not known to speak the protocol.
    let mut network = Network::new();
    let mut connection =
        ServerConnection { client: of(SUBSCRIBER, 41_002), server: at(TRACKER), next: (0x1000_0000, 0x2000_0000) };
    connection.says(&mut network, &announce("Transmission/3.00"));
    connection.is_answered(&mut network, &answer);
    assert_eq!(network.events(KernelEvent::PeerLearned), 0, "not even the peer");
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_003), at(PEER)), Verdict::UNCLASSIFIED);
}

#[test]
fn a_udp_tracker_names_peers() {
    for (subscriber, tracker, peer) in
        [(SUBSCRIBER, TRACKER, PEER), ("2001:db8::1", "[2001:db9::80]:6969", "[2001:db9::7]:51413")]
    {
        for (transaction, expected) in [([5, 6, 7, 8], BITTORRENT), ([5, 6, 7, 9], Verdict::UNCLASSIFIED)] {
            let mut network = Network::new();
            let (from, tracker, peer) = (of(subscriber, 41_000), at(tracker), at(peer));
            network.send(&udp(from, tracker, &[0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0, 1, 2, 3, 4]));
            network.send(&udp(tracker, from, &[0, 0, 0, 0, 1, 2, 3, 4, 9, 9, 9, 9, 9, 9, 9, 9]));
            let mut request = vec![9; 8];
            request.extend([0, 0, 0, 1, 5, 6, 7, 8]);
            request.extend([0xab; 64]);
            request.extend([0, 0, 0, 2, 0, 0, 0, 0, 1, 1, 1, 1, 0xff, 0xff, 0xff, 0xff]);
            request.extend(50_556_u16.to_be_bytes());
            network.send(&udp(from, tracker, &request));
            let answer = [&[0, 0, 0, 1], &transaction[..], &[0, 0, 7, 8, 0, 0, 0, 1, 0, 0, 0, 1], &compact(&[peer])];
            network.send(&udp(tracker, from, &answer.concat()));
            assert_eq!(network.obfuscated(of(subscriber, 40_001), peer), expected);
            assert_eq!(network.obfuscated(peer, of(subscriber, 40_002)), Verdict::UNCLASSIFIED);
        }
    }
}
