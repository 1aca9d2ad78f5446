//! Policies: thresholds on one subscriber's traffic within a sliding window.
//!
//! Pure: values in, values out. No clock, no I/O, no hook is called from here. What a policy says is about P2P protocol
//! traffic; it says nothing about what was transferred.

pub mod engine;
pub mod event;
mod history;
mod metric_group;
mod subscriber_index;
#[cfg(test)]
mod tests;
mod verdict_index;

use std::{sync::Arc, time::Duration};

use ipnet::IpNet;
use monitor_common::protocol::{Confidence, Protocol, Verdict};

pub use engine::{Firing, PolicyCounts, PolicyEngine};
pub use event::PolicyEvent;
pub use subscriber_index::SubscriberIndex;
pub(crate) use subscriber_index::{CHUNK, TallyOwner};

use crate::words::{Metric, PolicyDirection};

/// One policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Name in events and metrics.
    pub name: Arc<str>,
    /// Protocols that count together.
    pub protocols: ProtocolSet,
    /// The weakest verdict that counts.
    pub min_confidence: Confidence,
    /// What is measured.
    pub metric: Metric,
    /// Whose packets are measured.
    pub direction: PolicyDirection,
    /// Fires when the window holds at least this much.
    pub threshold: u64,
    /// Length of the window.
    pub window: Duration,
    /// Time without firing again for the same subscriber.
    pub cool_down: Duration,
    /// Address blocks it does not fire on.
    pub allow: Vec<IpNet>,
    /// Hooks to call, as indexes of the configuration's hooks.
    pub hooks: Vec<usize>,
}

impl Policy {
    /// Whether traffic of a verdict counts for this policy.
    #[must_use]
    pub fn covers(&self, verdict: Verdict) -> bool {
        verdict.confidence >= self.min_confidence && self.protocols.contains(verdict.protocol)
    }

    /// Whether a subscriber's block shares an address with the allow list.
    #[must_use]
    pub fn allows(&self, block: &IpNet) -> bool {
        self.allow.iter().any(|prefix| prefix.contains(block) || block.contains(prefix))
    }
}

/// A set of protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProtocolSet(u64);

const _: () = assert!(monitor_common::protocol::PROTOCOL_SLOTS <= 64);

/// Protocols a policy must name to include: not P2P, or transports with many other uses (`docs/architecture.md#labels`).
const NAMED_ONLY: &[&str] = &["unclassified", "fragment", "libp2p"];

impl ProtocolSet {
    /// No protocol.
    pub const EMPTY: Self = Self(0);

    /// What a policy covers that names no protocol.
    #[must_use]
    pub fn default_policy() -> Self {
        let mut set = Self::EMPTY;
        for protocol in Protocol::ALL.iter().filter(|protocol| !NAMED_ONLY.contains(&protocol.label())) {
            set.insert(*protocol);
        }
        set
    }

    /// Adds a protocol.
    pub fn insert(&mut self, protocol: Protocol) {
        self.0 |= 1 << protocol as u8;
    }

    /// Whether a protocol is in the set.
    #[must_use]
    pub fn contains(self, protocol: Protocol) -> bool {
        self.0 & (1 << protocol as u8) != 0
    }

    /// The protocols, in number order.
    pub fn iter(self) -> impl Iterator<Item = Protocol> {
        Protocol::ALL.iter().copied().filter(move |protocol| self.contains(*protocol))
    }
}
