//! From table reads to snapshots: totals that never go down, and the changes since the drain before.

use std::{
    collections::{BTreeMap, HashMap},
    iter,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use monitor_common::abi::{
    limits::{MAX_MONITORED_INTERFACES, MAX_POOLS, WAYS},
    remotes::RemoteSet,
    tally::{TallyKey, Totals},
};
use peertally_core::{
    booked,
    snapshot::{Counts, Origin, Reconciled, SharedKeys, Snapshot, TableUse, TallyChange},
};

use crate::{
    ageing::{Ageing, Freed, tables_number},
    view::{RemoteRead, TableRead, View, node_rows},
};

/// State kept between drains.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    /// Totals of the last snapshot, shared with its readers.
    totals: Arc<Vec<Totals>>,
    /// Totals of the snapshot before it, kept for their memory.
    spare: Arc<Vec<Totals>>,
    node: Vec<Counts>,
    keys: Arc<Vec<TallyKey>>,
    /// Slots whose key was not written yet when they were read, and free ones.
    unnamed: Vec<usize>,
    /// Slots that lost their key since the last snapshot.
    freed: Vec<usize>,
    /// Booked totals of keys that came back, by slot.
    bases: Arc<HashMap<u32, Totals>>,
    /// Slots with keys whose booked totals could not be read.
    without_base: Vec<(u32, TallyKey)>,
    /// By leaving slot: the later slot of its key.
    successors: HashMap<u32, u32>,
    /// What the next snapshot does not count as a change.
    corrections: BTreeMap<u32, Correction>,
    last: Option<Instant>,
    /// Remotes since the last snapshot. A drain that fails leaves its own for the next one.
    pub(crate) remotes: RemoteRead,
}

/// A change of a slot's totals that is no traffic.
#[derive(Clone, Copy, Debug, Default)]
struct Correction {
    /// Another key has the slot from now on.
    forget: bool,
    /// Totals that come from the books, or from another slot.
    credit: Totals,
}

/// Facts that a snapshot needs and the tables do not hold.
pub(crate) struct DrainContext<'a> {
    /// Names of the interfaces, by number.
    pub(crate) interfaces: &'a [Arc<str>],
    /// Pools in the kernel.
    pub(crate) pools: u64,
}

impl Drain {
    /// Memory for the next table read: the last snapshot but one, unless somebody still reads it.
    pub(crate) fn memory(&mut self) -> TableRead {
        TableRead {
            totals: Arc::try_unwrap(std::mem::take(&mut self.spare)).unwrap_or_default(),
            ..TableRead::default()
        }
    }

    /// Turns a table read into a snapshot; skips, events, attachments and the duration are the caller's to fill in.
    pub(crate) fn snapshot(
        &mut self,
        view: &View<'_>,
        read: TableRead,
        begun: Instant,
        context: &DrainContext<'_>,
        mut ageing: Option<&mut Ageing>,
    ) -> Snapshot {
        let baseline = self.last.is_none();
        let interval = self.last.map_or(Duration::ZERO, |last| begun.duration_since(last));
        self.last = Some(begun);
        let counts = ageing.as_ref().map_or_else(Default::default, |ageing| ageing.counts());
        let named = self.name(view, read.totals.len(), ageing.as_deref());
        if let Some(ageing) = &mut ageing {
            self.find_bases(named.keys, ageing);
            ageing.give_withdrawn(view, &named.withdrawn);
        }
        let changes = self.advance(read.totals, baseline);
        if let Some(ageing) = ageing {
            ageing.note_moved(&changes);
        }
        self.advance_node(&read.node);
        Snapshot {
            taken_at: SystemTime::now(),
            taken: begun,
            interval,
            drain_duration: Duration::ZERO,
            keys: Arc::clone(&self.keys),
            totals: Arc::clone(&self.totals),
            shared_keys: SharedKeys {
                predecessors: self.successors.iter().map(|(before, after)| (*after, *before)).collect(),
                successors: self.successors.clone(),
                without_base: self.without_base.iter().map(|(slot, _)| *slot).collect(),
            },
            origin: Origin { tables: tables_number(view), bases: Arc::clone(&self.bases) },
            ageing: counts,
            changes,
            node: node_rows(&self.node, context.interfaces),
            skipped: Vec::new(),
            events: Vec::new(),
            shed: Vec::new(),
            spoofed: Vec::new(),
            rules: Vec::new(),
            tables: vec![
                TableUse { name: "flows", entries: read.flows, capacity: view.flow_capacity() },
                TableUse {
                    name: "tallies",
                    entries: view.tallies_in_use() as u64,
                    capacity: view.tallies.len() as u64,
                },
                TableUse { name: "peers", entries: view.peers_in_use(), capacity: (view.peers.len() * WAYS) as u64 },
                TableUse {
                    name: "reassembly",
                    entries: view.expire_reassembly(),
                    capacity: view.reassembly.len() as u64,
                },
                TableUse {
                    name: "interfaces",
                    entries: context.interfaces.len() as u64,
                    capacity: MAX_MONITORED_INTERFACES as u64,
                },
                TableUse { name: "pools", entries: context.pools, capacity: u64::from(MAX_POOLS) },
            ],
            pending: read.pending,
            watchlist: Vec::new(),
            hits: Vec::new(),
            attachments: Vec::new(),
            reconciled: Reconciled::default(),
        }
    }

