//! Header parsing, classification and flow accounting, shared by the XDP program and the host.
//!
//! Nothing here does I/O, reads a clock, allocates or logs. Two traits give access to packet memory and maps:
//! [`parse::packet::Packet`] and [`tables::maps::Maps`]. Tests, replay and fuzzers implement them over plain memory.
//!
//! The rooms, from the ground up. Each uses only those above it in this list, which `tests/tests/rooms.rs` checks:
//!
//! | room | holds | must not |
//! |---|---|---|
//! | [`bpf`] | shared counters, arithmetic without branches, barriers | know of packets or protocols |
//! | [`abi`] | types and numbers that maps hold | have logic beyond packing and keyed hashes |
//! | [`parse`] | headers, the payload's window | keep flow state |
//! | [`dissect`] | rules, one folder or file for each protocol | read maps |
//! | [`tables`] | layout, look-up and eviction of each table | decide who may write, and when |
//! | [`engine`] | fast path, slow path, accounting, learning | reach maps or packets except by trait |
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics, asm_experimental_arch), allow(internal_features))]

pub mod abi;
pub mod bpf;
pub mod dissect;
pub mod engine;
pub mod parse;
pub mod tables;
