//! Tables in BPF maps: layout, look-up and replacement of each. The engine decides who may write, and when.

pub mod flow_table;
pub mod maps;
pub mod peer_cache;
pub mod pool_table;
pub mod reassembly;
pub mod tally_cache;
