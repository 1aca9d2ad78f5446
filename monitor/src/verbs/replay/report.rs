//! The result of a replay, in the shape that `--format json` prints (`docs/architecture.md#command-line`).
//!
//! Rows are sorted by everything that names them, so that two runs compare with `diff`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use monitor_common::{
    abi::{
        protocol::{Confidence, Protocol, Verdict},
        rule::Rule,
        tally::{TallyKey, Totals},
    },
    parse::ip_protocol,
};
use peertally_core::{snapshot::NodeRow, subscriber::Subscriber};
use serde::Serialize;

use super::{engine::EngineTotals, flows::ReplayFlow};

/// The whole result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplayReport {
    /// `kernel` or `host`.
    pub engine: &'static str,
    /// Captures read.
    pub captures: usize,
    /// IP packets.
    pub packets: u64,
    /// IP bytes.
    pub bytes: u64,
    /// Frames not counted as IP, by reason.
    pub skipped: Vec<SkippedRow>,
    /// True when every flow counts as answered, since the captures hold one direction only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub one_way: bool,
    /// Packets that claim more bytes on the wire than any machine sends; absent if there are none.
    #[serde(skip_serializing_if = "is_zero")]
    pub implausible: u64,
    /// Traffic by protocol and confidence; adds up to `packets` and `bytes`.
    pub protocols: Vec<ProtocolRow>,
    /// Traffic by subscriber, protocol and confidence: what the subscriber took part in.
    pub subscribers: Vec<SubscriberRow>,
    /// The part of `protocols` that no subscriber is charged for.
    pub unanswered: Vec<ProtocolRow>,
    /// Traffic by flow, when asked for; adds up to `packets` and `bytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows: Option<Vec<FlowRow>>,
}

/// Frames not counted as IP for one reason.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SkippedRow {
    /// Label of the reason.
    pub reason: &'static str,
    /// Frames.
    pub packets: u64,
}

/// Traffic of one protocol and confidence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ProtocolRow {
    /// Label of the protocol.
    pub protocol: &'static str,
    /// Label of the confidence.
    pub confidence: &'static str,
    /// Flows.
    pub flows: u64,
    /// IP packets.
    pub packets: u64,
    /// IP bytes.
    pub bytes: u64,
}

/// Traffic of one subscriber, protocol and confidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SubscriberRow {
    /// Name of the realm; empty for the default one.
    pub realm: String,
    /// The subscriber's block, or [`CATCH_ALL`].
    pub subscriber: String,
    /// Label of the protocol.
    pub protocol: &'static str,
    /// Label of the confidence.
    pub confidence: &'static str,
    /// Flows.
    pub flows: u64,
    /// IP packets sent by the subscriber.
    pub packets_up: u64,
    /// IP bytes sent by the subscriber.
    pub bytes_up: u64,
    /// IP packets received by the subscriber.
    pub packets_down: u64,
    /// IP bytes received by the subscriber.
    pub bytes_down: u64,
}

/// Traffic of one flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowRow {
    /// `tcp`, `udp`, another protocol's name, or its number as `ip-253`.
    pub l4: String,
    /// Sender of the first packet.
    pub a: IpAddr,
    /// Port of `a`; 0 for protocols other than tcp and udp.
    pub a_port: u16,
    /// Receiver of the first packet.
    pub b: IpAddr,
    /// Port of `b`.
    pub b_port: u16,
    /// Label of the protocol.
    pub protocol: &'static str,
    /// Label of the confidence.
    pub confidence: &'static str,
    /// Name of the rule that gave the verdict; empty for a flow without one.
    pub rule: &'static str,
    /// Whether it is charged to a subscriber.
    pub answered: bool,
    /// IP packets of both directions.
    pub packets: u64,
    /// IP bytes of both directions.
    pub bytes: u64,
}

/// Label in place of the subscriber for traffic that a full table refused.
pub const CATCH_ALL: &str = "catch-all";
/// Label of packets whose link type cannot be turned into Ethernet frames.
pub const UNSUPPORTED_LINK_TYPE: &str = "unsupported_link_type";

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl ReplayReport {
    /// Sorts the engine's counters and the driver's rows.
    #[must_use]
    pub(super) fn new(
        engine: &'static str,
        captures: usize,
        totals: &EngineTotals,
        unsupported: u64,
        flows: Option<Vec<ReplayFlow>>,
    ) -> Self {
        let mut skipped: Vec<SkippedRow> = totals
            .skipped
            .iter()
            .map(|(reason, packets)| SkippedRow { reason: reason.label(), packets: *packets })
            .chain([SkippedRow { reason: UNSUPPORTED_LINK_TYPE, packets: unsupported }])
            .filter(|row| row.packets != 0)
            .collect();
        skipped.sort();
        Self {
            engine,
            captures,
            packets: totals.node.iter().map(|node| node.packets).sum(),
            bytes: totals.node.iter().map(|node| node.bytes).sum(),
            skipped,
            one_way: false,
            implausible: 0,
            protocols: protocols(&totals.node, |node| (node.flows, node.packets, node.bytes)),
            subscribers: subscribers(&totals.tallies),
            unanswered: protocols(&totals.node, |NodeRow { unanswered, .. }| {
                (unanswered.flows, unanswered.packets, unanswered.bytes)
            }),
            flows: flows.map(flow_rows),
        }
    }
}

