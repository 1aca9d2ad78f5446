//! Records beside the pins: symbolic links in the BPF file system, whose target is the record's text. They are made
//! in one step, and live exactly as long as the pins that they tell of.

use std::{fs, io, os::unix::fs::symlink, path::Path};

/// Written last when tables are made, and removed first when they go: without it, the folder's tables are half made.
/// Its text is the network namespace whose interfaces are counted.
const COMPLETE: &str = "complete";

/// Text of a record, if there is one.
///
/// # Errors
/// The file system's.
pub(super) fn read(folder: &Path, name: &str) -> io::Result<Option<String>> {
    match fs::read_link(folder.join(name)) {
        Ok(text) => Ok(Some(text.to_string_lossy().into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a record in place of the one there may be.
///
/// # Errors
/// The file system's.
pub(super) fn write(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    let path = folder.join(name);
    let fresh = folder.join(format!("{name}_new"));
    remove(&fresh)?;
    symlink(text, &fresh)?;
    fs::rename(&fresh, &path)
}

/// Removes a record, if there is one.
///
/// # Errors
/// The file system's.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The network namespace of complete tables; `None` if the folder's tables are half made, or there are none.
///
/// # Errors
/// The file system's.
pub(super) fn complete(folder: &Path) -> io::Result<Option<String>> {
    read(folder, COMPLETE)
}

/// Says that the folder's tables are complete, and count the interfaces of this network namespace.
///
/// # Errors
/// The file system's.
pub(super) fn set_complete(folder: &Path, namespace: &str) -> io::Result<()> {
    write(folder, COMPLETE, namespace)
}

/// Says that the folder's tables are not complete.
///
/// # Errors
/// The file system's.
pub(super) fn clear_complete(folder: &Path) -> io::Result<()> {
    remove(&folder.join(COMPLETE))
}
