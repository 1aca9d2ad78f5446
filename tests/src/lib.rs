//! Tests that need more than one crate, the kernel, a namespace or a real peer.

#[cfg(feature = "kernel")]
pub mod interpreter;
pub mod lab;
#[cfg(feature = "kernel")]
pub mod p2p;
#[cfg(feature = "kernel")]
pub mod packet_table;
#[cfg(feature = "kernel")]
pub mod paths;
#[cfg(feature = "kernel")]
pub mod snapshots;
#[cfg(feature = "kernel")]
pub mod tables;
pub mod wire;
