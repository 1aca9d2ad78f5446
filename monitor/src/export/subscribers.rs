//! `/metrics/subscribers`: every subscriber, written piece by piece, so that memory does not grow with their number.
//!
//! Off unless the configuration switches it on. A shard `i/n` holds a fixed part of the subscribers, chosen by
//! pseudonym.

use std::{fmt::Write, str::FromStr, sync::Arc};

use monitor_common::abi::protocol::{Confidence, Protocol};
use peertally_core::{
    snapshot::Snapshot,
    subscriber::{Pseudonyms, Subscriber},
};

use super::{
    definitions::{self, Definition},
    pieces::Pieces,
};

/// Most shards.
const MAX_SHARDS: u32 = 1024;

/// A part of all subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    count: u32,
}

impl Shard {
    /// All subscribers.
    pub const ALL: Self = Self { index: 0, count: 1 };

    fn holds(self, pseudonym: &str) -> bool {
        let number = u32::from_str_radix(&pseudonym[..8], 16).unwrap_or(0);
        number % self.count == self.index
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("`{text}` is not a shard; write ?shard=i/n with 0 <= i < n <= {MAX_SHARDS}");
        let (index, count) = text.split_once('/').ok_or_else(wrong)?;
        let (index, count) = (index.parse().map_err(|_| wrong())?, count.parse().map_err(|_| wrong())?);
        if index >= count || count > MAX_SHARDS { Err(wrong()) } else { Ok(Self { index, count }) }
    }
}

/// Writes the shard's part of a snapshot in pieces; ends early if `send` reports that nobody reads.
pub fn write(snapshot: &Snapshot, pseudonyms: &Pseudonyms, shard: Shard, send: impl FnMut(String) -> bool) {
    // One pseudonym per subscriber. Its slots are often adjacent, so cache the last pseudonym.
    let mut last: Option<(Subscriber, Arc<str>)> = None;
    let mut rows = Vec::new();
    for (slot, key) in snapshot.keys.iter().enumerate() {
        let Some(subscriber) = Subscriber::of(key) else { continue };
        let verdict = (Protocol::from_number(key.protocol), Confidence::from_number(key.confidence));
        let (Some(protocol), Some(confidence)) = verdict else { continue };
        let name = match &last {
            Some((same, name)) if *same == subscriber => Arc::clone(name),
            _ => Arc::from(pseudonyms.of(&subscriber)),
        };
        if shard.holds(&name) {
            rows.push((slot, Arc::clone(&name), protocol.label(), confidence.label()));
        }
        last = Some((subscriber, name));
    }
    let mut pieces = Pieces::new(send);
    for definition in [&definitions::SUBSCRIBER_BYTES, &definitions::SUBSCRIBER_PACKETS, &definitions::SUBSCRIBER_FLOWS]
    {
        header(&mut pieces.text, definition);
        for (slot, name, protocol, confidence) in &rows {
            let Some(totals) = snapshot.row(*slot) else { continue };
            let labels = format_args!("{{subscriber=\"{name}\",protocol=\"{protocol}\",confidence=\"{confidence}\"");
            let metric = definition.name;
            let (up, down) = match definition.unit {
                "bytes" => (totals.bytes_up, totals.bytes_down),
                "packets" => (totals.packets_up, totals.packets_down),
                _ => {
                    let _infallible = writeln!(pieces.text, "{metric}{labels}}} {}", totals.flows);
                    continue;
                }
            };
            let _infallible = writeln!(pieces.text, "{metric}{labels},direction=\"up\"}} {up}");
            let _infallible = writeln!(pieces.text, "{metric}{labels},direction=\"down\"}} {down}");
            if !pieces.flush() {
                return;
            }
        }
    }
    if !snapshot.watchlist.is_empty() {
        let definition = &definitions::SUBSCRIBER_WATCHLIST_HITS;
        header(&mut pieces.text, definition);
        for (key, hits) in &snapshot.watchlist {
            let verdict = (Protocol::from_number(key.protocol), Confidence::from_number(key.confidence));
            let (Some(subscriber), (Some(protocol), Some(confidence))) = (Subscriber::of(key), verdict) else {
                continue;
            };
            let name = pseudonyms.of(&subscriber);
            if shard.holds(&name) {
                let (metric, protocol, confidence) = (definition.name, protocol.label(), confidence.label());
                let _infallible = writeln!(
                    pieces.text,
                    "{metric}{{subscriber=\"{name}\",protocol=\"{protocol}\",confidence=\"{confidence}\"}} {hits}"
                );
            }
        }
    }
    pieces.finish();
}

fn header(text: &mut String, definition: &Definition) {
    let Definition { name, help, kind, .. } = definition;
    let _infallible = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {}", kind.label());
}
