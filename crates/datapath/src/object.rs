//! The BPF object: loading it with the configured table sizes, filling its settings, and its maps.
//!
//! The object is built by `cargo xtask build-ebpf` and committed, so that the agent builds on stable Rust alone.

mod programs;

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf, lpm_trie::Key},
    pin::PinError,
    programs::Xdp,
};
use ipnet::IpNet;
use monitor_common::{
    abi::{
        event::KernelEvent,
        interface::InterfaceEntry,
        key::{Address, Seed},
        limits::{MAX_INTERFACES, MAX_MONITORED_INTERFACES, WATCH_BUFFER_BYTES, WAYS},
        reason::Reason,
        record::{RECORD_BYTES, VerdictRecord},
        rule::Rule,
        settings::{Heuristic, InspectionDepth, Settings, Shedding},
        spoofing::{SpoofReason, spoofed_index},
        tally::{KeyWords, NODE_ENTRIES_PER_INTERFACE, TallyKey},
        watch::WatchHit,
    },
    bpf::shared_u64::SharedU64,
    tables::{flow_table::FlowState, token_bucket::PacketTally},
};
use peertally_core::{
    content_list::Watchlist,
    pool::{Pool, PoolChange, keyed, keyed_pools, pool_words},
};

pub use super::interface_tables::MonitoredInterface;
use super::{
    ageing::SlotIndex,
    error::ObjectError,
    interface_tables::{InterfaceTables, SetPrefix},
    mapped::{MappedArray, map_array},
    mapped_tables::MappedTables,
    table_sizes::{RECORD_BYTES_MAX, TableSizes, record_room, watchlist_room},
    view::View,
};

/// The object's bytes.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../ebpf/peertally.bpf.o");
/// The XDP program's name in the object.
pub const PROGRAM: &str = "peertally";

/// The maps that outlive the agent, by their names in the object.
const PINNED: &[&str] = &[
    "SETTINGS",
    "FLOWS",
    "COLD_FLOWS",
    "PEERS",
    "REASSEMBLY",
    "TALLIES",
    "TALLY_KEYS",
    "TALLY_SLOTS",
    "TALLY_CACHE",
    "FREE_SLOTS",
    "NODE",
    "INTERFACES",
    "POOLS",
    "POOL_TABLE",
    "TUNNEL_ENDS",
    "SKIPS",
    "EVENTS",
    "RULE_VERDICTS",
    "SHED",
    "SPOOFED",
    "PREFIX_SETS",
    "VLANS",
    "VLAN_ENTRIES",
    "WATCH_TALLIES",
    RECORDS,
];

/// Name of the ring buffer of verdict records.
const RECORDS: &str = "VERDICT_RECORDS";

/// Settings that the object is loaded with.
///
/// The configuration fills this record in one place (`config/resolve.rs`). The default is a node without subscribers.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Table sizes.
    pub sizes: TableSizes,
    /// Subscriber pools.
    pub pools: Vec<Pool>,
    /// Prefixes of the endpoints between which the inner addresses of tunnels are charged.
    pub tunnel_endpoints: Vec<IpNet>,
    /// Depth of inspection.
    pub inspection: InspectionDepth,
    /// Content to find, by entry number; only in the depth `watchlist`.
    pub watchlist: Arc<Watchlist>,
    /// The heuristic tier, if it is on.
    pub heuristic: Option<Heuristic>,
    /// Bound of the slow path, if it has one. None by default, so that a replay sheds nothing.
    pub shedding: Option<Shedding>,
    /// Whether the router sees one direction of each flow only: every flow then counts as answered.
    pub one_way: bool,
    /// Hash seed; `None` draws a random one. Ignored when the settings were pinned before.
    pub seed: Option<Seed>,
    /// Whether frames come from the test runner, with the clock and wire lengths of a capture.
    pub replaying: bool,
    /// Room for verdict records in bytes, 0 for no records; rounded up to a power of two of at least a page. None by
    /// default, so that a replay records nothing.
    pub record_bytes: u32,
    /// Where maps are pinned, or found pinned.
    pub pin_folder: Option<PathBuf>,
    /// Level of kernel-side log messages, 0 for none (aya-log's levels: 1 error to 5 trace).
    pub log_level: u8,
    /// The monitored interfaces.
    pub interfaces: Vec<MonitoredInterface>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            sizes: TableSizes::default(),
            pools: Vec::new(),
            tunnel_endpoints: Vec::new(),
            inspection: InspectionDepth::Framing,
            watchlist: Arc::default(),
            heuristic: None,
            shedding: None,
            one_way: false,
            seed: None,
            replaying: false,
            record_bytes: 0,
            pin_folder: None,
            log_level: 0,
            interfaces: Vec::new(),
        }
    }
}

