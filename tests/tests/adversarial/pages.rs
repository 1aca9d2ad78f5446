//! What a web page can make a visitor's browser send or receive charges nobody, and is no watchlist hit.

use std::sync::Arc;

use monitor_common::abi::{
    event::KernelEvent, limits::PENDING_IDLE_SECONDS, protocol::Protocol, settings::InspectionDepth, watch::ContentHash,
};
use peertally_core::content_list::Watchlist;
use peertally_datapath::object::LoadOptions;
use peertally_tests::wire::{Connection, flag, tcp_at};

use super::world::{World, handshake, outside, ping, pong, subscriber};

const HASH: [u8; 20] = [b'H'; 20];

fn watching(test: &str) -> World {
    let watchlist = Arc::new(Watchlist::of(vec![ContentHash::from_bytes(&HASH)]));
    World::with(test, LoadOptions { inspection: InspectionDepth::Watchlist, watchlist, ..LoadOptions::default() })
}

/// A handshake that names a torrent.
fn handshake_of(hash: [u8; 20]) -> Vec<u8> {
    [b"\x13BitTorrent protocol".as_slice(), &[0; 8], &hash, b"-TR4000-0123456789ab"].concat()
}

fn announce(headers: &str) -> Vec<u8> {
    format!("GET /announce?info_hash={}&peer_id=x HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n", "H".repeat(20)).into()
}

/// A request to a web server and its answer, and two segments of a video.
fn visit(request: &[u8]) -> Vec<Vec<u8>> {
    exchange(50_000, true, request, VIDEO)
}

/// An answer of any web server.
const VIDEO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n\r\n";
/// What a browser says of itself, whatever a page wants.
const BROWSER: &str = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0)";

/// Packets of an [`exchange`].
const PACKETS: u64 = 7;

/// A question of the side that opens the connection from this port, the subscriber or somebody outside, the answer and
/// more of it.
fn exchange(port: u16, subscriber_opens: bool, question: &[u8], answer: &[u8]) -> Vec<Vec<u8>> {
    let (opener, other) =
        if subscriber_opens { (subscriber(port), outside(8080)) } else { (outside(port), subscriber(8080)) };
    let (mut connection, opening) = Connection::open(opener, other);
    let mut frames = opening.to_vec();
    frames.push(connection.says(true, question));
    frames.push(connection.says(false, answer));
    frames.push(connection.says(true, b""));
    frames.push(connection.says(false, &[0x55; 1_400]));
    frames.push(connection.says(true, b""));
    frames
}

fn request(line: &str, headers: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: 203.0.113.66\r\n{headers}\r\n\r\n").into()
}

#[test]
fn a_picture_in_a_page_charges_nobody() {
    let mut world = watching("a picture");
    let browser = "User-Agent: Mozilla/5.0 (X11)\r\nAccept: image/avif\r\nReferer: http://evil.example";
    world.play(&visit(&announce(browser)));
    assert_eq!(world.charged_p2p(), []);
    assert_eq!(world.unanswered(Protocol::BitTorrent), 7, "the label stays");
    assert_eq!(world.events(KernelEvent::WatchlistHit), 0);

    let mut twin = watching("a client");
    twin.play(&visit(&announce("User-Agent: Transmission/4.00")));
    assert_eq!(twin.charged_p2p().len(), 1);
    assert_eq!(twin.events(KernelEvent::WatchlistHit), 1);
}

/// A connection in which a page has a browser send more than the server takes at once.
fn uploading(world: &mut World) -> Connection {
    let (mut connection, opening) = Connection::open(subscriber(50_000), outside(80));
    world.play(&opening);
    world.frame(
        &connection
            .says(true, b"POST /x HTTP/1.1\r\nHost: a\r\nUser-Agent: Mozilla/5.0\r\nContent-Length: 900\r\n\r\n"),
    );
    world.frame(&connection.says(false, b""));
    connection
}

