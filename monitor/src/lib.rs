//! The Peertally agent: drains the XDP program's tallies into metrics, thresholds and hooks.

pub mod agent;
pub mod check;
pub mod cli;
pub mod config;
#[cfg(test)]
mod generated;
pub mod hooks;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod plan;
pub mod replay;
pub mod run;
pub mod status;
pub mod watchlist;
