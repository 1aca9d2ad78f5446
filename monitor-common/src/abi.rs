//! Types and numbers that kernel and agent share: keys, tallies, settings, events, labels, limits. No logic beyond
//! packing and keyed hashes.

pub mod event;
pub mod interface;
pub mod key;
pub mod limits;
pub mod outcome;
pub mod protocol;
pub mod reason;
pub mod rule;
pub mod settings;
pub mod tally;
pub mod watch;
