//! Folders and files that only the agent's user may change.
//!
//! Whoever can write a folder of the agent can take its program off, hold its lock or forge its records. So such a
//! folder is made with mode 0700, and one that was made by another user, or that others can write, is refused. Only
//! rights are ever taken away here.
//!
//! Commands of root work on the folders of an agent that runs as another user: in a folder that only root can write,
//! only root can have given a folder to somebody.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

use peertally_core::exit::{Exit, ExitCause};
use rustix::fs::OFlags;

/// Write rights of the group and of all users.
const OTHERS_WRITE: u32 = 0o022;
/// All rights of the group and of all users.
const OTHERS: u32 = 0o077;
/// In a folder with this bit, users can remove or rename their own entries only (inode(7)).
const STICKY: u32 = 0o1000;

/// Why a folder or a file cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum OwnedError {
    /// A call failed.
    #[error("cannot {action} {}: {source}; run as root, or choose a place that this user may write", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The folder or file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// Somebody else made it.
    #[error(
        "{} belongs to user {owner}, who could change what the agent keeps there; look at what is in it, then remove it, or give it \
         to the agent's user with `chown -R {own} {0}`", path.display()
    )]
    Owner {
        /// The folder or file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The agent's user.
        own: u32,
    },
    /// Others can write it.
    #[error(
        "other users can write {} (mode {mode:04o}), so what is in it cannot be trusted; look at it, then `chmod go-w {0}`",
        path.display()
    )]
    Writable {
        /// The folder or file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Something else is in the way.
    #[error("{} is no {expected}; move it away", path.display())]
    Kind {
        /// What is in the way.
        path: PathBuf,
        /// `folder` or `file`.
        expected: &'static str,
    },
}

impl ExitCause for OwnedError {
    fn exit(&self) -> Exit {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::Rights,
            _ => Exit::Unavailable,
        }
    }
}

fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Root is trusted as the agent's user is. For root, so is the user to whom root gave the folder, or the folder of the
/// file.
fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), OwnedError> {
    let (owner, own) = (metadata.uid(), own_user());
    let is_trusted = || path.parent().is_some_and(|parent| is_given(path, owner) || is_given(parent, owner));
    if owner == own || owner == 0 || (own == 0 && is_trusted()) {
        return Ok(());
    }
    Err(OwnedError::Owner { path: path.to_owned(), owner, own })
}

/// Whether `folder` is a folder that root, and nobody else, can have given to the user `owner`.
#[must_use]
pub fn is_given(folder: &Path, owner: u32) -> bool {
    let Ok(metadata) = fs::symlink_metadata(folder) else { return false };
    let only_root_writes = |above: Metadata| above.uid() == 0 && above.mode() & OTHERS_WRITE == 0;
    let above = folder.parent().and_then(|above| fs::metadata(above).ok());
    metadata.is_dir() && metadata.uid() == owner && above.is_some_and(only_root_writes)
}

fn check_writers(path: &Path, metadata: &Metadata) -> Result<(), OwnedError> {
    if metadata.mode() & OTHERS_WRITE == 0 {
        return Ok(());
    }
    Err(OwnedError::Writable { path: path.to_owned(), mode: metadata.mode() & 0o7777 })
}

/// Refuses a folder that another user made or can write; changes nothing. A folder that is not there is fine.
///
/// # Errors
/// [`OwnedError`].
pub fn check_folder(path: &Path) -> Result<(), OwnedError> {
    let failed = |source| OwnedError::Io { action: "look at", path: path.to_owned(), source };
    // The link first: who made a link decides where it leads.
    let link = match fs::symlink_metadata(path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    check_owner(path, &link)?;
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_dir() {
        return Err(OwnedError::Kind { path: path.to_owned(), expected: "folder" });
    }
    check_owner(path, &metadata)?;
    check_writers(path, &metadata)?;
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    let above = fs::metadata(parent).map_err(failed)?;
    // Who can write the folder above could put another one in its place.
    if above.mode() & 0o002 != 0 && above.mode() & STICKY == 0 {
        return Err(OwnedError::Writable { path: parent.to_owned(), mode: above.mode() & 0o7777 });
    }
    Ok(())
}

/// Makes a folder that only its owner may use, or takes the rights of others to read one that is there.
///
/// # Errors
/// [`OwnedError`] if another user made it, or can write it.
pub fn folder(path: &Path) -> Result<(), OwnedError> {
    folder_of(path, |_| true)
}

/// [`folder`], but one with entries that are not ours keeps its mode: other programs use it, too. `is_ours` tells by an
/// entry's name.
///
/// # Errors
/// [`OwnedError`] if another user made it, or can write it.
pub fn folder_of(path: &Path, is_ours: impl Fn(&str) -> bool) -> Result<(), OwnedError> {
    let failed = |action| move |source| OwnedError::Io { action, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make the folder"))?;
        }
        Ok(_) => {}
        Err(error) => return Err(failed("look at")(error)),
    }
    check_folder(path)?;
    let metadata = fs::metadata(path).map_err(failed("look at"))?;
    if metadata.mode() & OTHERS != 0 && metadata.uid() == own_user() {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(failed("read"))?;
        if !entries.iter().all(|entry| entry.file_name().to_str().is_some_and(&is_ours)) {
            tracing::warn!(folder = %path.display(), "other programs use this folder, too: its mode stays as it is");
            return Ok(());
        }
        let closed = Permissions::from_mode(metadata.mode() & 0o7700);
        fs::set_permissions(path, closed).map_err(failed("close to other users"))?;
    }
    Ok(())
}