impl LoadOptions {
    /// Writes the bound of the slow path, or that there is none. May be called while a program runs.
    pub fn write_shedding(&self, settings: &Settings) {
        settings.opening_ns.store(Shedding::opening_ns(u64::from(self.sizes.sets()) * WAYS as u64));
        settings.token_ns.store(self.shedding.map_or(0, Shedding::token_ns));
    }
}

/// The loaded object.
pub struct LoadedObject {
    ebpf: Ebpf,
    tables: MappedTables,
    pool_table: MappedArray<SharedU64>,
    interface_table: MappedArray<SharedU64>,
    /// Cells and entries of VLANs; `None` in an older build, loaded for a measurement.
    vlan_tables: Option<(MappedArray<SharedU64>, MappedArray<SharedU64>)>,
    hits: RingBuf<MapData>,
    /// `None` in an older build, loaded for a measurement.
    records: Option<RingBuf<MapData>>,
}

impl LoadedObject {
    /// Loads the object and its program; attaches nothing.
    ///
    /// # Errors
    /// When the kernel refuses the maps or the program, or pinned maps do not fit.
    pub fn load(options: &LoadOptions) -> Result<Self, ObjectError> {
        Self::load_build(OBJECT, options)
    }

    /// Loads another build of the object, for measurements.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_build(object: &[u8], options: &LoadOptions) -> Result<Self, ObjectError> {
        let replaying = u8::from(options.replaying);
        let record_room = record_room(options.record_bytes);
        let records_wake = if options.record_bytes == 0 { 0 } else { record_room / 2 };
        let mut loader = EbpfLoader::new();
        for (name, entries) in options.sizes.entries() {
            loader.map_max_entries(name, entries);
        }
        loader
            .map_max_entries("WATCHLIST", watchlist_room(options.watchlist.count()))
            .map_max_entries(RECORDS, record_room)
            // Not in an older build.
            .override_global("RECORDS_WAKE_BYTES", &records_wake, false)
            .override_global("REPLAYING", &replaying, true)
            .override_global("AYA_LOG_LEVEL", &options.log_level, true);
        if let Some(folder) = &options.pin_folder {
            for name in PINNED {
                loader.map_pin_path(name, folder.join(name));
            }
        }
        let mut ebpf = loader.load(object).map_err(|source| ObjectError::Load { source })?;
        let mut tables = MappedTables::new(&ebpf)?;
        let fresh = initialise(&mut tables, options)?;
        programs::load_all(&mut ebpf)?;
        let mut object = Self {
            tables,
            pool_table: map_array(&ebpf, "POOL_TABLE")?,
            interface_table: map_array(&ebpf, "INTERFACES")?,
            vlan_tables: match ebpf.map("VLANS") {
                Some(_) => Some((map_array(&ebpf, "VLANS")?, map_array(&ebpf, "VLAN_ENTRIES")?)),
                None => None,
            },
            hits: ring(&mut ebpf, "WATCH_HITS")?,
            records: record_ring(&mut ebpf, record_room)?,
            ebpf,
        };
        object.check_sizes(&options.sizes)?;
        object.number_interfaces(&options.interfaces);
        object.write_watchlist(&options.watchlist)?;
        if fresh {
            object.configure(options)?;
        }
        Ok(object)
    }

    /// Applies pools, tunnel endpoints, roles of interfaces, inspection depth and watchlist. Fresh maps get them when
    /// loaded. For pinned maps, into which a program may be counting, the caller decides when; flows of subscribers
    /// whose pool changed are the caller's task, too ([`crate::released_flows`]).
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn configure(&mut self, options: &LoadOptions) -> Result<PoolChange, ObjectError> {
        if options.inspection == InspectionDepth::Watchlist {
            // First the list, so that nothing is compared with another one.
            self.write_watchlist(&options.watchlist)?;
        }
        let settings = self.view().settings;
        settings.inspection.store(options.inspection as u64);
        settings.heuristic.store(options.heuristic.map_or(0, Heuristic::to_bits));
        options.write_shedding(settings);
        settings.one_way.store(u64::from(options.one_way));
        if options.inspection != InspectionDepth::Watchlist {
            self.write_watchlist(&Watchlist::default())?;
        }
        self.write_interfaces(&options.interfaces, &options.pools)?;
        self.write_tunnel_endpoints(&options.tunnel_endpoints)?;
        self.write_pools(&options.pools)
    }

    /// The XDP program.
    ///
    /// # Errors
    /// When the object does not hold it.
    pub fn program(&mut self) -> Result<&mut Xdp, ObjectError> {
        programs::xdp(&mut self.ebpf, PROGRAM)
    }

    /// The kernel's id of the entry program.
    ///
    /// # Errors
    /// When the kernel tells nothing of the program.
    pub fn program_id(&mut self) -> Result<u32, ObjectError> {
        Ok(programs::info(&mut self.ebpf, PROGRAM)?.id())
    }

    /// Pins the table of stages. Without a pin, the kernel empties it as soon as no process has it open
    /// (kernel/bpf/arraymap.c, `prog_array_map_clear`), while the entry program stays attached.
    ///
    /// # Errors
    /// [`PinError`].
    pub fn pin_stages(&self, path: &Path) -> Result<(), PinError> {
        self.ebpf.map(programs::STAGES).map_or(Ok(()), |stages| stages.pin(path))
    }

    /// Every program and the instructions that the verifier processed for it; the entry program is the first.
    ///
    /// # Errors
    /// When the kernel does not tell (before Linux 5.16).
    pub fn verified_instructions(&mut self) -> Result<Vec<(&'static str, u32)>, ObjectError> {
        programs::verified_instructions(&mut self.ebpf)
    }

    /// The object, for its log and other maps.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Another mapping of the settings, for the thread that advances the clock.
    ///
    /// # Errors
    /// When the kernel refuses the mapping.
    pub fn map_settings(&self) -> Result<MappedArray<Settings>, ObjectError> {
        map_array(&self.ebpf, "SETTINGS")
    }

    /// A map of the object.
    ///
    /// # Errors
    /// When the object does not hold it.
    pub fn map(&self, name: &'static str) -> Result<&Map, ObjectError> {
        self.ebpf.map(name).ok_or(ObjectError::MapMissing { name })
    }

    /// Another mapping of the tables, for a thread that reads them while the object's program runs.
    ///
    /// # Errors
    /// When the kernel refuses a mapping.
    pub fn map_tables(&self) -> Result<MappedTables, ObjectError> {
        Ok(MappedTables { interfaces: self.tables.interfaces.clone(), ..MappedTables::new(&self.ebpf)? })
    }

    /// Interfaces with a number: low 16 bits of the index, and the number.
    pub(super) fn interface_numbers(&self) -> &[(u16, u32)] {
        &self.tables.interfaces
    }

    /// The tables.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        self.tables.view()
    }

    /// Frames skipped, by reason, summed over CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn skipped(&self) -> Result<Vec<(Reason, u64)>, ObjectError> {
        Reason::ALL.iter().map(|reason| Ok((*reason, self.per_cpu_sum("SKIPS", *reason as u32)?))).collect()
    }

    /// Events, by kind, summed over CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn events(&self) -> Result<Vec<(KernelEvent, u64)>, ObjectError> {
        KernelEvent::ALL.iter().map(|event| Ok((*event, self.event(*event)?))).collect()
    }

    /// How often an event happened, summed over CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn event(&self, event: KernelEvent) -> Result<u64, ObjectError> {
        self.per_cpu_sum("EVENTS", event as u32)
    }

    /// Flows by the rule that labelled them, summed over CPUs; rules without flows are left out.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn rule_verdicts(&self) -> Result<Vec<(Rule, u64)>, ObjectError> {
        let mut found = Vec::new();
        for rule in Rule::ALL {
            let count = self.per_cpu_sum("RULE_VERDICTS", *rule as u32)?;
            if count > 0 {
                found.push((*rule, count));
            }
        }
        Ok(found)
    }

    /// Packets and bytes that were shed, by interface number, summed over CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn shed(&self) -> Result<Vec<PacketTally>, ObjectError> {
        self.by_interface("SHED", 0)
    }

    /// Packets and bytes in the name of a subscriber who is not there, by reason and interface number, summed over
    /// CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn spoofed(&self) -> Result<Vec<(SpoofReason, Vec<PacketTally>)>, ObjectError> {
        let of = |reason: SpoofReason| Ok((reason, self.by_interface("SPOOFED", spoofed_index(reason, 0))?));
        SpoofReason::ALL.iter().copied().map(of).collect()
    }

    fn by_interface(&self, name: &'static str, first: u32) -> Result<Vec<PacketTally>, ObjectError> {
        let error = |source| ObjectError::Map { name, source };
        let array: PerCpuArray<_, [u64; 2]> = self.map(name)?.try_into().map_err(error)?;
        let of_interface = |number| {
            let of_cpus = array.get(&number, 0).map_err(error)?;
            let sum = of_cpus.iter().fold([0; 2], |sum: [u64; 2], [packets, bytes]| [sum[0] + packets, sum[1] + bytes]);
            Ok(PacketTally { packets: sum[0], bytes: sum[1] })
        };
        (first..first + MAX_INTERFACES as u32).map(of_interface).collect()
    }

    fn per_cpu_sum(&self, name: &'static str, index: u32) -> Result<u64, ObjectError> {
        let error = |source| ObjectError::Map { name, source };
        let array: PerCpuArray<_, u64> = self.map(name)?.try_into().map_err(error)?;
        Ok(array.get(&index, 0).map_err(error)?.iter().sum())
    }

    /// The map of all slots, apart from the object: its program runs while keys are removed.
    ///
    /// # Errors
    /// When the object does not hold the map, or no descriptor is left.
    pub fn slot_index(&self) -> Result<KernelIndex, ObjectError> {
        let name = TALLY_SLOTS;
        let error = |source| ObjectError::Map { name, source };
        let Map::HashMap(data) = self.map(name)? else { return Err(ObjectError::MapMissing { name }) };
        let descriptor = data.fd().as_fd().try_clone_to_owned();
        let descriptor = descriptor.map_err(|source| ObjectError::Mapping { name, source })?;
        let data = MapData::from_fd(descriptor).map_err(error)?;
        Ok(KernelIndex(Map::HashMap(data).try_into().map_err(error)?))
    }

    /// Refuses pinned maps of another capacity: the loader reuses a pin without checking its shape.
    fn check_sizes(&self, sizes: &TableSizes) -> Result<(), ObjectError> {
        let (view, sets, tallies) = (self.view(), sizes.sets() as usize, sizes.tallies as usize);
        for (name, found, wanted) in [
            ("FLOWS", view.flows.len(), sets),
            ("COLD_FLOWS", view.cold.len(), sets),
            ("PEERS", view.peers.len(), sizes.peer_sets() as usize),
            ("TALLIES", view.tallies.len(), tallies),
            ("TALLY_KEYS", view.keys.len(), tallies),
        ] {
            if found != wanted {
                return Err(ObjectError::MapShape { name, found: format!("{found} entries instead of {wanted}") });
            }
        }
        Ok(())
    }

    /// Watchlist hits by subscriber block, protocol and confidence.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn watchlist_tallies(&self) -> Result<Vec<(TallyKey, u64)>, ObjectError> {
        let name = "WATCH_TALLIES";
        let error = |source| ObjectError::Map { name, source };
        let tallies: HashMap<_, [u64; 3], u64> = self.map(name)?.try_into().map_err(error)?;
        let rows = tallies.iter().map(|row| {
            let ([high, low, meta], hits) = row.map_err(error)?;
            Ok((KeyWords { high, low, meta }.into(), hits))
        });
        rows.collect()
    }

    /// Watchlist hits since the last call.
    pub fn watchlist_hits(&mut self) -> Vec<WatchHit> {
        let mut hits = Vec::new();
        // At most one buffer of hits: the program may write as fast as this loop reads.
        while hits.len() < WATCH_BUFFER_HITS
            && let Some(message) = self.hits.next()
        {
            hits.extend(WatchHit::from_bytes(&message));
        }
        hits
    }

    /// Verdict records since the last call, by this agent or one before it.
    pub fn take_records(&mut self) -> Vec<VerdictRecord> {
        let mut records = Vec::new();
        let Some(ring) = &mut self.records else { return records };
        // At most one buffer of them, as for hits.
        while records.len() < MOST_RECORDS
            && let Some(message) = ring.next()
        {
            records.extend(VerdictRecord::from_bytes(&message));
        }
        records
    }

    /// A descriptor of the buffer of verdict records, to wait for it; `None` in an older build.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn record_descriptor(&self) -> io::Result<Option<OwnedFd>> {
        self.records.as_ref().map(|ring| ring.as_fd().try_clone_to_owned()).transpose()
    }

    /// Replaces the list: content that was taken off first, so that the new list has room.
    fn write_watchlist(&mut self, watchlist: &Watchlist) -> Result<(), ObjectError> {
        let name = "WATCHLIST";
        let error = |source| ObjectError::Map { name, source };
        let map = self.ebpf.map_mut(name).ok_or(ObjectError::MapMissing { name })?;
        let mut list: HashMap<_, [u64; 3], u32> = map.try_into().map_err(error)?;
        let wanted: std::collections::HashMap<[u64; 3], u32> =
            watchlist.in_force().map(|(number, entry)| (entry.0, number)).collect();
        let held: Vec<_> = list.iter().filter_map(Result::ok).collect();
        for (entry, number) in &held {
            if wanted.get(entry) != Some(number) {
                list.remove(entry).map_err(error)?;
            }
        }
        let held: std::collections::HashMap<[u64; 3], u32> = held.into_iter().collect();
        for (entry, number) in &wanted {
            if held.get(entry) != Some(number) {
                list.insert(entry, number, 0).map_err(error)?;
            }
        }
        Ok(())
    }

    /// Writes the pools. At any moment, an address is a subscriber as before or as afterwards.
    fn write_pools(&mut self, pools: &[Pool]) -> Result<PoolChange, ObjectError> {
        let name = "POOLS";
        let error = |source| ObjectError::Map { name, source };
        let wanted = keyed_pools(pools);
        let trie = self.trie(name)?;
        let prefix =
            |entry: (Key<[u8; 16]>, u32)| (Address::v6(entry.0.data()), entry.0.prefix_len() as u8, entry.1 as u8);
        let held = trie.iter().map(|entry| entry.map(prefix)).collect::<Result<Vec<_>, _>>().map_err(error)?;
        let change = PoolChange::new(&held, &wanted);
        let key = |address: Address, len: u8| Key::new(u32::from(len), address.bytes());
        let mut trie = self.trie(name)?;
        for (address, len, block_len) in change.insertions() {
            trie.insert(&key(*address, *len), u32::from(*block_len), 0).map_err(error)?;
        }
        for (cell, word) in self.pool_table.values().iter().zip(pool_words(&wanted)) {
            cell.store(word);
        }
        let mut trie = self.trie(name)?;
        for (address, len) in change.removals() {
            trie.remove(&key(*address, *len)).map_err(error)?;
        }
        Ok(change)
    }

    fn write_tunnel_endpoints(&mut self, endpoints: &[IpNet]) -> Result<(), ObjectError> {
        if endpoints.is_empty() && self.ebpf.map("TUNNEL_ENDS").is_none() {
            // An older build, loaded for a measurement.
            return Ok(());
        }
        let entries = keyed(endpoints.iter().map(|prefix| (*prefix, 1)));
        let stale = self.insert_prefixes("TUNNEL_ENDS", &entries)?;
        self.remove_prefixes("TUNNEL_ENDS", &stale)
    }

    /// Inserts prefixes (address, length and value) into a trie; returns the others that it holds.
    fn insert_prefixes(
        &mut self,
        name: &'static str,
        entries: &[(Address, u8, u8)],
    ) -> Result<Vec<Key<[u8; 16]>>, ObjectError> {
        let error = |source| ObjectError::Map { name, source };
        let mut trie = self.trie(name)?;
        let mut stale: Vec<_> = trie.keys().filter_map(Result::ok).collect();
        for (address, prefix_len, value) in entries {
            let key = Key::new(u32::from(*prefix_len), address.bytes());
            trie.insert(&key, u32::from(*value), 0).map_err(error)?;
            stale.retain(|other| other.prefix_len() != key.prefix_len() || other.data() != key.data());
        }
        Ok(stale)
    }

    fn remove_prefixes(&mut self, name: &'static str, keys: &[Key<[u8; 16]>]) -> Result<(), ObjectError> {
        let mut trie = self.trie(name)?;
        keys.iter().try_for_each(|key| trie.remove(key)).map_err(|source| ObjectError::Map { name, source })
    }

    fn trie(&mut self, name: &'static str) -> Result<PrefixTrie<'_>, ObjectError> {
        let map = self.ebpf.map_mut(name).ok_or(ObjectError::MapMissing { name })?;
        map.try_into().map_err(|source| ObjectError::Map { name, source })
    }

    /// Sets the numbers under which interfaces are counted, by the low 16 bits of their indices. They are in the tables
    /// with the next [`Self::write_interfaces`].
    pub(super) fn set_interface_numbers(&mut self, mut numbers: Vec<(u16, u32)>) {
        numbers.sort_by_key(|(_, number)| *number);
        self.tables.interfaces = numbers;
    }

    /// Clears the entries of all interfaces but these.
    pub(super) fn forget_interfaces_except(&self, interfaces: &[MonitoredInterface]) {
        for (index, cell) in (0..=u16::MAX).zip(self.interface_table.values()) {
            if cell.load() != 0 && !interfaces.iter().any(|interface| interface.index as u16 == index) {
                cell.store(0);
            }
        }
    }

    /// Whether something was counted under an interface number, or a flow will be.
    pub(super) fn counted_under(&self, number: u32) -> bool {
        let view = self.view();
        let node = view.node.chunks_exact(NODE_ENTRIES_PER_INTERFACE).nth(number as usize).unwrap_or_default();
        let node = node.iter().any(|tally| tally.packets.load() != 0 || tally.flows.load() != 0);
        let of_flow =
            |state: FlowState| [true, false].map(|side| state.interface(side).shared_number()).contains(&number);
        let mut states = view.flows.iter().flat_map(|set| &set.states).map(|state| FlowState(state.load()));
        let shed = || self.shed().is_ok_and(|shed| shed[number as usize] == PacketTally::default());
        let clean = |tallies: &[PacketTally]| tallies[number as usize] == PacketTally::default();
        let spoofed = || self.spoofed().is_ok_and(|rows| rows.iter().all(|(_, tallies)| clean(tallies)));
        node || states.any(|state| state != FlowState(0) && of_flow(state)) || !shed() || !spoofed()
    }

    /// What the tables of interfaces hold.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub(super) fn save_interfaces(&mut self) -> Result<SavedInterfaces, ObjectError> {
        let words = |map: &MappedArray<SharedU64>| map.values().iter().map(SharedU64::load).collect();
        let name = PREFIX_SETS;
        let sets = match self.sets()? {
            Some(sets) => sets.iter().collect::<Result<_, _>>().map_err(|source| ObjectError::Map { name, source })?,
            None => Vec::new(),
        };
        Ok(SavedInterfaces {
            numbers: self.tables.interfaces.clone(),
            interfaces: words(&self.interface_table),
            vlans: self.vlan_tables.as_ref().map(|(cells, entries)| (words(cells), words(entries))),
            sets,
        })
    }

    /// Writes back what the tables of interfaces held.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub(super) fn restore_interfaces(&mut self, saved: &SavedInterfaces) -> Result<(), ObjectError> {
        let name = PREFIX_SETS;
        let error = |source| ObjectError::Map { name, source };
        let write = |map: &MappedArray<SharedU64>, words: &[u64]| {
            map.values()
                .iter()
                .zip(words)
                .filter(|(cell, word)| cell.load() != **word)
                .for_each(|(cell, word)| cell.store(*word));
        };
        if let Some(mut sets) = self.sets()? {
            for (key, value) in &saved.sets {
                sets.insert(key, value, 0).map_err(error)?;
            }
        }
        if let (Some((cells, entries)), Some((old_cells, old_entries))) = (&self.vlan_tables, &saved.vlans) {
            write(entries, old_entries);
            write(cells, old_cells);
        }
        write(&self.interface_table, &saved.interfaces);
        self.tables.interfaces.clone_from(&saved.numbers);
        if let Some(mut sets) = self.sets()? {
            let known = |key: &Key<[u8; 20]>| {
                saved.sets.iter().any(|(other, _)| other.prefix_len() == key.prefix_len() && other.data() == key.data())
            };
            let stale: Vec<_> = sets.keys().filter_map(Result::ok).filter(|key| !known(key)).collect();
            stale.iter().try_for_each(|key| sets.remove(key)).map_err(error)?;
        }
        Ok(())
    }

    /// Assigns the numbers under which interfaces are counted. Interfaces of earlier runs keep theirs, because pinned
    /// counters use them.
    fn number_interfaces(&mut self, interfaces: &[MonitoredInterface]) {
        let entries = self.interface_table.values();
        let known =
            (0..=u16::MAX).zip(entries).filter_map(|(low, entry)| Some((low, InterfaceEntry(entry.load()).number()?)));
        let mut known: Vec<(u16, u32)> = known.collect();
        for interface in interfaces {
            let low = interface.index as u16;
            if known.iter().any(|(other, _)| *other == low) {
                continue;
            }
            let free = |number: &u32| known.iter().all(|(_, other)| other != number);
            // If all numbers are in use, it counts under the last one, as `other`.
            let Some(number) = (0..MAX_MONITORED_INTERFACES as u32).find(free) else { break };
            entries[usize::from(low)].store(InterfaceEntry::new(number).0);
            known.push((low, number));
        }
        known.sort_by_key(|(_, number)| *number);
        self.tables.interfaces = known;
    }

    /// Sets role, realm and allowed prefixes of the interfaces and their VLANs. Interfaces that are no longer
    /// configured may still be attached: their entries stay, but allow all prefixes, and hold for all VLANs.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn write_interfaces(&mut self, interfaces: &[MonitoredInterface], pools: &[Pool]) -> Result<(), ObjectError> {
        let tables = InterfaceTables::new(interfaces, pools);
        let stale = self.insert_sets(&tables.prefixes)?;
        if let Some((words, entries)) = &self.vlan_tables {
            entries.values().iter().zip(&tables.vlan_entries).for_each(|(cell, entry)| cell.store(entry.0));
            let number = |index| {
                let found = self.tables.interfaces.iter().find(|(other, _)| *other == index);
                found.map(|(_, number)| *number)
            };
            for (cell, word) in words.values().iter().zip(tables.vlan_words(number)) {
                if cell.load() != word {
                    cell.store(word);
                }
            }
        }
        for (index, cell) in (0..=u16::MAX).zip(self.interface_table.values()) {
            let before = InterfaceEntry(cell.load());
            let found = tables.entries.iter().find(|(other, _)| *other == index);
            let entry = found.map_or(before.with_prefix_set(0).with_vlans(false), |(_, entry)| {
                let number = self.tables.interfaces.iter().find(|(other, _)| *other == index);
                entry.with_number_of(number.map_or(InterfaceEntry(0), |(_, number)| InterfaceEntry::new(*number)))
            });
            if entry != before {
                cell.store(entry.0);
            }
        }
        let name = PREFIX_SETS;
        let Some(mut sets) = self.sets()? else { return Ok(()) };
        stale.iter().try_for_each(|key| sets.remove(key)).map_err(|source| ObjectError::Map { name, source })
    }

    /// Inserts prefixes of sets; returns the others that there are.
    fn insert_sets(&mut self, prefixes: &[SetPrefix]) -> Result<Vec<Key<[u8; 20]>>, ObjectError> {
        let name = PREFIX_SETS;
        let error = |source| ObjectError::Map { name, source };
        let Some(mut sets) = self.sets()? else { return Ok(Vec::new()) };
        let mut stale: Vec<_> = sets.keys().filter_map(Result::ok).collect();
        for (set, address, len, value) in prefixes {
            let mut data = [0; 20];
            data[..4].copy_from_slice(&set.to_be_bytes());
            data[4..].copy_from_slice(&address.bytes());
            let key = Key::new(32 + u32::from(*len), data);
            sets.insert(&key, value, 0).map_err(error)?;
            stale.retain(|other| other.prefix_len() != key.prefix_len() || other.data() != key.data());
        }
        Ok(stale)
    }

    /// The sets of prefixes; `None` in an older build, loaded for a measurement.
    fn sets(&mut self) -> Result<Option<SetTrie<'_>>, ObjectError> {
        let Some(map) = self.ebpf.map_mut(PREFIX_SETS) else { return Ok(None) };
        map.try_into().map(Some).map_err(|source| ObjectError::Map { name: PREFIX_SETS, source })
    }
}

