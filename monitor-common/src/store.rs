//! The tables the engine works on: BPF maps in the kernel, plain memory on the host, mapped memory in the agent.

use crate::{
    bpf::shared_u64::SharedU64,
    engine::Scratch,
    key::{Address, Seed},
    limits::MAX_INTERFACES,
    protocol::{CONFIDENCE_SLOTS, Confidence, PROTOCOL_SLOTS, Protocol, Verdict},
    reason::Reason,
    tables::{
        flow_table::{ColdSet, FlowSet},
        peer_cache::PeerSet,
        reassembly::ReassemblySlot,
        tally_cache::TallyLine,
    },
    tally::{Direction, KeyWords, NodeTally, Tally},
    watch::{ContentHash, WatchHit},
};

/// What the agent tells the program, and the clock both keep: the only entry of the `SETTINGS` map.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Settings {
    /// Secret of the flow hash.
    pub seed: Seed,
    /// Number of flow sets minus one; the number is a power of two.
    pub set_mask: u64,
    /// Coarse time in seconds; moved on by the program's slow path and by the agent.
    pub clock_s: SharedU64,
    /// Slots handed out so far; slot 0 is the catch-all.
    pub next_slot: SharedU64,
    /// Slots there are.
    pub slots: u64,
    /// [`Inspection`] number; changed while the program runs.
    pub inspection: SharedU64,
    /// Number of peer sets minus one; the number is a power of two.
    pub peer_mask: u64,
    /// [`Heuristic`] in its packed form, 0 for off; changed while the program runs.
    pub heuristic: SharedU64,
    /// Number of slot lines minus one; the number is a power of two.
    pub tally_mask: u64,
    /// Explicit padding.
    pub reserved: [u64; 5],
}

const _: () = assert!(core::mem::size_of::<Settings>() == 128);

/// When MSE-shaped connections of a subscriber count as BitTorrent: connections to at least `endpoints` remote endpoints
/// within `window_s` seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heuristic {
    /// Distinct remote endpoints, at most [`crate::limits::SUSPECT_BUCKETS`].
    pub endpoints: u32,
    /// The window in seconds; a certain flow of the same subscriber must fall into it, too.
    pub window_s: u16,
}

impl Heuristic {
    /// The packed form.
    #[inline(always)]
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.endpoints as u64 | (self.window_s as u64) << 32
    }

    /// From the packed form.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self { endpoints: bits as u32, window_s: (bits >> 32) as u16 }
    }
}

/// How deep a packet may be inspected (`docs/architecture.md#inspection-and-privacy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Inspection {
    /// Addresses, ports and sizes only.
    Headers = 0,
    /// Also protocol framing in the first payload bytes.
    Framing = 1,
    /// Also whether a payload names content that is on the operator's list.
    Watchlist = 2,
}

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $label:literal;)*) => {
        /// Something rare that an operator wants counted. Numbers index a BPF map: append only, never renumber.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum KernelEvent { $($(#[$doc])* $name = $number,)* }

        impl KernelEvent {
            /// Every event, in number order.
            pub const ALL: &'static [KernelEvent] = &[$(KernelEvent::$name,)*];

            /// The label value used in metrics.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(KernelEvent::$name => $label,)* }
            }
        }
    };
}

events! {
    /// A flow entered the flow table.
    FlowNew = 0, "flow_new";
    /// A TCP SYN restarted a flow that was in the flow table.
    FlowRestarted = 1, "flow_restarted";
    /// An idle flow was replaced.
    EvictedIdle = 2, "evicted_idle";
    /// A flow without a P2P verdict was replaced after a pause of some seconds, because its set was full.
    EvictedUnclassified = 3, "evicted_unclassified";
    /// A new flow found its set full of P2P flows or of flows active this very moment; its packets count as unclassified.
    FlowRefused = 4, "flow_refused";
    /// A packet met a way that another CPU was changing; it counts as unclassified.
    FlowBusy = 5, "flow_busy";
    /// The tally table was full: the traffic counts under the catch-all tally.
    TallyRefused = 6, "tally_refused";
    /// Two CPUs made the same tally at once; one slot stays unused.
    TallyRaced = 7, "tally_raced";
    /// A flow counter was flushed because it neared its capacity.
    FlushedOverflow = 8, "flushed_overflow";
    /// An invariant was broken: a table lookup that cannot fail did, and traffic was not counted. 0 unless there is a bug.
    InternalError = 9, "internal_error";
    /// A packet between two addresses that are no subscribers.
    Transit = 10, "transit";
    /// The tally table was nearly full: traffic without a P2P verdict counts under the catch-all tally, so that verdicts find room.
    TallyReserved = 11, "tally_reserved";
    /// A P2P peer (an endpoint or subscriber) was learned.
    PeerLearned = 12, "peer_learned";
    /// A peer that had not expired was evicted: the peer cache is too small for the traffic.
    PeerEvicted = 13, "peer_evicted";
    /// A packet with a subscriber's address came in on a core interface: no peer was learned from it, since it may be spoofed.
    PeerSpoofed = 14, "peer_spoofed";
    /// Traffic of a flow that had ended as unclassified counts under a protocol from now on, as its endpoint became known.
    FlowRelabelled = 15, "flow_relabelled";
    /// A TCP flow opened like an MSE connection (heuristic tier only).
    MseCandidate = 16, "mse_candidate";
    /// A payload named content that is on the watchlist.
    WatchlistHit = 17, "watchlist_hit";
    /// The agent was not told of a hit, since the buffer of such messages was full; the hit is tallied all the same.
    WatchlistEventLost = 18, "watchlist_event_lost";
    /// The table of hits was full: a hit is counted at node level only.
    WatchlistTallyRefused = 19, "watchlist_tally_refused";
    /// Another stream evicted the held first bytes of a stream: a signature that is split there is not found.
    ReassemblyEvicted = 20, "reassembly_evicted";
}

