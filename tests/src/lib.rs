//! Tests that need more than one crate, the kernel, a namespace or a real peer.

pub mod both_datapaths;
mod executable;
pub mod interpreter;
pub mod kernel;
pub mod p2p;
pub mod packet_paths;
pub mod packet_table;
pub mod random;
pub mod snapshots;
pub mod tables;
pub mod wire;

pub use executable::executable;
