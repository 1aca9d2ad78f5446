//! Node-level rows with a bound on their number.
//!
//! The interface name is the only label here that is not from a short list. Rows beyond [`MAX_ROWS`] are aggregated
//! under the interface `other`. A row that was once shown stays shown, so that no counter goes down.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use monitor_common::abi::protocol::{Confidence, Protocol};

use crate::snapshot::{Counts, NodeRow};

/// Rows that are not aggregated; at most six series each.
pub const MAX_ROWS: usize = 200;
/// Interface label of aggregated rows.
pub const OTHER: &str = "other";

/// Remembers which rows are not aggregated.
#[derive(Debug, Default)]
pub struct NodeRows {
    shown: HashSet<(Arc<str>, u8, u8, u8)>,
}

/// Rows that are shown.
#[derive(Clone, Debug, Default)]
pub struct BoundedRows {
    /// The rows, those under [`OTHER`] last.
    pub rows: Vec<NodeRow>,
    /// Number of aggregated rows.
    pub aggregated: usize,
}

impl NodeRows {
    /// The rows of a drain, bounded.
    pub fn bound(&mut self, rows: &[NodeRow]) -> BoundedRows {
        let mut shown = Vec::with_capacity(rows.len().min(MAX_ROWS));
        let mut other: BTreeMap<(u8, Protocol, Confidence), NodeRow> = BTreeMap::new();
        let mut aggregated = 0;
        for row in rows {
            let (protocol, confidence) = (row.verdict.protocol, row.verdict.confidence);
            let key = (Arc::clone(&row.interface), row.direction as u8, protocol as u8, confidence as u8);
            if self.shown.contains(&key) || self.shown.len() < MAX_ROWS {
                self.shown.insert(key);
                shown.push(row.clone());
                continue;
            }
            aggregated += 1;
            let sum = other.entry((row.direction as u8, protocol, confidence)).or_insert_with(|| NodeRow {
                interface: OTHER.into(),
                packets: 0,
                bytes: 0,
                flows: 0,
                unanswered: Counts::default(),
                ..row.clone()
            });
            sum.packets += row.packets;
            sum.bytes += row.bytes;
            sum.flows += row.flows;
            sum.unanswered += row.unanswered;
        }
        shown.extend(other.into_values());
        BoundedRows { rows: shown, aggregated }
    }
}
