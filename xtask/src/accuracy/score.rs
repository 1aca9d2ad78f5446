//! Adds up flows into the rows of the report's tables.

use std::collections::BTreeMap;

use monitor_common::abi::protocol::Confidence;

use super::flow::{Flow, LabelOutcome};

/// Confidence labels in the order of the columns.
pub(super) const TIERS: [&str; 4] = [
    Confidence::Signature.label(),
    Confidence::Structural.label(),
    Confidence::Association.label(),
    Confidence::Heuristic.label(),
];

/// One row: flows of one protocol, capture or encapsulation.
#[derive(Clone, Debug, Default)]
pub(super) struct Score {
    /// Flows that truly are P2P, or for negatives all flows.
    pub(super) flows: u64,
    /// Of them, with a reference signature.
    pub(super) visible: u64,
    /// Of those, found by us.
    pub(super) visible_found: u64,
    /// Found by us, by confidence in the order of [`TIERS`].
    pub(super) found: [u64; 4],
    /// Labelled wrongly by us.
    pub(super) wrong: u64,
    /// Found by nDPI; without guessing.
    pub(super) ndpi_found: u64,
    pub(super) ndpi_inspected: u64,
    /// Labelled wrongly by nDPI.
    pub(super) ndpi_wrong: u64,
    /// IP packets and bytes of all flows, and of those found by us.
    packets: (u64, u64),
    bytes: (u64, u64),
}

impl Score {
    pub(super) fn add(&mut self, flow: &Flow) {
        self.flows += 1;
        self.packets.0 += flow.packets;
        self.bytes.0 += flow.bytes;
        self.visible += u64::from(flow.visible);
        match flow.our_outcome() {
            LabelOutcome::Right => {
                if let Some(tier) = TIERS.iter().position(|tier| *tier == flow.ours.1) {
                    self.found[tier] += 1;
                }
                self.visible_found += u64::from(flow.visible);
                self.packets.1 += flow.packets;
                self.bytes.1 += flow.bytes;
            }
            LabelOutcome::Missed => {}
            LabelOutcome::Wrong => self.wrong += 1,
        }
        match flow.ndpi_outcome() {
            LabelOutcome::Right => {
                self.ndpi_found += 1;
                self.ndpi_inspected += u64::from(flow.ndpi.as_ref().is_some_and(|ndpi| ndpi.inspected));
            }
            LabelOutcome::Missed => {}
            LabelOutcome::Wrong => self.ndpi_wrong += 1,
        }
    }

    /// Found by us under the right protocol.
    pub(super) fn found(&self) -> u64 {
        self.found.iter().sum()
    }

    /// Part of the packets, and of the bytes, that is in flows found by us.
    pub(super) fn shares(&self) -> [String; 2] {
        [share(self.packets), share(self.bytes)]
    }
}

/// A part in percent; rounded down, so that 100 % means all.
fn share((all, part): (u64, u64)) -> String {
    if all == 0 {
        return "-".to_owned();
    }
    let tenths = part * 1000 / all;
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// Scores by name.
pub(super) fn by<'a>(flows: impl Iterator<Item = &'a Flow>, name: impl Fn(&Flow) -> String) -> BTreeMap<String, Score> {
    let mut scores: BTreeMap<String, Score> = BTreeMap::new();
    for flow in flows {
        scores.entry(name(flow)).or_default().add(flow);
    }
    scores
}

/// All flows in one row.
pub(super) fn total<'a>(flows: impl Iterator<Item = &'a Flow>) -> Score {
    let mut score = Score::default();
    flows.for_each(|flow| score.add(flow));
    score
}

#[cfg(test)]
mod tests {
    use super::super::flow::{Key, Ndpi, Truth};
    use super::*;

    fn flow(truth: Truth, ours: &str, ndpi: &str) -> Flow {
        let address = "192.0.2.1".parse().expect("an address");
        Flow {
            capture: "a.pcap".to_owned(),
            key: Key::new("tcp", (address, 1), (address, 2)),
            truth,
            visible: true,
            ours: (ours.to_owned(), "signature".to_owned()),
            packets: 10,
            bytes: 1000,
            ndpi: Some(Ndpi { name: ndpi.to_owned(), inspected: true }),
        }
    }

    #[test]
    fn flows_are_added_up_by_outcome() {
        let peer = || Truth::Peer(vec!["bittorrent".to_owned()]);
        let flows = [
            flow(peer(), "bittorrent", "BitTorrent"),
            flow(peer(), "unclassified", "eDonkey"),
            flow(peer(), "edonkey", "Unknown"),
        ];
        let score = total(flows.iter());
        assert_eq!((score.flows, score.found(), score.wrong), (3, 1, 1));
        assert_eq!((score.ndpi_found, score.ndpi_inspected, score.ndpi_wrong), (1, 1, 1));
        assert_eq!(score.shares(), ["33.3 %", "33.3 %"]);
        assert_eq!((score.visible, score.visible_found), (3, 1));
    }

    #[test]
    fn a_transport_is_no_error_among_other_traffic() {
        assert_eq!(total([flow(Truth::Other, "libp2p", "TLS")].iter()).wrong, 0);
        assert_eq!(total([flow(Truth::Other, "edonkey", "TLS")].iter()).wrong, 1);
    }
}
