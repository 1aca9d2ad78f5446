//! Policies: thresholds on one subscriber's traffic within a sliding window.
//!
//! Pure: values in, values out. Nothing here reads a clock, does I/O or calls a hook. A policy is about P2P protocol
//! traffic, not about the content that was transferred.

mod bucket_totals;
pub mod ceiling;
pub mod evaluate;
pub mod event;
mod history;
mod metric_group;
pub mod recorder;
mod remotes;
pub mod retrospect;
mod subscriber_index;
#[cfg(test)]
mod tests;
mod verdict_index;

use std::{sync::Arc, time::Duration};

use ipnet::IpNet;
use monitor_common::abi::protocol::{Confidence, Protocol, ProtocolClass};

pub use evaluate::{Clearing, Firing, PolicyCounts, PolicyEngine, Standing};
pub use event::{EventMessage, PolicyEvent};
pub use history::Sum;
pub use remotes::RemoteEstimate;
pub use subscriber_index::SubscriberIndex;
pub(crate) use subscriber_index::{CHUNK, TallyOwner};

use crate::words::{Metric, PolicyDirection};

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Name in events and metrics.
    pub name: Arc<str>,
    /// Protocols that count together.
    pub protocols: ProtocolSet,
    /// The weakest verdict that counts.
    pub min_confidence: Confidence,
    /// Measured quantity.
    pub metric: Metric,
    /// Direction that is measured.
    pub direction: PolicyDirection,
    /// Fires when the window holds at least this much.
    pub threshold: u64,
    /// Length of the window.
    pub window: Duration,
    /// Time without firing again for that subscriber.
    pub cool_down: Duration,
    /// Address blocks it does not fire on.
    pub allow: Vec<IpNet>,
    /// Hooks to call, as indexes of the configuration's hooks.
    pub hooks: Vec<usize>,
}

impl Policy {
    /// Digest of what the policy measures: protocols, confidence, metric, direction and window. The threshold, the
    /// cool-down, the allow list and the hooks do not change it.
    #[must_use]
    pub fn measures(&self) -> String {
        let protocols: Vec<&str> = self.protocols.iter().map(Protocol::label).collect();
        let text = format!(
            "{} {} {} {} {}",
            protocols.join(","),
            self.min_confidence.label(),
            self.metric.label(),
            self.direction.label(),
            self.window.as_nanos()
        );
        blake3::hash(text.as_bytes()).to_hex()[..32].to_owned()
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

const _: () = assert!(monitor_common::abi::protocol::PROTOCOL_SLOTS <= 64);

/// Classes of a policy that names neither classes nor protocols (`docs/architecture.md#labels`).
pub const DEFAULT_CLASSES: &[ProtocolClass] = &[ProtocolClass::FileSharing, ProtocolClass::Video];

impl ProtocolSet {
    /// No protocol.
    pub const EMPTY: Self = Self(0);

    /// Protocols of a policy that names neither classes nor protocols.
    #[must_use]
    pub fn default_policy() -> Self {
        let mut set = Self::EMPTY;
        DEFAULT_CLASSES.iter().for_each(|class| set.insert_class(*class));
        set
    }

    /// Adds every protocol of a class.
    pub const fn insert_class(&mut self, class: ProtocolClass) {
        self.0 |= class.protocol_bits();
    }

    /// Every protocol that has a class.
    pub(crate) const OF_A_CLASS: Self = {
        let (mut set, mut index) = (Self::EMPTY, 0);
        while index < ProtocolClass::ALL.len() {
            set.insert_class(ProtocolClass::ALL[index]);
            index += 1;
        }
        set
    };

    /// Whether the protocol of a number is in the set.
    pub(crate) const fn has_number(self, number: usize) -> bool {
        self.0 >> (number % 64) & 1 != 0
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