/// Sums by verdict of what `counted` takes from each row: flows, packets and bytes.
fn protocols(rows: &[NodeRow], counted: impl Fn(&NodeRow) -> (u64, u64, u64)) -> Vec<ProtocolRow> {
    let mut sums: BTreeMap<(&str, &str), (u64, u64, u64)> = BTreeMap::new();
    for node in rows {
        let (sum, (flows, packets, bytes)) = (sums.entry(labels(node.verdict)).or_default(), counted(node));
        sum.0 += flows;
        sum.1 += packets;
        sum.2 += bytes;
    }
    sums.into_iter()
        .filter(|(_, sum)| *sum != (0, 0, 0))
        .map(|((protocol, confidence), (flows, packets, bytes))| ProtocolRow {
            protocol,
            confidence,
            flows,
            packets,
            bytes,
        })
        .collect()
}

fn subscribers(tallies: &[(TallyKey, Totals)]) -> Vec<SubscriberRow> {
    let mut sums: BTreeMap<(u32, [u8; 16], u8, &str, &str), Totals> = BTreeMap::new();
    for (key, totals) in tallies {
        // Numbers of a newer build cannot be named: they still count, as unclassified.
        let verdict = Protocol::from_number(key.protocol)
            .zip(Confidence::from_number(key.confidence))
            .map_or(Verdict::UNCLASSIFIED, |(protocol, confidence)| Verdict { protocol, confidence });
        let (protocol, confidence) = labels(verdict);
        let sum = sums.entry((key.realm, key.address, key.prefix_len, protocol, confidence)).or_default();
        sum.flows += totals.flows;
        sum.packets_up += totals.packets_up;
        sum.bytes_up += totals.bytes_up;
        sum.packets_down += totals.packets_down;
        sum.bytes_down += totals.bytes_down;
    }
    sums.into_iter()
        .filter(|(_, sum)| *sum != Totals::default())
        .map(|((realm, address, prefix_len, protocol, confidence), sum)| {
            let catch_all = realm == TallyKey::CATCH_ALL.realm;
            let subscriber = Subscriber { address, realm, prefix_len };
            SubscriberRow {
                realm: if catch_all || realm == 0 { String::new() } else { realm.to_string() },
                subscriber: if catch_all { CATCH_ALL.to_owned() } else { subscriber.block().to_string() },
                protocol,
                confidence,
                flows: sum.flows,
                packets_up: sum.packets_up,
                bytes_up: sum.bytes_up,
                packets_down: sum.packets_down,
                bytes_down: sum.bytes_down,
            }
        })
        .collect()
}

fn flow_rows(mut flows: Vec<ReplayFlow>) -> Vec<FlowRow> {
    flows.sort_by_key(|flow| {
        let names = (flow.protocol_number, flow.a, flow.a_port, flow.b, flow.b_port);
        (names, labels(flow.verdict), flow.packets, flow.bytes)
    });
    flows
        .into_iter()
        .map(|flow| {
            let (protocol, confidence) = labels(flow.verdict);
            FlowRow {
                l4: l4_name(flow.protocol_number),
                a: ip(flow.a.bytes()),
                a_port: flow.a_port,
                b: ip(flow.b.bytes()),
                b_port: flow.b_port,
                protocol,
                confidence,
                rule: flow.rule.map_or("", Rule::name),
                answered: flow.answered,
                packets: flow.packets,
                bytes: flow.bytes,
            }
        })
        .collect()
}

fn labels(verdict: Verdict) -> (&'static str, &'static str) {
    (verdict.protocol.label(), verdict.confidence.label())
}

/// An address as people write it: IPv4 without its IPv6 mapping.
fn ip(address: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(address).to_canonical()
}

