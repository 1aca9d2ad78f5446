//! The event that hooks get: policy, subscriber and measured values.
//!
//! An event never holds content identifiers (info hashes, names, search words): the agent has none. It says "P2P
//! protocol traffic" and nothing about what was transferred.

use std::{borrow::Cow, sync::Arc, time::SystemTime};

use monitor_common::abi::{protocol::Verdict, settings::InspectionDepth};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Policy,
    evaluate::{Clearing, Firing},
    remotes::RemoteEstimate,
};
use crate::{
    subscriber::{Pseudonyms, Subscriber},
    words::{Evidence, SubscriberForm},
};

/// Version of the JSON form. Keys may be added without a new number.
pub const EVENT_VERSION: u32 = 1;

/// What every event of a node says of the node.
#[derive(Clone, Debug)]
pub struct EventSource {
    /// Name of the node.
    pub node: Arc<str>,
    /// Inspection depth in force.
    pub inspection: InspectionDepth,
    /// What subscribers are charged on.
    pub evidence: Evidence,
}

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The subscriber reached the threshold.
    Fired,
    /// The subscriber fell below the threshold again.
    Cleared,
}

impl EventKind {
    /// The word in messages.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Fired => "fired",
            Self::Cleared => "cleared",
        }
    }

    const fn summary(self) -> &'static str {
        match self {
            Self::Fired => "reached the threshold of",
            Self::Cleared => "fell below the threshold of",
        }
    }
}

/// One event.
#[derive(Clone, Debug)]
pub struct PolicyEvent {
    /// Unique and ordered by time (UUID version 7, RFC 9562). Equal over all attempts and hooks.
    pub id: Uuid,
    /// What it says.
    pub kind: EventKind,
    /// The event that a `cleared` one ends.
    pub fired_event: Option<Uuid>,
    /// When the window was read.
    pub time: SystemTime,
    /// The node.
    pub source: EventSource,
    /// The policy.
    pub policy: Arc<Policy>,
    /// The subscriber block.
    pub subscriber: Subscriber,
    /// Pseudonym of the subscriber.
    pub pseudonym: String,
    /// Measured values.
    pub firing: Firing,
}

impl PolicyEvent {
    /// The `fired` event of a firing.
    #[must_use]
    pub fn new(
        id: Uuid,
        firing: Firing,
        policy: &Arc<Policy>,
        subscriber: Subscriber,
        pseudonyms: &Pseudonyms,
        source: &EventSource,
    ) -> Self {
        Self {
            id,
            kind: EventKind::Fired,
            fired_event: None,
            time: firing.window_end,
            source: source.clone(),
            policy: Arc::clone(policy),
            pseudonym: pseudonyms.of(&subscriber),
            subscriber,
            firing,
        }
    }

    /// The `cleared` event of a clearing.
    #[must_use]
    pub fn cleared(
        id: Uuid,
        clearing: Clearing,
        policy: &Arc<Policy>,
        pseudonyms: &Pseudonyms,
        source: &EventSource,
    ) -> Self {
        let Clearing { now, subscriber, fired } = clearing;
        let event = Self::new(id, now, policy, subscriber, pseudonyms, source);
        Self { kind: EventKind::Cleared, fired_event: Some(fired), ..event }
    }

