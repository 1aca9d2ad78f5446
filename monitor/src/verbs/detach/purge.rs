//! Removes what the agent keeps in `state_dir`: the pseudonym keys, the store, and the files of records. Everything
//! else in the folder is left, and named.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use peertally_core::exit::{Exit, ExitCause};

/// Files of the agent. Each may have rotated ones beside it, with a dot and a number behind the name.
const FILES: [&str; 8] = [
    "audit.jsonl",
    "watchlist-hits.jsonl",
    "pseudonym.key",
    // A new key until it takes the place of the present one.
    "pseudonym.new",
    "peertally.db",
    // The lock of the agent that writes.
    "peertally.db-lock",
    // SQLite's files beside its database (sqlite.org/walformat.html).
    "peertally.db-wal",
    "peertally.db-shm",
];

/// A file that stays.
#[derive(Debug, thiserror::Error)]
#[error("the program is detached, but cannot {action} {}: {source}; remove the files of the agent there by hand", path.display())]
pub struct PurgeError {
    /// What was tried.
    action: &'static str,
    /// The folder or file.
    path: PathBuf,
    /// Error of the operating system.
    #[source]
    source: io::Error,
}

impl ExitCause for PurgeError {
    fn exit(&self) -> Exit {
        if self.source.kind() == io::ErrorKind::PermissionDenied { Exit::Rights } else { Exit::Unavailable }
    }
}

/// Removes the agent's files in a folder, and the folder if it is empty then; also the pseudonym keys, wherever they
/// are. Returns what to print.
///
/// # Errors
/// [`PurgeError`] at the first file that cannot be removed.
pub(super) fn purge(state_dir: &Path, key_file: &Path) -> Result<String, PurgeError> {
    let mut out = purge_folder(state_dir)?;
    out.push_str(&purge_keys(key_file)?);
    Ok(out)
}

/// Removes a key with a path of its own, the older ones beside it, and one that was about to take its place.
fn purge_keys(key_file: &Path) -> Result<String, PurgeError> {
    let error = |action, path: &Path, source| PurgeError { action, path: path.to_owned(), source };
    let (Some(folder), Some(name)) = (key_file.parent(), key_file.file_name().and_then(|name| name.to_str())) else {
        return Ok(String::new());
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(source) => return Err(error("read", folder, source)),
    };
    let next = key_file.with_extension("new");
    let is_key = |path: &Path| {
        let older = path.file_name().and_then(|other| other.to_str()).and_then(|other| other.strip_prefix(name));
        path == next || older.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('.').is_some_and(is_key_name))
    };
    let mut paths: Vec<_> = entries.filter_map(Result::ok).map(|entry| folder.join(entry.file_name())).collect();
    paths.retain(|path| is_key(path) && fs::symlink_metadata(path).is_ok_and(|file| file.is_file()));
    paths.sort();
    let mut out = String::new();
    for path in paths {
        fs::remove_file(&path).map_err(|source| error("remove", &path, source))?;
        let _infallible = writeln!(out, "removed {}", path.display());
    }
    Ok(out)
}

/// Whether a text may be the name of a key.
fn is_key_name(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Removes the agent's files in a folder, and the folder if it is empty then.
fn purge_folder(state_dir: &Path) -> Result<String, PurgeError> {
    let error = |action, path: &Path, source| PurgeError { action, path: path.to_owned(), source };
    let entries = match fs::read_dir(state_dir) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(source) => return Err(error("read", state_dir, source)),
    };
    let mut names: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.file_name()).collect();
    names.sort();
    let (mut out, mut left) = (String::new(), Vec::new());
    for name in names {
        let path = state_dir.join(&name);
        let is_file = fs::symlink_metadata(&path).is_ok_and(|file| file.is_file());
        if is_file && name.to_str().is_some_and(is_ours) {
            fs::remove_file(&path).map_err(|source| error("remove", &path, source))?;
            let _infallible = writeln!(out, "removed {}", path.display());
        } else {
            left.push(path);
        }
    }
    for path in &left {
        let _infallible = writeln!(out, "left {}: it is not the agent's", path.display());
    }
    // It may be a mount point: then it stays, empty.
    if left.is_empty() && fs::remove_dir(state_dir).is_ok() {
        let _infallible = writeln!(out, "removed {}", state_dir.display());
    }
    Ok(out)
}

/// Whether a file in `state_dir` is one of the agent, by its name.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    let rotated = |rest: &str| {
        rest.is_empty()
            || rest
                .strip_prefix('.')
                .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    // Older keys have their name behind a dot: they still link pseudonyms to addresses.
    FILES.iter().any(|file| name.strip_prefix(file).is_some_and(rotated))
        || name.strip_prefix("pseudonym.key.").is_some_and(is_key_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_files_go_and_those_of_others_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        fs::create_dir_all(state.join("audit.jsonl.d")).expect("made");
        let ours = [
            "audit.jsonl",
            "audit.jsonl.12",
            "pseudonym.key",
            "pseudonym.key.0a1b2c3d",
            "pseudonym.new",
            "peertally.db",
            "peertally.db-wal",
            "peertally.db-lock",
        ];
        let others =
            ["audit.jsonl.", "audit.jsonl.old", "notes", "peertally.db2", "pseudonym.key.backup", "x.0a1b2c3d"];
        for name in ours.iter().chain(&others) {
            fs::write(state.join(name), "x").expect("written");
        }
        std::os::unix::fs::symlink("/etc/hosts", state.join("watchlist-hits.jsonl")).expect("linked");
        let said = purge(&state, &state.join("pseudonym.key")).expect("purged");
        for name in ours {
            assert!(!state.join(name).exists(), "{name} is left");
            assert!(said.contains(&format!("removed {}\n", state.join(name).display())), "{said}");
        }
        for name in others.iter().chain(&["audit.jsonl.d", "watchlist-hits.jsonl"]) {
            assert!(state.join(name).exists(), "{name} is gone");
            assert!(said.contains(&format!("left {}:", state.join(name).display())), "{said}");
        }
    }

    #[test]
    fn an_empty_folder_goes_and_a_missing_one_is_no_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        let key = state.join("pseudonym.key");
        assert_eq!(purge(&state, &key).expect("nothing to do"), "");
        fs::create_dir(&state).expect("made");
        fs::write(state.join("pseudonym.key"), "x").expect("written");
        purge(&state, &key).expect("purged");
        assert!(!state.exists());
    }

    #[test]
    fn keys_with_a_path_of_their_own_go_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let (state, keys) = (folder.path().join("state"), folder.path().join("keys"));
        let files = ["node.key", "node.key.0a1b2c3d", "node.new", "node.key.backup", "other.key", "other.key.0a1b2c3d"];
        fs::create_dir_all(&keys).expect("made");
        for name in files {
            fs::write(keys.join(name), "x").expect("written");
        }
        let said = purge(&state, &keys.join("node.key")).expect("purged");
        assert_eq!(said.lines().count(), 3, "{said}");
        assert_eq!(files.map(|name| keys.join(name).exists()), [false, false, false, true, true, true], "{said}");
    }
}
