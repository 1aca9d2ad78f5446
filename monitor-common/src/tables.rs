//! Tables in BPF maps: layout, look-up and replacement of each. The engine decides who may write, and when.

pub mod peer_cache;
pub mod reassembly;
