//! The operator's list of content hashes, and what is kept of its hits (`docs/architecture.md#inspection-and-privacy`).
//!
//! The list holds hashes of notices already received, and the kernel only answers yes or no. A hit is counted per subscriber in
//! the kernel; with its time and endpoints it goes to a file that only its owner may read, by the number of the list's line and
//! without the hash. Switching the depth on, off, or to another list is recorded in the audit file.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use peertally_core::content_list::{Watchlist, WatchlistError};

mod audit;
mod hits;

pub use audit::{Audit, AuditError, DepthChange, verify};
pub use hits::HitLog;

/// Why a watchlist cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WatchlistFileError {
    /// The file cannot be read.
    #[error("cannot read the watchlist {}: {source}; check `watchlist_file`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The file holds no list.
    #[error(transparent)]
    Content(#[from] WatchlistError),
}

/// Reads a list from its file.
///
/// # Errors
/// [`WatchlistFileError`].
pub fn read(path: &Path) -> Result<Watchlist, WatchlistFileError> {
    let text = fs::read_to_string(path).map_err(|source| WatchlistFileError::Read { path: path.to_owned(), source })?;
    Ok(Watchlist::parse(&text, path)?)
}
