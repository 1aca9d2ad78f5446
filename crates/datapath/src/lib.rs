//! The data path as the agent sees it: its tables, whether they are BPF maps or plain memory, and the ways to fill
//! them.
//!
//! * [`view`]: the tables as slices, and the reads of a drain;
//! * [`host`]: the shared engine over plain memory, for `replay --engine host` and tests;
//! * [`object`]: the BPF object, loaded and configured;
//! * [`mapped`]: memory mappings of its array maps; [`mapped_tables`]: those that a drain reads;
//! * [`ageing`]: slots of tallies that are given back;
//! * [`attached`]: the object attached to interfaces, for `run`;
//! * [`offloads`], [`xdp_features`]: what interfaces do before the program; [`run_cost`]: what the program costs;
//! * [`released_flows`]: flows of subscribers whose pool changed;
//! * `replaced`: tables that others took the place of;
//! * [`table_sizes`]: capacities of the tables; [`table_memory`]: memory that they take;
//! * [`error`]: errors of the object and its maps;
//! * [`test_run`]: the object driven by the kernel's test runner, for `replay --engine kernel` and tests.

use std::time::Duration;

use monitor_common::abi::record::VerdictRecord;
use peertally_core::{booked::BookedTotals, exit::ExitCause, interface::Interface, snapshot::Snapshot, words::OnExit};

pub mod ageing;
pub mod attached;
pub mod error;
mod generic_netlink;
pub mod host;
mod interface_tables;
pub mod mapped;
pub mod mapped_tables;
pub mod object;
pub mod offloads;
pub mod owned;
pub mod released_flows;
mod replaced;
pub mod run_cost;
pub mod table_memory;
pub mod table_sizes;
pub mod test_run;
pub mod view;
pub mod xdp_features;

pub use error::ObjectError;
pub use object::LoadOptions;
pub use released_flows::ReleasedFlows;
pub use table_sizes::TableSizes;

/// A program that counts, and its tables. Used by one thread; calls may block.
pub trait Datapath: Send + 'static {
    /// Errors of a drain and of the end.
    type Error: ExitCause;

    /// Reads every table. The first call after a start has an interval of zero.
    ///
    /// # Errors
    /// When a table cannot be read. The next call reports what this one could not: nothing is lost.
    fn drain(&mut self) -> Result<Snapshot, Self::Error>;

    /// Applies another configuration while the program counts: pools, tunnel endpoints, roles, realms, prefixes and
    /// VLANs of the interfaces, inspection depth, watchlist, heuristic tier and bound of the slow path. Table sizes are
    /// those of the start. Interfaces that are new are attached to, those that are not named any more are let go. Flows
    /// of subscribers whose pool changed are released.
    ///
    /// # Errors
    /// When a table cannot be written; then the configuration before is in force again, as far as the tables can be
    /// written.
    fn apply(&mut self, options: &LoadOptions, interfaces: &[Interface]) -> Result<ReleasedFlows, Self::Error>;

    /// Compares the interfaces that are configured with those that there are, and does what is missing. A drain does
    /// so, too.
    fn reconcile(&mut self) {}

    /// Has `wake` called when interfaces changed: [`Self::reconcile`] should then be called soon.
    fn wake_by(&mut self, wake: Box<dyn Fn() + Send>) {
        drop(wake);
    }

    /// Verdict records since the last call.
    fn take_records(&mut self) -> Vec<VerdictRecord> {
        Vec::new()
    }

    /// Has `wake` called when [`Self::take_records`] should be called before the next drain.
    fn wake_for_records(&mut self, wake: Box<dyn Fn() + Send>) {
        drop(wake);
    }

    /// From the next drain on, tallies that have not moved for `age` give their slots back, and their totals go into
    /// `books`. A data path whose table never fills ignores it.
    ///
    /// # Errors
    /// When the system gives no thread.
    fn age_tallies(&mut self, _age: Duration, _books: Box<dyn BookedTotals>) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Sets another age for [`Self::age_tallies`].
    fn set_tally_age(&mut self, _age: Duration) {}

    /// Leaves the program attached, or detaches it and removes its pins.
    ///
    /// # Errors
    /// When detaching fails; what stays attached only counts.
    fn finish(self, on_exit: OnExit) -> Result<(), Self::Error>;
}
