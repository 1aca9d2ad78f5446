//! The XDP program: context in, `XDP_PASS` out, whatever happens.
//!
//! Only glue lives here: `bpf/packet.rs` gives the shared code access to the frame, `bpf/maps.rs` to the maps.
//! What can be tested without a kernel is in `monitor-common`. On the host this crate is an empty program.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod bpf;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
