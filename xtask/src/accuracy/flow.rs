//! Flows, their ground truth, and the labels of both programs.

use std::net::{IpAddr, SocketAddr};

use monitor_common::abi::protocol::{Protocol, ProtocolClass};
use peertally_lab::background;

/// Transport and ends of a flow, without a direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    l4: String,
    ends: [(IpAddr, u16); 2],
}

impl Key {
    /// Either order of ends gives one key.
    pub(super) fn new(l4: &str, a: (IpAddr, u16), b: (IpAddr, u16)) -> Self {
        let ends = if a <= b { [a, b] } else { [b, a] };
        Self { l4: l4.to_owned(), ends }
    }

    /// Both ports, for a person who looks the flow up in its capture.
    pub(super) fn ports(&self) -> String {
        format!("{} {}/{}", self.l4, self.ends[0].1, self.ends[1].1)
    }

    /// Whether a subscriber's machine sends this flow without any P2P client.
    pub(super) fn is_background(&self) -> bool {
        self.l4 == "udp" && background(&self.ends.map(SocketAddr::from)).is_some()
    }
}

/// Ground truth of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    /// The flow speaks one of these protocols, by label; the first names the row in the tables.
    Peer(Vec<String>),
    /// The flow is not file sharing.
    Other,
}

/// How a program's label compares with the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LabelOutcome {
    /// The right protocol, or none where there is none.
    Right,
    /// None, where there is one.
    Missed,
    /// A protocol that it is not.
    Wrong,
}

impl LabelOutcome {
    /// The word of the tables and of the explanations.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Missed => "missed",
            Self::Wrong => "wrong",
        }
    }

    /// Compares the protocols that a program's label stands for with the truth; no protocols stand for no P2P label.
    pub(super) fn of(truth: &Truth, labels: &[&str]) -> Self {
        match truth {
            Truth::Peer(accepted) if labels.iter().any(|label| accepted.iter().any(|other| other == label)) => {
                Self::Right
            }
            Truth::Peer(_) if labels.is_empty() => Self::Missed,
            Truth::Other if labels.is_empty() => Self::Right,
            Truth::Peer(_) | Truth::Other => Self::Wrong,
        }
    }
}

/// One flow of a capture under examination.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) capture: String,
    pub(super) key: Key,
    pub(super) truth: Truth,
    /// Whether the corpus lists a reference signature: bytes that show the protocol.
    pub(super) visible: bool,
    /// Our protocol and confidence labels; `unclassified` and `none` for none.
    pub(super) ours: (String, String),
    /// IP packets and bytes, by our count.
    pub(super) packets: u64,
    pub(super) bytes: u64,
    /// nDPI's label; `None` when it lists no such flow.
    pub(super) ndpi: Option<Ndpi>,
}

/// nDPI's label of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ndpi {
    /// As it prints it.
    pub(super) name: String,
    /// Whether nDPI gives this label without guessing by ports and addresses.
    pub(super) inspected: bool,
}

/// Whether a flow without a peer may have this label: the protocol's class is neither file sharing nor video.
fn is_no_error(label: &str) -> bool {
    let protocol = Protocol::ALL.iter().find(|protocol| protocol.label() == label);
    let class = protocol.and_then(|protocol| protocol.class());
    class.is_some_and(|class| !matches!(class, ProtocolClass::FileSharing | ProtocolClass::Video))
}

impl Flow {
    /// Our protocol, unless it is none of P2P.
    fn our_labels(&self) -> Vec<&str> {
        match self.ours.0.as_str() {
            "unclassified" | "fragment" => Vec::new(),
            label if self.truth == Truth::Other && is_no_error(label) => Vec::new(),
            label => vec![label],
        }
    }

    /// Our answer against the truth.
    pub(super) fn our_outcome(&self) -> LabelOutcome {
        LabelOutcome::of(&self.truth, &self.our_labels())
    }

    /// nDPI's answer against the truth.
    pub(super) fn ndpi_outcome(&self) -> LabelOutcome {
        let labels = self.ndpi.as_ref().map(|ndpi| peer_labels(&ndpi.name)).unwrap_or_default();
        LabelOutcome::of(&self.truth, &labels)
    }

