//! A drain as the kernel side hands it on, made up.

use std::{sync::Arc, time::Duration};

use monitor_common::abi::{
    key::Address,
    protocol::{Confidence, Protocol},
    remotes::RemoteSet,
    tally::{TallyKey, Totals},
};
use peertally_core::snapshot::{Snapshot, TallyChange};
use peertally_tests::snapshots;

/// A drain in which every subscriber moved.
pub(crate) fn snapshot(subscribers: u32) -> Snapshot {
    let mut keys = vec![TallyKey::CATCH_ALL];
    let mut totals = vec![Totals::default()];
    let mut changes = Vec::new();
    for number in 1..=subscribers {
        keys.push(TallyKey {
            address: Address::v4(0x6440_0000 + number).bytes(),
            realm: 0,
            prefix_len: 128,
            protocol: Protocol::BitTorrent as u8,
            confidence: Confidence::Signature as u8,
        });
        let moved = u64::from(number);
        let delta = Totals {
            flows: 1,
            packets_up: moved,
            bytes_up: moved * 1000,
            packets_down: moved,
            bytes_down: moved * 1400,
        };
        totals.push(delta);
        changes.push(TallyChange { slot: number, delta, remotes: RemoteSet::of(moved) });
    }
    Snapshot {
        drain_duration: Duration::from_millis(20),
        keys: Arc::new(keys),
        totals: Arc::new(totals),
        changes,
        ..snapshots::empty()
    }
}
