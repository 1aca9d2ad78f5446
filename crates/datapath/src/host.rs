//! The host engine: the shared source and tables over plain memory, without a kernel.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    ops::DerefMut,
};

use ipnet::IpNet;
use monitor_common::{
    abi::{
        event::{EVENT_SLOTS, KernelEvent},
        interface::InterfaceEntry,
        key::{Address, Seed},
        limits::{MAX_INTERFACES, REASSEMBLY_SLOTS},
        outcome::{Outcome, PacketOutcome},
        reason::{REASON_SLOTS, Reason},
        record::VerdictRecord,
        rule::{RULE_SLOTS, Rule},
        settings::{InspectionDepth, Settings},
        spoofing::{IN_SET, SPOOFED_ENTRIES, SpoofReason, spoofed_index},
        tally::{KeyWords, NODE_ENTRIES_PER_INTERFACE, NodeTally, SlotKey, Tally},
        watch::{ContentHash, WatchHit},
    },
    bpf::shared_u64::SharedU64,
    engine::stages::process,
    parse::packet::Frame,
    tables::{
        context::{CpuClock, Scratch},
        flow_table::{ColdSet, FlowSet},
        maps::{CounterMaps, Maps},
        peer_cache::PeerSet,
        reassembly::ReassemblySlot,
        tally_cache::TallyLine,
        token_bucket::PacketTally,
    },
};
use peertally_core::pool::{Pool, PoolChange, keyed, keyed_pools, pool_words};

use super::{
    ObjectError,
    ageing::SlotIndex,
    interface_tables::{InterfaceTables, MonitoredInterface},
    released_flows::{ReleasedFlows, release_flows},
    table_sizes::TableSizes,
    view::View,
};

/// The data path in plain memory.
pub struct HostDataPath {
    settings: Settings,
    flows: Box<[FlowSet]>,
    cold: Box<[ColdSet]>,
    peers: Box<[PeerSet]>,
    reassembly: Box<[ReassemblySlot]>,
    tallies: Box<[Tally]>,
    keys: Box<[SlotKey]>,
    node: Box<[NodeTally]>,
    slots: RefCell<HashMap<KeyWords, u64>>,
    free_slots: Box<[SharedU64]>,
    tally_cache: Box<[TallyLine]>,
    pools: Vec<(Address, u8, u8)>,
    pool_table: Box<[u64]>,
    tunnel_endpoints: Vec<(Address, u8, u8)>,
    skips: [Cell<u64>; REASON_SLOTS],
    events: [Cell<u64>; EVENT_SLOTS],
    rules: [Cell<u64>; RULE_SLOTS],
    shed: [Cell<PacketTally>; MAX_INTERFACES],
    spoofed: [Cell<PacketTally>; SPOOFED_ENTRIES],
    scratch: RefCell<Scratch>,
    watchlist: HashMap<ContentHash, u32>,
    watch_tallies: RefCell<HashMap<KeyWords, u64>>,
    hits: RefCell<Vec<WatchHit>>,
    recording: bool,
    records: RefCell<Vec<VerdictRecord>>,
    last: Cell<PacketOutcome>,
    configured_pools: Vec<Pool>,
    interfaces: InterfaceTables,
    vlan_words: Vec<u64>,
}

fn zeroed<T: Default>(length: usize) -> Box<[T]> {
    (0..length).map(|_| T::default()).collect()
}

/// The ring of free slots of an empty table.
fn first_round(sizes: &TableSizes) -> Box<[SharedU64]> {
    let ring: Box<[SharedU64]> = zeroed(sizes.ring_cells() as usize);
    sizes.fill_ring(&ring);
    ring
}

/// The interface that frames arrive on unless said otherwise.
pub const ACCESS: u16 = 1;
/// An interface that leads to the core.
pub const CORE: u16 = 2;

