//! Tests that need more than one crate, the kernel, a namespace or a real peer.

pub mod lab;
pub mod packet_table;
