//! Hostile and crowded traffic: totals stay exact, verdicts stay with their flows, and every refusal is counted.
//!
//! Each scenario runs through the shared source on the host and through the shipped program in the kernel.

mod flood;
mod flush;
mod frames;
mod full;
mod hash;
mod path;

use monitor_common::abi::key::Seed;

/// A seed that means nothing.
const SEED: Seed = Seed::from_random([0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0]);

/// A xorshift generator: equal numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