impl HostDataPath {
    /// An empty data path.
    #[must_use]
    pub fn new(sizes: &TableSizes, configured: &[Pool], seed: Seed, inspection: InspectionDepth) -> Self {
        let sizes = TableSizes { tallies: sizes.tallies.max(1), ..*sizes };
        let mut settings = Settings { seed, inspection: SharedU64::new(inspection as u64), ..Settings::default() };
        sizes.fill(&mut settings);
        let sets = sizes.sets() as usize;
        let tallies = sizes.tallies as usize;
        let keys: Box<[SlotKey]> = zeroed(tallies);
        keys[0].write(Some(&KeyWords::CATCH_ALL));
        let pools = longest_first(keyed_pools(configured));
        Self {
            settings,
            flows: zeroed(sets),
            cold: zeroed(sets),
            peers: zeroed(sizes.peer_sets() as usize),
            reassembly: zeroed(REASSEMBLY_SLOTS as usize),
            tallies: zeroed(tallies),
            keys,
            node: zeroed(MAX_INTERFACES * NODE_ENTRIES_PER_INTERFACE),
            tally_cache: zeroed(sizes.tally_lines() as usize),
            slots: RefCell::new(HashMap::new()),
            free_slots: first_round(&sizes),
            pool_table: pool_words(&pools).into(),
            pools,
            tunnel_endpoints: Vec::new(),
            skips: [const { Cell::new(0) }; REASON_SLOTS],
            events: [const { Cell::new(0) }; EVENT_SLOTS],
            rules: [const { Cell::new(0) }; RULE_SLOTS],
            shed: [const { Cell::new(PacketTally { packets: 0, bytes: 0 }) }; MAX_INTERFACES],
            spoofed: [const { Cell::new(PacketTally { packets: 0, bytes: 0 }) }; SPOOFED_ENTRIES],
            scratch: RefCell::new(Scratch::empty()),
            watchlist: HashMap::new(),
            watch_tallies: RefCell::default(),
            hits: RefCell::default(),
            recording: false,
            records: RefCell::default(),
            last: Cell::new(PacketOutcome::UNCACHED),
            configured_pools: configured.to_vec(),
            interfaces: InterfaceTables::new(&[], configured),
            vlan_words: Vec::new(),
        }
    }

    /// Counts one frame of which `bytes` were captured, at `now_s` seconds.
    pub fn frame(&mut self, bytes: &[u8], wire_len: usize, now_s: u64) -> Outcome {
        self.frame_on(ACCESS, bytes, wire_len, now_s)
    }

    /// Counts a frame that arrived on interface [`ACCESS`] or [`CORE`].
    pub fn frame_on(&mut self, interface: u16, bytes: &[u8], wire_len: usize, now_s: u64) -> Outcome {
        self.settings.clock_s.store(now_s);
        self.last.set(PacketOutcome::UNCACHED);
        process(&Frame::new(bytes, wire_len), self, &self.settings, interface);
        Option::<Outcome>::from(self.last.get()).unwrap_or(Outcome::Uncached)
    }

    /// The rule that gave a flow its verdict with the latest frame.
    #[must_use]
    pub fn rule(&self) -> Option<Rule> {
        self.last.get().rule()
    }

    /// Whether the flow of the latest frame is charged to a subscriber.
    #[must_use]
    pub fn is_charged(&self) -> bool {
        self.last.get().is_charged()
    }

