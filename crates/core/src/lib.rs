//! Values and rules of the agent: subscribers, the counters of a drain, policies and their events.
//!
//! * [`words`]: settings that take one of a few words; [`interface`], [`vlan`], [`pool`]: what an operator
//!   names;
//! * [`subscriber`]: subscriber blocks and their pseudonyms; [`snapshot`]: the counters of one drain;
//! * [`policy`]: thresholds within windows; [`analysis`]: rows for metrics, and policies that fired;
//! * [`booked`]: totals of tallies that left the table;
//! * [`reconcile`]: what the kernel has against what is configured;
//! * [`content_list`]: hashes of notices already received; [`exit`]: exit codes.
//!
//! Pure: no clock, no file, no network, no environment (`clippy.toml` of this crate lists the calls). The caller hands
//! in times, identifiers and text, and acts on the result.

#![forbid(unsafe_code)]

pub mod analysis;
pub mod booked;
pub mod content_list;
pub mod exit;
pub mod interface;
pub mod policy;
pub mod pool;
pub mod reconcile;
pub mod snapshot;
pub mod subscriber;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vlan;
pub mod words;
