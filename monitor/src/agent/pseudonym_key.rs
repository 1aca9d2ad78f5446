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
    time::{Duration, Instant, SystemTime},
};

use peertally_core::{
    exit::{Exit, ExitCause},
    subscriber::{KEY_BYTES, Pseudonyms},
};
use peertally_datapath::owned;
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
    match read(path) {
        Err(PseudonymKeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let failed = |source| PseudonymKeyError::Io { action: "create", path: path.to_owned(), source };
            create(path).map(Pseudonyms::with_key).map_err(failed)
        }
        read => read,
    }
}

/// Reads the key at `path`.
///
/// # Errors
/// [`PseudonymKeyError`] if the file cannot be read, or holds no key that is a secret.
pub fn read(path: &Path) -> Result<Pseudonyms, PseudonymKeyError> {
    let failed = |action, source| PseudonymKeyError::Io { action, path: path.to_owned(), source };
    let opened = OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path);
    let mut file = opened.map_err(|source| failed("read", source))?;
    let metadata = file.metadata().map_err(|source| failed("read", source))?;
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    // Root reads the key of an agent that runs as another user.
    let is_given = || own == 0 && path.parent().is_some_and(|folder| owned::is_given(folder, owner));
    if owner != own && owner != 0 && !is_given() {
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

/// Older keys that are kept, to resolve pseudonyms of events that are still open.
const KEPT_KEYS: usize = 12;
/// Time after which a rotation that failed is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// Replaces the key when its time is over.
#[derive(Debug)]
pub struct KeyRotation {
    path: PathBuf,
    period: Duration,
    due: Instant,
    /// When the removal of the oldest keys is tried again, after it failed.
    clean_up_due: Option<Instant>,
    pseudonyms: Pseudonyms,
}

/// The file of an older key.
fn older(path: &Path, id: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{id}"));
    name.into()
}

/// Files of older keys beside the present one, oldest first.
///
/// # Errors
/// The folder cannot be read.
pub fn older_keys(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Vec::new()) };
    let prefix = format!("{}.", name.to_string_lossy());
    let is_id = |id: &str| id.len() == 8 && id.chars().all(|letter| letter.is_ascii_hexdigit());
    let mut keys = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().strip_prefix(&prefix).is_some_and(is_id) {
            keys.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    keys.sort();
    Ok(keys.into_iter().map(|(_, path)| path).collect())
}

impl KeyRotation {
    /// Rotates the key at `path` each `period` after it was made, and makes `pseudonyms` use the new one.
    ///
    /// # Errors
    /// The age of the key cannot be read.
    pub fn new(path: &Path, period: Duration, pseudonyms: Pseudonyms) -> Result<Self, PseudonymKeyError> {
        let failed = |source| PseudonymKeyError::Io { action: "read", path: path.to_owned(), source };
        let made = fs::metadata(path).and_then(|metadata| metadata.modified()).map_err(failed)?;
        // A key from the future is of a clock that was set back: it is as old as this process.
        let age = SystemTime::now().duration_since(made).unwrap_or_default();
        let now = Instant::now();
        let due = now.checked_add(period.saturating_sub(age)).unwrap_or(now);
        Ok(Self { path: path.to_owned(), period, due, clean_up_due: None, pseudonyms })
    }

    /// Name of the present key.
    #[must_use]
    pub fn key_id(&self) -> String {
        self.pseudonyms.key_id()
    }

    /// Replaces the key if its time is over at `now`; `None` if it is not.
    pub fn rotate_if_due(&mut self, now: Instant) -> Option<io::Result<()>> {
        if now < self.due {
            if self.clean_up_due.is_some_and(|due| now >= due) {
                self.clean_up(now);
            }
            return None;
        }
        let rotated = self.rotate();
        self.due = now + if rotated.is_ok() { self.period } else { RETRY };
        if rotated.is_ok() {
            self.clean_up(now);
        }
        Some(rotated)
    }

