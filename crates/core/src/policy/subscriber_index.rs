//! Dense numbers for subscribers, so that per-subscriber data is an array and not a hash table.

use std::{
    hash::{BuildHasher as _, RandomState},
    iter,
    sync::Arc,
};

use hashbrown::{HashTable, hash_table::Entry};
use monitor_common::abi::{protocol::Protocol, tally::TallyKey};

use super::{ProtocolSet, verdict_index::VerdictIndex};
use crate::{
    snapshot::{Snapshot, TallyChange},
    subscriber::Subscriber,
};

/// Changes that all parts of the analysis process before the next ones are read: few enough to stay in the CPU caches.
pub(crate) const CHUNK: usize = 2048;

/// Number of no subscriber: the catch-all tally.
pub(crate) const NO_SUBSCRIBER: u32 = u32::MAX;

/// Ends the list of a subscriber's slots.
const NO_SLOT: u32 = u32::MAX;

/// Owner and verdict of a tally.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TallyOwner {
    /// Number of the subscriber; [`NO_SUBSCRIBER`] for the catch-all.
    pub(crate) subscriber: u32,
    /// Protocol and confidence.
    pub(crate) verdict_index: VerdictIndex,
}

impl TallyOwner {
    const NO_SUBSCRIBER: Self = Self { subscriber: NO_SUBSCRIBER, verdict_index: VerdictIndex::NONE };

    /// Whether its traffic makes a subscriber a P2P subscriber.
    pub(crate) fn is_p2p(self) -> bool {
        ProtocolSet::OF_A_CLASS.has_number(self.verdict_index.protocol_number())
    }

    /// The P2P protocol of its traffic.
    pub(crate) fn p2p_protocol(self) -> Option<Protocol> {
        Protocol::from_number(self.verdict_index.protocol_number() as u8).filter(|_| self.is_p2p())
    }
}

/// Which subscriber each tally slot belongs to, and which slots each subscriber has.
///
/// A subscriber whose last slot was freed loses its number, which then goes to another one: addresses that change daily
/// take no more memory than those of a day.
#[derive(Debug, Default)]
pub struct SubscriberIndex {
    keys: Arc<Vec<TallyKey>>,
    /// Subscriber number of each slot.
    of_slot: Vec<u32>,
    /// Verdict of each slot: the keys have it too, in twelve times the memory.
    verdict_indexes: Vec<VerdictIndex>,
    /// By slot: the next slot of that subscriber. A list for each subscriber would take seven times the memory.
    next: Vec<u32>,
    subscribers: Vec<Subscriber>,
    /// First and last slot of each subscriber.
    ends: Vec<(u32, u32)>,
    /// Numbers by the subscriber's hash; `subscribers` has the keys. A table of both would take five times the memory.
    numbers: HashTable<u32>,
    /// Numbers whose subscribers have lost slots.
    emptied: Vec<u32>,
    /// Numbers of no subscriber.
    free: Vec<u32>,
    hasher: RandomState,
}

impl SubscriberIndex {
    /// Adds the keys of a snapshot; returns the slots whose key changed.
    pub fn update(&mut self, snapshot: &Snapshot) -> Vec<u32> {
        let mut reused = Vec::new();
        if Arc::ptr_eq(&self.keys, &snapshot.keys) {
            return reused;
        }
        for slot in 0..self.of_slot.len().min(snapshot.keys.len()) {
            if self.keys[slot] != snapshot.keys[slot] {
                self.unlink(slot as u32);
                self.of_slot[slot] = self.number(&snapshot.keys[slot], slot);
                self.verdict_indexes[slot] = VerdictIndex::of(&snapshot.keys[slot]);
                reused.push(slot as u32);
            }
        }
        self.next.resize(snapshot.keys.len().max(self.next.len()), NO_SLOT);
        for slot in self.of_slot.len()..snapshot.keys.len() {
            let number = self.number(&snapshot.keys[slot], slot);
            self.of_slot.push(number);
            self.verdict_indexes.push(VerdictIndex::of(&snapshot.keys[slot]));
        }
        self.keys = Arc::clone(&snapshot.keys);
        reused
    }