/// Name of the map of all slots.
const TALLY_SLOTS: &str = "TALLY_SLOTS";

/// The map of all slots, by the words of a key.
pub struct KernelIndex(HashMap<MapData, [u64; 3], u64>);

impl SlotIndex for KernelIndex {
    fn remove(&mut self, key: &KeyWords, slot: u32) -> Result<(), ObjectError> {
        let error = |source| ObjectError::Map { name: TALLY_SLOTS, source };
        let words = [key.high, key.low, key.meta];
        match self.0.get(&words, 0) {
            // Only the agent removes keys, so this one keeps its slot until then.
            Ok(checked_slot) if checked_slot as u32 == slot => self.0.remove(&words).map_err(error),
            Ok(_) | Err(MapError::KeyNotFound) => Ok(()),
            Err(source) => Err(error(source)),
        }
    }
}

/// What the tables of interfaces held at a time.
pub(super) struct SavedInterfaces {
    numbers: Vec<(u16, u32)>,
    interfaces: Vec<u64>,
    vlans: Option<(Vec<u64>, Vec<u64>)>,
    sets: Vec<(Key<[u8; 20]>, u32)>,
}

/// Name of the map of sets of prefixes.
const PREFIX_SETS: &str = "PREFIX_SETS";

/// The sets of prefixes, as the program keys them.
type SetTrie<'a> = LpmTrie<&'a mut MapData, [u8; 20], u32>;

