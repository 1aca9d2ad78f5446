//! The folder and the file of the store: made for their owner alone, and refused when somebody else could have written
//! them.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};

use crate::StoreError;

/// Name of the database in `state_dir`.
pub const FILE: &str = "peertally.db";

/// Name of the file that the writing process locks.
const LOCK: &str = "peertally.db-lock";
/// Never follow a link that somebody put in the file's place (`open(2)`).
const O_NOFOLLOW: i32 = OFlags::NOFOLLOW.bits() as i32;

/// Rights of the owner alone.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Rights to write of the group and of others.
const OTHERS_WRITE: u32 = 0o022;
/// All rights of the group and of others.
const OTHERS: u32 = 0o077;

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Path { action, path: path.to_owned(), source: Arc::new(source) }
}

fn check_owner(path: &Path, found: &Metadata) -> Result<(), StoreError> {
    let own = rustix::process::geteuid().as_raw();
    let found = found.uid();
    // SQLite, as root, gives its files to the owner of the database.
    let is_trusted = || path.parent().is_some_and(|parent| is_given(path, found) || is_given(parent, found));
    if found == own || (own == 0 && is_trusted()) {
        return Ok(());
    }
    Err(StoreError::Owner { path: path.to_owned(), found, own })
}

/// Whether `folder` is a folder that root, and nobody else, can have given to the user `owner`.
fn is_given(folder: &Path, owner: u32) -> bool {
    let Ok(metadata) = fs::symlink_metadata(folder) else { return false };
    let only_root_writes = |above: Metadata| above.uid() == 0 && above.mode() & OTHERS_WRITE == 0;
    let above = folder.parent().and_then(|above| fs::metadata(above).ok());
    metadata.is_dir() && metadata.uid() == owner && above.is_some_and(only_root_writes)
}

/// Makes a folder with rights 0700, or checks one that exists: this user owns it, and nobody else can write to it.
/// The rights of a folder that exists are never changed, because other programs may use it.
///
/// # Errors
/// [`StoreError::Path`], [`StoreError::Owner`] or [`StoreError::Unsafe`].
pub fn ensure(folder: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder).map_err(failed("make the folder", folder))?;
    let found = fs::metadata(folder).map_err(failed("read the folder", folder))?;
    let refuse = |problem| Err(StoreError::Unsafe { path: folder.to_owned(), problem, expected: "folder" });
    if !found.is_dir() {
        return refuse("it is no folder");
    }
    check_owner(folder, &found)?;
    if found.mode() & OTHERS_WRITE != 0 {
        return refuse("other users can write to it");
    }
    Ok(())
}

/// Makes the file of the store with rights 0600, or checks one that exists. Rights of others on a file of this user are
/// taken away. SQLite gives the files beside it (`-wal`, `-shm`) the rights of this one.
///
/// # Errors
/// [`StoreError::Path`], [`StoreError::Owner`] or [`StoreError::Unsafe`].
pub fn ensure_file(folder: &Path) -> Result<PathBuf, StoreError> {
    let path = folder.join(FILE);
    let make = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path);
    match make {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        // On a read-only file system an existing store can still be told from none.
        Err(error) if path.exists() => drop(error),
        Err(error) => return Err(failed("make", &path)(error)),
    }
    check_file(&path)?;
    Ok(path)
}

/// Takes the lock of the one process that writes; it is given up with the handle.
///
/// # Errors
/// [`StoreError::InUse`] while another process has it, and those of [`ensure_file`].
pub fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join(LOCK);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(FILE_MODE).custom_flags(O_NOFOLLOW);
    let file = options.open(&path).map_err(failed("open", &path))?;
    check_file(&path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(StoreError::InUse { folder: folder.to_owned() }),
        Err(error) => Err(failed("lock", &path)(error.into())),
    }
}

/// Checks a file of the store that exists.
///
/// # Errors
/// [`StoreError::Path`], [`StoreError::Owner`] or [`StoreError::Unsafe`].
pub fn check_file(path: &Path) -> Result<(), StoreError> {
    let found = fs::symlink_metadata(path).map_err(failed("read", path))?;
    if !found.is_file() {
        let problem = "it is a link or a special file";
        return Err(StoreError::Unsafe { path: path.to_owned(), problem, expected: "file" });
    }
    check_owner(path, &found)?;
    if found.mode() & OTHERS != 0 {
        fs::set_permissions(path, Permissions::from_mode(FILE_MODE)).map_err(failed("set the rights of", path))?;
    }
    Ok(())
}