#[test]
fn a_server_cannot_make_a_running_connection_look_new() {
    // A page's upload, which the server holds up by its window; then the server opens the connection anew, as it seems.
    let mut world = watching("a SYN in a running connection");
    let mut connection = uploading(&mut world);
    let (server, browser) = (outside(80), subscriber(50_000));
    world.frame(&tcp_at(server, browser, flag::SYN, (0x2000_0000 - 1, 0), b""));
    for _ in 0..3 {
        world.frame(&connection.says(true, &[handshake_of(HASH), vec![0; 40]].concat()));
        world.frame(&connection.says(false, &handshake_of(HASH)));
    }
    assert_eq!(world.charged_p2p(), []);
    assert_eq!((world.events(KernelEvent::WatchlistHit), world.events(KernelEvent::PeerLearned)), (0, 0));
}

#[test]
fn a_server_cannot_make_a_running_connection_look_joined_midway() {
    let mut world = watching("a pause in a running connection");
    let mut connection = uploading(&mut world);
    world.now_s += u64::from(PENDING_IDLE_SECONDS) + 1;
    world.settle_idle(PENDING_IDLE_SECONDS);
    let request = b"\0\0\0\x0d\x06\0\0\0\x01\0\0\0\0\0\0\x40\0".repeat(3);
    for _ in 0..4 {
        world.frame(&connection.says(true, &request));
        world.frame(&connection.says(false, b"HTTP/1.1 103 Early Hints\r\n\r\n"));
    }
    assert_eq!(world.charged_p2p(), []);
}

#[test]
fn a_lone_query_is_no_hit_until_it_is_answered() {
    let query = [b"d1:ad2:id20:abcdefghij01234567899:info_hash20:".as_slice(), &HASH, b"e1:q9:get_peers1:t2:aa1:y1:qe"]
        .concat();
    let mut world = watching("a lone query");
    world.datagram(true, &query);
    assert_eq!(world.events(KernelEvent::WatchlistHit), 0);
    world.datagram(false, &pong(b"aa"));
    assert_eq!(world.events(KernelEvent::WatchlistHit), 1, "the answer proves it");
    world.datagram(true, &ping(b"bb"));
    assert_eq!(world.events(KernelEvent::WatchlistHit), 1);
}

#[test]
fn what_a_server_sends_later_in_a_stream_charges_nobody() {
    let mut world = World::new("a web server that speaks BitTorrent");
    let (mut connection, opening) = Connection::open(subscriber(50_000), outside(80));
    world.play(&opening);
    world.play(&[
        connection.says(true, b"GET /video HTTP/1.1\r\nUser-Agent: Mozilla/5.0\r\n\r\n"),
        connection.says(false, b"\x05xyz1 not text at all, and no message either"),
        connection.says(true, b""),
        connection.says(false, &handshake()),
        connection.says(true, b""),
    ]);
    assert_eq!(world.charged_p2p(), []);
}

#[test]
fn requests_of_every_protocol_charge_nobody_when_a_page_sends_them() {
    let hash = "PLSTHIPQGSSZTS5FJUPAKUZWUGYQYPFB";
    // A request line, and what a real client says of itself in it.
    let requests = [
        (
            Protocol::BitTorrent,
            "GET /scrape?info_hash=aaaaaaaaaaaaaaaaaaaa".to_owned(),
            "User-Agent: qBittorrent/4.5.2",
        ),
        (Protocol::BitTorrent, "GET /webseed?info_hash=a&piece=3".to_owned(), "User-Agent: libtorrent/2.0.8.0"),
        (Protocol::BitTorrent, format!("GET /data?fid={}&size=9", "a1".repeat(20)), "User-Agent: BitComet/1.7"),
        (Protocol::BitTorrent, "GET http://a/announce?info_hash=aaaa".to_owned(), "User-Agent: Transmission/3.00"),
        (
            Protocol::FastTrack,
            "GET /.hash=ea97adc32b795a9ab45937c5e151dfda397a5d0f".to_owned(),
            "UserAgent: KazaaClient Nov  3 2002 20:29:03\r\nX-Kazaa-Username: me\r\nX-Kazaa-Network: KaZaA",
        ),
        (
            Protocol::Gnutella,
            format!("GET /uri-res/N2R?urn:sha1:{hash}"),
            "User-Agent: LimeWire/5.5.16\r\nAccept: */*\r\nX-Queue: 0.1",
        ),
        (Protocol::Gnutella, format!("HEAD /uri-res/N2X?urn:sha1:{hash}"), "User-Agent: gtk-gnutella/1.2.3"),
        (Protocol::Gnutella, "GET /gnutella/push-proxy?ServerId=A".to_owned(), "User-Agent: Shareaza 2.7"),
        (Protocol::Gnutella, "GET /gnet/push-proxy?guid=A".to_owned(), "User-Agent: Phex 3.4.2"),
    ];
    let (mut world, mut twin) = (World::new("requests of pages"), World::new("requests of clients"));
    for (protocol, line, client) in &requests {
        for page in [
            BROWSER.to_owned(),
            format!("{BROWSER}\r\n{client}"),
            format!("{client}\r\n{BROWSER}"),
            // Some browsers let a page choose their name, and then still tell the reader's language.
            format!("{client}\r\naccept-language: a"),
            format!("{client}\r\nSec-Fetch-Mode: cors"),
            format!("{client}\r\nX:\r\nCookie: a=b"),
            format!("{client}\r\nX: {}\r\nOrigin: http://evil.example", "a".repeat(400)),
            "Accept: image/avif,image/webp,*/*".to_owned(),
        ] {
            for subscriber_opens in [true, false] {
                let question = request(line, &page);
                world.expect_uncharged(*protocol, subscriber_opens, &question, VIDEO, &format!("{line}: {page}"));
            }
        }
        twin.expect_charged(*protocol, true, &request(line, client), VIDEO, &format!("{line}: {client}"));
    }
}