    /// Flows by the rule that labelled them; rules without flows are left out.
    #[must_use]
    pub fn rule_verdicts(&self) -> Vec<(Rule, u64)> {
        let counts = Rule::ALL.iter().map(|rule| (*rule, self.rules[*rule as usize].get()));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// The tables.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View {
            settings: &self.settings,
            flows: &self.flows,
            cold: &self.cold,
            peers: &self.peers,
            reassembly: &self.reassembly,
            tallies: &self.tallies,
            keys: &self.keys,
            tally_cache: &self.tally_cache,
            free_slots: &self.free_slots,
            node: &self.node,
        }
    }

    /// The map of all slots, for the agent's side.
    pub fn slot_index(&self) -> impl SlotIndex + '_ {
        HostIndex(&self.slots)
    }

    /// Sets up interfaces by their indices. Others are as [`ACCESS`] and [`CORE`] say.
    pub fn set_interfaces(&mut self, interfaces: &[MonitoredInterface]) {
        self.interfaces = InterfaceTables::new(interfaces, &self.configured_pools);
        self.vlan_words = self.interfaces.vlan_words(|index| Some(number_of(index)));
    }

    /// Replaces the pools, and releases the flows of subscribers whose pool changed.
    pub fn set_pools(&mut self, pools: &[Pool]) -> ReleasedFlows {
        let keyed = longest_first(keyed_pools(pools));
        let change = PoolChange::new(&self.pools, &keyed);
        self.pool_table = pool_words(&keyed).into();
        (self.pools, self.configured_pools) = (keyed, pools.to_vec());
        release_flows(&self.view(), &change, || {})
    }

    /// Names the endpoints between which the inner addresses of tunnels are charged; before, there are none.
    pub fn set_tunnel_endpoints(&mut self, endpoints: &[IpNet]) {
        self.tunnel_endpoints = longest_first(keyed(endpoints.iter().map(|prefix| (*prefix, 1))));
    }

    /// Counts every flow as answered, as on a router that sees one direction only.
    pub fn set_one_way(&self) {
        self.settings.one_way.store(1);
    }

    /// Loads the watchlist.
    pub fn watch(&mut self, list: &[ContentHash]) {
        self.watchlist = list.iter().copied().zip(0..).collect();
    }

    /// Watchlist hits so far, and how many each subscriber block has by protocol and confidence.
    #[must_use]
    pub fn watchlist_hits(&self) -> (Vec<WatchHit>, HashMap<KeyWords, u64>) {
        (self.hits.borrow().clone(), self.watch_tallies.borrow().clone())
    }

    /// Keeps verdict records from now on.
    pub fn record(&mut self) {
        self.recording = true;
    }

    /// Verdict records since the last call.
    #[must_use]
    pub fn take_records(&self) -> Vec<VerdictRecord> {
        self.records.take()
    }

    /// Frames skipped for a reason.
    #[must_use]
    pub fn skipped(&self, reason: Reason) -> u64 {
        self.skips[reason as usize].get()
    }

    /// Packets and bytes in the name of a subscriber who is not there, by reason and interface number.
    #[must_use]
    pub fn spoofed(&self) -> Vec<(SpoofReason, Vec<PacketTally>)> {
        let of = |reason: SpoofReason| self.spoofed[spoofed_index(reason, 0) as usize..].iter().take(MAX_INTERFACES);
        SpoofReason::ALL.iter().map(|reason| (*reason, of(*reason).map(Cell::get).collect())).collect()
    }

    /// Packets and bytes that were shed, by interface number.
    #[must_use]
    pub fn shed(&self) -> Vec<PacketTally> {
        self.shed.iter().map(Cell::get).collect()
    }

    /// Events of a kind.
    #[must_use]
    pub fn events(&self, event: KernelEvent) -> u64 {
        self.events[event as usize].get()
    }
}

/// The map of all slots.
struct HostIndex<'a>(&'a RefCell<HashMap<KeyWords, u64>>);

impl SlotIndex for HostIndex<'_> {
    fn remove(&mut self, key: &KeyWords, slot: u32) -> Result<(), ObjectError> {
        let mut slots = self.0.borrow_mut();
        if slots.get(key).is_some_and(|checked_slot| *checked_slot as u32 == slot) {
            slots.remove(key);
        }
        Ok(())
    }
}

/// Number of an interface.
fn number_of(index: u16) -> u32 {
    u32::from(index == CORE)
}

/// Prefixes with their values, so that the first match is the longest.
fn longest_first(mut prefixes: Vec<(Address, u8, u8)>) -> Vec<(Address, u8, u8)> {
    prefixes.sort_by_key(|(_, len, _)| std::cmp::Reverse(*len));
    prefixes
}

/// The value of the longest prefix that holds an address, of prefixes in the order of [`longest_first`].
fn longest_prefix(prefixes: &[(Address, u8, u8)], address: Address) -> Option<u8> {
    prefixes.iter().find(|(prefix, len, _)| address.block(*len) == *prefix).map(|(_, _, value)| *value)
}

/// Counts a packet.
fn count_apart(tallies: &[Cell<PacketTally>], index: u32, ip_bytes: u64) {
    let cell = &tallies[index as usize];
    let PacketTally { packets, bytes } = cell.get();
    cell.set(PacketTally { packets: packets + 1, bytes: bytes + ip_bytes });
}

impl CounterMaps for HostDataPath {
    fn tally(&self, slot: u32) -> Option<&Tally> {
        self.tallies.get(slot as usize)
    }

    fn node(&self, index: u32) -> Option<&NodeTally> {
        self.node.get(index as usize)
    }

    fn count_event(&self, event: KernelEvent) {
        let counter = &self.events[event as usize];
        counter.set(counter.get() + 1);
    }
}

