//! Access to the maps: BPF maps in the kernel, plain memory on the host, mapped memory in the agent.

use core::ops::DerefMut;

use crate::{
    abi::{
        event::KernelEvent,
        interface::InterfaceEntry,
        key::Address,
        outcome::PacketOutcome,
        reason::Reason,
        record::VerdictRecord,
        settings::Settings,
        spoofing::SpoofReason,
        tally::{KeyWords, NodeTally, SlotKey, Tally},
        watch::{ContentHash, WatchHit},
    },
    tables::{
        context::{CpuClock, Scratch},
        flow_table::{ColdSet, FlowSet},
        peer_cache::PeerSet,
        reassembly::ReassemblySlot,
        tally_cache::TallyLine,
    },
};

/// Access to the maps that hold counters.
pub trait CounterMaps {
    /// The tally of a slot.
    fn tally(&self, slot: u32) -> Option<&Tally>;
    /// The node-level tally at a [`node_index`](crate::abi::tally::node_index).
    fn node(&self, index: u32) -> Option<&NodeTally>;
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
    /// The entry of an interface by the low 16 bits of its index.
    fn interface(&self, index: u16) -> Option<InterfaceEntry>;
    /// A word of the VLAN tables ([`crate::tables::vlan_table`]).
    fn vlan_word(&self, index: u32) -> Option<u64>;
    /// An entry of VLANs by its number, without the number of an interface.
    fn vlan_entry(&self, number: u32) -> Option<InterfaceEntry>;
    /// A word of the pool table ([`crate::tables::pool_table`]).
    fn pool_word(&self, index: u32) -> Option<u64>;
    /// Length in bits (out of 128) of the block that one subscriber gets in the pool that holds `address`; 0 in a
    /// prefix that is cut out of a pool.
    fn pool(&self, address: Address) -> Option<u8>;
    /// Whether the operator named `address` as an endpoint of tunnels.
    fn is_tunnel_endpoint(&self, address: Address) -> bool;
    /// A line of the tally cache.
    fn tally_line(&self, index: u32) -> Option<&TallyLine>;
    /// Prefetches a line of the tally cache.
    fn prefetch_tally_line(&self, index: u32);
    /// Slot of a tally key, with a check of the key ([`tally_cache::checked_slot`](super::tally_cache::checked_slot)).
    fn find_slot(&self, key: &KeyWords) -> Option<u64>;
    /// Enters a key with its slot and check; returns whether it was new.
    fn enter_slot(&self, key: &KeyWords, checked_slot: u64) -> bool;
    /// A cell of the ring of free slots ([`crate::tables::slot_ring`]).
    fn free_slot(&self, index: u32) -> Option<u64>;
    /// The key of a slot, where the agent reads it.
    fn slot_key(&self, slot: u32) -> Option<&SlotKey>;
    /// Counts a flow by the number of the rule that labelled it.
    fn count_rule(&self, rule: u32);
    /// Counts a skipped frame.
    fn count_skip(&self, reason: Reason);
    /// Whether an address lies in a set of prefixes ([`crate::abi::spoofing`]).
    fn set_holds(&self, set: u32, address: Address) -> bool;
    /// Counts a packet of an interface in the name of a subscriber who is not there.
    fn count_spoofed(&self, reason: SpoofReason, interface: InterfaceEntry, ip_bytes: u64);
    /// Counts a packet that was shed, by the interface on which it arrived.
    fn count_shed(&self, interface: InterfaceEntry, ip_bytes: u64);
    /// Coarse time in seconds. `clock` is this CPU's last reading, and is kept current.
    fn now_s(&self, settings: &Settings, clock: &mut CpuClock) -> u64;
    /// Monotonic time in nanoseconds.
    fn now_ns(&self, settings: &Settings) -> u64;
    /// Number of this content's entry in the watchlist.
    fn watched(&self, content: &ContentHash) -> Option<u32>;
    /// Counts a watchlist hit of a subscriber; `false` when the table is full.
    fn count_hit(&self, key: &KeyWords) -> bool;
    /// Sends a watchlist hit to the agent; `false` when there is no room.
    fn report_hit(&self, hit: &WatchHit) -> bool;
    /// Whether verdict records are wanted.
    fn records(&self) -> bool;
    /// Sends a verdict record to the agent; `false` when there is no room.
    fn report_record(&self, record: &VerdictRecord) -> bool;
    /// Lends the scratch memory of this CPU. Each stage borrows it once.
    fn scratch(&self) -> Option<impl DerefMut<Target = Scratch>>;
    /// Reports the outcome of a packet; does nothing in production.
    fn report_outcome(&self, outcome: PacketOutcome);
}