    fn number(&mut self, key: &TallyKey, slot: usize) -> u32 {
        let Some(subscriber) = Subscriber::of(key) else { return NO_SUBSCRIBER };
        let (subscribers, hasher) = (&self.subscribers, &self.hasher);
        let is_same = |number: &u32| subscribers[*number as usize] == subscriber;
        let hash = |number: &u32| hasher.hash_one(subscribers[*number as usize]);
        let number = match self.numbers.entry(hasher.hash_one(subscriber), is_same, hash) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let number = self.free.pop().unwrap_or(subscribers.len() as u32);
                entry.insert(number);
                if number as usize == self.subscribers.len() {
                    self.subscribers.push(subscriber);
                    self.ends.push((NO_SLOT, NO_SLOT));
                } else {
                    self.subscribers[number as usize] = subscriber;
                }
                number
            }
        };
        self.link(number, slot as u32);
        number
    }

    /// Adds a slot to its subscriber's list.
    fn link(&mut self, number: u32, slot: u32) {
        let (first, last) = &mut self.ends[number as usize];
        self.next[slot as usize] = NO_SLOT;
        if *first == NO_SLOT {
            *first = slot;
        } else {
            self.next[*last as usize] = slot;
        }
        *last = slot;
    }

    /// Removes a slot from its subscriber's list.
    fn unlink(&mut self, slot: u32) {
        let number = self.of_slot[slot as usize];
        if number == NO_SUBSCRIBER {
            return;
        }
        let left: Vec<u32> = self.slots(number).filter(|each| *each != slot).collect();
        self.ends[number as usize] = (NO_SLOT, NO_SLOT);
        if left.is_empty() {
            self.emptied.push(number);
        }
        left.into_iter().for_each(|each| self.link(number, each));
    }

    /// Takes the numbers of subscribers without a slot back, unless somebody needs them yet; returns them. Whatever is
    /// known by such a number is another subscriber's from the next update on.
    pub(crate) fn release(&mut self, is_needed: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut released = Vec::new();
        self.emptied.sort_unstable();
        self.emptied.dedup();
        for number in std::mem::take(&mut self.emptied) {
            if self.ends[number as usize].0 != NO_SLOT {
                // It has come back.
                continue;
            }
            if is_needed(number) {
                self.emptied.push(number);
                continue;
            }
            let hash = self.hasher.hash_one(self.subscribers[number as usize]);
            if let Ok(entry) = self.numbers.find_entry(hash, |other| *other == number) {
                entry.remove();
                released.push(number);
            }
        }
        self.free.extend(&released);
        released
    }

    /// Owner and verdict of a slot.
    pub(crate) fn owner(&self, slot: u32) -> TallyOwner {
        match (self.of_slot.get(slot as usize), self.verdict_indexes.get(slot as usize)) {
            (Some(subscriber), Some(verdict_index)) => {
                TallyOwner { subscriber: *subscriber, verdict_index: *verdict_index }
            }
            _ => TallyOwner::NO_SUBSCRIBER,
        }
    }

    /// Replaces `owners` by the owner of each change.
    pub(crate) fn owners(&self, changes: &[TallyChange], owners: &mut Vec<TallyOwner>) {
        owners.clear();
        owners.extend(changes.iter().map(|change| self.owner(change.slot)));
    }

    /// The slots of a subscriber.
    pub fn slots(&self, number: u32) -> impl Iterator<Item = u32> {
        let in_use = |slot: u32| (slot != NO_SLOT).then_some(slot);
        let first = self.ends.get(number as usize).and_then(|(first, _)| in_use(*first));
        iter::successors(first, move |slot| self.next.get(*slot as usize).and_then(|next| in_use(*next)))
    }

    /// The number of a subscriber.
    #[must_use]
    pub fn number_of(&self, subscriber: &Subscriber) -> Option<u32> {
        let is_same = |number: &u32| self.subscribers[*number as usize] == *subscriber;
        self.numbers.find(self.hasher.hash_one(subscriber), is_same).copied()
    }

    /// The subscriber of a number.
    #[must_use]
    pub fn subscriber(&self, number: u32) -> Option<&Subscriber> {
        self.subscribers.get(number as usize)
    }

    /// Most subscribers that were known at once; numbers are below it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.subscribers.len()
    }

    /// Whether no subscriber was seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.subscribers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use monitor_common::abi::{key::Address, protocol::Confidence};

    use super::*;
    use crate::testing::Kernel;

    fn key(host: u32, protocol: Protocol) -> TallyKey {
        TallyKey {
            address: Address::v4(host).bytes(),
            realm: 0,
            prefix_len: 128,
            protocol: protocol as u8,
            confidence: Confidence::Signature as u8,
        }
    }

    /// An index of these keys, from slot 1 on, one list after the other.
    fn after(lists: &[&[TallyKey]]) -> (SubscriberIndex, Vec<u32>) {
        let (mut index, mut reused) = (SubscriberIndex::default(), Vec::new());
        for keys in lists {
            let keys = [&[TallyKey::CATCH_ALL], *keys].concat();
            let snapshot = Snapshot { keys: Arc::new(keys), ..Kernel::new().drain_at(Duration::ZERO) };
            reused = index.update(&snapshot);
        }
        (index, reused)
    }

    #[test]
    fn a_subscriber_has_its_slots_in_order() {
        let first = [key(1, Protocol::BitTorrent), key(2, Protocol::BitTorrent), key(1, Protocol::Gnutella)];
        let (index, reused) = after(&[&first, &[&first[..], &[key(1, Protocol::Soulseek)]].concat()]);
        assert!(reused.is_empty());
        assert_eq!(index.len(), 2);
        assert_eq!(index.slots(index.owner(1).subscriber).collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!(index.slots(index.owner(2).subscriber).collect::<Vec<_>>(), [2]);
        assert_eq!(index.owner(0).subscriber, NO_SUBSCRIBER);
        assert_eq!(index.slots(NO_SUBSCRIBER).count(), 0);
    }

    #[test]
    fn the_number_of_a_subscriber_without_slots_goes_to_another() {
        let keys = |hosts: &[u32]| hosts.iter().map(|host| key(*host, Protocol::BitTorrent)).collect::<Vec<_>>();
        let (mut index, _) = after(&[&keys(&[1, 2])]);
        assert!(index.release(|_| false).is_empty());
        let update = |index: &mut SubscriberIndex, keys: &[TallyKey]| {
            let keys = [&[TallyKey::CATCH_ALL], keys].concat();
            index.update(&Snapshot { keys: Arc::new(keys), ..Kernel::new().drain_at(Duration::ZERO) });
        };
        let gone = index.owner(1).subscriber;
        update(&mut index, &[TallyKey::CATCH_ALL, key(2, Protocol::BitTorrent)]);
        assert!(index.release(|number| number == gone).is_empty(), "somebody needs it");
        assert_eq!(index.release(|_| false), [gone]);
        assert!(index.release(|_| false).is_empty(), "once");
        update(&mut index, &keys(&[3, 2]));
        assert_eq!((index.owner(1).subscriber, index.len()), (gone, 2));
        assert_eq!(index.subscriber(gone).map(|found| found.block().to_string()).as_deref(), Some("0.0.0.3/32"));
        update(&mut index, &keys(&[3, 2, 1]));
        assert_eq!((index.owner(3).subscriber, index.len()), (2, 3), "who comes back is new");
    }

    #[test]
    fn a_subscriber_that_moves_to_another_slot_keeps_its_number() {
        let (first, second) = (key(1, Protocol::BitTorrent), key(2, Protocol::BitTorrent));
        let (mut index, _) = after(&[&[first, second], &[TallyKey::CATCH_ALL, second, first]]);
        assert!(index.release(|_| false).is_empty());
        assert_eq!(index.slots(index.owner(3).subscriber).collect::<Vec<_>>(), [3]);
        assert_eq!(index.len(), 2);
    }

    #[test]
    fn a_slot_that_is_used_again_changes_hands() {
        let (one, two, three) = (key(1, Protocol::BitTorrent), key(1, Protocol::Gnutella), key(1, Protocol::Soulseek));
        let (index, reused) = after(&[&[one, two, three], &[one, key(2, Protocol::Gnutella), three]]);
        assert_eq!(reused, [2]);
        assert_eq!(index.slots(index.owner(1).subscriber).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(index.slots(index.owner(2).subscriber).collect::<Vec<_>>(), [2]);
    }
}
