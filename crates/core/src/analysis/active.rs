//! Number of subscribers with traffic in a drain, by protocol. Each counts once, whatever the confidence of its
//! tallies.

use monitor_common::abi::protocol::Protocol;

use crate::policy::{SubscriberIndex, TallyOwner};

/// Low bits of a word hold a bit for each protocol; the others hold the drain's number. One word for both halves the
/// memory for each subscriber.
const PROTOCOL_BITS: u32 = 40;
const PROTOCOLS: u64 = (1 << PROTOCOL_BITS) - 1;

const _: () = {
    let mut index = 0;
    while index < Protocol::ALL.len() {
        assert!((Protocol::ALL[index] as u32) < PROTOCOL_BITS);
        index += 1;
    }
};

/// Counts of the current drain.
#[derive(Debug)]
pub(super) struct Active {
    /// Drain and protocols of each subscriber's last traffic.
    moved: Vec<u64>,
    /// Number of the drain, shifted to its place in a word.
    drain: u64,
    counts: [u64; PROTOCOL_BITS as usize],
}

impl Default for Active {
    fn default() -> Self {
        Self { moved: Vec::new(), drain: 0, counts: [0; PROTOCOL_BITS as usize] }
    }
}

impl Active {
    /// Begins a drain.
    pub(super) fn begin(&mut self, subscribers: &SubscriberIndex) {
        self.moved.resize(subscribers.len(), 0);
        self.counts.fill(0);
        self.drain = self.drain.wrapping_add(1 << PROTOCOL_BITS);
        if self.drain == 0 {
            // The numbers wrap around: clear those of the first round.
            self.moved.fill(0);
            self.drain = 1 << PROTOCOL_BITS;
        }
    }

    /// Forgets subscribers, whose numbers others get.
    pub(super) fn forget(&mut self, numbers: &[u32]) {
        for number in numbers {
            if let Some(moved) = self.moved.get_mut(*number as usize) {
                *moved = 0;
            }
        }
    }

    /// Records the subscribers of tallies that moved.
    pub(super) fn take(&mut self, owners: &[TallyOwner]) {
        for owner in owners {
            let Some(moved) = self.moved.get_mut(owner.subscriber as usize) else { continue };
            let protocol = owner.verdict_index.protocol_number();
            let Some(count) = self.counts.get_mut(protocol) else { continue };
            let before = if *moved & !PROTOCOLS == self.drain { *moved } else { self.drain };
            *moved = before | 1 << protocol;
            *count += u64::from(*moved != before);
        }
    }

    /// Subscribers with traffic in this drain, by protocol.
    pub(super) fn rows(&self) -> Vec<(Protocol, u64)> {
        Protocol::ALL.iter().map(|protocol| (*protocol, self.counts[*protocol as usize])).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use monitor_common::abi::protocol::Confidence;

    use super::*;
    use crate::testing::{Kernel, bytes, key};

    fn count(
        kernel: &mut Kernel,
        active: &mut Active,
        subscribers: &mut SubscriberIndex,
        at_s: u64,
    ) -> Vec<(Protocol, u64)> {
        let snapshot = kernel.drain_at(Duration::from_secs(at_s));
        subscribers.update(&snapshot);
        let mut owners = Vec::new();
        subscribers.owners(&snapshot.changes, &mut owners);
        active.begin(subscribers);
        active.take(&owners);
        active.rows().into_iter().filter(|(_, count)| *count > 0).collect()
    }

    #[test]
    fn a_subscriber_counts_once_for_each_protocol_and_drain() {
        let (mut kernel, mut active, mut subscribers) = (Kernel::new(), Active::default(), SubscriberIndex::default());
        for drain in 0..3 {
            for (host, protocol, confidence) in [
                ("10.0.0.1", Protocol::BitTorrent, Confidence::Signature),
                ("10.0.0.1", Protocol::BitTorrent, Confidence::Association),
                ("10.0.0.1", Protocol::Gnutella, Confidence::Signature),
                ("10.0.0.2", Protocol::BitTorrent, Confidence::Signature),
            ] {
                kernel.count(key(host, protocol, confidence), bytes(1, 0));
            }
            let found = count(&mut kernel, &mut active, &mut subscribers, drain);
            assert_eq!(found, [(Protocol::BitTorrent, 2), (Protocol::Gnutella, 1)]);
        }
        assert_eq!(count(&mut kernel, &mut active, &mut subscribers, 9), []);
    }

    #[test]
    fn the_number_of_the_drain_may_come_round() {
        let (mut kernel, mut active, mut subscribers) = (Kernel::new(), Active::default(), SubscriberIndex::default());
        active.drain = !PROTOCOLS;
        for drain in 0..3 {
            kernel.count(key("10.0.0.1", Protocol::BitTorrent, Confidence::Signature), bytes(1, 0));
            assert_eq!(count(&mut kernel, &mut active, &mut subscribers, drain), [(Protocol::BitTorrent, 1)]);
        }
    }
}
