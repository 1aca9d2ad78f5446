//! Batch map calls (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6) over a hash map: the cost of a drain without mapped memory. aya
//! has no batch calls.
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper for batch calls")]

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::{Ebpf, EbpfLoader, maps::Map};

use crate::clock::cpu_time;

/// Entries per call: enough to make the cost of the call itself negligible.
const BATCH: usize = 1 << 16;
/// `include/uapi/linux/bpf.h`, `enum bpf_cmd`.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
/// `include/uapi/linux/bpf.h`, `enum bpf_cmd`.
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// A hash map of tallies: keys of 24 and values of 48 bytes, as the shipped object's.
pub(crate) struct Hash {
    _object: Ebpf,
    descriptor: u32,
    keys: Vec<[u64; 3]>,
    values: Vec<[u64; 6]>,
    entries: usize,
}

impl Hash {
    /// A map of the benchmark object with `entries` entries.
    pub(crate) fn new(object: &Path, entries: u32) -> Result<Self> {
        let bytes = fs::read(object).with_context(|| format!("reading {}", object.display()))?;
        let object = EbpfLoader::new()
            .map_max_entries("DRAINED", entries)
            .load(&bytes)
            .context("loading the benchmark object")?;
        let Some(Map::HashMap(data)) = object.map("DRAINED") else { anyhow::bail!("no map DRAINED") };
        let descriptor = data.fd().as_fd().as_raw_fd() as u32;
        let entries = entries as usize;
        let mut hash =
            Self { _object: object, descriptor, keys: vec![[0; 3]; BATCH], values: vec![[1; 6]; BATCH], entries };
        let mut next = 0;
        while next < entries {
            let count = BATCH.min(entries - next);
            for (offset, key) in hash.keys[..count].iter_mut().enumerate() {
                *key = [0, 0x6440_0000 + (next + offset) as u64, 2];
            }
            let (done, result) = hash.call(BPF_MAP_UPDATE_BATCH, count, 0, 0);
            result.context("BPF_MAP_UPDATE_BATCH")?;
            ensure!(done == count, "only {done} of {count} entries written");
            next += count;
        }
        Ok(hash)
    }

    /// Reads every entry; the CPU time that took, and the sum of the first counters.
    pub(crate) fn drain(&mut self) -> Result<(Duration, u64)> {
        let start = cpu_time();
        let (mut position, mut sum, mut entries) = (0u32, 0, 0);
        loop {
            let previous = position;
            let input = if entries == 0 { 0 } else { &raw const previous as u64 };
            let (count, result) = self.call(BPF_MAP_LOOKUP_BATCH, BATCH, input, &raw mut position as u64);
            sum += self.values[..count].iter().map(|value| value[0]).sum::<u64>();
            entries += count;
            match result {
                Ok(()) => {}
                // The end of the map.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
                Err(error) => return Err(error).context("BPF_MAP_LOOKUP_BATCH"),
            }
        }
        let took = cpu_time() - start;
        ensure!(entries == self.entries, "read {entries} of {} entries", self.entries);
        Ok((took, sum))
    }

    /// One call; the entries it did and its result.
    fn call(&mut self, command: libc::c_long, count: usize, in_batch: u64, out_batch: u64) -> (usize, io::Result<()>) {
        let mut attributes = Attributes {
            in_batch,
            out_batch,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: count as u32,
            map_fd: self.descriptor,
            ..Attributes::default()
        };
        // SAFETY: `attributes` is the kernel's structure of that size; keys and values have room for `count` <= BATCH
        // entries of the map's sizes, and a hash map's position is the 32-bit number that `in_batch` and `out_batch`
        // point to.
        let status = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attributes, size_of::<Attributes>()) };
        let result = if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        (attributes.count as usize, result)
    }
}
