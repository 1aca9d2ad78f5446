//! Every tally with its subscriber's address block, for the control socket.
//!
//! Address blocks leave the agent here and in hooks that ask for them, nowhere else: only root may use the socket, and
//! `/metrics` shows pseudonyms.

use monitor_common::abi::protocol::{Confidence, Protocol};
use peertally_core::{snapshot::Snapshot, subscriber::Subscriber};
use serde::Serialize;

use super::pieces::Pieces;

/// One line, with the keys of a row of `subscribers` in the output of `replay` (`docs/architecture.md#command-line`).
#[derive(Serialize)]
struct TallyRow {
    realm: String,
    subscriber: String,
    protocol: &'static str,
    confidence: &'static str,
    flows: u64,
    packets_up: u64,
    bytes_up: u64,
    packets_down: u64,
    bytes_down: u64,
}

/// Writes one JSON object per line, in pieces; ends early if `send` reports that nobody reads.
pub fn write(snapshot: &Snapshot, send: impl FnMut(String) -> bool) {
    let mut pieces = Pieces::new(send);
    for (slot, key) in snapshot.keys.iter().enumerate() {
        let (Some(subscriber), Some(totals)) = (Subscriber::of(key), snapshot.row(slot)) else { continue };
        let verdict = (Protocol::from_number(key.protocol), Confidence::from_number(key.confidence));
        let (Some(protocol), Some(confidence)) = verdict else { continue };
        let row = TallyRow {
            realm: if subscriber.realm == 0 { String::new() } else { subscriber.realm.to_string() },
            subscriber: subscriber.block().to_string(),
            protocol: protocol.label(),
            confidence: confidence.label(),
            flows: totals.flows,
            packets_up: totals.packets_up,
            bytes_up: totals.bytes_up,
            packets_down: totals.packets_down,
            bytes_down: totals.bytes_down,
        };
        pieces.text += &serde_json::to_string(&row).expect("strings and numbers always serialise");
        pieces.text.push('\n');
        if !pieces.flush() {
            return;
        }
    }
    pieces.finish();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use peertally_core::testing::{Kernel, bytes, key};

    #[test]
    fn a_line_has_the_keys_of_replay_and_the_block() {
        let mut kernel = Kernel::new();
        kernel.count(key("10.0.0.1", Protocol::BitTorrent, Confidence::Signature), bytes(1_000, 2_000));
        let mut text = String::new();
        write(&kernel.drain_at(Duration::ZERO), |piece| {
            text += &piece;
            true
        });
        let expected = "{\"realm\":\"\",\"subscriber\":\"10.0.0.1/32\",\"protocol\":\"bittorrent\",\
             \"confidence\":\"signature\",\"flows\":0,\"packets_up\":1,\"bytes_up\":1000,\"packets_down\":2,\
             \"bytes_down\":2000}\n";
        assert_eq!(text, expected);
    }
}
