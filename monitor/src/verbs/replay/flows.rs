//! Flow rows of a replay: endpoints, amount and verdict.
//!
//! Memory grows with the number of flows, not of packets. A flow that the engine restarts (TCP SYN on known ports) or
//! opens anew (after its eviction) gets a row of its own, so that rows add up to the engine's totals per protocol.

use std::collections::HashMap;

use monitor_common::{
    abi::{
        key::{Address, FlowKey},
        outcome::Outcome,
        protocol::Verdict,
        rule::Rule,
    },
    parse::Headers,
};

/// One row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReplayFlow {
    /// IP protocol number.
    pub(super) protocol_number: u8,
    /// Sender of the first packet.
    pub(super) a: Address,
    /// Port of `a`; 0 for protocols without ports.
    pub(super) a_port: u16,
    /// Receiver of the first packet.
    pub(super) b: Address,
    /// Port of `b`.
    pub(super) b_port: u16,
    /// The latest verdict.
    pub(super) verdict: Verdict,
    /// The rule that gave it.
    pub(super) rule: Option<Rule>,
    /// Whether it is charged to a subscriber.
    pub(super) answered: bool,
    /// IP packets of both directions.
    pub(super) packets: u64,
    /// IP bytes of both directions.
    pub(super) bytes: u64,
}

/// All rows so far.
#[derive(Debug, Default)]
pub(super) struct Flows {
    rows: Vec<ReplayFlow>,
    /// The row that a key's next packet adds to. Packets counted without a flow have rows of their own (`false`).
    current: HashMap<(FlowKey, bool), usize>,
}

impl Flows {
    /// Adds a packet.
    pub(super) fn add(&mut self, headers: &Headers, outcome: Outcome, rule: Option<Rule>, charged: bool) {
        let (verdict, in_flow, opens) = match outcome {
            Outcome::Skipped(_) => return,
            Outcome::Known(verdict) => (verdict, true, false),
            Outcome::New(verdict) | Outcome::Restarted(verdict) => (verdict, true, true),
            Outcome::Transit | Outcome::Uncached => {
                let verdict = if headers.fragment != 0 { Verdict::FRAGMENT } else { Verdict::UNCLASSIFIED };
                (verdict, false, false)
            }
        };
        let (key, _) = headers.flow_key();
        let next = self.rows.len();
        let index = self.current.entry((key, in_flow)).or_insert(next);
        if opens {
            *index = next;
        }
        if *index == next {
            self.rows.push(ReplayFlow {
                protocol_number: headers.protocol,
                a: headers.source,
                a_port: headers.source_port,
                b: headers.destination,
                b_port: headers.destination_port,
                verdict,
                rule: None,
                answered: false,
                packets: 0,
                bytes: 0,
            });
        }
        let row = &mut self.rows[*index];
        // A flow that counted for a subscriber may get a verdict that is not the subscriber's doing.
        row.answered = charged | (row.answered & (row.verdict == verdict));
        row.verdict = verdict;
        // Only the packet that brings a verdict names its rule.
        row.rule = rule.or(row.rule);
        row.packets += 1;
        row.bytes += u64::from(headers.ip_bytes);
    }

    /// The rows, in the order in which their flows began.
    pub(super) fn into_rows(self) -> Vec<ReplayFlow> {
        self.rows
    }
}
