//! Ageing: tallies that have not moved for long give their slots back.
//!
//! Several CPUs may hold the number of a slot: from the map of all slots, from the tally cache, and from a flow. So a
//! batch of slots leaves in steps, one in each drain. Between two steps lies a grace period, in which every CPU has
//! ended the program that it ran before.
//!
//! 1. **Hidden**: the key is marked as retiring and removed from the map of all slots. A new flow of that key takes
//!    another slot; both count, and are shown as one.
//! 2. **Uncached**: the slots are removed from the tally cache, where a CPU may have entered one meanwhile.
//! 3. **Leaving**: no flow in the table names them. Idle flows that do are ended; slots of active ones are held for
//!    the next batch.
//! 4. **Booking**: nothing can change the tallies any more. Their totals are booked, by key, in one transaction.
//! 5. **Clearing**: the tallies are zero, and their slots are in the ring of free slots. The books forget the batch
//!    before another one is marked.
//!
//! An agent that is killed leaves slots with the mark. At the next start, those of the latest batch are booked and need
//! only the last step; all others begin again. No count is lost, and none is booked twice.

mod grace;
mod selection;
mod slot_set;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, time::Duration};

use monitor_common::{
    abi::{
        event::KernelEvent,
        limits::{IDLE_SECONDS, WAYS},
        tally::{KeyWords, NodeTally, Tally, TallyKey, Totals},
    },
    engine::end_idle,
    tables::{
        flow_table::{FlowState, NO_SLOTS, Phase, unpack_slots},
        maps::CounterMaps,
        slot_ring, tally_cache,
    },
};
use peertally_core::{
    booked::{BookedTally, BookedTotals, BookingError, ReplacedTables},
    snapshot::{AgeingCounts, TallyChange},
};

pub(crate) use grace::wait_for_packets;
pub use grace::{GracePeriods, NoProgram, RcuGrace};
use slot_set::SlotSet;

use crate::{ObjectError, view::View};

/// Removes keys from the map of all slots.
pub trait SlotIndex {
    /// Removes a key if it has this slot.
    ///
    /// # Errors
    /// [`ObjectError`] when the map cannot be written.
    fn remove(&mut self, key: &KeyWords, slot: u32) -> Result<(), ObjectError>;
}

/// A slot that was freed, or lost its key, in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freed {
    /// The slot.
    pub slot: u32,
    /// Key that it had; `None` for a slot that no key had.
    pub key: Option<TallyKey>,
    /// Totals that were booked for the key.
    pub booked: Totals,
}

/// How far a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The books are not open.
    Opening,
    Idle,
    Hidden,
    Uncached,
    Leaving,
    /// As `Leaving`, and the grace period was over before the tallies were read.
    Final,
    Booking,
    Clearing,
}

/// Ageing of one table. See the module.
pub struct Ageing {
    age_s: u64,
    stage: Stage,
    /// Slots of the batch.
    slots: Vec<u32>,
    /// Marked slots that active flows name.
    held: Vec<u32>,
    /// Slots of the batch that are still in the map of all slots.
    unremoved: Vec<u32>,
    /// Marked slots by key.
    leaving: HashMap<TallyKey, u32>,
    /// Slots that moved in a drain since the latest selection: what is in the counters of flows has not reached their
    /// tallies yet.
    moved: SlotSet,
    /// Batch that is being booked.
    batch: Vec<BookedTally>,
    grace: Box<dyn GracePeriods>,
    books: Box<dyn BookedTotals>,
    selected_s: Option<u64>,
    counts: AgeingCounts,
}

impl std::fmt::Debug for Ageing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ageing").field("stage", &self.stage).field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

/// The counters as the engine needs them to end a flow.
struct Counters<'a>(View<'a>);

impl CounterMaps for Counters<'_> {
    fn tally(&self, slot: u32) -> Option<&Tally> {
        self.0.tallies.get(slot as usize)
    }

    fn node(&self, index: u32) -> Option<&NodeTally> {
        self.0.node.get(index as usize)
    }

    fn count_event(&self, event: KernelEvent) {
        tracing::error!(event = event.label(), "a bug: a counter of an idle flow is missing");
    }
}

impl Ageing {
    /// Ageing of tallies that have not moved for `age`.
    #[must_use]
    pub fn new(age: Duration, books: Box<dyn BookedTotals>, grace: Box<dyn GracePeriods>) -> Self {
        Self {
            age_s: age.as_secs().max(1),
            stage: Stage::Opening,
            slots: Vec::new(),
            held: Vec::new(),
            unremoved: Vec::new(),
            leaving: HashMap::new(),
            moved: SlotSet::default(),
            batch: Vec::new(),
            grace,
            books,
            selected_s: None,
            counts: AgeingCounts::default(),
        }
    }

