//! The Peertally agent: drains the XDP program's tallies into metrics, thresholds and hooks.

pub mod snapshot;
