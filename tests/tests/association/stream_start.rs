//! Over TCP, a peer is learned only if the stream started with the protocol's first bytes. A web page can make a
//! browser send them later, after an HTTP request.

use super::*;

const SERVER: &str = "192.0.2.66:6881";

fn handshake() -> Vec<u8> {
    [b"\x13BitTorrent protocol".as_slice(), &[0; 48]].concat()
}

fn open(network: &mut Network, from: SocketAddr, to: SocketAddr) -> Connection {
    let (connection, opening) = Connection::open(from, to);
    for frame in opening {
        network.send(&frame);
    }
    connection
}

const POST: &[u8] =
    b"POST /a HTTP/1.1\r\nHost: a.example:6881\r\nOrigin: http://a.example\r\nContent-Type: text/plain\r\nContent-Length: 68\r\n\r\n";

#[test]
fn nothing_is_learned_from_a_handshake_in_the_body_of_a_post() {
    // The page's own server plays along, before or after the body.
    for server_first in [false, true] {
        let mut network = Network::new();
        network.ping(of(SUBSCRIBER, 6882), at(PEER));
        let learned = network.events(KernelEvent::PeerLearned);
        let mut connection = open(&mut network, of(SUBSCRIBER, 40_000), at(SERVER));
        network.send(&connection.says(true, POST));
        if server_first {
            network.send(&connection.says(false, &handshake()));
        }
        for _ in 0..3 {
            let verdict = network.send(&connection.says(true, &handshake()));
            assert_eq!(verdict.protocol == Protocol::BitTorrent, server_first, "the server's word labels its own flow");
        }
        network.send(&connection.says(false, &handshake()));
        network.send(&connection.says(true, &handshake()));
        assert_eq!(network.events(KernelEvent::PeerLearned), learned);
        assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_001), at(SERVER)), Verdict::UNCLASSIFIED);
    }
}

#[test]
fn nothing_is_learned_from_a_stream_seen_midway_or_after_a_pause() {
    let mut network = Network::new();
    let mut connection = open(&mut network, of(SUBSCRIBER, 40_000), at(SERVER));
    network.send(&connection.says(true, POST));
    network.send(&connection.says(false, b"HTTP/1.1 100 Continue\r\n\r\n"));
    let _ = network.host.view().read(0);
    if let Some(kernel) = &network.kernel {
        let _ = kernel.view().read(0);
    }
    network.now_s += 20;
    network.send(&connection.says(true, &handshake()));
    network.send(&connection.says(false, &handshake()));
    network.send(&connection.says(true, &handshake()));
    assert_eq!(network.events(KernelEvent::PeerLearned), 0);
}

#[test]
fn a_stream_may_begin_in_pieces_or_obfuscated() {
    for head in [&handshake()[..1], &handshake()[..7], &ciphertext(160, 7)] {
        let mut network = Network::new();
        let mut connection = open(&mut network, of(SUBSCRIBER, 40_000), at(PEER));
        let rest = if head[0] == 0x13 { head.len() } else { 0 };
        network.send(&connection.says(true, head));
        network.send(&connection.says(false, &ciphertext(130, 8)));
        network.send(&connection.says(true, &handshake()[rest..]));
        network.send(&connection.says(false, &handshake()));
        network.send(&connection.says(true, b"\0\0\0\x01\x02"));
        assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_001), at(PEER)), BITTORRENT, "{} bytes", head.len());
    }
}

#[test]
fn a_tunnel_through_a_proxy_makes_no_peer_of_it() {
    let proxy = at("192.0.2.67:3128");
    let mut network = Network::new();
    network.ping(of(SUBSCRIBER, 6882), at(PEER));
    let mut connection = open(&mut network, of(SUBSCRIBER, 40_000), proxy);
    network.send(&connection.says(true, b"CONNECT 192.0.2.7:51413 HTTP/1.1\r\nHost: 192.0.2.7:51413\r\n\r\n"));
    network.send(&connection.says(false, b"HTTP/1.1 200 Connection established\r\n\r\n"));
    let verdict = network.send(&connection.says(true, &handshake()));
    assert_eq!(verdict.protocol, Protocol::BitTorrent);
    network.send(&connection.says(false, &handshake()));
    assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_001), proxy), Verdict::UNCLASSIFIED);
}

#[test]
fn nothing_is_learned_from_an_announce_with_a_browsers_headers() {
    for line in
        ["Origin: http://a.example", "Referer: http://a.example/", "Accept-Language: en", "Sec-Fetch-Mode: cors"]
    {
        for before in [true, false] {
            let mut network = Network::new();
            let agent = "User-Agent: Transmission/3.00";
            let (first, second) = if before { (line, agent) } else { (agent, line) };
            let request = format!(
                "GET /announce?info_hash=x&port=51820 HTTP/1.1\r\nHost: a.example\r\n{first}\r\n{second}\r\n\r\n"
            );
            let mut connection = open(&mut network, of(SUBSCRIBER, 40_000), at("192.0.2.80:80"));
            network.send(&connection.says(true, request.as_bytes()));
            assert_eq!(network.events(KernelEvent::PeerLearned), 0, "{line}");
        }
    }
}

#[test]
fn an_address_is_not_proved_by_one_answer_of_one_byte() {
    let own = of(SUBSCRIBER, 6881);
    let ask = |id: u8| [b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t1:", &[id][..], b"1:y1:qe"].concat();
    let answer = |id: u8| [b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t1:", &[id][..], b"1:y1:re"].concat();
    for (answers, expected) in [
        (vec![(7, 7)], Verdict::UNCLASSIFIED),
        (vec![(7, 7), (7, 7)], Verdict::UNCLASSIFIED),
        (vec![(7, 7), (8, 7)], Verdict::UNCLASSIFIED),
        (vec![(7, 7), (8, 8)], BITTORRENT),
        (vec![(7, 7), (8, 9), (10, 10)], BITTORRENT),
    ] {
        let mut network = Network::new();
        for (asked, answered) in &answers {
            network.send(&udp(own, at(PEER), &ask(*asked)));
            network.send(&udp(at(PEER), own, &answer(*answered)));
        }
        assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_000), at(PEER)), expected, "{answers:?}");
    }
}