/// Opens a file for reading and writing that only its owner may use, or makes it. Never follows a link in its place.
///
/// # Errors
/// [`OwnedError`] if another user made it, or can write it.
pub fn file(path: &Path) -> Result<File, OwnedError> {
    let failed = |action| move |source| OwnedError::Io { action, path: path.to_owned(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
        .map_err(failed("open"))?;
    let mut metadata = file.metadata().map_err(failed("look at"))?;
    if !metadata.is_file() {
        return Err(OwnedError::Kind { path: path.to_owned(), expected: "file" });
    }
    if metadata.uid() == 0 && own_user() == 0 {
        // The agent, which may run as the folder's user, must be able to open it.
        let folder = path.parent().and_then(|folder| Some((folder, fs::symlink_metadata(folder).ok()?)));
        if let Some((folder, found)) = folder
            && found.uid() != 0
            && is_given(folder, found.uid())
        {
            fchown(&file, Some(found.uid()), Some(found.gid())).map_err(failed("give to the agent's user"))?;
            metadata = file.metadata().map_err(failed("look at"))?;
        }
    }
    check_owner(path, &metadata)?;
    check_writers(path, &metadata)?;
    if metadata.mode() & OTHERS != 0 && metadata.uid() == own_user() {
        file.set_permissions(Permissions::from_mode(0o600)).map_err(failed("close to other users"))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("own");
    }

    #[test]
    fn a_folder_is_closed_to_others_and_one_they_can_write_is_refused() {
        let scratch = tempfile::tempdir().expect("a folder");
        let made = scratch.path().join("a/b");
        folder(&made).expect("made");
        assert_eq!(mode(&made), 0o700);
        set_mode(&made, 0o755);
        folder(&made).expect("only readable");
        assert_eq!(mode(&made), 0o700);
        for writable in [0o777, 0o770, 0o1777, 0o702] {
            set_mode(&made, writable);
            let error = folder(&made).expect_err("others can write it").to_string();
            assert!(error.contains("chmod go-w") && error.contains(&format!("{writable:04o}")), "{error}");
            assert_eq!(mode(&made), writable, "what is refused stays as it is");
        }
        set_mode(&made, 0o700);
        set_mode(&scratch.path().join("a"), 0o777);
        let error = folder(&made).expect_err("could be replaced").to_string();
        assert!(error.contains("/a (mode 0777)"), "{error}");
        set_mode(&scratch.path().join("a"), 0o1777);
        folder(&made).expect("nobody else can replace it in a sticky folder");
    }

    #[test]
    fn a_folder_that_other_programs_use_keeps_its_mode() {
        let scratch = tempfile::tempdir().expect("a folder");
        let shared = scratch.path().join("shared");
        let is_ours = |name: &str| name == "ours";
        fs::create_dir(&shared).expect("made");
        set_mode(&shared, 0o755);
        for (name, expected) in [("theirs", 0o755), ("ours", 0o755)] {
            fs::write(shared.join(name), "x").expect("written");
            folder_of(&shared, is_ours).expect("nobody else can write it");
            assert_eq!(mode(&shared), expected, "{name}");
        }
        fs::remove_file(shared.join("theirs")).expect("removed");
        folder_of(&shared, is_ours).expect("nobody else can write it");
        assert_eq!(mode(&shared), 0o700);
    }

    #[test]
    fn something_else_in_the_way_is_named() {
        let scratch = tempfile::tempdir().expect("a folder");
        let path = scratch.path().join("x");
        fs::write(&path, "").expect("written");
        assert!(folder(&path).expect_err("a file").to_string().contains("no folder"));
        let link = scratch.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("made");
        assert!(file(&link).is_err(), "a link in place of a file is not followed");
        check_folder(&scratch.path().join("nowhere")).expect("nothing there");
    }

    #[test]
    fn a_file_is_closed_to_others() {
        let scratch = tempfile::tempdir().expect("a folder");
        let path = scratch.path().join("run.lock");
        drop(file(&path).expect("made"));
        assert_eq!(mode(&path), 0o600);
        set_mode(&path, 0o644);
        drop(file(&path).expect("only readable"));
        assert_eq!(mode(&path), 0o600);
        set_mode(&path, 0o666);
        assert!(file(&path).is_err());
    }

    #[test]
    fn what_belongs_to_another_user_is_refused() {
        if own_user() != 0 {
            return eprintln!("SKIPPED: giving a folder to another user needs root");
        }
        let scratch = tempfile::tempdir().expect("a folder");
        let path = scratch.path().join("theirs");
        folder(&path).expect("made");
        set_mode(scratch.path(), 0o1777);
        std::os::unix::fs::chown(&path, Some(65_534), None).expect("root may");
        let error = folder(&path).expect_err("theirs").to_string();
        assert!(error.contains("belongs to user 65534") && error.contains("chown -R 0"), "{error}");
    }

    #[test]
    fn root_works_on_the_folder_that_root_gave_to_the_agent() {
        const AGENT: u32 = 65_534;
        if own_user() != 0 {
            return eprintln!("SKIPPED: giving a folder to another user needs root");
        }
        let scratch = tempfile::tempdir().expect("a folder");
        let (given, path) = (scratch.path().join("given"), scratch.path().join("given/lock"));
        folder(&given).expect("made");
        std::os::unix::fs::chown(&given, Some(AGENT), None).expect("root may");
        folder(&given).expect("only root can have given it");
        drop(file(&path).expect("made"));
        assert_eq!(fs::metadata(&path).expect("there").uid(), AGENT, "the agent could not open root's file");
        // The same folder, where its user could have put it in place.
        set_mode(scratch.path(), 0o777);
        assert!(folder(&given).is_err() && file(&path).is_err());
        set_mode(scratch.path(), 0o700);
        std::os::unix::fs::chown(&path, Some(AGENT - 1), None).expect("root may");
        assert!(file(&path).is_err(), "a third user's file");
    }
}
