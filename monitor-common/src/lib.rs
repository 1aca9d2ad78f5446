//! Header parsing, classification and flow accounting, shared by the XDP program and the host.
//!
//! Nothing here does I/O, reads a clock, allocates or logs. Two small traits, [`parse::packet::Packet`] and
//! [`store::Maps`], give access to packet memory and maps. Tests, replay and fuzzers implement them over plain memory.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics, asm_experimental_arch), allow(internal_features))]

pub mod bpf;
pub mod dissect;
pub mod engine;
pub mod key;
pub mod limits;
pub mod parse;
pub mod protocol;
pub mod reason;
pub mod store;
pub mod tables;
pub mod tally;
pub mod watch;
