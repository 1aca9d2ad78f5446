//! Totals of tallies that left the kernel's table, kept elsewhere by key.
//!
//! A tally that has not moved for long gives its slot back. Before that, its totals are booked. A subscriber that comes
//! back gets them as the base of a new tally, so that no exported counter goes down.

use std::error::Error;

use monitor_common::abi::tally::{TallyKey, Totals};

/// A tally whose totals are booked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BookedTally {
    /// Slot that it had.
    pub slot: u32,
    /// Its key.
    pub key: TallyKey,
    /// Totals since its slot was taken, without its base.
    pub totals: Totals,
}

/// What tables have counted that others took the place of. Nothing counts into them any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplacedTables {
    /// Number of the tables.
    pub number: u64,
    /// Their tallies.
    pub tallies: Vec<BookedTally>,
    /// Tallies that were about to leave. Those of the latest batch are booked already.
    pub leaving: Vec<BookedTally>,
}

/// The books cannot be read or written. Nothing is lost: the slots stay in use until they can.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the totals of tallies that are out of use: {source}")]
pub struct BookingError {
    /// What was tried.
    pub action: &'static str,
    /// The reason.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

/// Keeps totals by key, durably.
///
/// A batch is booked whole or not at all, and its slots are remembered until [`BookedTotals::forget_batch`]. So whoever
/// finds a slot that was about to leave knows whether its totals are booked.
pub trait BookedTotals: Send {
    /// Opens the books for the tables with this number, and forgets the totals of other tables. Returns the slots and
    /// keys of the latest batch, if it was not forgotten.
    ///
    /// # Errors
    /// [`BookingError`].
    fn open(&mut self, tables: u64) -> Result<Vec<(u32, TallyKey)>, BookingError>;

    /// Adds what replaced tables have counted, and hands the books on to the tables with this number, all or nothing.
    /// Tables that were added before, in whatever call, are not added again.
    ///
    /// # Errors
    /// [`BookingError`].
    fn carry(&mut self, replaced: Vec<ReplacedTables>, tables: u64) -> Result<(), BookingError>;

    /// Begins to add the totals of a batch to those of its keys. Returns at once.
    fn book(&mut self, batch: Vec<BookedTally>);

    /// Begins to forget the slots of the latest batch. Returns at once.
    fn forget_batch(&mut self);

    /// How the latest call that returned at once has ended; `None` while it goes on.
    fn outcome(&mut self) -> Option<Result<(), BookingError>>;

    /// Totals of each key; zero for a key without any.
    ///
    /// # Errors
    /// [`BookingError`].
    fn bases(&mut self, keys: &[TallyKey]) -> Result<Vec<Totals>, BookingError>;
}

/// Adds totals, without a wrap.
pub fn add(sum: &mut Totals, more: &Totals) {
    sum.flows = sum.flows.saturating_add(more.flows);
    sum.packets_up = sum.packets_up.saturating_add(more.packets_up);
    sum.bytes_up = sum.bytes_up.saturating_add(more.bytes_up);
    sum.packets_down = sum.packets_down.saturating_add(more.packets_down);
    sum.bytes_down = sum.bytes_down.saturating_add(more.bytes_down);
}

/// What totals are above others; 0 where they are not.
#[must_use]
pub const fn subtract(totals: &Totals, less: &Totals) -> Totals {
    Totals {
        flows: totals.flows.saturating_sub(less.flows),
        packets_up: totals.packets_up.saturating_sub(less.packets_up),
        bytes_up: totals.bytes_up.saturating_sub(less.bytes_up),
        packets_down: totals.packets_down.saturating_sub(less.packets_down),
        bytes_down: totals.bytes_down.saturating_sub(less.bytes_down),
    }
}
