//! The Peertally agent: drains the XDP program's tallies into metrics, thresholds and hooks.
//!
//! * [`config`]: the configuration, checked and resolved, without acting on it;
//! * [`agent`]: the drain loop, its state, and the files that the agent keeps;
//! * [`listen`]: sockets; [`export`]: metrics and status, made afresh from the agent's state;
//! * [`deliver`]: hooks, their outboxes and retries;
//! * [`verbs`]: the commands; [`cli`]: their flags.

pub mod agent;
pub mod cli;
pub mod config;
pub mod deliver;
pub mod export;
#[cfg(test)]
mod generated;
pub mod listen;
#[cfg(test)]
mod skip;
pub mod verbs;
