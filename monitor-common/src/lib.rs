//! Header walk, classification and flow accounting, shared by the XDP program and the host.
//!
//! Nothing here does I/O, reads a clock, allocates or logs. The kernel's packet memory and maps are reached through two
//! small traits, [`packet::Packet`] and `store::Store`; tests, replay and fuzzers implement them over plain memory.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics), allow(internal_features))]

pub mod cell;
pub mod classify;
pub mod limits;
pub mod payload;
pub mod protocol;
pub mod reason;
pub mod signatures;
pub mod tally;
