//! Listeners: metrics and health on the network, status and tallies on the control socket.

pub mod addresses;
pub mod encoding;
pub mod http;
pub mod serve;
