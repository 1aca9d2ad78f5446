//! Kad's request for contacts: two bytes, between any ports. The answer shows that the sender speaks Kad. A forged
//! packet must not make a subscriber look like the sender.

use super::*;

const KAD: Verdict = Verdict { protocol: Protocol::Kademlia, confidence: Confidence::Association };
const EDONKEY: Verdict = Verdict { protocol: Protocol::EDonkey, confidence: Confidence::Association };
/// Ports that the clients chose at random, as eMule's do.
const OWN_PORT: u16 = 40_123;
const NODE: &str = "192.0.2.7:50321";
const REQUEST: &[u8] = b"\xe4\x01";
const PING: &[u8] = b"\xe4\x60";

/// The answer to [`REQUEST`]: identifier, TCP port, version, one contact.
fn contacts() -> Vec<u8> {
    [&b"\xe4\x09"[..], &[7; 16], b"\x36\x12\x08\x01\x00", &[9; 25]].concat()
}

/// One obfuscated datagram each way with a node that was never seen before, and the label of the flow.
fn obfuscated(network: &mut Network, own: SocketAddr, number: u8) -> Verdict {
    let node = of(&format!("198.51.100.{number}"), 51_000);
    network.send(&udp(own, node, &ciphertext(51, u64::from(number))));
    network.send(&udp(node, own, &ciphertext(35, 100 + u64::from(number))))
}

#[test]
fn a_subscriber_that_gets_contacts_speaks_kad() {
    let exchanges: [(&[u8], Vec<u8>); 3] = [
        (REQUEST, contacts()),
        (REQUEST, b"\xe5\x09\x78\x9c\x63\x60\x00\x00".to_vec()),
        (PING, b"\xe4\x61\xe1\xc4".to_vec()),
    ];
    for (request, answer) in exchanges {
        let mut network = Network::new();
        let own = of(SUBSCRIBER, OWN_PORT);
        assert_eq!(obfuscated(&mut network, own, 1), Verdict::UNCLASSIFIED, "nothing is known yet");
        assert_eq!(network.send(&udp(own, at(NODE), request)), Verdict::UNCLASSIFIED);
        assert_eq!(network.send(&udp(at(NODE), own, &answer)).protocol, Protocol::Kademlia);
        assert_eq!(obfuscated(&mut network, own, 2), KAD, "{request:02x?}");
        assert_eq!(network.events(KernelEvent::PeerLearned), 2, "the subscriber and its endpoint, not the node's");
        assert_eq!(obfuscated(&mut network, of(SUBSCRIBER, OWN_PORT + 1), 3), Verdict::UNCLASSIFIED, "another port");
        assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_000), at(NODE)), Verdict::UNCLASSIFIED, "proves no address");
        assert_eq!(network.obfuscated(at("192.0.2.9:40002"), own), EDONKEY, "a flow to its port that looks random");
    }
}

#[test]
fn a_late_request_is_seen() {
    let mut network = Network::new();
    let own = of(SUBSCRIBER, OWN_PORT);
    for _ in 0..3 {
        network.send(&udp(own, at(NODE), REQUEST));
    }
    network.send(&udp(at(NODE), own, PING));
    network.send(&udp(at(NODE), own, &contacts()));
    assert_eq!(obfuscated(&mut network, own, 1), Verdict::UNCLASSIFIED, "the node's ping is asked for, now");
    network.send(&udp(own, at(NODE), REQUEST));
    network.send(&udp(at(NODE), own, &contacts()));
    assert_eq!(obfuscated(&mut network, own, 2), KAD);
}

/// Payloads in the order in which they cross the network, `true` for those with the subscriber's address.
type Conversation = Vec<(bool, Vec<u8>)>;

fn play(network: &mut Network, conversation: &[(bool, Vec<u8>)]) {
    let own = of(SUBSCRIBER, OWN_PORT);
    for (from_subscriber, payload) in conversation {
        let (from, to) = if *from_subscriber { (own, at(NODE)) } else { (at(NODE), own) };
        network.send(&udp(from, to, payload));
    }
}

#[test]
fn nothing_from_outside_makes_a_subscriber_ask() {
    let request = |own| (own, REQUEST.to_vec());
    let answer = |own| (own, contacts());
    let attacks: [(&str, Conversation); 7] = [
        ("an answer to nothing", vec![answer(false)]),
        ("any number of them", vec![answer(false); 20]),
        ("a question and its answer from the same side", vec![request(false), answer(false), answer(false)]),
        ("a request that was never answered", vec![request(true), request(true)]),
        ("the answer to another request", vec![(true, PING.to_vec()), answer(false)]),
        ("a service that repeats what it is sent", vec![request(false), request(true), answer(false)]),
        ("something else of the subscriber's", vec![(true, ciphertext(2, 1)), answer(false), answer(false)]),
    ];
    for (name, conversation) in attacks {
        let mut network = Network::new();
        play(&mut network, &conversation);
        assert_eq!(network.events(KernelEvent::PeerLearned), 0, "{name}");
        assert_eq!(obfuscated(&mut network, of(SUBSCRIBER, OWN_PORT), 1), Verdict::UNCLASSIFIED, "{name}");
        assert_eq!(network.datagrams(of(SUBSCRIBER, OWN_PORT), at("192.0.2.66:4500")), Verdict::UNCLASSIFIED, "{name}");
        // It names no endpoint either if the subscriber speaks Kad from another port.
        let other = of(SUBSCRIBER, OWN_PORT + 7);
        network.send(&udp(other, at(NODE), REQUEST));
        network.send(&udp(at(NODE), other, &contacts()));
        assert_eq!(network.events(KernelEvent::PeerLearned), 2, "{name}");
        assert_eq!(obfuscated(&mut network, of(SUBSCRIBER, OWN_PORT), 2), Verdict::UNCLASSIFIED, "{name}");
        assert_eq!(network.obfuscated(of(SUBSCRIBER, 40_000), at(NODE)), Verdict::UNCLASSIFIED, "{name}");
    }
}

#[test]
fn a_request_with_a_subscribers_address_on_a_core_interface_asks_nothing() {
    let mut network = Network::with(None, 1024, true);
    play(&mut network, &[(true, REQUEST.to_vec()), (false, contacts()), (false, contacts())]);
    assert_eq!(network.events(KernelEvent::PeerLearned), 0);

    // The subscriber is on its access interface; only the forged request comes from outside.
    let mut network = Network::new();
    // The kernel's test runner has one interface.
    network.kernel = None;
    network.interface = CORE;
    play(&mut network, &[(true, REQUEST.to_vec())]);
    play(&mut network, &[(false, contacts())]);
    network.interface = ACCESS;
    assert_eq!(network.events(KernelEvent::PeerLearned), 0);
    assert_eq!(obfuscated(&mut network, of(SUBSCRIBER, OWN_PORT), 1), Verdict::UNCLASSIFIED);
}
