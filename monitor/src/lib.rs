//! The Peertally agent: drains the XDP program's tallies into metrics, thresholds and hooks.

pub mod capture;
pub mod datapath;
pub mod exit;
pub mod pool;
pub mod replay;
pub mod snapshot;