    /// The protocol that counts this flow in its row; `None` for traffic that is not P2P.
    pub(super) fn protocol(&self) -> Option<&str> {
        match &self.truth {
            Truth::Peer(protocols) => protocols.first().map(String::as_str),
            Truth::Other => None,
        }
    }
}

/// Our labels that one of nDPI's stands for; empty when it is no P2P protocol's. It prints `Master.Protocol`.
pub(super) fn peer_labels(name: &str) -> Vec<&'static str> {
    const KNOWN: [(&str, &[&str]); 14] = [
        ("BitTorrent", &[Protocol::BitTorrent.label(), Protocol::WebTorrent.label()]),
        ("eDonkey", &[Protocol::EDonkey.label(), Protocol::Kademlia.label()]),
        ("Gnutella", &[Protocol::Gnutella.label(), Protocol::Gnutella2.label()]),
        ("FastTrack", &[Protocol::FastTrack.label()]),
        ("DirectConnect", &[Protocol::DirectConnect.label()]),
        ("Soulseek", &[Protocol::Soulseek.label()]),
        ("OpenFT", &[Protocol::OpenFt.label()]),
        ("AppleJuice", &[Protocol::AppleJuice.label()]),
        // P2P protocols that this project does not know: never right, never counted as a miss of ours.
        ("Stealthnet", &["stealthnet"]),
        ("Aimini", &["aimini"]),
        ("Thunder", &["thunder"]),
        ("PPStream", &["ppstream"]),
        ("Sopcast", &["sopcast"]),
        ("Kontiki", &["kontiki"]),
    ];
    name.split('.')
        .filter_map(|word| KNOWN.iter().find(|(name, _)| *name == word))
        .flat_map(|(_, labels)| labels.iter().copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(l4: &str, a: &str, a_port: u16, b: &str, b_port: u16) -> Key {
        Key::new(l4, (a.parse().expect("an address"), a_port), (b.parse().expect("an address"), b_port))
    }

    #[test]
    fn keys_have_no_direction() {
        assert_eq!(key("udp", "192.0.2.1", 1, "2001:db8::1", 2), key("udp", "2001:db8::1", 2, "192.0.2.1", 1));
        assert_ne!(key("udp", "192.0.2.1", 1, "192.0.2.2", 2), key("udp", "192.0.2.1", 2, "192.0.2.2", 1));
    }

    #[test]
    fn naming_and_discovery_are_no_peers_but_bittorrents_is() {
        assert!(key("udp", "100.64.1.2", 40_000, "10.255.255.53", 53).is_background());
        assert!(key("udp", "100.64.1.2", 5350, "224.0.0.1", 5350).is_background());
        assert!(key("udp", "100.64.1.2", 40_000, "239.255.255.250", 1900).is_background());
        assert!(!key("tcp", "100.64.1.2", 40_000, "100.64.3.2", 53).is_background());
        assert!(!key("udp", "100.64.1.2", 6771, "239.192.152.143", 6771).is_background());
        assert!(!key("udp", "100.64.1.2", 51_413, "100.64.3.2", 51_413).is_background());
    }

    #[test]
    fn transports_and_synchronisation_are_no_error() {
        for (label, expected) in [("libp2p", true), ("btsync", true), ("bittorrent", false), ("unheard", false)] {
            assert_eq!(is_no_error(label), expected, "{label}");
        }
    }

    #[test]
    fn labels_are_compared_with_the_truth() {
        let kad = Truth::Peer(vec!["kademlia".to_owned()]);
        assert_eq!(LabelOutcome::of(&kad, &peer_labels("eDonkey")), LabelOutcome::Right);
        assert_eq!(LabelOutcome::of(&kad, &peer_labels("BitTorrent")), LabelOutcome::Wrong);
        assert_eq!(LabelOutcome::of(&kad, &peer_labels("HTTP")), LabelOutcome::Missed);
        assert_eq!(LabelOutcome::of(&Truth::Other, &peer_labels("HTTP.BitTorrent")), LabelOutcome::Wrong);
        assert_eq!(LabelOutcome::of(&Truth::Other, &[]), LabelOutcome::Right);
    }
}
