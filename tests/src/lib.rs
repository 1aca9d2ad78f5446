//! Tests that need more than one crate, the kernel, a namespace or a real peer.

pub mod both_datapaths;
mod executable;
pub mod interpreter;
pub mod p2p;
pub mod packet_table;
pub mod snapshots;
pub mod tables;
pub mod wire;

pub use executable::{AGENT_VARIABLE, executable};