/// Name of an IP protocol, as `/etc/protocols` has it.
fn l4_name(number: u8) -> String {
    match number {
        ip_protocol::TCP => "tcp",
        ip_protocol::UDP => "udp",
        1 => "icmp",
        2 => "igmp",
        ip_protocol::IPV4 => "ipencap",
        ip_protocol::IPV6 => "ipv6",
        ip_protocol::GRE => "gre",
        50 => "esp",
        ip_protocol::AH => "ah",
        58 => "ipv6-icmp",
        89 => "ospf",
        103 => "pim",
        112 => "vrrp",
        132 => "sctp",
        _ => return format!("ip-{number}"),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use monitor_common::abi::{key::Address, reason::Reason, tally::Direction};
    use peertally_core::snapshot::Counts;

    use super::*;

    fn key(address: [u8; 16], prefix_len: u8) -> TallyKey {
        TallyKey {
            address,
            realm: 0,
            prefix_len,
            protocol: Protocol::BitTorrent as u8,
            confidence: Confidence::Signature as u8,
        }
    }

    /// The example of `docs/architecture.md#command-line`.
    #[test]
    fn json_has_the_shape_of_the_contract() {
        let verdict = Verdict { protocol: Protocol::BitTorrent, confidence: Confidence::Signature };
        let node = |direction, packets, bytes, flows| NodeRow {
            interface: "other".into(),
            direction,
            verdict,
            packets,
            bytes,
            flows,
            unanswered: Counts { flows: flows / 2, packets: 5, bytes: 500 },
        };
        let totals = EngineTotals {
            node: vec![node(Direction::Up, 40, 50_000, 2), node(Direction::Down, 40, 20_000, 0)],
            tallies: vec![(
                key(Address::v4(0x0a00_0001).bytes(), 128),
                Totals { flows: 2, packets_up: 40, bytes_up: 50_000, packets_down: 40, bytes_down: 20_000 },
            )],
            skipped: vec![(Reason::NotIp, 3), (Reason::ShortFrame, 0)],
        };
        let flow = ReplayFlow {
            protocol_number: 6,
            a: Address::v4(0x0a00_0001),
            a_port: 51_413,
            b: Address::v4(0x0a00_0002),
            b_port: 6_881,
            verdict,
            rule: Some(Rule::BtHandshake),
            answered: true,
            packets: 60,
            bytes: 60_000,
        };
        let report = ReplayReport::new("host", 1, &totals, 0, Some(vec![flow]));
        let expected = serde_json::json!({
            "engine": "host", "captures": 1, "packets": 80, "bytes": 70_000,
            "skipped": [{"reason": "not_ip", "packets": 3}],
            "protocols": [{"protocol": "bittorrent", "confidence": "signature", "flows": 2, "packets": 80, "bytes": 70_000}],
            "subscribers": [{"realm": "", "subscriber": "10.0.0.1/32", "protocol": "bittorrent",
                "confidence": "signature", "flows": 2, "packets_up": 40, "bytes_up": 50_000, "packets_down": 40,
                "bytes_down": 20_000}],
            "unanswered": [{"protocol": "bittorrent", "confidence": "signature", "flows": 1, "packets": 10, "bytes": 1_000}],
            "flows": [{"l4": "tcp", "a": "10.0.0.1", "a_port": 51_413, "b": "10.0.0.2", "b_port": 6_881,
                "protocol": "bittorrent", "confidence": "signature", "rule": "bt-handshake", "answered": true, "packets": 60, "bytes": 60_000}],
        });
        assert_eq!(serde_json::to_value(&report).expect("plain data"), expected);
        let without = ReplayReport::new("host", 1, &totals, 2, None);
        let value = serde_json::to_value(&without).expect("plain data");
        assert!(value.get("flows").is_none());
        assert_eq!(value["skipped"][1]["reason"], UNSUPPORTED_LINK_TYPE);
    }

    #[test]
    fn blocks_are_written_as_people_write_them() {
        let block = |address, prefix_len| Subscriber { address, realm: 0, prefix_len }.block().to_string();
        let v6 = "2001:db8:1::".parse::<Ipv6Addr>().expect("an address").octets();
        assert_eq!(block(v6, 56), "2001:db8:1::/56");
        assert_eq!(block(Address::v4(0x6440_0000).bytes(), 120), "100.64.0.0/24");
        assert_eq!(block([0; 16], 64), "::/64");
        let rows = subscribers(&[
            (TallyKey::CATCH_ALL, Totals { flows: 1, ..Totals::default() }),
            (key(v6, 56), Totals::default()),
        ]);
        assert_eq!(rows.len(), 1, "empty rows are left out");
        assert_eq!((rows[0].subscriber.as_str(), rows[0].protocol), (CATCH_ALL, "unclassified"));
    }

    #[test]
    fn protocols_have_names_or_numbers() {
        assert_eq!([6, 17, 58, 253].map(l4_name), ["tcp", "udp", "ipv6-icmp", "ip-253"]);
    }
}
