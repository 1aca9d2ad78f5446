//! The tables of the data path as slices, and the reads that a drain is made of.
//!
//! Order matters: tallies are read before the flow table. A flow that is flushed in between is then missing once rather
//! than counted twice, and the next read has it; callers keep the higher of two reads, so nothing exported goes down.

use std::{cell::Cell, sync::Arc};

use monitor_common::{
    abi::{
        event::KernelEvent,
        limits::WAYS,
        protocol::{CONFIDENCE_SLOTS, Confidence, PROTOCOL_SLOTS, Protocol, Verdict},
        remotes::{RemoteNumbers, RemoteSet},
        settings::Settings,
        tally::{Direction, NODE_ENTRIES_PER_INTERFACE, NodeTally, SlotKey, Tally, Totals, node_index},
    },
    bpf::shared_u64::SharedU64,
    engine::settle_idle,
    tables::{
        conversation::mark,
        flow_table::{ColdSet, FlowSet, FlowState, NO_SLOT, NO_SLOTS, Phase, remotes_of, unpack, unpack_slots},
        maps::CounterMaps,
        peer_cache::{PeerEntry, PeerSet},
        reassembly::ReassemblySlot,
        slot_ring,
        tally_cache::TallyLine,
    },
};
use peertally_core::{
    analysis::node::OTHER,
    snapshot::{Counts, NodeRow},
};

/// All tables that are read without a system call.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Settings and clock.
    pub settings: &'a Settings,
    /// The flow table.
    pub flows: &'a [FlowSet],
    /// Cold parts of the flow table, same indices.
    pub cold: &'a [ColdSet],
    /// The peer cache.
    pub peers: &'a [PeerSet],
    /// Reassembly buffers.
    pub reassembly: &'a [ReassemblySlot],
    /// Tallies by slot.
    pub tallies: &'a [Tally],
    /// Their keys.
    pub keys: &'a [SlotKey],
    /// Lines of the tally cache; none in an older build, loaded for a measurement.
    pub tally_cache: &'a [TallyLine],
    /// Ring of free slots; as for the tally cache.
    pub free_slots: &'a [SharedU64],
    /// Node-level tallies.
    pub node: &'a [NodeTally],
}

/// Counters found by one read of the tables.
#[derive(Clone, Debug, Default)]
pub struct TableRead {
    /// Counters by slot, including flows still in the flow table.
    pub totals: Vec<Totals>,
    /// Counters by node index.
    pub node: Vec<Counts>,
    /// Ways in use.
    pub flows: u64,
    /// Flows under inspection, or not answered yet; their traffic is in no other number.
    pub pending: Counts,
    /// Verdict writes that failed; always 0 unless there is a bug.
    pub internal_errors: u64,
}

/// Remotes of each tally since they were taken last, and what tells flows that moved since then.
///
/// A reading takes the remotes out of the tallies, and adds those of flows in the table that counted something.
#[derive(Debug, Default)]
pub struct RemoteRead {
    /// By slot. Each reading adds to them; the owner empties them once they were handed on.
    pub by_slot: Vec<RemoteSet>,
    /// By way of the flow table: [`fingerprint`] of the flow's counters when its remotes were added last.
    seen: Vec<u16>,
}

impl RemoteRead {
    /// Adds the remotes of a flow, unless it has not moved since they were added last.
    fn add_flow(&mut self, index: usize, fingerprint: u16, slots: u64, remotes: RemoteNumbers) {
        let Some(seen) = self.seen.get_mut(index) else { return };
        if slots == NO_SLOTS || std::mem::replace(seen, fingerprint) == fingerprint {
            return;
        }
        let (lower, higher) = unpack_slots(slots);
        self.add(lower, remotes.of_lower());
        self.add(higher, remotes.of_higher());
    }

    fn add(&mut self, slot: u32, remotes: RemoteSet) {
        if slot == NO_SLOT || remotes.is_empty() {
            return;
        }
        let slot = slot as usize;
        if self.by_slot.len() <= slot {
            // Grow by a sixteenth, not by a factor of two.
            if self.by_slot.capacity() <= slot {
                self.by_slot.reserve_exact(slot + 1 + slot / 16 - self.by_slot.len());
            }
            self.by_slot.resize(slot + 1, RemoteSet::EMPTY);
        }
        self.by_slot[slot].unite(remotes);
    }
}