impl Maps for HostDataPath {
    fn flow_set(&self, index: u32) -> Option<&FlowSet> {
        self.flows.get(index as usize)
    }

    fn cold_set(&self, index: u32) -> Option<&ColdSet> {
        self.cold.get(index as usize)
    }

    fn prefetch_cold_set(&self, _index: u32) {}

    fn peer_set(&self, index: u32) -> Option<&PeerSet> {
        self.peers.get(index as usize)
    }

    fn reassembly_slot(&self, index: u32) -> Option<&ReassemblySlot> {
        self.reassembly.get(index as usize)
    }

    fn interface(&self, index: u16) -> Option<InterfaceEntry> {
        let unknown = InterfaceEntry::new(number_of(index)).with_core(index == CORE);
        let found = self.interfaces.entries.iter().find(|(other, _)| *other == index);
        Some(found.map_or(unknown, |(_, entry)| entry.with_number_of(unknown)))
    }

    fn vlan_word(&self, index: u32) -> Option<u64> {
        self.vlan_words.get(index as usize).copied()
    }

    fn vlan_entry(&self, number: u32) -> Option<InterfaceEntry> {
        self.interfaces.vlan_entries.get(number as usize).copied()
    }

    fn pool_word(&self, index: u32) -> Option<u64> {
        self.pool_table.get(index as usize).copied()
    }

    fn pool(&self, address: Address) -> Option<u8> {
        longest_prefix(&self.pools, address)
    }

    fn is_tunnel_endpoint(&self, address: Address) -> bool {
        longest_prefix(&self.tunnel_endpoints, address).is_some_and(|value| value != 0)
    }

    fn tally_line(&self, index: u32) -> Option<&TallyLine> {
        self.tally_cache.get(index as usize)
    }

    fn prefetch_tally_line(&self, _index: u32) {}

    fn find_slot(&self, key: &KeyWords) -> Option<u64> {
        self.slots.borrow().get(key).copied()
    }

    fn enter_slot(&self, key: &KeyWords, checked_slot: u64) -> bool {
        self.slots.borrow_mut().insert(*key, checked_slot).is_none()
    }

    fn free_slot(&self, index: u32) -> Option<u64> {
        self.free_slots.get(index as usize).map(SharedU64::load)
    }

    fn slot_key(&self, slot: u32) -> Option<&SlotKey> {
        self.keys.get(slot as usize)
    }

    fn count_rule(&self, rule: u32) {
        let counter = &self.rules[rule as usize & (RULE_SLOTS - 1)];
        counter.set(counter.get() + 1);
    }

    fn count_skip(&self, reason: Reason) {
        let counter = &self.skips[reason as usize];
        counter.set(counter.get() + 1);
    }

    fn count_shed(&self, interface: InterfaceEntry, ip_bytes: u64) {
        count_apart(&self.shed, interface.shared_number(), ip_bytes);
    }

    fn set_holds(&self, set: u32, address: Address) -> bool {
        let holds =
            |(other, prefix, len, _): &&(u32, Address, u8, u32)| *other == set && address.block(*len) == *prefix;
        let longest = self.interfaces.prefixes.iter().filter(holds).max_by_key(|(_, _, len, _)| *len);
        longest.is_some_and(|(_, _, _, value)| *value == IN_SET)
    }

    fn count_spoofed(&self, reason: SpoofReason, interface: InterfaceEntry, ip_bytes: u64) {
        count_apart(&self.spoofed, spoofed_index(reason, interface.shared_number()), ip_bytes);
    }

    fn now_s(&self, settings: &Settings, clock: &mut CpuClock) -> u64 {
        clock.ns = self.now_ns(settings);
        settings.clock_s.load()
    }

    fn now_ns(&self, settings: &Settings) -> u64 {
        settings.clock_s.load() * 1_000_000_000
    }

    fn watched(&self, content: &ContentHash) -> Option<u32> {
        self.watchlist.get(content).copied()
    }

    fn count_hit(&self, key: &KeyWords) -> bool {
        *self.watch_tallies.borrow_mut().entry(*key).or_default() += 1;
        true
    }

    fn report_hit(&self, hit: &WatchHit) -> bool {
        self.hits.borrow_mut().push(*hit);
        true
    }

    fn records(&self) -> bool {
        self.recording
    }