/// A trie of prefixes, as the program keys them.
type PrefixTrie<'a> = LpmTrie<&'a mut MapData, [u8; 16], u32>;

/// Messages that the ring buffer of watchlist hits holds: each takes its own bytes and eight of the buffer's.
const WATCH_BUFFER_HITS: usize = WATCH_BUFFER_BYTES as usize / (size_of::<WatchHit>() + 8);

/// Verdict records that are read at a time; the largest buffer holds as many.
const MOST_RECORDS: usize = RECORD_BYTES_MAX as usize / (RECORD_BYTES + 8);

fn ring(ebpf: &mut Ebpf, name: &'static str) -> Result<RingBuf<MapData>, ObjectError> {
    let map = ebpf.take_map(name).ok_or(ObjectError::MapMissing { name })?;
    RingBuf::try_from(map).map_err(|source| ObjectError::Map { name, source })
}

/// The ring buffer of verdict records. A pinned one of another size is refused.
fn record_ring(ebpf: &mut Ebpf, room: u32) -> Result<Option<RingBuf<MapData>>, ObjectError> {
    let error = |source| ObjectError::Map { name: RECORDS, source };
    let Some(map) = ebpf.map(RECORDS) else { return Ok(None) };
    let Map::RingBuf(data) = map else { return Err(ObjectError::MapMissing { name: RECORDS }) };
    let found = data.info().map_err(error)?.max_entries();
    if found != room {
        return Err(ObjectError::MapShape { name: RECORDS, found: format!("{found} bytes instead of {room}") });
    }
    ring(ebpf, RECORDS).map(Some)
}

/// Fills the settings of fresh maps; `false` when they were filled before, by an earlier run whose program may be
/// counting.
fn initialise(tables: &mut MappedTables, options: &LoadOptions) -> Result<bool, ObjectError> {
    if tables.view().settings.slots != 0 {
        return Ok(false);
    }
    // An older build, loaded for a measurement, has no ring.
    options.sizes.fill_ring(tables.view().free_slots);
    let settings = &mut tables.settings.values_mut()[0];
    settings.seed = match options.seed {
        Some(seed) => seed,
        None => {
            let random = || getrandom::u64().map_err(ObjectError::Random);
            Seed::from_random([random()?, random()?, random()?])
        }
    };
    options.sizes.fill(settings);
    tables.keys.values()[0].write(Some(&KeyWords::CATCH_ALL));
    Ok(true)
}
