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
    let watchlist = Arc::new(Watchlist { entries: vec![ContentHash::from_bytes(&HASH)], ..Watchlist::default() });
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
    let (mut connection, opening) = Connection::open(subscriber(50_000), outside(80));
    let mut frames = opening.to_vec();
    frames.push(connection.says(true, request));
    frames.push(connection.says(false, b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n\r\n"));
    frames.push(connection.says(true, b""));
    frames.push(connection.says(false, &[0x55; 1_400]));
    frames.push(connection.says(true, b""));
    frames
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

#[test]
fn a_server_cannot_make_a_running_connection_look_new() {
    // A page's upload, which the server holds up by its window; then the server opens the connection anew, as it seems.
    let mut world = watching("a SYN in a running connection");
    let (mut connection, opening) = Connection::open(subscriber(50_000), outside(80));
    world.play(&opening);
    world.frame(
        &connection
            .says(true, b"POST /x HTTP/1.1\r\nHost: a\r\nUser-Agent: Mozilla/5.0\r\nContent-Length: 900\r\n\r\n"),
    );
    world.frame(&connection.says(false, b""));
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
    let (mut connection, opening) = Connection::open(subscriber(50_000), outside(80));
    world.play(&opening);
    world.frame(
        &connection
            .says(true, b"POST /x HTTP/1.1\r\nHost: a\r\nUser-Agent: Mozilla/5.0\r\nContent-Length: 900\r\n\r\n"),
    );
    world.frame(&connection.says(false, b""));
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
