//! Delivery Optimization and Ace Stream frame blocks as BitTorrent does. A stream joined midway is not BitTorrent's if
//! one of its ends is known to speak one of them, or if its port is Ace Stream's.

use super::*;

const MAPPED: &str = "192.0.2.7:40000";
const UPDATES: Verdict = Verdict { protocol: Protocol::DeliveryOptimization, confidence: Confidence::Signature };
const VIDEO: Verdict = Verdict { protocol: Protocol::AceStream, confidence: Confidence::Signature };
const VIDEO_MIDSTREAM: Verdict = Verdict { protocol: Protocol::AceStream, confidence: Confidence::Structural };
const MIDSTREAM: Verdict = Verdict { protocol: Protocol::BitTorrent, confidence: Confidence::Structural };

fn handshake() -> Vec<u8> {
    [&b"\x0eSwarm protocol"[..], &[0; 8], &[0xab; 32], b"peer-identifier-0123"].concat()
}

/// The head of a block of 16 KiB.
fn piece() -> Vec<u8> {
    [&0x4009_u32.to_be_bytes()[..], &[7], &3_u32.to_be_bytes(), &0_u32.to_be_bytes(), &[0x5a; 1000]].concat()
}

/// The verdict of a stream whose start was not seen.
fn joined_midway(network: &mut Network, from: SocketAddr, to: SocketAddr) -> Verdict {
    network.send(&tcp(from, to, flag::ACK, b""));
    network.send(&tcp(to, from, flag::PUSH, &piece()))
}

#[test]
fn streams_joined_midway_follow_the_known_endpoint() {
    let mut network = Network::new();
    let subscriber = |port| of(SUBSCRIBER, port);
    assert_eq!(joined_midway(&mut network, subscriber(40_001), at(MAPPED)), MIDSTREAM, "nothing is known yet");
    let shaken =
        network.connection(subscriber(40_002), at(MAPPED), |number| if number < 2 { handshake() } else { piece() });
    assert_eq!(shaken, UPDATES);
    assert_eq!(joined_midway(&mut network, subscriber(40_003), at(MAPPED)), Verdict::UNCLASSIFIED);
    assert_eq!(joined_midway(&mut network, subscriber(40_004), at("192.0.2.9:40000")), MIDSTREAM, "another endpoint");
}

/// Ace Stream's handshake.
fn video_handshake() -> Vec<u8> {
    [&b"\x11AceStreamProtocol"[..], &[0; 8], &[0xab; 20], b"R30------0123456789a"].concat()
}

#[test]
fn frames_of_ace_stream_follow_its_port_and_the_known_endpoint() {
    let mut network = Network::new();
    let subscriber = |port| of(SUBSCRIBER, port);
    assert_eq!(joined_midway(&mut network, subscriber(40_001), at(MAPPED)), MIDSTREAM, "nothing is known yet");
    let port = at("192.0.2.8:8621");
    assert_eq!(joined_midway(&mut network, subscriber(40_002), port), VIDEO_MIDSTREAM, "its port");
    let shaken = network
        .connection(subscriber(40_003), at(MAPPED), |number| if number < 2 { video_handshake() } else { piece() });
    assert_eq!(shaken, VIDEO);
    assert_eq!(joined_midway(&mut network, subscriber(40_004), at(MAPPED)), VIDEO_MIDSTREAM, "a known endpoint");
    assert_eq!(joined_midway(&mut network, subscriber(40_005), at("192.0.2.9:40000")), MIDSTREAM, "another endpoint");
    let bittorrent = [&b"\x13BitTorrent protocol"[..], &[0; 48]].concat();
    let clear = network.connection(subscriber(40_006), at("192.0.2.10:8621"), |_| bittorrent.clone());
    assert_eq!(clear.protocol, Protocol::BitTorrent, "a handshake is BitTorrent's on any port");
}
