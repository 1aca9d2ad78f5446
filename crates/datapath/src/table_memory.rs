//! Memory of each table in the kernel, before anything is loaded.
//!
//! The tables come from the built-in object with the capacities that [`TableSizes`] gives them, so a new table is
//! included by itself. The layouts are those of kernel/bpf/{arraymap,hashtab,lpm_trie}.c, `map_mem_usage` of each; a
//! test compares the results with the kernel's own numbers.

use aya::util::nr_cpus;
use aya_obj::Object;
use serde::Serialize;

pub use aya_obj::ParseError;

use crate::{
    TableSizes,
    object::OBJECT,
    table_sizes::{record_room, watchlist_room},
};

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Bytes of a hash table's element in addition to key and value (`struct htab_elem`).
const HASH_ELEMENT: u64 = 48;
/// A hash table's bucket (`struct bucket`).
const HASH_BUCKET: u64 = 16;
/// A trie's node without its key's address and its value (`struct lpm_trie_node`).
const TRIE_NODE: u64 = 40;

/// Shape and memory of one table in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableMemory {
    /// Name in the object.
    pub name: String,
    /// The kernel's number of its type (`enum bpf_map_type`).
    #[serde(skip)]
    pub map_type: u32,
    /// Bytes of a key.
    #[serde(skip)]
    pub key_bytes: u32,
    /// Bytes of a value.
    #[serde(skip)]
    pub value_bytes: u32,
    /// Entries it has room for.
    pub entries: u32,
    /// Bytes it takes.
    pub bytes: u64,
}

/// The tables of the object with these sizes, `watched` entries of a watchlist and room for `record_bytes` of verdict
/// records, largest first.
///
/// # Errors
/// [`ParseError`] when the built-in object cannot be read.
pub fn tables(sizes: &TableSizes, watched: u32, record_bytes: u32) -> Result<Vec<TableMemory>, ParseError> {
    let object = Object::parse(OBJECT)?;
    let by_options = [("WATCHLIST", watchlist_room(watched as usize)), ("VERDICT_RECORDS", record_room(record_bytes))];
    let sized = [&sizes.entries()[..], &by_options].concat();
    let cpus = nr_cpus().map_or(1, |cpus| cpus as u64);
    let mut tables: Vec<TableMemory> = object
        .maps
        .iter()
        .map(|(name, map)| {
            let entries =
                sized.iter().find(|(sized, _)| sized == name).map_or(map.max_entries(), |(_, entries)| *entries);
            let (map_type, key_bytes, value_bytes) = (map.map_type(), map.key_size(), map.value_size());
            let bytes = bytes(map_type, map.map_flags(), [key_bytes, value_bytes, entries].map(u64::from), cpus);
            TableMemory { name: name.clone(), map_type, key_bytes, value_bytes, entries, bytes }
        })
        .collect();
    tables.sort_by(|left, right| right.bytes.cmp(&left.bytes).then_with(|| left.name.cmp(&right.name)));
    Ok(tables)
}

/// Types of `enum bpf_map_type`, include/uapi/linux/bpf.h.
mod map_type {
    pub(super) const HASH: u32 = 1;
    pub(super) const ARRAY: u32 = 2;
    pub(super) const PERCPU_ARRAY: u32 = 6;
    pub(super) const LPM_TRIE: u32 = 11;
    pub(super) const RINGBUF: u32 = 27;
}

/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// Bytes of a table with keys, values and entries as given.
fn bytes(kind: u32, flags: u32, [key, value, entries]: [u64; 3], cpus: u64) -> u64 {
    let (key, value) = (key.next_multiple_of(8), value.next_multiple_of(8));
    match kind {
        map_type::ARRAY if flags & MMAPABLE != 0 => PAGE + (value * entries).next_multiple_of(PAGE),
        map_type::ARRAY => value * entries,
        map_type::PERCPU_ARRAY => (8 + value * cpus) * entries,
        map_type::HASH => (HASH_ELEMENT + key + value) * (entries + cpus) + HASH_BUCKET * entries.next_power_of_two(),
        // The kernel adds nodes with the prefixes: at most two for each.
        map_type::LPM_TRIE => (TRIE_NODE + key + value) * 2 * entries,
        map_type::RINGBUF => entries + 3 * PAGE,
        _ => (key + value) * entries,
    }
}
