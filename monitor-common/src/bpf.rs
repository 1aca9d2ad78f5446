//! Helpers for the BPF target: shared counters, arithmetic without branches, barriers. Knows nothing of packets or
//! protocols.

pub(crate) mod barrier;
pub mod branchless;
pub mod shared_u64;
