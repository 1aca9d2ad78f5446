//! Shared code of the developer commands, as a library so that tests can use it.
//!
//! One verb per file. A verb starts with [`setup::ensure`], prints what it does and what it skips, and returns an error
//! when anything it promised did not happen.

pub mod accuracy;
pub mod bench;
pub mod build_ebpf;
pub mod command;
pub mod demo;
pub mod fuzz;
pub mod habits;
pub mod kernels;
pub mod lab;
pub mod provenance;
pub mod setup;
pub mod test;
pub mod toolchain;
pub mod workspace;
