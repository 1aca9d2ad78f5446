//! `peertally resolve`: the subscriber of a pseudonym, for root on the router.
//!
//! Asks the running agent for its subscribers and makes their pseudonyms under the present key and the older ones.
//! Needs what only root has: the keys and the control socket.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use peertally_core::{
    exit::{Exit, ExitCause},
    subscriber::{Pseudonyms, Subscriber},
};
use serde::Deserialize;

use crate::{
    agent::pseudonym_key::{self, PseudonymKeyError},
    config::{self, ConfigError, Overrides},
};

/// Longest wait for the next part of the answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no subscriber.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A key.
    #[error(transparent)]
    Key(#[from] PseudonymKeyError),
    /// The older keys cannot be listed.
    #[error("cannot list the older keys beside {}: {source}; run as root", path.display())]
    OlderKeys {
        /// The present key.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The agent does not answer.
    #[error("no agent answers on {}: {source}; start one with `peertally run`, and ask as root", path.display())]
    NoAnswer {
        /// The control socket.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// No subscriber with a tally has the pseudonym.
    #[error(
        "no subscriber in the kernel's table has the pseudonym `{pseudonym}` under any of {keys} keys. It may be of another node, or \
         without traffic for longer than `tally_age`; it is found again when traffic comes back"
    )]
    Unknown {
        /// The pseudonym.
        pseudonym: String,
        /// Keys that were tried.
        keys: usize,
    },
}

impl ExitCause for ResolveError {
    fn exit(&self) -> Exit {
        match self {
            Self::Config(error) => error.exit(),
            Self::Key(error) => error.exit(),
            Self::OlderKeys { source, .. } | Self::NoAnswer { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Exit::Rights
            }
            Self::OlderKeys { .. } | Self::NoAnswer { .. } | Self::Unknown { .. } => Exit::Unavailable,
        }
    }
}

/// The part of a row of `GET /subscribers` that names the subscriber.
#[derive(Deserialize)]
struct Row {
    realm: String,
    subscriber: String,
}

/// Finds the subscriber of a pseudonym; returns what to print.
///
/// # Errors
/// [`ResolveError`].
pub fn resolve(pseudonym: &str, config: Option<&Path>) -> Result<String, ResolveError> {
    let resolved = config::load(config, &Overrides::default())?;
    let keys = keys(&resolved.pseudonym_key_file)?;
    let socket = &resolved.control_socket;
    let failed = |source| ResolveError::NoAnswer { path: socket.clone(), source };
    let found = rows(socket).and_then(|rows| find(pseudonym, &keys, rows)).map_err(failed)?;
    let (subscriber, key) =
        found.ok_or_else(|| ResolveError::Unknown { pseudonym: pseudonym.to_owned(), keys: keys.len() })?;
    let realm = if subscriber.realm == 0 { String::new() } else { format!(", realm {}", subscriber.realm) };
    let age = if key.key_id() == keys[0].key_id() { "the present key" } else { "an older key" };
    Ok(format!("{}{realm} (key {}, {age})\n", subscriber.block(), key.key_id()))
}

/// The present key and the older ones, latest first.
///
/// # Errors
/// [`ResolveError::Key`], [`ResolveError::OlderKeys`].
pub(super) fn keys(path: &Path) -> Result<Vec<Pseudonyms>, ResolveError> {
    let older = pseudonym_key::older_keys(path);
    let older = older.map_err(|source| ResolveError::OlderKeys { path: path.to_owned(), source })?;
    let mut keys = vec![pseudonym_key::read(path)?];
    for file in older.iter().rev() {
        keys.push(pseudonym_key::read(file)?);
    }
    Ok(keys)
}

/// Lines of `GET /subscribers`, one by one: there may be millions.
fn rows(socket: &Path) -> io::Result<impl Iterator<Item = io::Result<String>>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /subscribers HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut lines = BufReader::new(stream).lines();
    let status = lines.next().transpose()?.unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(io::Error::other(format!("the answer is `{status}`")));
    }
    while lines.next().transpose()?.is_some_and(|header| !header.is_empty()) {}
    Ok(lines)
}

/// The first subscriber with the pseudonym, and the key under which it has it.
fn find<'a>(
    pseudonym: &str,
    keys: &'a [Pseudonyms],
    rows: impl Iterator<Item = io::Result<String>>,
) -> io::Result<Option<(Subscriber, &'a Pseudonyms)>> {
    let mut previous = None;
    for row in rows {
        let row: Row = serde_json::from_str(&row?)?;
        let block: IpNet = row.subscriber.parse().map_err(|_| io::ErrorKind::InvalidData)?;
        let subscriber = Subscriber::of_block(block, row.realm.parse().unwrap_or(0));
        // A subscriber has a row for each protocol.
        if previous.replace(subscriber) == Some(subscriber) {
            continue;
        }
        if let Some(key) = keys.iter().find(|key| key.of(&subscriber) == pseudonym) {
            return Ok(Some((subscriber, key)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pseudonym_of_any_key_is_found() {
        let keys = [[1; 32], [2; 32]].map(Pseudonyms::with_key);
        let rows = || {
            let rows = ["\"\",\"subscriber\":\"10.0.0.1/32\"", "\"7\",\"subscriber\":\"2001:db8::/56\""];
            rows.map(|row| Ok(format!("{{\"realm\":{row},\"flows\":3}}"))).into_iter()
        };
        let v4 = Subscriber::of_block("10.0.0.1/32".parse().expect("a block"), 0);
        let v6 = Subscriber::of_block("2001:db8::/56".parse().expect("a block"), 7);
        for (key, subscriber) in [(0, v4), (1, v4), (0, v6), (1, v6)] {
            let (found, by) = find(&keys[key].of(&subscriber), &keys, rows()).expect("reads").expect("found");
            assert_eq!((found, by.key_id()), (subscriber, keys[key].key_id()));
        }
        let other = Pseudonyms::with_key([3; 32]).of(&v4);
        assert!(find(&other, &keys, rows()).expect("reads").is_none());
    }
}
