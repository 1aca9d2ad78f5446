//! The agent's mappings of a loaded object's tables, apart from the object: its program runs while they are read.

use anyhow::Result;
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
    },
};
use peertally_datapath::{mapped::MappedArray, object::LoadedObject, view::View};

/// See the module.
pub struct Tables {
    settings: MappedArray<Settings>,
    flows: MappedArray<FlowSet>,
    cold: MappedArray<ColdSet>,
    peers: MappedArray<PeerSet>,
    reassembly: MappedArray<ReassemblySlot>,
    tallies: MappedArray<Tally>,
    keys: MappedArray<SlotKey>,
    node: MappedArray<NodeTally>,
    replay: MappedArray<SharedU64>,
    interfaces: Vec<(u16, u32)>,
}

impl Tables {
    /// Maps them.
    ///
    /// # Errors
    /// When the kernel refuses a mapping.
    pub fn new(object: &LoadedObject) -> Result<Self> {
        Ok(Self {
            settings: object.map_settings()?,
            flows: MappedArray::new("FLOWS", object.map("FLOWS")?)?,
            cold: MappedArray::new("COLD_FLOWS", object.map("COLD_FLOWS")?)?,
            peers: MappedArray::new("PEERS", object.map("PEERS")?)?,
            reassembly: MappedArray::new("REASSEMBLY", object.map("REASSEMBLY")?)?,
            tallies: MappedArray::new("TALLIES", object.map("TALLIES")?)?,
            keys: MappedArray::new("TALLY_KEYS", object.map("TALLY_KEYS")?)?,
            node: MappedArray::new("NODE", object.map("NODE")?)?,
            replay: MappedArray::new("REPLAY", object.map("REPLAY")?)?,
            interfaces: object.view().interfaces.to_vec(),
        })
    }

    /// As what an object shows itself.
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
            node: self.node.values(),
            interfaces: &self.interfaces,
        }
    }

    /// The clock of an object that is loaded for replaying.
    #[must_use]
    pub fn clock(&self) -> &SharedU64 {
        &self.view().settings.clock_s
    }

    /// Has an object that is loaded for replaying take each frame for one of so many bytes, or as many as it has.
    pub fn replay_wire_len(&self, bytes: u64) {
        self.replay.values()[0].store(bytes);
    }
}
