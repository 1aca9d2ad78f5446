//! Listeners: metrics and health on the network, status and tallies on the control socket.

pub mod addresses;
pub mod connections;
pub mod descriptors;
pub mod encoding;
pub mod http;
mod patience;
pub mod serve;
