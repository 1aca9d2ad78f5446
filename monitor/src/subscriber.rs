//! Who a tally is about, and the keyed pseudonym under which a subscriber is shown.
//!
//! An address block never becomes a label value. A pseudonym cannot be turned back without the node's key, and the same
//! subscriber has different pseudonyms under different keys.

use std::{
    fmt, fs, io,
    io::{Read, Write},
    net::{IpAddr, Ipv6Addr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use monitor_common::tally::TallyKey;

/// One subscriber block, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subscriber {
    /// First address of the block; IPv4 mapped into IPv6 (RFC 4291 section 2.5.5.2).
    pub address: [u8; 16],
    /// Realm; 0 is the only one so far.
    pub realm: u32,
    /// Length of the block, out of 128.
    pub prefix_len: u8,
}

impl Subscriber {
    /// The subscriber of a tally; `None` for the catch-all.
    #[must_use]
    pub fn of(key: &TallyKey) -> Option<Self> {
        (*key != TallyKey::CATCH_ALL).then_some(Self {
            address: key.address,
            realm: key.realm,
            prefix_len: key.prefix_len,
        })
    }

    /// The block as an operator writes it: `10.0.0.1/32`, `2001:db8::/56`.
    #[must_use]
    pub fn block(&self) -> IpNet {
        let address = Ipv6Addr::from(self.address);
        let net = match address.to_ipv4_mapped() {
            Some(v4) if self.prefix_len >= 96 => IpNet::new(IpAddr::V4(v4), self.prefix_len - 96),
            _ => IpNet::new(IpAddr::V6(address), self.prefix_len),
        };
        net.unwrap_or_else(|_| IpNet::from(IpAddr::V6(address)))
    }
}

/// Length of a pseudonym key, in bytes.
const KEY_BYTES: usize = 32;

/// Makes pseudonyms. The key is neither shown nor logged.
#[derive(Clone)]
pub struct Pseudonyms {
    key: [u8; KEY_BYTES],
}

impl fmt::Debug for Pseudonyms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pseudonyms(..)")
    }
}

/// Why there is no pseudonym key.
#[derive(Debug, thiserror::Error)]
pub enum PseudonymError {
    /// The file cannot be read or created.
    #[error("cannot {action} the pseudonym key {}: {source}; run as root, or set `state_dir` or `pseudonym_key_file` to a path that this user may write", path.display())]
    Io {
        /// `read` or `create`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not a key.
    #[error("the pseudonym key {} has {length} bytes, not 32; restore it, or remove it to create a new one (all pseudonyms change)", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
}

impl Pseudonyms {
    /// With a key that is already known.
    #[must_use]
    pub const fn with_key(key: [u8; KEY_BYTES]) -> Self {
        Self { key }
    }

    /// Reads the key of `path`, or makes one that only its owner may read.
    ///
    /// # Errors
    /// [`PseudonymError`] if the file can neither be read nor made, or is no key.
    pub fn open(path: &Path) -> Result<Self, PseudonymError> {
        let failed = |action, source| PseudonymError::Io { action, path: path.to_owned(), source };
        match fs::read(path) {
            Ok(bytes) => {
                let length = bytes.len();
                let key = bytes.try_into().map_err(|_| PseudonymError::Length { path: path.to_owned(), length })?;
                Ok(Self { key })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = Self::create(path).map_err(|source| failed("create", source))?;
                Ok(Self { key })
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
        fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
        let temporary = path.with_extension("new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&key)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        Ok(key)
    }

    /// The pseudonym of a subscriber: 96 bits in hexadecimal, far more than a million subscribers need to stay apart.
    #[must_use]
    pub fn of(&self, subscriber: &Subscriber) -> String {
        let mut input = [0; 21];
        input[..4].copy_from_slice(&subscriber.realm.to_be_bytes());
        input[4..20].copy_from_slice(&subscriber.address);
        input[20] = subscriber.prefix_len;
        let hash = blake3::keyed_hash(&self.key, &input).to_hex();
        hash[..24].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscriber(last: u8) -> Subscriber {
        let mut address = [0; 16];
        address[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, last]);
        Subscriber { address, realm: 0, prefix_len: 128 }
    }

    #[test]
    fn blocks_read_as_typed() {
        assert_eq!(subscriber(1).block().to_string(), "10.0.0.1/32");
        let v6 =
            Subscriber { address: "2001:db8::".parse::<Ipv6Addr>().expect("v6").octets(), realm: 0, prefix_len: 56 };
        assert_eq!(v6.block().to_string(), "2001:db8::/56");
        assert_eq!(Subscriber::of(&TallyKey::CATCH_ALL), None);
    }

    #[test]
    fn pseudonyms_depend_on_key_and_subscriber_and_survive_a_restart() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("state/pseudonym.key");
        let first = Pseudonyms::open(&path).expect("created");
        let again = Pseudonyms::open(&path).expect("read");
        assert_eq!(first.of(&subscriber(1)), again.of(&subscriber(1)));
        assert_ne!(first.of(&subscriber(1)), first.of(&subscriber(2)));
        assert_ne!(first.of(&subscriber(1)), Pseudonyms::with_key([7; 32]).of(&subscriber(1)));
        assert_eq!(first.of(&subscriber(1)).len(), 24);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
        assert_eq!(format!("{first:?}"), "Pseudonyms(..)");
    }

    #[test]
    fn a_damaged_key_is_refused() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("key");
        fs::write(&path, b"short").expect("written");
        let message = Pseudonyms::open(&path).expect_err("refused").to_string();
        assert!(message.contains("5 bytes, not 32"), "{message}");
    }
}
