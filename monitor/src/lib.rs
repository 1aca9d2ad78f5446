//! The Peertally agent: drains the XDP program's tallies into metrics, thresholds and hooks.

pub mod agent;
pub mod analysis;
pub mod check;
pub mod cli;
pub mod config;
pub mod content_list;
pub mod datapath;
pub mod exit;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod generated;
pub mod hooks;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod plan;
pub mod policy;
pub mod pool;
pub mod replay;
pub mod run;
pub mod snapshot;
pub mod status;
pub mod subscriber;
pub mod watchlist;
pub mod words;
