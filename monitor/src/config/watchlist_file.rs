//! The file of the watchlist (`docs/architecture.md#inspection-and-privacy`).
//!
//! The list holds hashes of notices already received. The kernel only says whether a hash is on the list.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use peertally_core::content_list::{Watchlist, WatchlistError};

/// Why a watchlist cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum WatchlistFileError {
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
pub(super) fn read(path: &Path) -> Result<Watchlist, WatchlistFileError> {
    let text = fs::read_to_string(path).map_err(|source| WatchlistFileError::Read { path: path.to_owned(), source })?;
    Ok(Watchlist::parse(&text, path)?)
}