/// What changes with each packet of a flow, and with the flow. Two values are equal by chance in one of 2^16 cases; a
/// remote is then missing in one reading.
fn fingerprint(generation: u64, packets: u64) -> u16 {
    let mixed = (generation ^ packets << 32).wrapping_add(packets).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 48) as u16
}

/// The tallies as [`settle_idle`] and [`monitor_common::engine::release`] need them.
pub(crate) struct MappedCounters<'a> {
    view: View<'a>,
    internal_errors: Cell<u64>,
}

impl<'a> MappedCounters<'a> {
    /// The counters of these tables.
    pub(crate) const fn new(view: View<'a>) -> Self {
        Self { view, internal_errors: Cell::new(0) }
    }

    /// Verdict writes that failed.
    pub(crate) const fn internal_errors(&self) -> u64 {
        self.internal_errors.get()
    }
}

impl CounterMaps for MappedCounters<'_> {
    fn tally(&self, slot: u32) -> Option<&Tally> {
        self.view.tallies.get(slot as usize)
    }

    fn node(&self, index: u32) -> Option<&NodeTally> {
        self.view.node.get(index as usize)
    }

    fn count_event(&self, _event: KernelEvent) {
        self.internal_errors.set(self.internal_errors.get() + 1);
    }
}

impl View<'_> {
    /// Slots that a program can take before it finds the ring empty.
    #[must_use]
    pub fn slots_free(&self) -> usize {
        self.given_from(self.settings.next_slot.load())
    }

    /// The ticket of the next slot that is given back.
    #[must_use]
    pub fn ring_end(&self) -> u64 {
        // One look: programs advance the ticket meanwhile, and the end stays.
        let next = self.settings.next_slot.load();
        next + self.given_from(next) as u64
    }

    /// Cells of the ring that are given from this ticket on.
    fn given_from(&self, next: u64) -> usize {
        // Up to the end of the ring.
        let (mut given, mut end) = (0, self.tallies.len() as u64);
        while given < end {
            let middle = given.midpoint(end);
            if self.free_slot(next + middle).is_some() { given = middle + 1 } else { end = middle }
        }
        given as usize
    }

    /// Tallies in use, the catch-all included.
    #[must_use]
    pub fn tallies_in_use(&self) -> usize {
        if self.free_slots.is_empty() { self.slots_in_use() } else { self.tallies.len() - self.slots_free() }
    }

    /// The slot that the ring gives to the holder of a ticket.
    #[must_use]
    pub fn free_slot(&self, ticket: u64) -> Option<u32> {
        let cell = self.free_slots.get(slot_ring::index(ticket, self.settings.tally_mask) as usize)?;
        slot_ring::slot_in(cell.load(), ticket)
    }

    /// Slots that were ever handed out: they come first.
    #[must_use]
    pub fn slots_in_use(&self) -> usize {
        usize::try_from(self.settings.next_slot.load())
            .map_or(self.tallies.len(), |slots| slots.min(self.tallies.len()))
    }

    /// Clears expired entries of the peer cache, before their seconds wrap; returns how many are in use.
    #[must_use]
    pub fn peers_in_use(&self) -> u64 {
        let now_s = self.settings.clock_s.load();
        let is_current = |state: &&SharedU64| {
            let entry = PeerEntry(state.load());
            if entry.is_used() && !entry.is_current(now_s) {
                // If it was refreshed meanwhile, it stays.
                state.replace(entry.0, PeerEntry::EMPTY.0);
            }
            entry.is_current(now_s)
        };
        self.peers.iter().map(|set| set.entries.iter().filter(is_current).count() as u64).sum()
    }

    /// Zeroes reassembly slots that have expired; returns how many are in use.
    pub fn expire_reassembly(&self) -> u64 {
        let now_s = self.settings.clock_s.load();
        self.reassembly.iter().filter(|entry| entry.expire(now_s)).count() as u64
    }

    /// Flows the table can hold.
    #[must_use]
    pub fn flow_capacity(&self) -> u64 {
        (self.flows.len() * WAYS) as u64
    }

    /// Settles flows idle for `idle_s` seconds (0: every flow), then reads every counter.
    #[must_use]
    pub fn read(&self, idle_s: u16) -> TableRead {
        let mut read = TableRead::default();
        self.read_into(idle_s, &mut read, None);
        read
    }

    /// [`View::read`] into the memory of an earlier read: new pages for a million tallies take as long as the tallies.
    ///
    /// With `remotes`, it takes the remotes out of the tallies, too. One reader only may do that.
    pub fn read_into(&self, idle_s: u16, read: &mut TableRead, mut remotes: Option<&mut RemoteRead>) {
        read.totals.clear();
        read.node.clear();
        (read.flows, read.pending) = (0, Counts::default());
        self.settle(idle_s, read);
        let now_s = self.settings.clock_s.load();
        let slots = self.slots_in_use();
        read.totals.reserve_exact(slots);
        if let Some(remotes) = &mut remotes {
            remotes.seen.resize(self.flows.len() * WAYS, 0);
        }
        for (slot, tally) in self.tallies[..slots].iter().enumerate() {
            read.totals.push(tally.totals());
            if let Some(remotes) = &mut remotes {
                remotes.add(slot as u32, tally.take_remotes());
            }
        }
        read.node.extend(self.node.iter().map(|node| Counts {
            packets: node.packets.load(),
            bytes: node.bytes.load(),
            flows: node.flows.load(),
        }));
        for (index, (set, cold)) in self.flows.iter().zip(self.cold).enumerate() {
            for way in 0..WAYS {
                read_flow(set, cold, (index, way), (idle_s, now_s), read, remotes.as_deref_mut());
            }
        }
        if remotes.is_some() {
            // Not earlier: the remotes of a flow that ended before it was read belong to the next reading.
            self.settings.drained_s.store(now_s);
        }
    }

    fn settle(&self, idle_s: u16, read: &mut TableRead) {
        let counters = MappedCounters::new(*self);
        let now_s = self.settings.clock_s.load();
        for (set, cold) in self.flows.iter().zip(self.cold) {
            for way in 0..WAYS {
                let state = FlowState(set.states[way].load());
                if state.phase() == Phase::Inspecting {
                    // A flow state keeps 16 bits of the second: a flow idle for more than nine hours looks as if it
                    // were new.
                    let now_s = if idle_s == 0 { u64::from(state.second()) } else { now_s };
                    settle_idle(&counters, set, cold, way, now_s, idle_s);
                }
            }
        }
        read.internal_errors = counters.internal_errors();
    }
}