/// Number of events a table indexed by event needs; room to append.
pub const EVENT_SLOTS: usize = 32;

/// The outcome of one packet, for replay and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not counted as IP; the reason says why.
    Skipped(Reason),
    /// Counted as transit.
    Transit,
    /// Counted in a flow that was in the flow table.
    Hit(Verdict),
    /// Counted in a flow that this packet opened.
    New(Verdict),
    /// Counted in a flow that this packet restarted.
    Restarted(Verdict),
    /// Counted without a flow entry, as unclassified.
    Uncached,
}

/// The wire form of an [`Outcome`]: number, then reason or protocol number, then confidence number, a byte each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct PacketOutcome(pub u64);

impl PacketOutcome {
    /// Counted as transit.
    pub const TRANSIT: Self = Self(1);
    /// Counted without a flow entry.
    pub const UNCACHED: Self = Self(5);

    /// Not counted as IP.
    #[inline(always)]
    #[must_use]
    pub const fn skipped(reason: Reason) -> Self {
        Self((reason as u64) << 8)
    }

    /// Counted in a flow: `entry` is 0 for a known, 1 for a new, 2 for a restarted one.
    #[inline(always)]
    #[must_use]
    pub const fn flow(entry: u32, protocol: u8, confidence: u8) -> Self {
        Self((2 + entry as u64) | ((protocol as u64) << 8) | ((confidence as u64) << 16))
    }
}

impl From<PacketOutcome> for Option<Outcome> {
    /// `None` for numbers that this build does not know.
    fn from(PacketOutcome(bits): PacketOutcome) -> Self {
        let (number, detail, confidence) = (bits as u8, (bits >> 8) as u8, (bits >> 16) as u8);
        let verdict = || {
            Some(Verdict { protocol: Protocol::from_number(detail)?, confidence: Confidence::from_number(confidence)? })
        };
        Some(match number {
            0 => Outcome::Skipped(*Reason::ALL.iter().find(|reason| **reason as u8 == detail)?),
            1 => Outcome::Transit,
            2 => Outcome::Hit(verdict()?),
            3 => Outcome::New(verdict()?),
            4 => Outcome::Restarted(verdict()?),
            5 => Outcome::Uncached,
            _ => return None,
        })
    }
}

/// Access to the maps that hold counters.
pub trait CounterMaps {
    /// The tally of a slot.
    fn tally(&self, slot: u32) -> Option<&Tally>;
    /// The node-level tally at [`node_index`].
    fn node(&self, index: u32) -> Option<&NodeTally>;
    /// Number of an interface among the monitored ones.
    fn interface_number(&self, interface: u16) -> u32;
    /// Counts an event.
    fn count_event(&self, event: KernelEvent);
}

