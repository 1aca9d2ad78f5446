//! The kernel side as the agent sees it.

use crate::{exit::ExitCause, snapshot::Snapshot, words::OnExit};

/// An attached program and its tables. Used by one thread; calls may block.
pub trait Source: Send + 'static {
    /// What can go wrong.
    type Error: ExitCause;

    /// Reads every table. The first call after a start has an interval of zero.
    ///
    /// # Errors
    /// When a table cannot be read. The next call reports what this one could not: nothing is lost.
    fn drain(&mut self) -> Result<Snapshot, Self::Error>;

    /// Leaves the program attached, or detaches it and removes its pins.
    ///
    /// # Errors
    /// When detaching fails; what stays attached only counts.
    fn finish(self, on_exit: OnExit) -> Result<(), Self::Error>;
}
