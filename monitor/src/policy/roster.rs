//! Dense numbers for subscribers, so that what is kept per subscriber is an array and not a hash table.

use std::{collections::HashMap, sync::Arc};

use monitor_common::tally::TallyKey;

use crate::{snapshot::Snapshot, subscriber::Subscriber};

/// Number of no subscriber: the catch-all tally.
pub(super) const NOBODY: u32 = u32::MAX;

/// Which subscriber each tally slot belongs to, and which slots each subscriber has.
#[derive(Debug, Default)]
pub struct Roster {
    keys: Arc<Vec<TallyKey>>,
    /// Subscriber number of each slot.
    of_slot: Vec<u32>,
    subscribers: Vec<Subscriber>,
    slots: Vec<Vec<u32>>,
    numbers: HashMap<Subscriber, u32>,
}

impl Roster {
    /// Takes in the keys of a snapshot; returns the slots that hold another key than before.
    pub fn update(&mut self, snapshot: &Snapshot) -> Vec<u32> {
        let mut reused = Vec::new();
        if Arc::ptr_eq(&self.keys, &snapshot.keys) {
            return reused;
        }
        for slot in 0..self.of_slot.len().min(snapshot.keys.len()) {
            if self.keys[slot] != snapshot.keys[slot] {
                let number = self.of_slot[slot];
                if let Some(slots) = self.slots.get_mut(number as usize) {
                    slots.retain(|each| *each as usize != slot);
                }
                self.of_slot[slot] = self.number(&snapshot.keys[slot], slot);
                reused.push(slot as u32);
            }
        }
        for slot in self.of_slot.len()..snapshot.keys.len() {
            let number = self.number(&snapshot.keys[slot], slot);
            self.of_slot.push(number);
        }
        self.keys = Arc::clone(&snapshot.keys);
        reused
    }

    fn number(&mut self, key: &TallyKey, slot: usize) -> u32 {
        let Some(subscriber) = Subscriber::of(key) else { return NOBODY };
        let next = self.subscribers.len() as u32;
        let number = *self.numbers.entry(subscriber).or_insert(next);
        if number == next {
            self.subscribers.push(subscriber);
            self.slots.push(Vec::new());
        }
        self.slots[number as usize].push(slot as u32);
        number
    }

    /// The subscriber number of a slot; `NOBODY` for the catch-all.
    #[must_use]
    pub fn of_slot(&self, slot: u32) -> u32 {
        self.of_slot.get(slot as usize).copied().unwrap_or(NOBODY)
    }

    /// The key of a slot.
    #[must_use]
    pub fn key(&self, slot: u32) -> Option<&TallyKey> {
        self.keys.get(slot as usize)
    }

    /// The slots of a subscriber.
    #[must_use]
    pub fn slots(&self, number: u32) -> &[u32] {
        self.slots.get(number as usize).map_or(&[], Vec::as_slice)
    }

    /// The subscriber of a number.
    #[must_use]
    pub fn subscriber(&self, number: u32) -> Option<&Subscriber> {
        self.subscribers.get(number as usize)
    }

    /// Number of subscribers ever seen; numbers are below it.
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
