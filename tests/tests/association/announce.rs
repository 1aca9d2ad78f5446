//! A subscriber that announces its port to a tracker names its own endpoint. A web page cannot do it for it.

use super::*;

#[test]
fn announces_name_the_endpoint() {
    let mut network = Network::new();
    let tracker = at("192.0.2.80:6969");
    let announce = b"GET /announce?info_hash=%124Vx%9A&peer_id=-TR3000-abcdefghijkl&port=50555&left=0 HTTP/1.1\r\n\
          Host: tracker.example\r\nUser-Agent: Transmission/3.00\r\n\r\n";
    network.send(&tcp(of(SUBSCRIBER, 40_000), tracker, flag::SYN, b""));
    network.send(&tcp(tracker, of(SUBSCRIBER, 40_000), flag::SYN_ACK, b""));
    network.send(&tcp(of(SUBSCRIBER, 40_000), tracker, flag::PUSH, announce));
    assert_eq!(network.obfuscated(at("192.0.2.9:40002"), of(SUBSCRIBER, 50_555)), BITTORRENT);

    let mut network = Network::new();
    let (from, connect) = (of(SUBSCRIBER, 6881), [0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0, 1, 2, 3, 4]);
    network.send(&udp(from, tracker, &connect));
    network.send(&udp(tracker, from, &[0, 0, 0, 0, 1, 2, 3, 4, 9, 9, 9, 9, 9, 9, 9, 9]));
    let mut announce = vec![9; 8];
    announce.extend([0, 0, 0, 1, 5, 6, 7, 8]);
    announce.extend([0xab; 64]);
    announce.extend([0, 0, 0, 2, 0, 0, 0, 0, 1, 1, 1, 1, 0xff, 0xff, 0xff, 0xff]);
    announce.extend(50_556u16.to_be_bytes());
    network.send(&udp(from, tracker, &announce));
    assert_eq!(network.obfuscated(at("192.0.2.9:40003"), of(SUBSCRIBER, 50_556)), BITTORRENT);
}

#[test]
fn nothing_is_learned_from_a_browsers_announce() {
    let mut network = Network::new();
    let tracker = at("192.0.2.80:80");
    let request =
        b"GET /announce?info_hash=x&port=51820 HTTP/1.1\r\nHost: a.example\r\nUser-Agent: Mozilla/5.0 (X11)\r\n\r\n";
    network.send(&tcp(of(SUBSCRIBER, 40_000), tracker, flag::SYN, b""));
    network.send(&tcp(tracker, of(SUBSCRIBER, 40_000), flag::SYN_ACK, b""));
    network.send(&tcp(of(SUBSCRIBER, 40_000), tracker, flag::PUSH, request));
    assert_eq!(network.events(KernelEvent::PeerLearned), 0);
    assert_eq!(network.datagrams(of(SUBSCRIBER, 51_820), at("192.0.2.9:51820")), Verdict::UNCLASSIFIED);
}
