//! The event that hooks get: policy, subscriber and measured values.
//!
//! An event never holds content identifiers (info hashes, names, search words): the agent has none. It says "P2P
//! protocol traffic" and nothing about what was transferred.

use std::{sync::Arc, time::SystemTime};

use monitor_common::abi::settings::InspectionDepth;
use serde::Serialize;
use uuid::Uuid;

use super::{Policy, evaluate::Firing, remotes::RemoteEstimate};
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

/// One event.
#[derive(Clone, Debug)]
pub struct PolicyEvent {
    /// Unique and ordered by time (UUID version 7, RFC 9562). Equal over all attempts and hooks.
    pub id: Uuid,
    /// When it fired.
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
    /// The event of a firing.
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
            time: firing.window_end,
            source: source.clone(),
            policy: Arc::clone(policy),
            pseudonym: pseudonyms.of(&subscriber),
            subscriber,
            firing,
        }
    }

    /// The JSON form, with the subscriber named as `form` says.
    #[must_use]
    pub fn to_json(&self, form: SubscriberForm) -> Vec<u8> {
        let with_block = form != SubscriberForm::Pseudonym;
        let with_pseudonym = form != SubscriberForm::Block;
        let part = |(verdict, value): &(monitor_common::abi::protocol::Verdict, u64)| Part {
            protocol: verdict.protocol.label(),
            confidence: verdict.confidence.label(),
            value: *value,
        };
        let weakest = self.firing.parts.iter().map(|(verdict, _)| verdict.confidence).min();
        let body = Body {
            version: EVENT_VERSION,
            id: self.id.to_string(),
            time: rfc3339(self.time),
            node: &self.source.node,
            policy: &self.policy.name,
            summary: format!(
                "P2P protocol traffic of one subscriber reached the threshold of policy {}",
                self.policy.name
            ),
            subscriber: EventSubscriber {
                pseudonym: with_pseudonym.then_some(self.pseudonym.as_str()),
                block: with_block.then(|| self.subscriber.block().to_string()),
                realm: (with_block && self.subscriber.realm != 0).then_some(self.subscriber.realm),
            },
            metric: self.policy.metric.label(),
            direction: self.policy.direction.label(),
            value: self.firing.value,
            threshold: self.policy.threshold,
            confidence: weakest.unwrap_or(self.policy.min_confidence).label(),
            min_confidence: self.policy.min_confidence.label(),
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
                seconds: self.policy.window.as_secs_f64(),
            },
            inspection: self.source.inspection.label(),
            evidence: self.source.evidence.label(),
        };
        serde_json::to_vec(&body).expect("strings, numbers and lists always serialise")
    }
}

/// A time as RFC 3339 writes it. A time before 1970 shows as 1970, because the formatter panics on it. A router without
/// a clock chip boots at 1970, so the start of a window may be such a time.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time.max(SystemTime::UNIX_EPOCH)).to_string()
}

#[derive(Serialize)]
struct Body<'a> {
    version: u32,
    id: String,
    time: String,
    node: &'a str,
    policy: &'a str,
    summary: String,
    subscriber: EventSubscriber<'a>,
    metric: &'static str,
    direction: &'static str,
    value: u64,
    threshold: u64,
    /// The weakest verdict that contributed.
    confidence: &'static str,
    min_confidence: &'static str,
    protocols: Vec<Part>,
    bytes_up: u64,
    bytes_down: u64,
    packets_up: u64,
    packets_down: u64,
    flows: u64,
    remotes: RemoteEstimate,
    window: EventWindow,
    inspection: &'static str,
    evidence: &'static str,
}

#[derive(Serialize)]
struct EventSubscriber<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pseudonym: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    realm: Option<u32>,
}

#[derive(Serialize)]
struct Part {
    protocol: &'static str,
    confidence: &'static str,
    value: u64,
}

#[derive(Serialize)]
struct EventWindow {
    /// When the oldest traffic that counts may have passed.
    start: String,
    end: String,
    /// Configured length of the window.
    seconds: f64,
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
