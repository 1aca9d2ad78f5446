//! Shared code of the developer commands, as a library so that tests can use it.
//!
//! One verb per file. A verb that needs packages or tools installs them with [`setup::ensure`]. A verb prints each step
//! and each check that it skips, and returns an error when a step or a check fails.

pub mod accuracy;
pub mod bench;
pub mod build_ebpf;
pub mod command;
pub mod demo;
pub mod dist;
pub mod fuzz;
pub mod habits;
pub mod kernels;
pub mod lab;
mod live_run;
pub mod provenance;
pub mod setup;
pub mod test;
pub mod toolchain;
pub mod workspace;