/// Adds what one flow in the table has counted to the totals of its subscribers and its interfaces. With an `idle_s` of
/// 0, nothing is pending any more.
fn read_flow(
    set: &FlowSet,
    cold: &ColdSet,
    (index, way): (usize, usize),
    (idle_s, now_s): (u16, u64),
    read: &mut TableRead,
    remotes: Option<&mut RemoteRead>,
) {
    let state = FlowState(set.states[way].load());
    if matches!(state.phase(), Phase::Empty | Phase::Locked) {
        return;
    }
    read.flows += 1;
    let cold = &cold.flows[way];
    let generation = cold.generation.load();
    let conversation = cold.conversation();
    let slots = cold.slots.load();
    let forth = unpack(set.counters[2 * way].load());
    let back = unpack(set.counters[2 * way + 1].load());
    let after = FlowState(set.states[way].load());
    let same_verdict = after.phase() == state.phase()
        && after.verdict_numbers() == state.verdict_numbers()
        && after.is_pending() == state.is_pending();
    if !same_verdict || cold.generation.load() != generation {
        // Evicted, settled or charged meanwhile: the next read has it.
        return;
    }
    let waits = idle_s != 0 && !conversation.is_late_for_reader(now_s);
    if state.phase() == Phase::Inspecting || (state.is_pending() && waits) {
        read.pending.flows += 1;
        read.pending.packets += forth.0 + back.0;
        read.pending.bytes += forth.1 + back.1;
        return;
    }
    let (lower, higher) = unpack_slots(slots);
    add(&mut read.totals, lower, forth, back);
    add(&mut read.totals, higher, back, forth);
    if let Some(remotes) = remotes {
        remotes.add_flow(index * WAYS + way, fingerprint(generation, forth.0 + back.0), slots, remotes_of(generation));
    }
    let uncharged = u32::from(slots == NO_SLOTS);
    let index = |from_lower| {
        let (interface, direction) = (state.interface(from_lower).shared_number(), state.ends().direction(from_lower));
        node_index(interface, direction, uncharged, state.protocol_number(), state.confidence_number()) as usize
    };
    for (from_lower, counts) in [(true, forth), (false, back)] {
        if let Some(node) = read.node.get_mut(index(from_lower)) {
            node.packets += counts.0;
            node.bytes += counts.1;
        }
    }
    // A flow that charges nobody is counted when it ends, or is charged after all.
    if !conversation.has(mark::COUNTED)
        && let Some(node) = read.node.get_mut(index(state.first_from_lower()))
    {
        node.flows += 1;
    }
}

