//! The key file of the pseudonyms: read at a start, made at the first one.
//!
//! Whoever has the key can name the subscriber of a pseudonym by trying addresses. So a key that others can read, or
//! that can be guessed, is refused.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use peertally_core::{
    exit::{Exit, ExitCause},
    subscriber::{KEY_BYTES, Pseudonyms},
};
use rustix::fs::OFlags;

/// Least number of different bytes in a key. 32 random bytes have 30 on average, and fewer than 17 never in practice;
/// a text of hexadecimal digits has at most 16.
const MIN_DISTINCT_BYTES: usize = 17;
/// Rights of the group and of all users.
const OTHERS: u32 = 0o077;

/// Why there is no pseudonym key.
#[derive(Debug, thiserror::Error)]
pub enum PseudonymKeyError {
    /// The file cannot be read or created.
    #[error("cannot {action} the pseudonym key {}: {source}; run as root, or set `state_dir` or `pseudonym_key_file` to a path that this user may write", path.display())]
    Io {
        /// `read` or `create`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The file is not a key.
    #[error("the pseudonym key {} has {length} bytes, not 32; restore it, or remove it to create a new one (all pseudonyms change)", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Length of the file in bytes.
        length: u64,
    },
    /// The key can be guessed.
    #[error(
        "the pseudonym key {} is not random: it has {distinct} different bytes of 32; remove it to create a new one (all pseudonyms \
         change), or write one with `head -c 32 /dev/urandom`",
        path.display()
    )]
    Weak {
        /// The file.
        path: PathBuf,
        /// Different bytes in the key.
        distinct: usize,
    },
    /// Others have the key, or may change it.
    #[error(
        "other users can use the pseudonym key {} (mode {mode:04o}); whoever has read it can name the subscriber of each pseudonym: remove \
         it to create a new one (all pseudonyms change), or `chmod 600 {0}` if nobody has",
        path.display()
    )]
    Shared {
        /// The file.
        path: PathBuf,
        /// Mode of the file.
        mode: u32,
    },
    /// Somebody else made the key.
    #[error(
        "the pseudonym key {} belongs to user {owner}; `chown {own} {0}` if that user may have it, or remove it to create a new one (all \
         pseudonyms change)",
        path.display()
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The agent's user.
        own: u32,
    },
}

impl ExitCause for PseudonymKeyError {
    fn exit(&self) -> Exit {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::Rights,
            Self::Io { .. } => Exit::Unavailable,
            Self::Length { .. } | Self::Weak { .. } | Self::Shared { .. } | Self::Owner { .. } => Exit::Usage,
        }
    }
}

/// Reads the key at `path`, or makes one that only its owner may read.
///
/// # Errors
/// [`PseudonymKeyError`] if the file can neither be read nor made, or holds no key that is a secret.
pub fn open(path: &Path) -> Result<Pseudonyms, PseudonymKeyError> {
    let failed = |action, source| PseudonymKeyError::Io { action, path: path.to_owned(), source };
    let opened = OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = create(path).map_err(|source| failed("create", source))?;
            return Ok(Pseudonyms::with_key(key));
        }
        Err(error) => return Err(failed("read", error)),
    };
    let metadata = file.metadata().map_err(|source| failed("read", source))?;
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != own && owner != 0 {
        return Err(PseudonymKeyError::Owner { path: path.to_owned(), owner, own });
    }
    if metadata.mode() & OTHERS != 0 {
        return Err(PseudonymKeyError::Shared { path: path.to_owned(), mode: metadata.mode() & 0o7777 });
    }
    let mut key = [0; KEY_BYTES];
    if metadata.len() != KEY_BYTES as u64 {
        return Err(PseudonymKeyError::Length { path: path.to_owned(), length: metadata.len() });
    }
    file.read_exact(&mut key).map_err(|source| failed("read", source))?;
    let distinct = key.iter().collect::<BTreeSet<_>>().len();
    if distinct < MIN_DISTINCT_BYTES {
        return Err(PseudonymKeyError::Weak { path: path.to_owned(), distinct });
    }
    Ok(Pseudonyms::with_key(key))
}

/// Writes a random key under another name first, so that a crash leaves no half key.
fn create(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key)?;
    let temporary = path.with_extension("new");
    // What a crash left, or somebody else put there.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(&key)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use peertally_core::subscriber::Subscriber;

    #[test]
    fn the_key_is_made_once_and_survives_a_restart() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("state/pseudonym.key");
        let subscriber = Subscriber { address: [9; 16], realm: 0, prefix_len: 128 };
        let first = open(&path).expect("created").of(&subscriber);
        assert_eq!(open(&path).expect("read").of(&subscriber), first);
        let other = open(&directory.path().join("other.key")).expect("created").of(&subscriber);
        assert_ne!(other, first, "each key is random");
        assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
    }

    /// Message of the refusal of a key with these bytes and this mode; `None` if it is taken.
    fn refusal(bytes: &[u8], mode: u32) -> Option<String> {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("key");
        fs::write(&path, bytes).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("own");
        open(&path).err().map(|error| error.to_string())
    }

    fn random() -> Vec<u8> {
        let mut key = vec![0; KEY_BYTES];
        getrandom::fill(&mut key).expect("random bytes");
        key
    }

    #[test]
    fn a_key_that_is_no_secret_is_refused() {
        assert_eq!(refusal(&random(), 0o600), None);
        assert_eq!(refusal(&random(), 0o400), None);
        let hexadecimal = b"0123456789abcdef0123456789abcdef";
        for (bytes, mode, part) in [
            (b"short".to_vec(), 0o600, "5 bytes, not 32"),
            (vec![0; KEY_BYTES + 1], 0o600, "33 bytes, not 32"),
            (vec![0; KEY_BYTES], 0o600, "1 different bytes of 32"),
            (hexadecimal.to_vec(), 0o600, "16 different bytes"),
            (random(), 0o644, "(mode 0644)"),
            (random(), 0o640, "(mode 0640)"),
            (random(), 0o602, "(mode 0602)"),
        ] {
            let message = refusal(&bytes, mode).unwrap_or_else(|| panic!("taken: {part}"));
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_link_in_place_of_the_key_is_not_followed() {
        let directory = tempfile::tempdir().expect("directory");
        let (key, link) = (directory.path().join("key"), directory.path().join("link"));
        open(&key).expect("created");
        std::os::unix::fs::symlink(&key, &link).expect("made");
        assert!(matches!(open(&link), Err(PseudonymKeyError::Io { .. })));
    }

    #[test]
    fn keys_have_names_that_tell_nothing() {
        let directory = tempfile::tempdir().expect("directory");
        let key = open(&directory.path().join("key")).expect("created");
        assert_eq!(key.key_id(), open(&directory.path().join("key")).expect("read").key_id());
        assert_ne!(key.key_id(), open(&directory.path().join("other")).expect("created").key_id());
        assert_eq!(key.key_id().len(), 8);
    }
}