    /// Sets another age. Tallies that are on their way out go on.
    pub fn set_age(&mut self, age: Duration) {
        self.age_s = age.as_secs().max(1);
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> AgeingCounts {
        AgeingCounts { held: self.held.len() as u64, ..self.counts }
    }

    /// The marked slot that has a key.
    #[must_use]
    pub fn leaving(&self, key: &TallyKey) -> Option<u32> {
        self.leaving.get(key).copied()
    }

    /// Booked totals of each key.
    ///
    /// # Errors
    /// [`BookingError`]; they are not known then.
    pub fn bases(&mut self, keys: &[TallyKey]) -> Result<Vec<Totals>, BookingError> {
        if self.stage == Stage::Opening {
            let source = "the books are not open".into();
            return Err(BookingError { action: "read", source });
        }
        self.books.bases(keys).inspect_err(|_| self.counts.failures += 1)
    }

    /// Books what replaced tables have counted, for these tables; before the books are open.
    ///
    /// # Errors
    /// [`BookingError`]; nothing is booked then.
    pub(crate) fn carry(&mut self, view: &View<'_>, replaced: Vec<ReplacedTables>) -> Result<(), BookingError> {
        self.books.carry(replaced, tables_number(view)).inspect_err(|_| self.counts.failures += 1)
    }

    /// Takes note of slots that moved in a drain.
    pub fn note_moved(&mut self, changes: &[TallyChange]) {
        if let Some(last) = changes.last() {
            self.moved.grow(last.slot as usize + 1);
            changes.iter().for_each(|change| self.moved.insert(change.slot));
        }
    }

    /// The steps before a table read; returns the slots that were freed.
    pub fn before_read(&mut self, view: &View<'_>, index: &mut dyn SlotIndex) -> Vec<Freed> {
        let mut freed = Vec::new();
        match self.stage {
            Stage::Opening => self.open(view, index, &mut freed),
            Stage::Hidden => {
                if !self.remove_rest(view, index) {
                    self.grace.begin();
                } else if self.grace.is_over() {
                    self.slots.iter().for_each(|slot| forget_in_cache(view, *slot));
                    self.proceed(Stage::Uncached);
                }
            }
            Stage::Uncached if self.grace.is_over() => {
                self.hold_named(view);
                self.proceed(Stage::Leaving);
            }
            Stage::Leaving if self.grace.is_over() => self.stage = Stage::Final,
            Stage::Booking => match self.books.outcome() {
                Some(Ok(())) => {
                    for booked in std::mem::take(&mut self.batch) {
                        self.free_booked(view, booked.slot, booked.key);
                        freed.push(Freed { slot: booked.slot, key: Some(booked.key), booked: booked.totals });
                    }
                    self.give(view, freed.iter().map(|each| each.slot));
                    self.books.forget_batch();
                    self.stage = Stage::Clearing;
                }
                Some(Err(error)) => {
                    self.failed(&error);
                    self.books.book(self.batch.clone());
                }
                None => {}
            },
            Stage::Clearing => match self.books.outcome() {
                Some(Ok(())) => self.stage = Stage::Idle,
                Some(Err(error)) => {
                    self.failed(&error);
                    self.books.forget_batch();
                }
                None => {}
            },
            Stage::Idle | Stage::Uncached | Stage::Leaving | Stage::Final => {}
        }
        freed
    }

    /// The steps after a table read: books a batch that cannot change any more, or marks the next one. `kept` are
    /// slots that must not be marked.
    pub fn after_read(&mut self, view: &View<'_>, index: &mut dyn SlotIndex, kept: impl Fn(u32) -> bool) {
        if self.stage == Stage::Final {
            let booked = |slot: &u32| {
                let key = view.keys.get(*slot as usize)?.read()?;
                Some(BookedTally { slot: *slot, key, totals: view.tallies.get(*slot as usize)?.totals() })
            };
            self.batch = self.slots.iter().filter_map(booked).collect();
            self.slots.clear();
            self.books.book(self.batch.clone());
            self.stage = Stage::Booking;
        }
        if self.stage == Stage::Idle {
            let now_s = view.settings.clock_s.load();
            self.moved.take(|slot| {
                if let Some(tally) = view.tallies.get(slot as usize) {
                    tally.last_seen_s.store(now_s);
                }
            });
            let mut slots = self.select(view, kept);
            slots.append(&mut self.due_of_held(view));
            if !slots.is_empty() {
                self.mark(view, index, slots);
            }
        }
    }

    /// Takes those of the held slots that have not moved for long enough again. The others stay held: their key has
    /// another slot by now or gets one with its next flow, and both are shown as one, so no window loses what they
    /// have.
    fn due_of_held(&mut self, view: &View<'_>) -> Vec<u32> {
        let (now_s, least_s) = (view.settings.clock_s.load(), self.least_age_s(view));
        let is_due = |slot: &u32| {
            let seen_s = view.tallies.get(*slot as usize).map_or(0, |tally| tally.last_seen_s.load());
            now_s.saturating_sub(seen_s) >= least_s
        };
        let (due, held) = std::mem::take(&mut self.held).into_iter().partition(is_due);
        self.held = held;
        due
    }

    /// Gives slots back that lost against another one of their key.
    pub fn give_withdrawn(&mut self, view: &View<'_>, slots: &[u32]) {
        for slot in slots {
            view.keys[*slot as usize].free();
        }
        self.give(view, slots.iter().copied());
    }

    fn proceed(&mut self, stage: Stage) {
        self.grace.begin();
        self.stage = stage;
    }

    fn failed(&mut self, error: &BookingError) {
        self.counts.failures += 1;
        tracing::warn!(%error, "tallies stay in their slots until this works; a full table takes no new subscriber");
    }

    /// Marks slots as retiring and hides them.
    fn mark(&mut self, view: &View<'_>, index: &mut dyn SlotIndex, slots: Vec<u32>) {
        for slot in &slots {
            let Some(key) = view.keys.get(*slot as usize) else { continue };
            key.retire();
            if let Some(key) = key.read() {
                self.leaving.insert(key, *slot);
            }
        }
        (self.unremoved, self.slots) = (slots.clone(), slots);
        self.remove_rest(view, index);
        self.proceed(Stage::Hidden);
    }

    /// Removes the slots of the batch from the map of all slots; `false` if some are still there.
    fn remove_rest(&mut self, view: &View<'_>, index: &mut dyn SlotIndex) -> bool {
        let counts = &mut self.counts;
        self.unremoved.retain(|slot| {
            let Some(key) = view.keys.get(*slot as usize).and_then(|key| key.words()) else { return false };
            let removed = index.remove(&key, *slot);
            if let Err(error) = &removed {
                counts.failures += 1;
                tracing::warn!(%error, "a tally cannot be taken out of use; the next drain tries again");
            }
            removed.is_err()
        });
        self.unremoved.is_empty()
    }

    /// Ends idle flows that name a slot of the batch, and moves slots that active flows name to those that are held.
    fn hold_named(&mut self, view: &View<'_>) {
        let batch = SlotSet::of(&self.slots, view.tallies.len());
        let mut named = SlotSet::new(view.tallies.len());
        named_by_flows(view, |set, way, slots| {
            let named_here = [slots.0, slots.1].into_iter().any(|slot| batch.has(slot));
            if named_here && !end(view, set, way) {
                named.insert(slots.0);
                named.insert(slots.1);
            }
        });
        // Those that moved since they were marked are held, too: a window may need them yet.
        let is_held = |slot: &u32| named.has(*slot) || self.moved.has(*slot);
        let (held, leaving): (Vec<u32>, _) = self.slots.iter().copied().partition(is_held);
        self.held.extend(held);
        self.slots = leaving;
    }

    /// Zeroes a booked tally and frees its slot.
    fn free_booked(&mut self, view: &View<'_>, slot: u32, key: TallyKey) {
        let slot = slot as usize;
        let (Some(tally), Some(slot_key)) = (view.tallies.get(slot), view.keys.get(slot)) else { return };
        tally.clear();
        slot_key.free();
        self.leaving.remove(&key);
        self.counts.retired += 1;
    }

    /// Puts free slots into the ring.
    fn give(&mut self, view: &View<'_>, slots: impl Iterator<Item = u32>) {
        let mut ticket = view.ring_end();
        for slot in slots {
            let index = slot_ring::index(ticket, view.settings.tally_mask) as usize;
            if let Some(cell) = view.free_slots.get(index) {
                cell.store(slot_ring::cell(ticket, slot));
                ticket += 1;
            }
        }
    }

    /// Opens the books, and goes on with what an earlier run has left.
    fn open(&mut self, view: &View<'_>, index: &mut dyn SlotIndex, freed: &mut Vec<Freed>) {
        if view.free_slots.is_empty() {
            return;
        }
        let booked = match self.books.open(tables_number(view)) {
            Ok(booked) => booked,
            Err(error) => return self.failed(&error),
        };
        let marked = |slot: u32, key: &TallyKey| {
            let found = view.keys.get(slot as usize);
            found.is_some_and(|found| found.is_retiring() && found.read().as_ref() == Some(key))
        };
        for (slot, key) in booked {
            if marked(slot, &key) {
                // Its totals are in the books: the drain must not count them again.
                self.free_booked(view, slot, key);
                freed.push(Freed { slot, key: None, booked: Totals::default() });
            }
        }
        self.give_lost(view);
        self.held = view.keys.iter().zip(0..).filter(|(key, _)| key.is_retiring()).map(|(_, slot)| slot).collect();
        for slot in &self.held {
            if let Some(key) = view.keys[*slot as usize].read() {
                self.leaving.insert(key, *slot);
            }
        }
        // A kill between the mark and the removal leaves the key where new flows find it.
        self.unremoved = self.held.clone();
        self.remove_rest(view, index);
        self.books.forget_batch();
        self.stage = Stage::Clearing;
    }

    /// Gives slots that were handed out or freed, and that neither a key nor the ring has.
    fn give_lost(&mut self, view: &View<'_>) {
        let lost = || {
            let ring = (view.settings.next_slot.load()..view.ring_end()).filter_map(|ticket| view.free_slot(ticket));
            let in_ring = SlotSet::of(&ring.collect::<Vec<_>>(), view.tallies.len());
            let slots = 1..view.slots_in_use() as u32;
            let unused = |slot: &u32| {
                let key = &view.keys[*slot as usize];
                (key.is_free() || key.is_withdrawn()) && !in_ring.has(*slot)
            };
            slots.filter(unused).collect::<Vec<u32>>()
        };
        let before = SlotSet::of(&lost(), view.tallies.len());
        // A CPU may have taken a slot, and not written its key yet.
        self.grace.begin();
        self.grace.wait();
        let found: Vec<u32> = lost().into_iter().filter(|slot| before.has(*slot)).collect();
        self.give_withdrawn(view, &found);
    }
}

/// A number of these tables: no other tables have the same seed.
pub(crate) fn tables_number(view: &View<'_>) -> u64 {
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let seed = &view.settings.seed;
    let words = [seed.mask, seed.multiplier_a, seed.multiplier_b];
    // Positive, as the store has it.
    words.iter().fold(0, |number: u64, word| (number ^ word).wrapping_mul(SPREAD).rotate_left(29)) >> 1
}

fn forget_in_cache(view: &View<'_>, slot: u32) {
    let Some(key) = view.keys.get(slot as usize).and_then(|key| key.words()) else { return };
    let seed = view.settings.seed;
    let seed = seed.of_realm(seed.realm_mask(key.realm()));
    let hash = tally_cache::block_hash(key.block(), key.block_len(), &seed);
    if let Some(line) = view.tally_cache.get(tally_cache::line_index(hash, view.settings.tally_mask) as usize) {
        line.forget(slot);
    }
}

/// Calls `found` with the set, the way and both slots of each flow that is charged to somebody.
fn named_by_flows(view: &View<'_>, mut found: impl FnMut(usize, usize, (u32, u32))) {
    for (index, cold) in view.cold.iter().enumerate() {
        for way in 0..WAYS {
            let slots = cold.flows[way].slots.load();
            if slots != NO_SLOTS && slots != 0 {
                found(index, way, unpack_slots(slots));
            }
        }
    }
}

/// Ends the flow in a way if it is idle; `false` if it goes on.
fn end(view: &View<'_>, set: usize, way: usize) -> bool {
    let now_s = view.settings.clock_s.load();
    let entry = (&view.flows[set], &view.cold[set]);
    end_idle(&Counters(*view), view.settings, entry, way, now_s, IDLE_SECONDS)
}

/// Whether a flow had packets within [`IDLE_SECONDS`], or a CPU changes it.
fn is_active(view: &View<'_>, set: usize, way: usize) -> bool {
    let state = FlowState(view.flows[set].states[way].load());
    match state.phase() {
        Phase::Empty => false,
        Phase::Locked => true,
        Phase::Inspecting | Phase::Settled => state.age_s(view.settings.clock_s.load()) < IDLE_SECONDS,
    }
}
