//! What the BPF target lacks: shared counters and arithmetic without branches. Knows nothing of packets or protocols.

pub mod branchless;
pub mod shared_u64;
