//! Memory mappings of the BPF array maps (`BPF_F_MMAPABLE`): the agent reads a million tallies without a system call.
#![expect(unsafe_code, reason = "memory mappings of kernel memory are the purpose of this file")]

use std::{marker::PhantomData, os::fd::AsRawFd as _};

use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use memmap2::{MmapOptions, MmapRaw};
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

use super::error::ObjectError;

mod sealed {
    pub trait MappedValue {}
}

/// Types that consist of [`SharedU64`]s (or of integers written before the program runs), so that a shared reference to
/// kernel memory of that type is sound whatever another CPU writes.
pub trait MappedValue: sealed::MappedValue {}

macro_rules! shared {
    ($($type:ty),*) => { $(impl sealed::MappedValue for $type {} impl MappedValue for $type {})* };
}
shared!(Settings, FlowSet, ColdSet, PeerSet, ReassemblySlot, Tally, SlotKey, TallyLine, NodeTally, SharedU64);

/// Maps an array map of an object into memory.
///
/// # Errors
/// When the object does not hold it, or the kernel refuses the mapping.
pub(super) fn map_array<T: MappedValue>(ebpf: &Ebpf, name: &'static str) -> Result<MappedArray<T>, ObjectError> {
    MappedArray::new(name, ebpf.map(name).ok_or(ObjectError::MapMissing { name })?)
}

/// An array map as a slice.
#[derive(Debug)]
pub struct MappedArray<T> {
    mapping: MmapRaw,
    length: usize,
    element: PhantomData<T>,
}

// SAFETY: the mapping is owned, and `T: MappedValue` is only cells and integers that any thread may read.
unsafe impl<T: MappedValue> Send for MappedArray<T> {}
// SAFETY: as above.
unsafe impl<T: MappedValue> Sync for MappedArray<T> {}

impl<T: MappedValue> MappedArray<T> {
    /// Maps an array map whose values are `T`.
    ///
    /// # Errors
    /// When the map is no array of that value size, or the kernel refuses the mapping.
    pub fn new(name: &'static str, map: &Map) -> Result<Self, ObjectError> {
        let Map::Array(data) = map else { return Err(ObjectError::MapMissing { name }) };
        let info = data.info().map_err(|source| ObjectError::Map { name, source })?;
        if info.value_size() as usize != size_of::<T>() {
            return Err(ObjectError::MapShape { name, found: format!("values of {} bytes", info.value_size()) });
        }
        let length = info.max_entries() as usize;
        let mapping = map_memory(name, data, length * size_of::<T>())?;
        Ok(Self { mapping, length, element: PhantomData })
    }

    /// The values.
    #[must_use]
    pub fn values(&self) -> &[T] {
        // SAFETY: the mapping holds `length` values of `T` (checked in `new`), is page-aligned (array maps start at a
        // page when mapped: kernel/bpf/arraymap.c array_map_mmap) and lives as long as `self`; `T: MappedValue` allows
        // other writers.
        unsafe { std::slice::from_raw_parts(self.mapping.as_ptr().cast::<T>(), self.length) }
    }

    /// The values, to be written before any program uses the map.
    pub(super) fn values_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `values`; the caller holds the only handle, and no program is attached yet.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.as_mut_ptr().cast::<T>(), self.length) }
    }
}

fn map_memory(name: &'static str, data: &MapData, bytes: usize) -> Result<MmapRaw, ObjectError> {
    let descriptor = data.fd();
    let descriptor = std::os::fd::AsFd::as_fd(descriptor).as_raw_fd();
    MmapOptions::new().len(bytes).map_raw(descriptor).map_err(|source| ObjectError::Mapping { name, source })
}