    /// Removes all but the last older keys. The key that is in force does not depend on it.
    fn clean_up(&mut self, now: Instant) {
        let removed = older_keys(&self.path).and_then(|mut old| {
            old.truncate(old.len().saturating_sub(KEPT_KEYS));
            old.into_iter().try_for_each(fs::remove_file)
        });
        self.clean_up_due = removed.as_ref().is_err().then(|| now + RETRY);
        if let Err(error) = removed {
            tracing::warn!(
                key = %self.path.display(), %error,
                "cannot remove pseudonym keys older than the last {KEPT_KEYS}; will retry, or remove the oldest by hand"
            );
        }
    }

    fn rotate(&self) -> io::Result<()> {
        // The old key first: a crash at any point leaves a key at the path, and loses none.
        match fs::hard_link(&self.path, older(&self.path, &self.pseudonyms.key_id())) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        self.pseudonyms.set_key(create(&self.path)?);
        Ok(())
    }
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

    #[test]
    fn a_key_is_replaced_when_its_time_is_over_and_kept_for_open_events() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("key");
        let pseudonyms = open(&path).expect("created");
        let shared = pseudonyms.clone();
        let hour = Duration::from_secs(3600);
        let mut rotation = KeyRotation::new(&path, hour, pseudonyms).expect("an age");
        let now = Instant::now();
        assert!(rotation.rotate_if_due(now + hour / 2).is_none());
        let first = shared.key_id();
        rotation.rotate_if_due(now + hour).expect("due").expect("rotated");
        assert_ne!(shared.key_id(), first, "all clones have the new key");
        assert_eq!(open(&path).expect("a whole key").key_id(), shared.key_id());
        assert_eq!(open(&older_keys(&path).expect("reads")[0]).expect("the old key").key_id(), first);
        assert!(rotation.rotate_if_due(now + hour + hour / 2).is_none());
        for number in 2..20 {
            rotation.rotate_if_due(now + hour * number).expect("due").expect("rotated");
        }
        assert_eq!(older_keys(&path).expect("reads").len(), KEPT_KEYS);
    }

    #[test]
    fn an_old_key_that_cannot_be_removed_makes_no_further_rotation() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("key");
        let pseudonyms = open(&path).expect("created");
        // Folders, which are not removed as files are, and one too many.
        for number in 0..=KEPT_KEYS {
            fs::create_dir(older(&path, &format!("{number:08x}"))).expect("a folder");
        }
        let hour = Duration::from_secs(3600);
        let mut rotation = KeyRotation::new(&path, hour, pseudonyms.clone()).expect("an age");
        let now = Instant::now() + hour;
        rotation.rotate_if_due(now).expect("due").expect("rotated");
        let id = pseudonyms.key_id();
        let entries = || older_keys(&path).expect("reads").len();
        assert!(rotation.rotate_if_due(now + RETRY).is_none(), "a new key each minute");
        assert!(pseudonyms.key_id() == id && entries() > KEPT_KEYS, "{}", entries());
        // The clean-up is tried again, and works.
        for number in 0..=KEPT_KEYS {
            let folder = older(&path, &format!("{number:08x}"));
            fs::remove_dir(&folder).expect("removed");
            fs::write(&folder, "").expect("a file");
        }
        assert!(rotation.rotate_if_due(now + RETRY * 2).is_none());
        assert_eq!(entries(), KEPT_KEYS);
    }

    #[test]
    fn a_rotation_that_fails_keeps_the_key() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("keys/key");
        let pseudonyms = open(&path).expect("created");
        let mut rotation = KeyRotation::new(&path, Duration::from_secs(1), pseudonyms.clone()).expect("an age");
        let (id, now) = (pseudonyms.key_id(), Instant::now() + Duration::from_secs(1));
        fs::rename(directory.path().join("keys"), directory.path().join("moved")).expect("moved");
        assert!(rotation.rotate_if_due(now).expect("due").is_err());
        assert_eq!(pseudonyms.key_id(), id);
        fs::rename(directory.path().join("moved"), directory.path().join("keys")).expect("moved");
        assert!(rotation.rotate_if_due(now + RETRY / 2).is_none(), "not again at once");
        rotation.rotate_if_due(now + RETRY).expect("due").expect("rotated");
        assert_ne!(pseudonyms.key_id(), id);
    }
}
