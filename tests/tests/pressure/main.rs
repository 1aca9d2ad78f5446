//! Hostile and crowded traffic: totals stay exact, verdicts stay with their flows, and every refusal is counted.
//!
//! Each scenario runs through the shared source on the host and through the shipped program in the kernel.

mod flood;
mod flush;
mod frames;
mod full;
mod hash;
mod path;

use peertally_tests::{both_datapaths::SEED, random::Random};
