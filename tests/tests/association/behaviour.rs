//! Behaviour as a label, when it is switched on: many obfuscated connections of a subscriber with a certain P2P flow.

use monitor_common::abi::settings::Heuristic;

use super::*;

const RULE: Heuristic = Heuristic { endpoints: 8, window_s: 60 };

/// Obfuscated connections to `peers` remote endpoints; how many were labelled by behaviour.
fn openings(network: &mut Network, peers: u8) -> usize {
    let verdicts = (0..peers).map(|peer| {
        network.obfuscated(
            of(SUBSCRIBER, 42_000 + u16::from(peer)),
            of(&format!("198.51.100.{peer}"), 20_000 + 7 * u16::from(peer)),
        )
    });
    verdicts.filter(|verdict| verdict.confidence == Confidence::Heuristic).count()
}

#[test]
fn behaviour_counts_only_with_a_certain_flow_and_when_switched_on() {
    let clear = |network: &mut Network| network.ping(of(SUBSCRIBER, 6881), at(PEER));
    let mut network = Network::with(Some(RULE), 1024, false);
    assert_eq!(openings(&mut network, 40), 0, "no certain flow");
    assert_eq!(network.events(KernelEvent::MseCandidate), 40);
    clear(&mut network);

    let mut network = Network::new();
    clear(&mut network);
    assert_eq!(openings(&mut network, 40), 0, "switched off");

    let mut network = Network::with(Some(RULE), 1024, false);
    clear(&mut network);
    assert_eq!(openings(&mut network, 7), 0, "too few");

    let mut network = Network::with(Some(RULE), 1024, false);
    clear(&mut network);
    network.now_s += 61;
    assert_eq!(openings(&mut network, 40), 0, "the certain flow was too long ago");
}
