//! Tables in BPF maps: layout, look-up and replacement of each. The engine decides who may write, and when.

use crate::abi;

pub mod context;
pub mod flow_table;
pub mod maps;
pub mod peer_cache;
pub mod pool_table;
pub mod reassembly;
pub mod tally_cache;

/// Seconds since `second`, both of 16 bits; 0 if the clocks of two CPUs are a moment apart.
#[inline(always)]
const fn age_s(now_s: u64, second: u16) -> u16 {
    let age = (now_s as u16).wrapping_sub(second);
    if age >= abi::limits::CLOCK_SKEW_AGE { 0 } else { age }
}