    /// The message that hooks get.
    #[must_use]
    pub fn message(&self) -> EventMessage {
        let weakest = self.firing.parts.iter().map(|(verdict, _)| verdict.confidence).min();
        let part = |(verdict, value): &(Verdict, u64)| Part {
            protocol: verdict.protocol.label().into(),
            confidence: verdict.confidence.label().into(),
            value: *value,
        };
        let policy = &self.policy;
        EventMessage {
            version: EVENT_VERSION,
            id: self.id.to_string(),
            kind: self.kind.label().into(),
            fired_event: self.fired_event.map(|id| id.to_string()),
            time: rfc3339(self.time),
            node: self.source.node.to_string(),
            policy: policy.name.to_string(),
            summary: format!("P2P protocol traffic of one subscriber {} policy {}", self.kind.summary(), policy.name),
            subscriber: EventSubscriber {
                pseudonym: Some(self.pseudonym.clone()),
                block: Some(self.subscriber.block().to_string()),
                realm: (self.subscriber.realm != 0).then_some(self.subscriber.realm),
            },
            metric: policy.metric.label().into(),
            direction: policy.direction.label().into(),
            value: self.firing.value,
            threshold: policy.threshold,
            confidence: weakest.unwrap_or(policy.min_confidence).label().into(),
            min_confidence: policy.min_confidence.label().into(),
            protocols: self.firing.parts.iter().map(part).collect(),
            bytes_up: self.firing.totals.bytes_up,
            bytes_down: self.firing.totals.bytes_down,
            packets_up: self.firing.totals.packets_up,
            packets_down: self.firing.totals.packets_down,
            flows: self.firing.totals.flows,
            remotes: RemoteEstimate::of(self.firing.remotes),
            window: EventWindow {
                start: rfc3339(self.firing.window_start),
                end: rfc3339(self.firing.window_end),
                seconds: policy.window.as_secs_f64(),
            },
            inspection: self.source.inspection.label().into(),
            evidence: self.source.evidence.label().into(),
        }
    }

    /// The JSON form, with the subscriber named as `form` says.
    #[must_use]
    pub fn to_json(&self, form: SubscriberForm) -> Vec<u8> {
        self.message().to_json(form)
    }
}

/// A time as RFC 3339 writes it. A time before 1970 shows as 1970, because the formatter panics on it. A router without
/// a clock chip boots at 1970, so the start of a window may be such a time.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time.max(SystemTime::UNIX_EPOCH)).to_string()
}

/// Words of an event, which are this program's own or were read from a kept message.
type Word = Cow<'static, str>;

/// An event as hooks get it, and as it is kept until it is delivered.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[expect(missing_docs, reason = "docs/hooks.md describes the keys")]
pub struct EventMessage {
    pub version: u32,
    pub id: String,
    pub kind: Word,
    /// The event that a `cleared` one ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fired_event: Option<String>,
    pub time: String,
    pub node: String,
    pub policy: String,
    pub summary: String,
    pub subscriber: EventSubscriber,
    pub metric: Word,
    pub direction: Word,
    pub value: u64,
    pub threshold: u64,
    /// The weakest verdict that contributed.
    pub confidence: Word,
    pub min_confidence: Word,
    pub protocols: Vec<Part>,
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub packets_up: u64,
    pub packets_down: u64,
    pub flows: u64,
    pub remotes: RemoteEstimate,
    pub window: EventWindow,
    pub inspection: Word,
    pub evidence: Word,
}

impl EventMessage {
    /// The JSON form, with the subscriber named as `form` says.
    ///
    /// # Panics
    /// Never: strings, numbers and lists always serialise.
    #[must_use]
    pub fn to_json(mut self, form: SubscriberForm) -> Vec<u8> {
        if form == SubscriberForm::Pseudonym {
            self.subscriber.block = None;
            self.subscriber.realm = None;
        }
        if form == SubscriberForm::Block {
            self.subscriber.pseudonym = None;
        }
        serde_json::to_vec(&self).expect("strings, numbers and lists always serialise")
    }

    /// The message that [`EventMessage::to_json`] wrote with the form `both`.
    ///
    /// # Errors
    /// The text is no message.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

/// Names of the subscriber.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[expect(missing_docs, reason = "docs/hooks.md describes the keys")]
pub struct EventSubscriber {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pseudonym: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realm: Option<u32>,
}

/// What one verdict contributed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[expect(missing_docs, reason = "docs/hooks.md describes the keys")]
pub struct Part {
    pub protocol: Word,
    pub confidence: Word,
    pub value: u64,
}

/// Time that an event covers.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct EventWindow {
    /// When the oldest traffic that counts may have passed.
    pub start: String,
    /// When the window was read.
    pub end: String,
    /// Configured length of the window.
    pub seconds: f64,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_before_1970_shows_as_1970() {
        let second = Duration::from_secs(1);
        let before = SystemTime::UNIX_EPOCH.checked_sub(second).expect("a time");
        assert_eq!(rfc3339(before), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + second), "1970-01-01T00:00:01.000Z");
    }
}
