//! What can go wrong with the store.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::ErrorCode;

/// Why the store cannot be opened, read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder or the file cannot be made, read or given its rights.
    #[error("cannot {action} {}: {source}; check `state_dir`", path.display())]
    Path {
        /// Attempted action.
        action: &'static str,
        /// Folder or file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: Arc<io::Error>,
    },
    /// Another user owns the folder or the file.
    #[error(
        "{} belongs to user {found}, but the agent runs as user {own}; give it to that user, or set another `state_dir`",
        path.display()
    )]
    Owner {
        /// Folder or file.
        path: PathBuf,
        /// User who owns it.
        found: u32,
        /// User of this process.
        own: u32,
    },
    /// Other users can write to the folder, or it is a symbolic link, or the file is no regular file.
    #[error(
        "{} cannot hold the store: {problem}; make it a plain {expected} that only its owner can write to",
        path.display()
    )]
    Unsafe {
        /// Folder or file.
        path: PathBuf,
        /// The problem.
        problem: &'static str,
        /// `folder` or `file`.
        expected: &'static str,
    },
    /// Another process has the store open for writing.
    #[error("another program writes to the store in {}; only one agent can use a `state_dir`", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// There is no store: no agent ran with this `state_dir`.
    #[error("there is no store {}; check `state_dir`, or start the agent once", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is a database of another program.
    #[error("{} is not a store of Peertally (application id {found:#x}); move it away, or set another `state_dir`", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// `application_id` of the file.
        found: i32,
    },
    /// The store was written by a newer version of the agent.
    #[error(
        "the store {} has version {found}, and this agent knows versions up to {known}; start the newer agent, or set another `state_dir`",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// `user_version` of the file.
        found: u32,
        /// Last version that this program knows.
        known: u32,
    },
    /// A reader found a store of an older version, which only a writer may migrate.
    #[error("the store {} has version {found}, older than {known}; start the agent once, which migrates it", path.display())]
    Older {
        /// The file.
        path: PathBuf,
        /// `user_version` of the file.
        found: u32,
        /// Version that this program needs.
        known: u32,
    },
    /// The file is damaged. It is kept as it is.
    #[error(
        "the store {} is damaged: {detail}; move the file and its `-wal` away to start a new one, or restore a copy (`sqlite3 FILE .recover` reads what is left)",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Finding of SQLite.
        detail: String,
    },
    /// A read, a write or a commit failed. Nothing of the write is in the store.
    #[error("cannot {action} the store {}: {source} ({}); {}", path.display(), failure.label(), failure.next_step())]
    Sql {
        /// Attempted action.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Class of the failure.
        failure: WriteFailure,
        /// Error of SQLite.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// The writer has ended.
    #[error("the store {} is closed; nothing more is written", path.display())]
    Closed {
        /// The file.
        path: PathBuf,
    },
    /// The system gives no thread for the writer.
    #[error("cannot start the store's writer: {0}; check the limits of this service (`ulimit -u`)")]
    Thread(#[source] Arc<io::Error>),
}

impl StoreError {
    /// Class of the failure, if a read or write failed.
    #[must_use]
    pub const fn failure(&self) -> Option<WriteFailure> {
        match self {
            Self::Sql { failure, .. } => Some(*failure),
            Self::Damaged { .. } => Some(WriteFailure::Damaged),
            _ => None,
        }
    }

    /// Whether the system refused for a lack of rights.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Path { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::Owner { .. } => true,
            _ => false,
        }
    }
}

/// A closure that turns an error of SQLite into one of the store.
pub fn sql_error(action: &'static str, path: &Path) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |source| match WriteFailure::of(&source) {
        WriteFailure::Damaged => StoreError::Damaged { path: path.to_owned(), detail: source.to_string() },
        failure => StoreError::Sql { action, path: path.to_owned(), failure, source: Arc::new(source) },
    }
}

/// Class of a failed read or write; a label value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WriteFailure {
    /// No space is left on the device, or a quota is used up.
    Full,
    /// The file or its file system is read-only.
    ReadOnly,
    /// Another process holds the store.
    Busy,
    /// Reading or writing failed.
    Io,
    /// The file is damaged.
    Damaged,
    /// The write breaks a rule of the tables: a bug.
    Refused,
}

impl WriteFailure {
    /// Every class.
    pub const ALL: [Self; 6] = [Self::Full, Self::ReadOnly, Self::Busy, Self::Io, Self::Damaged, Self::Refused];

    /// Label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ReadOnly => "read_only",
            Self::Busy => "busy",
            Self::Io => "io",
            Self::Damaged => "damaged",
            Self::Refused => "refused",
        }
    }

    /// Whether the same write may succeed later.
    #[must_use]
    pub const fn is_temporary(self) -> bool {
        matches!(self, Self::Full | Self::ReadOnly | Self::Busy | Self::Io)
    }

    const fn next_step(self) -> &'static str {
        match self {
            Self::Full => "make space on the file system of `state_dir`",
            Self::ReadOnly => "mount the file system of `state_dir` for writing",
            Self::Busy => "end the other program that holds the file",
            Self::Io => "check the device of `state_dir` (`dmesg`)",
            Self::Damaged => "move the file away to start a new one, or restore a copy",
            Self::Refused => "this is a bug, please report it",
        }
    }

    fn of(error: &rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::ReadOnly) => Self::ReadOnly,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged,
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::OutOfMemory
                | ErrorCode::PermissionDenied,
            ) => Self::Io,
            _ => Self::Refused,
        }
    }
}