#[test]
fn headers_and_names_of_clients_in_a_pages_request_charge_nobody() {
    let (mut world, mut twin) = (World::new("a page's headers"), World::new("a client's headers"));
    // Without these lines, the request has no label.
    for (protocol, line, client) in [
        (Protocol::FastTrack, "GET /My%20Music/a.mp3", "X-Kazaa-Username: someone"),
        (Protocol::FastTrack, "GET /a.mp3", "User-Agent: PeerEnabler/1.0"),
        (Protocol::OpenFt, "GET /share/a.mp3", "X-OpenftAlias: someone"),
        (Protocol::Gnutella, "GET /get/2468/Foobar.mp3", "User-Agent: LimeWire/4.12"),
        (Protocol::Gnutella, "GET /get/1/a.mp3", "User-Agent: Phex 3.4.2\r\nX-Queue: 0.1"),
        (Protocol::Gnutella, "GET /", "User-Agent: gtk-gnutella\r\nAccept: application/x-gnutella-packets"),
    ] {
        let page = request(line, &format!("{client}\r\nReferer: http://evil.example/"));
        world.expect_uncharged(protocol, true, &page, VIDEO, client);
        twin.expect_charged(protocol, true, &request(line, client), VIDEO, client);
    }
}

#[test]
fn a_command_as_the_method_of_a_request_charges_nobody() {
    let (mut world, mut twin) = (World::new("methods"), World::new("commands"));
    // "$Supports" counts with the name of an extension behind it, where a browser's request has its path.
    for line in ["$MyNick /a|$", "$ValidateNick /a|$", "$GetNickList|$ /"] {
        world.expect_uncharged(Protocol::DirectConnect, true, &request(line, BROWSER), VIDEO, line);
    }
    for command in ["$MyNick me|$Lock a Pk=b|", "$RevConnectToMe me you|", "$GetNickList|", "$Supports NoHello|"] {
        twin.expect_charged(Protocol::DirectConnect, true, command.as_bytes(), VIDEO, command);
    }
}

/// A ClientHello (RFC 8446 section 4.1.2), as it begins.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and the rest of it";