/// Access to all maps of the data path. A lookup returns `None` only where a kernel map lookup may.
pub trait Maps: CounterMaps {
    /// Four flows.
    fn flow_set(&self, index: u32) -> Option<&FlowSet>;
    /// Their cold parts.
    fn cold_set(&self, index: u32) -> Option<&ColdSet>;
    /// Prefetches the cold parts of four flows.
    fn prefetch_cold_set(&self, index: u32);
    /// Four entries of the peer cache.
    fn peer_set(&self, index: u32) -> Option<&PeerSet>;
    /// A reassembly buffer.
    fn reassembly_slot(&self, index: u32) -> Option<&ReassemblySlot>;
    /// Whether an interface leads to the core, where no subscriber's packet comes in.
    fn is_core(&self, interface: u16) -> bool;
    /// The realm of an interface's packets, 0 on a node without realms: equal addresses of two realms are two subscribers.
    fn realm(&self, interface: u16) -> u32;
    /// A word of the pool table ([`crate::tables::pool_table`]).
    fn pool_word(&self, index: u32) -> Option<u64>;
    /// Length in bits (out of 128) of the block that one subscriber gets in the pool that holds `address`.
    fn pool(&self, address: Address) -> Option<u8>;
    /// A line of the tally cache.
    fn tally_line(&self, index: u32) -> Option<&TallyLine>;
    /// Prefetches a line of the tally cache.
    fn prefetch_tally_line(&self, index: u32);
    /// Slot of a tally key.
    fn find_slot(&self, key: &KeyWords) -> Option<u32>;
    /// Enters a key with its slot; whether it was not there before.
    fn enter_slot(&self, key: &KeyWords, slot: u32) -> bool;
    /// Writes the key of a slot, where the agent reads it; `None` takes the slot out of use.
    fn write_slot_key(&self, slot: u32, key: Option<&KeyWords>);
    /// Counts a skipped frame.
    fn count_skip(&self, reason: Reason);
    /// Coarse time in seconds. `tick` is this CPU's, and says when it was looked at last.
    fn now_s(&self, settings: &Settings, tick: &mut u64) -> u64;
    /// Monotonic time in nanoseconds.
    fn now_ns(&self, settings: &Settings) -> u64;
    /// Number of the watchlist's entry that this content is.
    fn watched(&self, content: &ContentHash) -> Option<u32>;
    /// Counts a watchlist hit of a subscriber; `false` when the table is full.
    fn count_hit(&self, key: &KeyWords) -> bool;
    /// Tells the agent of a watchlist hit; `false` when there is no room.
    fn tell(&self, hit: &WatchHit) -> bool;
    /// Lends the scratch memory of this CPU.
    fn with_scratch<R>(&self, run: impl FnOnce(&mut Scratch) -> R) -> Option<R>;
    /// Reports the outcome of a packet; does nothing in production.
    fn report_outcome(&self, outcome: PacketOutcome);
}

/// What is known of an interface, in the table that has an entry for every number of 16 bits: the inverse of the number under
/// which it is counted, so that 0 stands for the last one, which all unknown ones share; and whether it leads to the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceEntry(pub u64);

/// Entries of that table.
pub const INTERFACE_ENTRIES: u32 = 1 << 16;
const LAST_INTERFACE: u64 = MAX_INTERFACES as u64 - 1;
const CORE: u64 = MAX_INTERFACES as u64;
const REALM_SHIFT: u32 = 32;

const _: () = assert!(MAX_INTERFACES.is_power_of_two());

impl InterfaceEntry {
    /// An interface that does not lead to the core, by its number, which is not the last.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number as u64 & LAST_INTERFACE ^ LAST_INTERFACE)
    }

    /// The same interface, which leads to the core or not.
    #[must_use]
    pub const fn with_core(self, core: bool) -> Self {
        Self(if core { self.0 | CORE } else { self.0 & !CORE })
    }

    /// Its number; `None` for one that has none of its own.
    #[must_use]
    pub const fn number(self) -> Option<u32> {
        let number = self.shared_number();
        if number as u64 == LAST_INTERFACE { None } else { Some(number) }
    }

    /// Its number, or the last one.
    #[inline(always)]
    #[must_use]
    pub const fn shared_number(self) -> u32 {
        (self.0 & LAST_INTERFACE ^ LAST_INTERFACE) as u32
    }

    /// Whether it leads to the core, where no subscriber's packet comes in.
    #[inline(always)]
    #[must_use]
    pub const fn is_core(self) -> bool {
        self.0 & CORE != 0
    }

    /// The same interface, whose packets belong to a realm.
    #[must_use]
    pub const fn with_realm(self, realm: u32) -> Self {
        Self(self.0 as u32 as u64 | (realm as u64) << REALM_SHIFT)
    }

    /// The realm of its packets.
    #[inline(always)]
    #[must_use]
    pub const fn realm(self) -> u32 {
        (self.0 >> REALM_SHIFT) as u32
    }
}

/// Entries of the node table per interface.
pub const NODE_ENTRIES_PER_INTERFACE: usize = 4 * CONFIDENCE_SLOTS * PROTOCOL_SLOTS;

/// Index of the node-level tally of an interface number, direction and verdict numbers.
#[inline(always)]
#[must_use]
pub const fn node_index(interface_number: u32, direction: Direction, protocol: u8, confidence: u8) -> u32 {
    ((interface_number * 4 + direction as u32) * CONFIDENCE_SLOTS as u32 + confidence as u32) * PROTOCOL_SLOTS as u32
        + protocol as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_keeps_its_number_whatever_its_role() {
        assert_eq!((InterfaceEntry(0).number(), InterfaceEntry(0).shared_number()), (None, MAX_INTERFACES as u32 - 1));
        for number in 0..MAX_INTERFACES as u32 - 1 {
            let entry = InterfaceEntry::new(number);
            assert_eq!((entry.number(), entry.shared_number(), entry.is_core()), (Some(number), number, false));
            let core = entry.with_core(true);
            assert_eq!((core.number(), core.is_core(), core.with_core(false)), (Some(number), true, entry));
            let realm = core.with_realm(u32::MAX);
            assert_eq!((realm.number(), realm.is_core(), realm.realm()), (Some(number), true, u32::MAX));
            assert_eq!((realm.with_realm(0), entry.realm()), (core, 0));
        }
        assert_eq!(InterfaceEntry(0).with_core(true).number(), None, "the last number is shared");
    }
}
