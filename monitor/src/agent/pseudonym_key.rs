//! The key file of the pseudonyms: read at a start, made at the first one.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use peertally_core::subscriber::{KEY_BYTES, Pseudonyms};

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
        length: usize,
    },
}

/// Reads the key at `path`, or makes one that only its owner may read.
///
/// # Errors
/// [`PseudonymKeyError`] if the file can neither be read nor made, or is no key.
pub fn open(path: &Path) -> Result<Pseudonyms, PseudonymKeyError> {
    let failed = |action, source| PseudonymKeyError::Io { action, path: path.to_owned(), source };
    match fs::read(path) {
        Ok(bytes) => {
            let length = bytes.len();
            let key = bytes.try_into().map_err(|_| PseudonymKeyError::Length { path: path.to_owned(), length })?;
            Ok(Pseudonyms::with_key(key))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = create(path).map_err(|source| failed("create", source))?;
            Ok(Pseudonyms::with_key(key))
        }
        Err(error) => Err(failed("read", error)),
    }
}

/// Writes a random key under another name first, so that a crash leaves no half key.
fn create(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key)?;
    let temporary = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
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

    #[test]
    fn a_damaged_key_is_refused() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("key");
        fs::write(&path, b"short").expect("written");
        let message = open(&path).expect_err("refused").to_string();
        assert!(message.contains("5 bytes, not 32"), "{message}");
    }
}
