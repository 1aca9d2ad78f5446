//! The outcome of a scenario: the agent's counts compared with ground truth, and with the expectation of the scenario.
//!
//! The agent shows a subscriber only what that took part in. Labels are more: a search result that nobody answered has
//! one, and counts for the interface, after a while. So labels are those that the agent has counted or that a replay of
//! the capture gives, whichever are more, and never more than the agent can have counted.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use super::{
    super::{FlowKind, LabelledBytes, SubscriberRow, Truth},
    Expected, Mark, Replayed, Scenario, is_p2p, p2p_bytes,
};

/// IP bytes, labelled and all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Bytes with a P2P label.
    pub labelled: u64,
    /// Bytes that are P2P.
    pub p2p: u64,
}

impl Share {
    /// Labelled of all, from 0 to 1.
    #[must_use]
    pub fn value(self) -> f64 {
        if self.p2p == 0 { 0.0 } else { self.labelled as f64 / self.p2p as f64 }
    }
}

/// Outcome of a scenario.
#[derive(Clone, Debug)]
pub struct ScenarioOutcome {
    /// IP bytes that the agent charged to the subscriber, by protocol and confidence, P2P labels only.
    pub labels: BTreeMap<(String, String), u64>,
    /// From the first packet on.
    pub overall: Share,
    /// From [`super::Stage::mark`] on, if it was called.
    pub after_mark: Option<Share>,
    /// Bytes with a P2P label that count for no subscriber.
    pub unanswered: u64,
    /// Flows without payload: packets of the clients that nothing can name.
    pub bare_bytes: u64,
    /// Flows that have no label.
    pub unlabelled: Vec<String>,
    /// From the start of the clients to the end of the transfer.
    pub time: Duration,
}

/// IP bytes of subscriber 1 by P2P label.
pub(super) fn labels(rows: &[SubscriberRow]) -> BTreeMap<(String, String), u64> {
    let mut labels = BTreeMap::new();
    for row in rows.iter().filter(|row| row.is_of(1) && row.is_p2p() && row.bytes_up + row.bytes_down > 0) {
        *labels.entry((row.protocol.clone(), row.confidence.clone())).or_default() += row.bytes_up + row.bytes_down;
    }
    labels
}

/// Compares the agent's counts and the labels of the capture with ground truth; `before_mark` has those of the part
/// before the mark.
pub(super) fn weigh(
    rows: &[SubscriberRow],
    truth: &Truth,
    replayed: &Replayed,
    live: LabelledBytes,
    before_mark: Option<&(Mark, Replayed)>,
) -> ScenarioOutcome {
    // A replay drains nothing, so it may miss what ended meanwhile and was labelled when it went on.
    let replayed_bytes = p2p_bytes(&replayed.protocols).min(live.settled + live.pending);
    let labelled = replayed_bytes.max(live.settled);
    let after_mark = before_mark.map(|(mark, before)| {
        let by_replay = replayed_bytes.saturating_sub(p2p_bytes(&before.protocols));
        Share {
            labelled: by_replay.max(live.settled.saturating_sub(mark.labelled)),
            p2p: truth.bytes_since(FlowKind::P2p, mark.time),
        }
    });
    ScenarioOutcome {
        labels: labels(rows),
        overall: Share { labelled, p2p: truth.bytes(FlowKind::P2p) },
        after_mark,
        unanswered: p2p_bytes(&replayed.unanswered),
        bare_bytes: truth.bytes(FlowKind::Bare),
        unlabelled: replayed.flows.iter().filter(|flow| !is_p2p(&flow.protocol)).map(ToString::to_string).collect(),
        time: Duration::ZERO,
    }
}

impl ScenarioOutcome {
    /// Compares the outcome with the expectation of `scenario`.
    ///
    /// # Errors
    /// The outcome falls short; the message says how.
    pub fn judge(&self, scenario: &Scenario) -> Result<()> {
        for ((protocol, confidence), bytes) in &self.labels {
            ensure!(
                scenario.protocols.contains(&protocol.as_str()),
                "{bytes} bytes labelled {protocol} ({confidence}), which {} does not speak",
                scenario.client
            );
        }
        let Share { labelled, p2p } = self.overall;
        let may_be_unnamed = matches!(scenario.expected, Expected::Measured(_));
        ensure!(p2p > 0 && (labelled > 0 || may_be_unnamed), "no P2P: {self:?}");
        // Noise may carry a label, never more bytes than there are.
        match scenario.expected {
            Expected::All => {
                ensure!(labelled >= p2p, "{} of {p2p} bytes have no label: {self:#?}", p2p - labelled)
            }
            Expected::AfterMark(share) => {
                let after = self.after_mark.context("a scenario of that kind marks a moment")?;
                ensure!(after.p2p > 0 && after.value() >= share, "{after:?}: less than {share}: {self:#?}");
            }
            Expected::Measured(_) => {}
            Expected::Signalling(why) => {
                if labelled >= p2p {
                    bail!("all is labelled, so the scenario can expect all; it says: {why}");
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::IpVersion, *};

    fn judged(expected: Expected, protocol: &str, overall: Share, after_mark: Option<Share>) -> bool {
        let scenario = Scenario {
            client: "client",
            mode: "mode",
            ip: IpVersion::V4,
            programs: &[],
            protocols: &["bittorrent"],
            expected,
            play: |_| Ok(()),
        };
        let outcome = ScenarioOutcome {
            labels: BTreeMap::from([((protocol.to_owned(), "signature".to_owned()), overall.labelled)]),
            overall,
            after_mark,
            unanswered: 0,
            bare_bytes: 0,
            unlabelled: Vec::new(),
            time: Duration::ZERO,
        };
        outcome.judge(&scenario).is_ok()
    }

    #[test]
    fn an_expectation_is_met_or_not() {
        let share = |labelled, p2p| Share { labelled, p2p };
        assert!(judged(Expected::All, "bittorrent", share(100, 100), None));
        assert!(!judged(Expected::All, "bittorrent", share(99, 100), None));
        assert!(!judged(Expected::All, "edonkey", share(100, 100), None));
        assert!(!judged(Expected::All, "bittorrent", share(0, 0), None));
        let then = Expected::AfterMark(0.9);
        assert!(judged(then, "bittorrent", share(90, 1000), Some(share(90, 100))));
        assert!(!judged(then, "bittorrent", share(999, 1000), Some(share(89, 100))));
        assert!(!judged(then, "bittorrent", share(100, 100), None));
        assert!(judged(Expected::Signalling("why"), "bittorrent", share(1, 100), None));
        assert!(!judged(Expected::Signalling("why"), "bittorrent", share(100, 100), None));
        assert!(!judged(Expected::Signalling("why"), "bittorrent", share(0, 100), None));
        assert!(judged(Expected::Measured("why"), "bittorrent", share(0, 100), None));
    }
}
