//! The agent's database: what must survive a restart, in one SQLite file (`peertally.db` in `state_dir`).
//!
//! * [`folder`]: the folder and the file, their owner and rights;
//! * [`migrations`]: the tables, as numbered steps;
//! * [`writer`]: one thread that writes; whatever waits is committed together;
//! * [`store`]: opening, and connections for readers; [`failure`]: what can go wrong;
//! * [`clock`]: times that are kept; [`events`]: events, deliveries and cool-downs;
//! * [`booked`]: totals of tallies that left; [`history`]: what policies measure;
//! * [`verdict_records`]: flows that charged a subscriber.
//!
//! A write that was acknowledged survives a crash and a loss of power: the write-ahead log is synchronised before the
//! acknowledgement (<https://www.sqlite.org/pragma.html#pragma_synchronous>, `FULL`). The crate never deletes or
//! repairs a file that it cannot read.
//!
//! This crate knows files, transactions and tables, and no rules: those are in `peertally-core`.

#![forbid(unsafe_code)]

pub mod booked;
pub mod clock;
pub mod events;
pub mod failure;
pub mod folder;
pub mod history;
pub mod migrations;
pub mod store;
pub mod verdict_records;
pub mod writer;

pub use failure::{StoreError, WriteFailure};
pub use rusqlite;
pub use store::Store;
pub use writer::Observer;
