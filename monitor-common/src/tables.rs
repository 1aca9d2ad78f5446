//! Tables in BPF maps: layout, look-up and replacement of each. The engine decides who may write, and when.

use crate::{abi::limits::CLOCK_SKEW_SECONDS, bpf::branchless::neg};

pub mod context;
pub mod conversation;
pub mod flow_table;
pub mod maps;
pub mod peer_cache;
pub mod pool_table;
pub mod progress;
pub mod reassembly;
pub mod slot_ring;
pub mod streams;
pub mod tally_cache;
pub mod token_bucket;
pub mod vlan_table;

/// Seconds since `second`, both of 16 bits; 0 if `second` is ahead by no more than the clocks of two CPUs differ.
#[inline(always)]
const fn age_s(now_s: u64, second: u16) -> u16 {
    let age = (now_s as u16).wrapping_sub(second);
    if age >= 0u16.wrapping_sub(CLOCK_SKEW_SECONDS) { 0 } else { age }
}

/// [`age_s`] for seconds of 21 bits, without a branch.
#[inline(always)]
fn age_21_s(now_s: u64, second: u32) -> u32 {
    const BITS: u32 = 21;
    let age = (now_s as u32).wrapping_sub(second) & ((1 << BITS) - 1);
    // The addition carries into the bit above.
    age & !neg(u64::from(age + CLOCK_SKEW_SECONDS as u32) >> BITS) as u32
}