fn add(totals: &mut Vec<Totals>, slot: u32, up: (u64, u64), down: (u64, u64)) {
    if slot == NO_SLOT {
        return;
    }
    let slot = slot as usize;
    if slot >= totals.len() {
        // A slot handed out since the tallies were read.
        totals.resize(slot + 1, Totals::default());
    }
    let totals = &mut totals[slot];
    totals.packets_up += up.0;
    totals.bytes_up += up.1;
    totals.packets_down += down.0;
    totals.bytes_down += down.1;
}

/// What a node index stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeIndexParts {
    /// Number of the interface.
    pub interface: usize,
    /// Direction.
    pub direction: Direction,
    /// Whether it counts subscribers' flows that are charged to nobody.
    pub uncharged: bool,
    /// Protocol number.
    pub protocol: u8,
    /// Confidence number.
    pub confidence: u8,
}

/// The parts of a node index.
#[must_use]
pub fn node_index_parts(index: usize) -> NodeIndexParts {
    let place = index / PROTOCOL_SLOTS / CONFIDENCE_SLOTS;
    NodeIndexParts {
        interface: index / NODE_ENTRIES_PER_INTERFACE,
        direction: Direction::ALL[place / 2 % Direction::ALL.len()],
        uncharged: place % 2 == 1,
        protocol: (index % PROTOCOL_SLOTS) as u8,
        confidence: (index / PROTOCOL_SLOTS % CONFIDENCE_SLOTS) as u8,
    }
}

/// Rows of the counters that are not zero. `interfaces` are names by number; a number without a name is [`OTHER`].
#[must_use]
pub fn node_rows(node: &[Counts], interfaces: &[Arc<str>]) -> Vec<NodeRow> {
    let other: Arc<str> = Arc::from(OTHER);
    // Counters of charged traffic, and those of the rest for the same interface, direction and verdict.
    let half = CONFIDENCE_SLOTS * PROTOCOL_SLOTS;
    let pairs = node.chunks_exact(2 * half).enumerate().flat_map(|(place, counters)| {
        let (charged, unanswered) = counters.split_at(half);
        (0..half).map(move |verdict| (place * 2 * half + verdict, charged[verdict], unanswered[verdict]))
    });
    let used = pairs.filter(|(_, charged, unanswered)| (*charged, *unanswered) != Default::default());
    used.filter_map(|(index, mut counts, unanswered)| {
        counts += unanswered;
        let parts = node_index_parts(index);
        Some(NodeRow {
            interface: Arc::clone(interfaces.get(parts.interface).unwrap_or(&other)),
            direction: parts.direction,
            // The program writes no numbers that this build does not know.
            verdict: Verdict {
                protocol: Protocol::from_number(parts.protocol)?,
                confidence: Confidence::from_number(parts.confidence)?,
            },
            packets: counts.packets,
            bytes: counts.bytes,
            flows: counts.flows,
            unanswered,
        })
    })
    .collect()
}
