//! Opening the store, for the one process that writes and for readers.

use std::{
    fmt,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

use crate::{
    StoreError,
    failure::sql_error,
    folder,
    migrations::{self, MIGRATIONS},
    writer::{Observer, Writer},
};

/// Longest wait for another process that holds the store.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Size to which the write-ahead log is cut after a checkpoint, in bytes.
const JOURNAL_LIMIT: i64 = 64 << 20;
/// Statements that each connection keeps prepared.
const PREPARED: usize = 128;

/// The open store: one writer, and connections for readers. A clone stands for the same store, whose writer ends with
/// the last clone after it committed what waits.
#[derive(Clone)]
pub struct Store {
    path: Arc<Path>,
    // Before the lock: the writer ends first.
    writer: Arc<Writer>,
    _lock: Arc<File>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in a folder, makes it if there is none, and brings its tables to the present version.
    ///
    /// # Errors
    /// [`StoreError`]; a file that cannot be used is left as it is.
    pub fn open(folder: &Path, observer: impl Observer + 'static) -> Result<Self, StoreError> {
        folder::ensure(folder)?;
        let lock = Arc::new(folder::lock(folder)?);
        let path = folder::ensure_file(folder)?;
        let mut connection = connect(&path)?;
        // A store of a newer version, or of another program, is refused before anything is changed in it.
        let found = migrations::version(&connection, &path)?;
        if found > migrations::VERSION {
            return Err(StoreError::Newer { path, found, known: migrations::VERSION });
        }
        check(&connection, &path)?;
        write_ahead(&connection, &path)?;
        migrations::migrate(&mut connection, &path, MIGRATIONS)?;
        let path: Arc<Path> = path.into();
        let writer = Arc::new(Writer::start(connection, Arc::clone(&path), Box::new(observer))?);
        Ok(Self { path, writer, _lock: lock })
    }

    /// File of the store.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The writer.
    #[must_use]
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// A connection that reads. Each transaction on it sees one state of the store, whatever is written meanwhile.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn reader(&self) -> Result<Connection, StoreError> {
        read(&self.path)
    }
}

/// A connection that reads the store in a folder, beside a running agent or without one.
///
/// # Errors
/// [`StoreError`], with [`StoreError::Missing`] if there is no store.
pub fn open_reader(folder: &Path) -> Result<Connection, StoreError> {
    let path: PathBuf = folder.join(folder::FILE);
    if !path.try_exists().unwrap_or(true) {
        return Err(StoreError::Missing { path });
    }
    read(&path)
}

fn read(path: &Path) -> Result<Connection, StoreError> {
    folder::check_file(path)?;
    // Reading a write-ahead log needs the right to make `-shm`; `query_only` refuses every change of the tables.
    let connection = connect(path)?;
    connection.pragma_update(None, "query_only", true).map_err(sql_error("open", path))?;
    let (found, known) = (migrations::version(&connection, path)?, migrations::VERSION);
    match found {
        0 => Err(StoreError::Missing { path: path.to_owned() }),
        _ if found > known => Err(StoreError::Newer { path: path.to_owned(), found, known }),
        _ if found < known => Err(StoreError::Older { path: path.to_owned(), found, known }),
        _ => Ok(connection),
    }
}

/// Opens a connection for reading, or for both.
fn connect(path: &Path) -> Result<Connection, StoreError> {
    let failed = || sql_error("open", path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags).map_err(failed())?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed())?;
    connection.pragma_update(None, "foreign_keys", true).map_err(failed())?;
    connection.set_prepared_statement_cache_capacity(PREPARED);
    Ok(connection)
}

/// Makes each commit reach the device before it is acknowledged.
fn write_ahead(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let failed = || sql_error("open", path);
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)).map_err(failed())?;
    if mode != "wal" {
        let problem = "its file system cannot hold a write-ahead log";
        return Err(StoreError::Unsafe { path: path.to_owned(), problem, expected: "file of a local file system" });
    }
    connection.pragma_update(None, "synchronous", "full").map_err(failed())?;
    connection.pragma_update_and_check(None, "journal_size_limit", JOURNAL_LIMIT, |_| Ok(())).map_err(failed())
}

/// Looks for damage (<https://www.sqlite.org/pragma.html#pragma_quick_check>).
fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let found: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(sql_error("check", path))?;
    if found == "ok" { Ok(()) } else { Err(StoreError::Damaged { path: path.to_owned(), detail: found }) }
}
