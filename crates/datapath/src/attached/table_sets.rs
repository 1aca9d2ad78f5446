//! Sets of pinned tables: the present one, the next one, and those that were replaced.
//!
//! Tables of another capacity or of an older schema are not changed. A start makes the next set beside them, swaps the
//! program on each interface, and moves the pins. Counters that depend on no capacity are in both sets, so both
//! programs count into them. What the replaced tables have counted is booked, and then they are removed.
//!
//! ```text
//! v<schema>/            the present set; links and records, whichever set there is
//! v<schema>/next/       made before any program counts into it; with the record `complete` it may have counts
//! v<schema>/replaced_N/ counted into before
//! ```
//!
//! Each step is one rename, so a start that is killed at any point is known by what there is ([`recover`]).

mod steps;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::maps::{MapError, MapInfo};
use monitor_common::abi::limits::SCHEMA_VERSION;

use super::{pins, records};
use crate::{TableSizes, mapped_tables::MappedTables, owned, table_memory};

/// Folder of the set that is about to take the place of the present one.
const NEXT: &str = "next";
/// Folder into which the pins of the present set are moved.
const LAST: &str = "last";
/// Prefix of the folders of replaced sets.
const REPLACED_PREFIX: &str = "replaced_";
/// Record of the schema of the present set, if that is another one than the folder's.
const SCHEMA: &str = "schema";
/// Moved last: the present set is whole as long as it has this pin.
const SETTINGS: &str = "SETTINGS";
/// Counters whose capacity is fixed, by their names in the object: a set shares them with the one before.
const SHARED: [&str; 7] = ["NODE", "SKIPS", "EVENTS", "RULE_VERDICTS", "SHED", "SPOOFED", "WATCH_TALLIES"];
/// The ring buffer of verdict records, which is shared as well: whoever reads it next has all records. Its size does
/// not depend on the capacity.
const RECORDS: &str = "VERDICT_RECORDS";
/// The first schema whose flows, tallies and counters have the present layouts and meanings. A change of one of them
/// changes this number, too.
const SAME_LAYOUTS_SINCE: u32 = 10;

/// Whether the present set can be used as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It can.
    Fits,
    /// Another set must take its place, and why.
    Replace(String),
}

fn io_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}

/// Compares the present set with the capacities that are configured.
///
/// # Errors
/// A pin cannot be read.
pub(super) fn fit(folder: &Path, sizes: &TableSizes) -> io::Result<Fit> {
    if let Some(schema) = records::read(folder, SCHEMA)? {
        return Ok(Fit::Replace(format!("they are of schema {schema}")));
    }
    for (name, wanted) in sizes.entries() {
        let found = match MapInfo::from_pin(folder.join(name)).map_err(io_error) {
            // The loader makes what is missing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            info => info?.max_entries(),
        };
        if found != wanted {
            return Ok(Fit::Replace(format!("{name} has {found} entries instead of {wanted}")));
        }
    }
    Ok(Fit::Fits)
}

/// Makes the folder of the next set, with the counters that it shares with the present one. Returns the folder.
///
/// # Errors
/// The file system's.
pub(super) fn make_next(folder: &Path) -> io::Result<PathBuf> {
    let next = folder.join(NEXT);
    owned::folder(&next).map_err(io::Error::other)?;
    for name in SHARED.into_iter().chain([RECORDS]) {
        match steps::hard_link(folder.join(name), next.join(name)) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => {
                return Err(error);
            }
            _ => {}
        }
    }
    Ok(next)
}

/// Puts the next set in the place of the present one, after the program was swapped on every interface.
///
/// # Errors
/// The file system's; the next start goes on.
pub(super) fn replace(folder: &Path) -> io::Result<()> {
    steps::create_dir(folder.join(LAST)).or_else(ignore(io::ErrorKind::AlreadyExists))?;
    move_present(folder)?;
    move_next(folder)
}

/// Moves the pins of the present set out of the way.
fn move_present(folder: &Path) -> io::Result<()> {
    let last = folder.join(LAST);
    for name in tables(folder)? {
        steps::rename(folder.join(&name), last.join(&name))?;
    }
    steps::rename(last, folder.join(free_name(folder)?))
}

/// Moves the pins of the next set into their place.
fn move_next(folder: &Path) -> io::Result<()> {
    let next = folder.join(NEXT);
    for name in tables(&next)? {
        steps::rename(next.join(&name), folder.join(&name))?;
    }
    records::remove(&folder.join(SCHEMA))?;
    records::clear_complete(&next)?;
    steps::remove_dir(next)
}

