//! The tables of a loaded object, mapped into memory: what a drain reads.

use aya::Ebpf;
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
    mapped::{MappedArray, map_array},
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
        let reuses = ebpf.map("FREE_SLOTS").is_some();
        Ok(Self {
            tally_cache: reuses.then(|| map_array(ebpf, "TALLY_CACHE")).transpose()?,
            free_slots: reuses.then(|| map_array(ebpf, "FREE_SLOTS")).transpose()?,
            settings: map_array(ebpf, "SETTINGS")?,
            flows: map_array(ebpf, "FLOWS")?,
            cold: map_array(ebpf, "COLD_FLOWS")?,
            peers: map_array(ebpf, "PEERS")?,
            reassembly: map_array(ebpf, "REASSEMBLY")?,
            tallies: map_array(ebpf, "TALLIES")?,
            keys: map_array(ebpf, "TALLY_KEYS")?,
            node: map_array(ebpf, "NODE")?,
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
