//! `peertally plan` must give the sizes that the kernel reports for the loaded tables.

use std::{collections::BTreeMap, fs};

use peertally_datapath::{
    TableSizes,
    object::{LoadOptions, LoadedObject},
    table_memory::tables,
};
use peertally_tests::kernel::{load_options, may_use_kernel};

/// Type, key size, value size and entries, which identify a table.
type Shape = [u64; 4];

/// `BPF_MAP_TYPE_LPM_TRIE`: takes memory as it is filled, and the plan is for a full one.
const LPM_TRIE: u64 = 11;

/// Memory of this process's maps, from `/proc/self/fdinfo` (kernel/bpf/syscall.c, `bpf_map_show_fdinfo`).
fn of_kernel() -> BTreeMap<Shape, Vec<u64>> {
    let mut found: BTreeMap<Shape, BTreeMap<u64, u64>> = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fdinfo").expect("descriptors").flatten() {
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
            line.and_then(|value| value.trim().parse::<u64>().ok())
        };
        let shape = ["map_type", "key_size", "value_size", "max_entries"].map(field);
        let ([Some(kind), Some(key), Some(value), Some(entries)], Some(id), Some(bytes)) =
            (shape, field("map_id"), field("memlock"))
        else {
            continue;
        };
        // A map may be open more than once.
        found.entry([kind, key, value, entries]).or_default().insert(id, bytes);
    }
    found.into_iter().map(|(shape, by_id)| (shape, by_id.into_values().collect())).collect()
}

#[test]
fn the_plan_is_what_the_kernel_takes() {
    if !may_use_kernel("plan").expect("rights") {
        return;
    }
    let sizes = TableSizes { flows: 1 << 14, tallies: 20_000, peers: 1 << 12 };
    let options = LoadOptions { sizes, interfaces: Vec::new(), ..load_options() };
    let planned = tables(&sizes, 0, options.record_bytes).expect("the object");
    let _object = LoadedObject::load(&options).expect("loads");
    let taken = of_kernel();
    let mut compared = 0;
    for (shape, bytes) in &taken {
        // The loader's own probes of what the kernel can do are gone by now; every map that is open is the object's.
        let same = planned.iter().filter(|table| {
            [table.map_type, table.key_bytes, table.value_bytes, table.entries].map(u64::from) == *shape
        });
        let same: Vec<_> = same.collect();
        assert_eq!(same.len(), bytes.len(), "tables of shape {shape:?} in the plan and in the kernel");
        let (said, is): (u64, u64) = (same.iter().map(|table| table.bytes).sum(), bytes.iter().sum());
        let names: Vec<&str> = same.iter().map(|table| &*table.name).collect();
        if shape[0] == LPM_TRIE {
            assert!(is <= said, "{names:?}: {is} bytes, planned {said}");
        } else {
            // Small structures of the kernel are left out: two pages for each table.
            let off = said.abs_diff(is);
            assert!(off <= 8192 * bytes.len() as u64 + is / 50, "{names:?}: {is} bytes, planned {said}");
        }
        compared += bytes.len();
    }
    assert!(compared >= 10, "only {compared} tables are open: {taken:?}");
}