    fn report_record(&self, record: &VerdictRecord) -> bool {
        self.records.borrow_mut().push(*record);
        true
    }

    fn scratch(&self) -> Option<impl DerefMut<Target = Scratch>> {
        Some(self.scratch.borrow_mut())
    }

    fn report_outcome(&self, outcome: PacketOutcome) {
        self.last.set(outcome);
    }
}

#[cfg(test)]
mod tests {
    use monitor_common::abi::protocol::{Confidence, Protocol, Verdict};

    use super::*;

    const BITTORRENT: Verdict = Verdict { protocol: Protocol::BitTorrent, confidence: Confidence::Signature };

    fn data_path(tallies: u32) -> HostDataPath {
        let pools = ["10.0.0.0/8".parse().expect("pool")];
        let path = HostDataPath::new(
            &TableSizes { flows: 256, tallies, peers: 64 },
            &pools,
            Seed::from_random([1, 2, 3]),
            InspectionDepth::Framing,
        );
        // The tests send packets of one side only.
        path.set_one_way();
        path
    }

    /// A TCP segment from a subscriber to one server.
    fn segment(subscriber: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 12];
        let total = 40 + payload.len() as u16;
        bytes.extend([0x08, 0x00, 0x45, 0]);
        bytes.extend(total.to_be_bytes());
        bytes.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, subscriber, 192, 0, 2, 1]);
        bytes.extend([0xc0, 0x01, 0x1a, 0xe1, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.extend(payload);
        bytes
    }

    fn send(path: &mut HostDataPath, frame: &[u8], now_s: u64) -> Outcome {
        path.frame(frame, frame.len(), now_s)
    }

    #[test]
    fn a_pause_does_not_end_inspection_for_good() {
        let mut path = data_path(16);
        let handshake = segment(1, 0x18, b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0");
        assert_eq!(send(&mut path, &segment(1, 0x18, b"hello"), 100), Outcome::New(Verdict::UNCLASSIFIED));
        let pending = path.view().read(15).pending;
        assert_eq!((pending.flows, pending.packets), (1, 1));
        path.settings.clock_s.store(120);
        assert_eq!(path.view().read(15).pending.flows, 0);
        assert_eq!(send(&mut path, &handshake, 121), Outcome::Restarted(BITTORRENT));
        assert_eq!(send(&mut path, &handshake, 121), Outcome::Known(BITTORRENT));
    }

    #[test]
    fn a_syn_restarts_a_settled_flow_and_repeats_only_itself() {
        let mut path = data_path(16);
        let syn = segment(1, 0x02, b"");
        assert_eq!(send(&mut path, &syn, 1), Outcome::New(Verdict::UNCLASSIFIED));
        assert_eq!(send(&mut path, &syn, 1), Outcome::Known(Verdict::UNCLASSIFIED));
        let handshake = segment(1, 0x18, b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0");
        assert_eq!(send(&mut path, &handshake, 1), Outcome::Known(BITTORRENT));
        assert_eq!(send(&mut path, &syn, 2), Outcome::Restarted(Verdict::UNCLASSIFIED));
        assert_eq!(send(&mut path, &segment(1, 0x18, b"hello"), 2), Outcome::Known(Verdict::UNCLASSIFIED));
        let bytes: u64 = path.view().read(0).totals.iter().map(|totals| totals.bytes_up).sum();
        assert_eq!(bytes, 40 + 40 + 68 + 40 + 45);
    }

    #[test]
    fn a_scan_leaves_room_for_verdicts() {
        let mut path = data_path(16);
        for subscriber in 1..=60 {
            send(&mut path, &segment(subscriber, 0x02, b""), 1);
        }
        assert!(path.events(KernelEvent::TallyReserved) > 0);
        let handshake = segment(77, 0x18, b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0");
        send(&mut path, &handshake, 1);
        let view = path.view();
        let read = view.read(0);
        let found = (1..read.totals.len())
            .filter_map(|slot| Some((view.keys[slot].read()?, read.totals[slot])))
            .find(|(key, _)| key.address[15] == 77 && key.protocol == Protocol::BitTorrent as u8);
        assert_eq!(found.map(|(_, totals)| totals.packets_up), Some(1));
        let packets: u64 = read.totals.iter().map(|totals| totals.packets_up).sum();
        assert_eq!(packets, 61, "the catch-all has the rest");
    }
}