#[test]
fn what_a_server_answers_to_a_browser_charges_nobody() {
    let answers: [(Protocol, Vec<u8>); 8] = [
        (Protocol::BitTorrent, handshake()),
        (Protocol::DirectConnect, b"$Lock EXTENDEDPROTOCOLABCABCABCABCABCABC Pk=verlihub|".to_vec()),
        (Protocol::Gnutella, b"GNUTELLA/0.6 200 OK\r\n\r\n".to_vec()),
        (Protocol::FastTrack, b"GET /.hash=ea97adc32b795a9ab45937c5e151dfda397a5d0f HTTP/1.1\r\n\r\n".to_vec()),
        (Protocol::LibP2p, b"\x13/multistream/1.0.0\n".to_vec()),
        (Protocol::Gnutella, b"HTTP/1.1 200 OK\r\nX-Gnutella-Content-URN: urn:sha1:A\r\n\r\n".to_vec()),
        (Protocol::FastTrack, b"HTTP/1.1 200 OK\r\nX-Kazaa-Username: someone\r\n\r\n".to_vec()),
        (Protocol::OpenFt, b"HTTP/1.1 200 OK\r\nX-OpenftAlias: someone\r\n\r\n".to_vec()),
    ];
    let (page, post) = (request("GET /picture.png", BROWSER), request("POST /form", BROWSER));
    let (mut world, mut twin) = (World::new("answers to a browser"), World::new("answers to a client"));
    for (protocol, answer) in &answers {
        for question in [page.as_slice(), &post, CLIENT_HELLO, b"$Page / HTTP/1.1\r\n\r\n"] {
            world.expect_uncharged(*protocol, true, question, answer, &String::from_utf8_lossy(question));
        }
        // The side that was dialled begins as the protocol, and the one that dialled as no browser.
        if !answer.starts_with(b"HTTP") && !answer.starts_with(b"GET") {
            twin.expect_charged(*protocol, true, &[0x9d; 40], answer, "");
        }
    }
}

#[test]
fn a_page_that_a_subscribers_server_answers_charges_nobody() {
    let (mut world, mut twin) = (World::new("a subscriber's web server"), World::new("a subscriber's client"));
    for (protocol, header, line, client) in [
        (Protocol::Gnutella, "X-Gnutella-Content-URN: urn:sha1:A", "GET /get/1/a.mp3", "User-Agent: LimeWire/4.12"),
        (Protocol::FastTrack, "X-Kazaa-Username: someone", "GET /a.mp3", "X-Kazaa-Username: me"),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n").into_bytes();
        world.expect_uncharged(protocol, false, &request(line, BROWSER), &answer, header);
        twin.expect_charged(protocol, false, &request(line, client), &answer, header);
    }
}

#[test]
fn frames_of_a_web_socket_charge_nobody_however_they_are_joined() {
    let announce = br#"{"action":"announce","info_hash":"aaaaaaaaaaaaaaaaaaaa","peer_id":"x","numwant":5}"#;
    let frame = [[0x81, announce.len() as u8].as_slice(), announce].concat();
    let mut world = World::new("a web socket");
    for (port, midway) in [(50_000, true), (50_001, false)] {
        let (mut connection, opening) = Connection::open(subscriber(port), outside(8080));
        if !midway {
            world.play(&opening);
            world.frame(&connection.says(true, &request("GET /", &format!("{BROWSER}\r\nUpgrade: websocket"))));
            world.frame(&connection.says(false, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"));
        }
        for _ in 0..4 {
            world.frame(&connection.says(true, &frame));
            world.frame(&connection.says(false, &frame));
        }
        assert_eq!(world.charged_p2p(), [], "midway: {midway}");
    }
    assert_eq!(world.unanswered(Protocol::WebTorrent), 20);
}

impl World {
    /// Plays an exchange from a port of its own, which must leave a label and charge nobody.
    fn expect_uncharged(
        &mut self,
        protocol: Protocol,
        subscriber_opens: bool,
        question: &[u8],
        answer: &[u8],
        what: &str,
    ) {
        let before = self.unanswered(protocol);
        self.play(&exchange(self.next_port(), subscriber_opens, question, answer));
        assert_eq!(self.charged_p2p(), [], "{what}");
        assert_eq!(self.unanswered(protocol), before + PACKETS, "the label stays: {what}");
    }

    /// Plays an exchange from a port of its own, all of which must charge the subscriber.
    fn expect_charged(
        &mut self,
        protocol: Protocol,
        subscriber_opens: bool,
        question: &[u8],
        answer: &[u8],
        what: &str,
    ) {
        let charged = |world: &Self| -> u64 {
            let rows = world.charged_p2p().into_iter().filter(|row| row.0 == protocol);
            rows.map(|row| row.3).sum()
        };
        let before = charged(self);
        self.play(&exchange(self.next_port(), subscriber_opens, question, answer));
        assert_eq!(charged(self), before + PACKETS, "{what}");
    }

    /// A port from which no connection was opened so far.
    fn next_port(&self) -> u16 {
        20_000 + self.events(KernelEvent::FlowNew) as u16
    }
}