    /// Takes note of slots that were freed: whatever they count from now on is another key's.
    pub(crate) fn note_freed(&mut self, freed: &[Freed]) {
        for Freed { slot, booked, .. } in freed {
            self.freed.push(*slot as usize);
            self.corrections.insert(*slot, Correction { forget: true, credit: Totals::default() });
            let mut total = self.forget_base(*slot);
            booked::add(&mut total, booked);
            if let Some(later) = self.successors.remove(slot) {
                self.credit(later, &total);
            }
        }
    }

    /// Whether a slot must not leave the table now.
    pub(crate) fn keeps(&self, slot: u32) -> bool {
        self.successors.values().any(|later| *later == slot)
            || self.without_base.iter().any(|(other, _)| *other == slot)
    }

    /// Forgets the booked totals of a slot that was freed, and returns them.
    fn forget_base(&mut self, slot: u32) -> Totals {
        if !self.bases.contains_key(&slot) {
            return Totals::default();
        }
        Arc::make_mut(&mut self.bases).remove(&slot).unwrap_or_default()
    }

    /// Adds to the totals of a slot what is no traffic of its own.
    fn credit(&mut self, slot: u32, more: &Totals) {
        if *more != Totals::default() {
            booked::add(Arc::make_mut(&mut self.bases).entry(slot).or_default(), more);
            booked::add(&mut self.corrections.entry(slot).or_default().credit, more);
        }
    }

    /// Reads the keys of slots that are new, free, or were not written before.
    fn name(&mut self, view: &View<'_>, slots: usize, ageing: Option<&Ageing>) -> Named {
        let mut named = Named::default();
        let known = self.keys.len();
        self.unnamed.extend(&self.freed);
        for slot in std::mem::take(&mut self.unnamed).into_iter().chain(known..slots) {
            match view.keys.get(slot) {
                Some(words) if words.is_withdrawn() => {
                    named.withdrawn.push(slot as u32);
                    if ageing.is_some() {
                        self.unnamed.push(slot);
                    }
                }
                Some(words) => match words.read() {
                    Some(key) => named.keys.push((slot as u32, key)),
                    None => self.unnamed.push(slot),
                },
                None => self.unnamed.push(slot),
            }
        }
        if slots <= known && named.keys.is_empty() && self.freed.is_empty() {
            return named;
        }
        let keys = Arc::make_mut(&mut self.keys);
        keys.resize(slots.max(known), TallyKey::CATCH_ALL);
        self.freed.drain(..).for_each(|slot| keys[slot] = TallyKey::CATCH_ALL);
        named.keys.iter().for_each(|(slot, key)| keys[*slot as usize] = *key);
        named
    }

    /// Finds what the keys of new slots have counted before: in a slot that leaves, or in the books.
    fn find_bases(&mut self, named: Vec<(u32, TallyKey)>, ageing: &mut Ageing) {
        let mut unknown = std::mem::take(&mut self.without_base);
        for (slot, key) in named {
            match ageing.leaving(&key).filter(|leaving| *leaving != slot) {
                Some(leaving) => {
                    self.successors.insert(leaving, slot);
                }
                None => unknown.push((slot, key)),
            }
        }
        if unknown.is_empty() {
            return;
        }
        let keys: Vec<TallyKey> = unknown.iter().map(|(_, key)| *key).collect();
        match ageing.bases(&keys) {
            Ok(bases) => unknown.iter().zip(&bases).for_each(|((slot, _), base)| self.credit(*slot, base)),
            Err(error) => {
                tracing::warn!(%error, subscribers = unknown.len(), "new tallies are not shown until this works");
                self.without_base = unknown;
            }
        }
    }

    /// Keeps the higher of each known and read total, and returns the changes, with the remotes. The first drain moves
    /// nothing: counts and remotes from pinned tables of an earlier run do not belong to this interval.
    fn advance(&mut self, mut read: Vec<Totals>, baseline: bool) -> Vec<TallyChange> {
        let mut changes = Vec::new();
        if read.len() < self.totals.len() {
            read.resize(self.totals.len(), Totals::default());
        }
        for (slot, base) in &*self.bases {
            if let Some(read) = read.get_mut(*slot as usize) {
                booked::add(read, base);
            }
        }
        let mut corrections = std::mem::take(&mut self.corrections).into_iter().peekable();
        let known = self.totals.iter().copied().chain(iter::repeat(Totals::default()));
        for (slot, (mut known, read)) in known.zip(&mut read).enumerate() {
            if let Some((_, correction)) = corrections.next_if(|(corrected, _)| *corrected as usize == slot) {
                known = if correction.forget { Totals::default() } else { known };
                booked::add(&mut known, &correction.credit);
            }
            let remotes = self.remotes.by_slot.get_mut(slot).map_or(RemoteSet::EMPTY, std::mem::take);
            if *read == known && remotes.is_empty() {
                continue;
            }
            let delta = Totals {
                flows: read.flows.saturating_sub(known.flows),
                packets_up: read.packets_up.saturating_sub(known.packets_up),
                bytes_up: read.bytes_up.saturating_sub(known.bytes_up),
                packets_down: read.packets_down.saturating_sub(known.packets_down),
                bytes_down: read.bytes_down.saturating_sub(known.bytes_down),
            };
            *read = Totals {
                flows: known.flows + delta.flows,
                packets_up: known.packets_up + delta.packets_up,
                bytes_up: known.bytes_up + delta.bytes_up,
                packets_down: known.packets_down + delta.packets_down,
                bytes_down: known.bytes_down + delta.bytes_down,
            };
            if !baseline && (delta != Totals::default() || !remotes.is_empty()) {
                changes.push(TallyChange { slot: slot as u32, delta, remotes });
            }
        }
        self.spare = std::mem::replace(&mut self.totals, Arc::new(read));
        changes
    }