/// Goes on where an earlier start was killed.
///
/// # Errors
/// The file system's.
pub(super) fn recover(folder: &Path) -> io::Result<()> {
    let next = folder.join(NEXT);
    for set in replaced(folder)?.iter().filter(|set| !set.join(SETTINGS).exists()) {
        remove(set)?;
    }
    if folder.join(LAST).exists() {
        move_present(folder)?;
    }
    if !next.exists() {
        return Ok(());
    }
    // Only a move of the pins takes the settings away, and it brings the next ones.
    if !folder.join(SETTINGS).exists() || !next.join(SETTINGS).exists() && records::complete(&next)?.is_some() {
        return move_next(folder);
    }
    give_next_up(folder)
}

/// Removes the next set if nothing was counted in it, else keeps its counts as those of a replaced one. No program
/// counts into it any more, or the one that does is about to be replaced.
///
/// # Errors
/// The file system's.
pub(super) fn give_next_up(folder: &Path) -> io::Result<()> {
    let next = folder.join(NEXT);
    if !next.exists() {
        return Ok(());
    }
    if records::complete(&next)?.is_none() {
        return remove(&next);
    }
    steps::rename(next, folder.join(free_name(folder)?))
}

/// Folders of replaced sets.
///
/// # Errors
/// The file system's.
pub(super) fn replaced(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(REPLACED_PREFIX)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Removes a set with its folder. Its settings go first: a set without them was about to be removed.
///
/// # Errors
/// The file system's.
pub(super) fn remove(set: &Path) -> io::Result<()> {
    steps::remove_file(set.join(SETTINGS)).or_else(ignore(io::ErrorKind::NotFound))?;
    for entry in fs::read_dir(set)? {
        steps::remove_file(entry?.path()).or_else(ignore(io::ErrorKind::NotFound))?;
    }
    steps::remove_dir(set)
}

/// Makes the pins of the latest older schema whose tables can be replaced those of this version, if there are any.
/// Returns the folder that they had.
///
/// # Errors
/// The file system's.
pub(super) fn adopt_older(folder: &Path) -> io::Result<Option<PathBuf>> {
    for schema in (SAME_LAYOUTS_SINCE..SCHEMA_VERSION).rev() {
        let older = pins::base().join(format!("v{schema}"));
        if !older.join(SETTINGS).exists() || records::complete(&older)?.is_none() || !has_known_shapes(&older)? {
            continue;
        }
        records::write(&older, SCHEMA, &schema.to_string())?;
        steps::remove_dir(folder).or_else(ignore(io::ErrorKind::NotFound))?;
        steps::rename(&older, folder)?;
        return Ok(Some(older));
    }
    Ok(None)
}

/// Gives the pins back to the older schema that they are of, after a start that failed.
///
/// # Errors
/// The file system's.
pub(super) fn return_older(folder: &Path, older: &Path) -> io::Result<()> {
    if records::read(folder, SCHEMA)?.is_none() {
        // Its tables were replaced.
        return Ok(());
    }
    steps::rename(folder, older)?;
    records::remove(&older.join(SCHEMA))
}

/// Whether the tables that are read, and the counters that are shared, have the shapes that this build knows.
fn has_known_shapes(older: &Path) -> io::Result<bool> {
    let known = table_memory::tables(&TableSizes::DEFAULT, 0, 0).map_err(io::Error::other)?;
    for table in known.iter().filter(|table| SHARED.contains(&table.name.as_str())) {
        let info = match MapInfo::from_pin(older.join(&table.name)).map_err(io_error) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            info => info?,
        };
        if (info.key_size(), info.value_size(), info.max_entries())
            != (table.key_bytes, table.value_bytes, table.entries)
        {
            return Ok(false);
        }
    }
    Ok(MappedTables::pinned(older).is_ok())
}

/// Names of the pinned tables in a folder, the settings last.
fn tables(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // Records and folders have lower-case names.
        if name.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_')) {
            names.push(name);
        }
    }
    names.sort_by_key(|name| name == SETTINGS);
    Ok(names)
}

fn free_name(folder: &Path) -> io::Result<String> {
    let taken = replaced(folder)?;
    let name = |number: usize| format!("{REPLACED_PREFIX}{number}");
    let free = (0..=taken.len()).map(name).find(|name| !taken.contains(&folder.join(name)));
    Ok(free.expect("one more name than there are folders"))
}

fn ignore(kind: io::ErrorKind) -> impl FnOnce(io::Error) -> io::Result<()> {
    move |error| if error.kind() == kind { Ok(()) } else { Err(error) }
}
