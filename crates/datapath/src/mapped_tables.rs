//! The tables of a loaded object, mapped into memory: what a drain reads.

use std::path::Path;

use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use monitor_common::{
    abi::{
        settings::Settings,
        tally::{NodeTally, SlotKey, Tally},
    },
    bpf::shared_u64::SharedU64,
    tables::{
        flow_table::{ColdSet, FlowSet},
        peer_cache::PeerSet,
        reassembly::ReassemblySlot,
        tally_cache::TallyLine,
    },
};

use super::{
    error::ObjectError,
    mapped::{MappedArray, MappedValue, map_array},
    view::View,
};

/// The tables of a [`View`]. They stay valid without the object that they were mapped from.
pub struct MappedTables {
    pub(super) settings: MappedArray<Settings>,
    pub(super) flows: MappedArray<FlowSet>,
    pub(super) cold: MappedArray<ColdSet>,
    pub(super) peers: MappedArray<PeerSet>,
    pub(super) reassembly: MappedArray<ReassemblySlot>,
    pub(super) tallies: MappedArray<Tally>,
    pub(super) keys: MappedArray<SlotKey>,
    /// Not in an older build, loaded for a measurement.
    pub(super) tally_cache: Option<MappedArray<TallyLine>>,
    /// As for the tally cache.
    pub(super) free_slots: Option<MappedArray<SharedU64>>,
    pub(super) node: MappedArray<NodeTally>,
    /// Interfaces with a number: low 16 bits of the index, and the number.
    pub(super) interfaces: Vec<(u16, u32)>,
}

impl MappedTables {
    /// Maps the tables of an object. No interface has a number yet.
    ///
    /// # Errors
    /// When the object lacks a map, or the kernel refuses a mapping.
    pub(super) fn new(ebpf: &Ebpf) -> Result<Self, ObjectError> {
        Self::of(&Source::Object(ebpf))
    }

    /// Maps the tables that are pinned in a folder.
    ///
    /// # Errors
    /// When a pin is missing or has another shape, or the kernel refuses a mapping.
    pub(super) fn pinned(folder: &Path) -> Result<Self, ObjectError> {
        Self::of(&Source::Pins(folder))
    }

    fn of(source: &Source<'_>) -> Result<Self, ObjectError> {
        let reuses = source.has("FREE_SLOTS");
        Ok(Self {
            tally_cache: reuses.then(|| source.array("TALLY_CACHE")).transpose()?,
            free_slots: reuses.then(|| source.array("FREE_SLOTS")).transpose()?,
            settings: source.array("SETTINGS")?,
            flows: source.array("FLOWS")?,
            cold: source.array("COLD_FLOWS")?,
            peers: source.array("PEERS")?,
            reassembly: source.array("REASSEMBLY")?,
            tallies: source.array("TALLIES")?,
            keys: source.array("TALLY_KEYS")?,
            node: source.array("NODE")?,
            interfaces: Vec::new(),
        })
    }

    /// The tables as slices.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View {
            settings: &self.settings.values()[0],
            flows: self.flows.values(),
            cold: self.cold.values(),
            peers: self.peers.values(),
            reassembly: self.reassembly.values(),
            tallies: self.tallies.values(),
            keys: self.keys.values(),
            tally_cache: self.tally_cache.as_ref().map_or(&[], MappedArray::values),
            free_slots: self.free_slots.as_ref().map_or(&[], MappedArray::values),
            node: self.node.values(),
        }
    }
}

/// Where tables are found.
enum Source<'a> {
    Object(&'a Ebpf),
    Pins(&'a Path),
}

impl Source<'_> {
    fn has(&self, name: &str) -> bool {
        match self {
            Self::Object(ebpf) => ebpf.map(name).is_some(),
            Self::Pins(folder) => folder.join(name).exists(),
        }
    }

    fn array<T: MappedValue>(&self, name: &'static str) -> Result<MappedArray<T>, ObjectError> {
        match self {
            Self::Object(ebpf) => map_array(ebpf, name),
            Self::Pins(folder) => {
                let error = |source| ObjectError::Map { name, source };
                let map = MapData::from_pin(folder.join(name)).and_then(Map::from_map_data).map_err(error)?;
                MappedArray::new(name, &map)
            }
        }
    }
}
