//! The agent's mappings of a loaded object's tables, apart from the object: its program runs while they are read.

use anyhow::Result;
use monitor_common::bpf::shared_u64::SharedU64;
use peertally_datapath::{mapped::MappedArray, mapped_tables::MappedTables, object::LoadedObject, view::View};

/// See the module.
pub struct Tables {
    tables: MappedTables,
    replay: MappedArray<SharedU64>,
}

impl Tables {
    /// Maps them.
    ///
    /// # Errors
    /// When the kernel refuses a mapping.
    pub fn new(object: &LoadedObject) -> Result<Self> {
        Ok(Self { tables: object.map_tables()?, replay: MappedArray::new("REPLAY", object.map("REPLAY")?)? })
    }

    /// The tables as slices.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        self.tables.view()
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
