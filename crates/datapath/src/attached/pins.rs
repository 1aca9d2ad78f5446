//! Pins of maps and links, which outlive the agent: `/sys/fs/bpf/peertally/v<schema>/`.
//!
//! The agent's exit or crash changes nothing for traffic: the pinned links keep the program attached, the pinned maps
//! keep the counts. Removing the folder's links detaches.
//!
//! Each set of programs has a table of its stages, pinned under the id of its entry program: an entry that is
//! swapped in brings its own stages, and never calls those of another set.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use monitor_common::abi::limits::SCHEMA_VERSION;
use rustix::mount::MountFlags;

use super::{error::AttachError, records};
use crate::{ageing::wait_for_packets, owned};

/// Mount point of the BPF file system.
pub(super) const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` of include/uapi/linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// Prefix of the names of pinned links.
const LINK_PREFIX: &str = "link_";
/// Prefix of the names of records of attachments.
const ATTACHED_PREFIX: &str = "attached_";
/// Prefix of the names of pinned tables of stages.
const STAGES_PREFIX: &str = "stages_";
/// Where the lock of the running agent lies.
const LOCK_FOLDER: &str = "/run/peertally";

/// Our folder, all schemas.
pub(super) fn base() -> PathBuf {
    Path::new(BPF_FILE_SYSTEM).join("peertally")
}

/// The folder of this build's schema.
pub(super) fn folder() -> PathBuf {
    base().join(format!("v{SCHEMA_VERSION}"))
}

/// The pin of the attachment to the interface that had this index when it was attached.
pub(super) fn link(index: u32) -> PathBuf {
    folder().join(format!("{LINK_PREFIX}{index}"))
}

/// Name of the record of the name under which that interface is counted.
pub(super) fn attached(index: u32) -> String {
    format!("{ATTACHED_PREFIX}{index}")
}

/// The pin of the table of stages of the entry program with this id.
pub(super) fn stages(program: u32) -> PathBuf {
    folder().join(format!("{STAGES_PREFIX}{program}"))
}

/// The pins of this version whose names start so, with the rest of the name as a number.
fn numbered(prefix: &str) -> io::Result<Vec<(u32, PathBuf)>> {
    let mut pins = Vec::new();
    let entries = match fs::read_dir(folder()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(pins),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()?.strip_prefix(prefix)?.parse().ok());
        if let Some(number) = name {
            pins.push((number, path));
        }
    }
    Ok(pins)
}

/// Pins of this version's attachments, with the indices in their names.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn links() -> io::Result<Vec<(u32, PathBuf)>> {
    numbered(LINK_PREFIX)
}

/// Removes the tables of stages of all entry programs but these, which ends those sets of programs.
///
/// # Errors
/// At the first pin that cannot be removed.
pub(super) fn remove_stages_of_others(programs: &[u32]) -> io::Result<()> {
    let mut others = numbered(STAGES_PREFIX)?;
    others.retain(|(program, _)| !programs.contains(program));
    if !others.is_empty() {
        wait_for_packets();
    }
    others.into_iter().try_for_each(|(_, path)| fs::remove_file(path))
}

/// Pins of attachments of the interface with this index that other versions made.
pub(super) fn links_of_other_versions(index: u32) -> Vec<PathBuf> {
    let name = format!("{LINK_PREFIX}{index}");
    let folders = fs::read_dir(base()).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    folders.filter(|path| *path != folder()).map(|path| path.join(&name)).filter(|path| path.exists()).collect()
}

/// Version of the pins that hold the attachment of the interface with this index, such as `v10`; else `none`.
pub(super) fn schema_of_link(index: u32) -> String {
    let own = Some(link(index)).filter(|pin| pin.exists());
    let pin = own.or_else(|| links_of_other_versions(index).pop());
    let folder = pin.and_then(|pin| Some(pin.parent()?.file_name()?.to_string_lossy().into_owned()));
    folder.unwrap_or_else(|| "none".to_owned())
}

/// What this version's folder holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tables {
    /// Nothing, or what a start left that was killed: nothing was counted in it.
    Unused,
    /// Tables that may have counts, of the interfaces of this network namespace.
    Complete(Option<String>),
}

/// What this version's folder holds.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn tables() -> io::Result<Tables> {
    match records::complete(&folder())? {
        Some(namespace) => Ok(Tables::Complete(Some(namespace))),
        // A build that kept no record has attached something.
        None if !links()?.is_empty() => Ok(Tables::Complete(None)),
        None => Ok(Tables::Unused),
    }
}

/// Creates the folder, and mounts the BPF file system if needed. A service manager may show the agent our folder alone,
/// without the rest of that file system.
///
/// # Errors
/// [`AttachError::PinFolder`].
pub(super) fn prepare() -> Result<PathBuf, AttachError> {
    let path = folder();
    let error = |source| AttachError::PinFolder { path: path.clone(), source };
    if !is_bpf_file_system(Path::new(BPF_FILE_SYSTEM)) && !is_bpf_file_system(&base()) {
        // As systemd mounts it: whoever can write it could unpin the program of others.
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("bpf", BPF_FILE_SYSTEM, "bpf", flags, c"mode=0700")
            .map_err(|errno| error(errno.into()))?;
        tracing::info!("mounted the BPF file system at {BPF_FILE_SYSTEM}");
    }
    owned::folder(&base())?;
    owned::folder(&path)?;
    Ok(path)
}

pub(super) fn is_bpf_file_system(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|status| status.f_type == BPF_FS_MAGIC)
}

/// Takes the lock of the one running agent; closing the file releases it.
///
/// # Errors
/// [`AttachError::Running`] when another agent holds it, [`AttachError::Lock`] when it cannot be made.
pub(super) fn lock() -> Result<File, AttachError> {
    let path = Path::new(LOCK_FOLDER).join("run.lock");
    let error = |source| AttachError::Lock { path: path.clone(), source };
    // Whoever can open the file can hold its lock.
    owned::folder(Path::new(LOCK_FOLDER))?;
    let file = owned::file(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(AttachError::Running { by: holder(&file), lock: path }),
        Err(TryLockError::Error(source)) => Err(error(source)),
    }
}

/// The process that holds the lock, in words (`/proc/locks`, proc_locks(5)); empty if the kernel does not tell.
fn holder(lock: &File) -> String {
    let Ok(file) = lock.metadata() else { return String::new() };
    let (major, minor) = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
    let lock = format!("{major:02x}:{minor:02x}:{}", file.ino());
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let held = locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, process, file, ..] = fields[..] else { return None };
        (*file == *lock && process != "-1").then(|| process.to_owned())
    });
    held.map(|process| format!(" (process {process})")).unwrap_or_default()
}

pub(super) fn is_link(pin: &Path) -> bool {
    pin.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LINK_PREFIX))
}

/// Removes every pin of every schema, which detaches the program; returns the removed paths.
///
/// # Errors
/// [`AttachError::Remove`] at the first pin that cannot be removed.
pub(super) fn remove_all() -> Result<Vec<PathBuf>, AttachError> {
    let mut removed = Vec::new();
    let base = base();
    // In a folder of somebody else, an entry could be a link to anywhere.
    owned::check_folder(&base)?;
    let folders = match fs::read_dir(&base) {
        Ok(folders) => folders,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(removed),
        Err(source) => return Err(AttachError::Remove { path: base, source }),
    };
    for schema in folders.filter_map(Result::ok) {
        let path = schema.path();
        empty(&path, &mut removed)?;
        fs::remove_dir(&path).map_err(|source| AttachError::Remove { path: path.clone(), source })?;
    }
    match fs::remove_dir(&base) {
        // Only root may remove what root made for the agent's user, and nobody may remove a mount point. Nothing is
        // attached through an empty folder.
        Err(source) if !is_kept(&source) => Err(AttachError::Remove { path: base, source }),
        _ => Ok(removed),
    }
}

/// Whether an empty folder stays because this process may not remove it.
fn is_kept(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | ResourceBusy)
}

/// Removes this version's pins, and nothing else.
///
/// # Errors
/// [`AttachError::Remove`] at the first pin that cannot be removed.
pub(super) fn remove_own() -> Result<(), AttachError> {
    empty_own()?;
    let folder = folder();
    fs::remove_dir(&folder).map_err(|source| AttachError::Remove { path: folder.clone(), source })?;
    // Other versions' folders may be beside it.
    let _not_empty = fs::remove_dir(base());
    Ok(())
}

/// Removes the pins in this version's folder, which there is.
///
/// # Errors
/// [`AttachError::Remove`] at the first pin that cannot be removed.
pub(super) fn empty_own() -> Result<(), AttachError> {
    empty(&folder(), &mut Vec::new())
}

fn empty(folder: &Path, removed: &mut Vec<PathBuf>) -> Result<(), AttachError> {
    let error = |path: &Path, source| AttachError::Remove { path: path.to_owned(), source };
    let mut pins: Vec<_> = fs::read_dir(folder)
        .map_err(|source| error(folder, source))?
        .filter_map(Result::ok)
        .map(|pin| pin.path())
        .collect();
    // Links first, so that nothing counts into maps that are removed next.
    pins.sort_by_key(|path| !is_link(path));
    let mut waited = false;
    for pin in pins {
        if pin.is_dir() && !pin.is_symlink() {
            // Tables that were about to take the place of others, or were replaced.
            empty(&pin, removed)?;
            fs::remove_dir(&pin).map_err(|source| error(&pin, source))?;
            continue;
        }
        if !waited && !is_link(&pin) {
            // From here on, what is left is no complete set of tables.
            records::clear_complete(folder).map_err(|source| error(folder, source))?;
            wait_for_packets();
            waited = true;
        }
        match fs::remove_file(&pin) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(error(&pin, source)),
            _ => removed.push(pin),
        }
    }
    Ok(())
}
