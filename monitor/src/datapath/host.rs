//! The shared engine over plain memory: same source, same tables, no kernel.

use std::{
    cell::{Cell as Local, RefCell},
    collections::HashMap,
};

use monitor_common::{
    engine::{Scratch, process},
    flow::{ColdSet, FlowSet},
    key::{Address, Seed},
    limits::{MAX_INTERFACES, WAYS},
    packet::Frame,
    reason::{REASON_SLOTS, Reason},
    store::{Disposition, EVENT_SLOTS, Event, Inspection, Ledger, NODE_ENTRIES_PER_INTERFACE, Note, Settings, Store},
    tally::{KeyWords, NodeTally, SlotKey, Tally},
};

use super::view::View;
use crate::pool::Pool;

/// How large the tables are, and what the program is told.
#[derive(Clone, Debug)]
pub struct TableSizes {
    /// Flows the cache can hold; rounded up to a power of two of at least one set.
    pub flows: u32,
    /// Tallies, the catch-all included.
    pub tallies: u32,
}

impl TableSizes {
    /// Flow sets: a power of two.
    #[must_use]
    pub fn sets(&self) -> u32 {
        (self.flows.max(1).div_ceil(WAYS as u32)).next_power_of_two()
    }
}

/// The data path in plain memory.
pub struct HostDataPath {
    settings: Settings,
    flows: Box<[FlowSet]>,
    cold: Box<[ColdSet]>,
    tallies: Box<[Tally]>,
    keys: Box<[SlotKey]>,
    node: Box<[NodeTally]>,
    slots: RefCell<HashMap<KeyWords, u32>>,
    pools: Vec<(Address, u8, u8)>,
    skips: [Local<u64>; REASON_SLOTS],
    events: [Local<u64>; EVENT_SLOTS],
    scratch: RefCell<Scratch>,
    last: Local<Option<Disposition>>,
}

fn zeroed<T: Default>(length: usize) -> Box<[T]> {
    (0..length).map(|_| T::default()).collect()
}

impl HostDataPath {
    /// An empty data path.
    #[must_use]
    pub fn new(sizes: &TableSizes, pools: &[Pool], seed: Seed, inspection: Inspection) -> Self {
        let sets = sizes.sets() as usize;
        let tallies = sizes.tallies.max(1) as usize;
        let keys: Box<[SlotKey]> = zeroed(tallies);
        keys[0].write(Some(&KeyWords::CATCH_ALL));
        let mut pools: Vec<_> = pools.iter().map(Pool::mapped).collect();
        // Longest prefix first: the first match is the best.
        pools.sort_by_key(|(_, prefix_len, _)| std::cmp::Reverse(*prefix_len));
        Self {
            settings: Settings {
                seed,
                set_mask: sets as u64 - 1,
                clock_s: monitor_common::cell::Cell::new(0),
                next_slot: monitor_common::cell::Cell::new(1),
                slots: tallies as u64,
                inspection: inspection as u64,
            },
            flows: zeroed(sets),
            cold: zeroed(sets),
            tallies: zeroed(tallies),
            keys,
            node: zeroed(MAX_INTERFACES * NODE_ENTRIES_PER_INTERFACE),
            slots: RefCell::new(HashMap::new()),
            pools,
            skips: [const { Local::new(0) }; REASON_SLOTS],
            events: [const { Local::new(0) }; EVENT_SLOTS],
            scratch: RefCell::new(Scratch::empty()),
            last: Local::new(None),
        }
    }

    /// Counts one frame of which `bytes` were captured, at `now_s` seconds.
    pub fn frame(&mut self, bytes: &[u8], wire_len: usize, now_s: u64) -> Disposition {
        self.settings.clock_s.store(now_s);
        self.last.set(None);
        process(&Frame::new(bytes, wire_len), self, &self.settings, 1);
        self.last.get().unwrap_or(Disposition::Direct)
    }

    /// The tables.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View {
            settings: &self.settings,
            flows: &self.flows,
            cold: &self.cold,
            tallies: &self.tallies,
            keys: &self.keys,
            node: &self.node,
            interfaces: &[(1, 0)],
        }
    }

    /// Frames skipped for a reason.
    #[must_use]
    pub fn skipped(&self, reason: Reason) -> u64 {
        self.skips[reason as usize].get()
    }

    /// Events of a kind.
    #[must_use]
    pub fn events(&self, event: Event) -> u64 {
        self.events[event as usize].get()
    }
}

impl Ledger for HostDataPath {
    fn tally(&self, slot: u32) -> Option<&Tally> {
        self.tallies.get(slot as usize)
    }

    fn node(&self, index: u32) -> Option<&NodeTally> {
        self.node.get(index as usize)
    }

    fn interface_number(&self, _interface: u16) -> u32 {
        0
    }

    fn count_event(&self, event: Event) {
        let counter = &self.events[event as usize];
        counter.set(counter.get() + 1);
    }
}

impl Store for HostDataPath {
    fn flow_set(&self, index: u32) -> Option<&FlowSet> {
        self.flows.get(index as usize)
    }

    fn cold_set(&self, index: u32) -> Option<&ColdSet> {
        self.cold.get(index as usize)
    }

    fn pool(&self, address: Address) -> Option<u8> {
        let found = self.pools.iter().find(|(prefix, prefix_len, _)| address.block(*prefix_len) == *prefix);
        found.map(|(_, _, block_len)| *block_len)
    }

    fn find_slot(&self, key: &KeyWords) -> Option<u32> {
        self.slots.borrow().get(key).copied()
    }

    fn enter_slot(&self, key: &KeyWords, slot: u32) -> bool {
        self.slots.borrow_mut().insert(*key, slot).is_none()
    }

    fn write_slot_key(&self, slot: u32, key: Option<&KeyWords>) {
        match self.keys.get(slot as usize) {
            Some(cell) => cell.write(key),
            None => self.count_event(Event::Lost),
        }
    }

    fn count_skip(&self, reason: Reason) {
        let counter = &self.skips[reason as usize];
        counter.set(counter.get() + 1);
    }

    fn now_s(&self, settings: &Settings) -> u64 {
        settings.clock_s.load()
    }

    fn with_scratch<R>(&self, work: impl FnOnce(&mut Scratch) -> R) -> Option<R> {
        Some(work(&mut self.scratch.borrow_mut()))
    }

    fn note(&self, note: Note) {
        self.last.set(note.into());
    }
}