    fn advance_node(&mut self, read: &[Counts]) {
        self.node.resize(read.len(), Counts::default());
        for (known, read) in self.node.iter_mut().zip(read) {
            known.packets = known.packets.max(read.packets);
            known.bytes = known.bytes.max(read.bytes);
            known.flows = known.flows.max(read.flows);
        }
    }
}

/// Slots whose key was read for the first time.
#[derive(Default)]
struct Named {
    keys: Vec<(u32, TallyKey)>,
    /// Slots that lost against another one of their key.
    withdrawn: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use monitor_common::abi::{key::Seed, settings::InspectionDepth};

    use super::*;
    use crate::{TableSizes, host::HostDataPath};

    fn totals(bytes_up: u64) -> Totals {
        Totals { bytes_up, ..Totals::default() }
    }

    fn change(slot: u32, bytes_up: u64, remotes: u64) -> TallyChange {
        TallyChange { slot, delta: totals(bytes_up), remotes: RemoteSet(remotes) }
    }

    #[test]
    fn remotes_are_handed_on_once_and_those_of_before_the_first_drain_never() {
        let mut drain = Drain::default();
        drain.remotes.by_slot = vec![RemoteSet(0b1), RemoteSet(0b10)];
        assert_eq!(drain.advance(vec![totals(0), totals(500)], true), []);
        assert_eq!(drain.advance(vec![totals(0), totals(700)], false), [change(1, 200, 0)]);
        // A flow was flushed while the tables were read: its bytes were in the reading before.
        drain.remotes.by_slot = vec![RemoteSet(0b100), RemoteSet::EMPTY];
        assert_eq!(drain.advance(vec![totals(0), totals(700)], false), [change(0, 0, 0b100)]);
        assert_eq!(drain.advance(vec![totals(0), totals(700)], false), []);
    }

    #[test]
    fn the_first_drain_is_a_baseline() {
        let mut drain = Drain::default();
        assert_eq!(drain.advance(vec![totals(0), totals(500)], true), []);
        assert_eq!(drain.advance(vec![totals(0), totals(700)], false), [change(1, 200, 0)]);
    }

    #[test]
    fn a_read_that_misses_a_flow_moves_nothing_back() {
        let mut drain = Drain::default();
        drain.advance(vec![totals(1000)], true);
        assert_eq!(drain.advance(vec![totals(400)], false), []);
        assert_eq!(*drain.totals, [totals(1000)]);
        // The flow turns up in its tally at the next drain: only what is new counts.
        assert_eq!(drain.advance(vec![totals(1100)], false), [change(0, 100, 0)]);
    }

    #[test]
    fn the_memory_of_a_read_is_used_again_unless_somebody_reads_it() {
        let mut drain = Drain::default();
        drain.advance(vec![totals(1)], true);
        let (first, address) = (Arc::clone(&drain.totals), drain.totals.as_ptr());
        drain.advance(vec![totals(2)], false);
        assert_eq!(drain.memory().totals.capacity(), 0);
        assert_eq!(*first, [totals(1)]);
        drop(first);
        let address = (address != drain.totals.as_ptr()).then(|| drain.totals.as_ptr());
        drain.advance(vec![totals(3)], false);
        assert_eq!(Some(drain.memory().totals.as_ptr()), address);
    }

    #[test]
    fn a_key_that_is_written_late_is_read_later() {
        let path = HostDataPath::new(
            &TableSizes { flows: 4, tallies: 4, peers: 4 },
            &[],
            Seed::from_random([1, 2, 3]),
            InspectionDepth::Framing,
        );
        let mut drain = Drain::default();
        drain.name(&path.view(), 2, None);
        assert_eq!((drain.keys.len(), drain.unnamed.clone()), (2, vec![1]));
        let key = monitor_common::abi::tally::KeyWords::new(monitor_common::abi::key::Address::v4(1), 0, 128, 2, 4);
        path.view().keys[1].write(Some(&key));
        drain.name(&path.view(), 2, None);
        assert_eq!((drain.keys[1], drain.unnamed.len()), (key.into(), 0));
    }
}
