//! The audit file: who changed the inspection depth, and when. Append-only, one JSON object per line. Each line holds
//! the digest of the line before, so a changed or removed line in the middle is detected. Truncation at the end is not:
//! keep copies of the last line elsewhere.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use peertally_core::policy::event::rfc3339;
use serde::{Deserialize, Serialize};

/// Digest in the first line.
const FIRST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Why the audit file cannot be written or trusted.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be read or written.
    #[error("cannot {action} the audit file {}: {source}; the inspection depth is not changed without a record", path.display())]
    Io {
        /// Attempted action.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A line does not follow from the one before.
    #[error("{}:{line}: the audit chain is broken here; keep the file as evidence, and move it away to start a new one", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
    },
}

/// A record: the inspection depth from now on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct DepthChange {
    /// The depth.
    pub inspection: String,
    /// Entries of the watchlist; 0 in other depths.
    pub watchlist_entries: usize,
    /// BLAKE3 of the watchlist's file; empty in other depths.
    pub watchlist_digest: String,
}

#[derive(Debug, Deserialize, Serialize)]
struct Line {
    time: String,
    /// User that started the agent.
    uid: u32,
    version: String,
    #[serde(flatten)]
    change: DepthChange,
    previous: String,
}

/// The audit file.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
}

impl Audit {
    /// The audit file at a path, which need not exist.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Records a depth, unless it equals the last record; returns whether a line was written. A missing file stands for
    /// the default `framing`, and is not created for it.
    ///
    /// # Errors
    /// [`AuditError`]; then nothing was recorded.
    pub fn record(&self, change: &DepthChange) -> Result<bool, AuditError> {
        let failed = |action| move |source| AuditError::Io { action, path: self.path.clone(), source };
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed("read")(error)),
        };
        // A line without its end was cut off by a crash and never acknowledged. Remove it, so that the chain continues.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            tracing::warn!(file = %self.path.display(), "the last line of the audit file is incomplete and was removed");
            let file = OpenOptions::new().write(true).open(&self.path).map_err(failed("open"))?;
            file.set_len(whole as u64).and_then(|()| file.sync_all()).map_err(failed("mend"))?;
        }
        let text = &text[..whole];
        let last = verify(text, &self.path)?;
        let default =
            DepthChange { inspection: "framing".to_owned(), watchlist_entries: 0, watchlist_digest: String::new() };
        if last.as_ref().unwrap_or(&default) == change {
            return Ok(false);
        }
        let line = Line {
            time: rfc3339(SystemTime::now()),
            uid: rustix::process::getuid().as_raw(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            change: change.clone(),
            previous: text.lines().last().map_or_else(|| FIRST.to_owned(), digest),
        };
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(failed("create the folder of"))?;
        }
        let mut json = serde_json::to_string(&line).map_err(|error| failed("write")(io::Error::other(error)))?;
        json.push('\n');
        let options = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path);
        let mut file = options.map_err(failed("open"))?;
        file.write_all(json.as_bytes()).and_then(|()| file.sync_all()).map_err(failed("write"))?;
        Ok(true)
    }
}

fn digest(line: &str) -> String {
    blake3::hash(line.as_bytes()).to_hex().to_string()
}

/// Checks the chain in the text of an audit file; returns the last change.
///
/// # Errors
/// [`AuditError::Broken`].
pub fn verify(text: &str, path: &Path) -> Result<Option<DepthChange>, AuditError> {
    let mut previous = FIRST.to_owned();
    let mut last = None;
    for (index, text) in text.lines().enumerate() {
        let line: Option<Line> = serde_json::from_str(text).ok();
        let Some(line) = line.filter(|line| line.previous == previous) else {
            return Err(AuditError::Broken { path: path.to_owned(), line: index + 1 });
        };
        previous = digest(text);
        last = Some(line.change);
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(inspection: &str, entries: usize) -> DepthChange {
        DepthChange { inspection: inspection.to_owned(), watchlist_entries: entries, watchlist_digest: String::new() }
    }

    #[test]
    fn changes_are_chained_and_tampering_shows() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state/audit.jsonl");
        let audit = Audit::new(path.clone());
        assert!(!audit.record(&change("framing", 0)).expect("nothing to record"));
        assert!(!path.exists());
        for (depth, entries, recorded) in [
            ("watchlist", 3, true),
            ("watchlist", 3, false),
            ("watchlist", 4, true),
            ("framing", 0, true),
            ("framing", 0, false),
        ] {
            assert_eq!(audit.record(&change(depth, entries)).expect("records"), recorded, "{depth} {entries}");
        }
        let text = fs::read_to_string(&path).expect("reads");
        assert_eq!(text.lines().count(), 3);
        assert_eq!(verify(&text, &path).expect("whole"), Some(change("framing", 0)));

        fs::write(&path, text.replacen("\"watchlist_entries\":3", "\"watchlist_entries\":2", 1)).expect("writes");
        let error = audit.record(&change("headers", 0)).expect_err("changed");
        assert!(error.to_string().contains(":2: the audit chain is broken"), "{error}");
        fs::write(&path, format!("{text}{{\"time\":\"20")).expect("writes");
        assert!(audit.record(&change("headers", 0)).expect("a torn line is no break"));
        let mended = fs::read_to_string(&path).expect("reads");
        assert_eq!(verify(&mended, &path).expect("whole"), Some(change("headers", 0)));
        let without: Vec<&str> = text.lines().skip(1).collect();
        assert!(verify(&without.join("\n"), &path).is_err(), "taken out");
    }
}
