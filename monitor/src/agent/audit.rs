//! The audit file: which inspection depth was in force, from when to when, and by whom. A [`RecordFile`].
//!
//! A record is written when something has taken effect, never before: a start that is refused leaves none.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use peertally_core::{
    exit::{Exit, ExitCause},
    policy::event::rfc3339,
};
use peertally_datapath::owned::OwnedError;
use serde::{Deserialize, Serialize};

use super::record_file::{self, ChainError, RecordFile};
use crate::config::Rotation;

/// Space that is set aside for a record.
const RECORD_BYTES: u64 = 4096;

/// Why the audit file cannot be written or trusted.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be opened.
    #[error("{0}; the inspection depth is not changed without a record in the audit file")]
    Open(#[from] OwnedError),
    /// The file cannot be read, or its chain does not hold.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The file cannot be written.
    #[error("cannot write the audit file {}: {source}; free some space, or make `state_dir` writable", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: std::io::Error,
    },
}

impl ExitCause for AuditError {
    fn exit(&self) -> Exit {
        let denied = match self {
            Self::Open(error) => return error.exit(),
            Self::Chain(ChainError::Read { source, .. }) | Self::Write { source, .. } => {
                source.kind() == std::io::ErrorKind::PermissionDenied
            }
            Self::Chain(ChainError::Broken { .. }) => false,
        };
        if denied { Exit::Rights } else { Exit::Unavailable }
    }
}

/// An inspection depth and its list.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct DepthChange {
    /// The depth.
    pub inspection: String,
    /// Entries of the watchlist; 0 in other depths.
    pub watchlist_entries: usize,
    /// BLAKE3 of the watchlist's file; empty in other depths.
    pub watchlist_digest: String,
}

/// What happened to a depth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditAction {
    /// The attached program inspects so from now on.
    #[default]
    InForce,
    /// The agent ended, and the program goes on so without it.
    LeftInForce,
    /// The program was detached.
    Detached,
}

/// A record without its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Record {
    time: String,
    #[serde(default)]
    action: AuditAction,
    /// User of the process.
    uid: u32,
    /// User who logged in and became that one with `su` or `sudo`; absent for a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    login_uid: Option<u32>,
    version: String,
    #[serde(flatten)]
    change: DepthChange,
}

/// The user that logged in, as the kernel's audit knows it (proc(5), `/proc/self/loginuid`).
fn login_uid() -> Option<u32> {
    let text = fs::read_to_string("/proc/self/loginuid").ok()?;
    text.trim().parse().ok().filter(|uid| *uid != u32::MAX)
}

/// The audit file.
#[derive(Clone, Debug)]
pub struct Audit {
    path: PathBuf,
    rotation: Rotation,
}

/// A record that has its space in the file and waits until it is true.
#[derive(Debug)]
pub struct Prepared {
    file: RecordFile,
    change: DepthChange,
    action: AuditAction,
}

impl Audit {
    /// The audit file in a folder of states, which need not exist.
    #[must_use]
    pub fn new(state_dir: &Path, rotation: Rotation) -> Self {
        Self { path: state_dir.join("audit.jsonl"), rotation }
    }

    /// Prepares a record, unless it would say what the last one says. A missing file stands for the default `framing`,
    /// and is not created for it. The end of a depth is recorded for `watchlist` alone.
    ///
    /// # Errors
    /// [`AuditError`] if the file cannot be written, or its chain does not hold.
    pub fn prepare(&self, action: AuditAction, change: &DepthChange) -> Result<Option<Prepared>, AuditError> {
        let (was_action, was) = self.last()?.map_or_else(default, |record| (record.action, record.change));
        let is_news = match action {
            AuditAction::InForce => was != *change || was_action != action,
            AuditAction::LeftInForce => was.inspection == "watchlist" && was_action == AuditAction::InForce,
            AuditAction::Detached => was.inspection == "watchlist" && was_action != action,
        };
        if !is_news {
            return Ok(None);
        }
        let file = RecordFile::open(self.path.clone(), self.rotation)?;
        file.reserve(RECORD_BYTES).map_err(|source| AuditError::Write { path: self.path.clone(), source })?;
        Ok(Some(Prepared { file, change: change.clone(), action }))
    }

    /// Records that the agent ended or that the program was detached, if a watchlist was in force.
    ///
    /// # Errors
    /// [`AuditError`]; then nothing was recorded.
    pub fn record_end(&self, action: AuditAction) -> Result<bool, AuditError> {
        let Some(last) = self.last()? else { return Ok(false) };
        let Some(mut prepared) = self.prepare(action, &last.change)? else { return Ok(false) };
        prepared.commit().map(|()| true)
    }

    fn last(&self) -> Result<Option<Record>, AuditError> {
        if !self.path.exists() {
            return Ok(None);
        }
        let mut last = None;
        record_file::verify(&self.path, |line| last = serde_json::from_str(line).ok())?;
        Ok(last)
    }
}

fn default() -> (AuditAction, DepthChange) {
    let framing =
        DepthChange { inspection: "framing".to_owned(), watchlist_entries: 0, watchlist_digest: String::new() };
    (AuditAction::InForce, framing)
}

impl Prepared {
    /// The depth of the record.
    #[must_use]
    pub fn change(&self) -> &DepthChange {
        &self.change
    }

    /// Writes the record: what it says is true from now on.
    ///
    /// # Errors
    /// [`AuditError::Write`]; it can be tried again.
    pub fn commit(&mut self) -> Result<(), AuditError> {
        let record = Record {
            time: rfc3339(SystemTime::now()),
            action: self.action,
            uid: rustix::process::getuid().as_raw(),
            login_uid: login_uid(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            change: self.change.clone(),
        };
        let json = serde_json::to_string(&record).expect("a record is plain data");
        match self.file.append([json.as_str()]).error {
            Some(source) => Err(AuditError::Write { path: self.file.path().to_owned(), source }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(inspection: &str, entries: usize) -> DepthChange {
        DepthChange { inspection: inspection.to_owned(), watchlist_entries: entries, watchlist_digest: String::new() }
    }

    struct Scratch(tempfile::TempDir);

    impl Scratch {
        fn audit(&self) -> Audit {
            Audit::new(self.0.path(), Rotation::default())
        }

        fn record(&self, depth: &str, entries: usize) -> Result<bool, AuditError> {
            match self.audit().prepare(AuditAction::InForce, &change(depth, entries))? {
                Some(mut prepared) => prepared.commit().map(|()| true),
                None => Ok(false),
            }
        }

        fn text(&self) -> String {
            fs::read_to_string(self.path()).unwrap_or_default()
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("audit.jsonl")
        }
    }

    #[test]
    fn changes_are_chained_and_tampering_shows() {
        let scratch = Scratch(tempfile::tempdir().expect("a folder"));
        assert!(!scratch.record("framing", 0).expect("nothing to record"));
        assert!(!scratch.path().exists());
        for (depth, entries, recorded) in [
            ("watchlist", 3, true),
            ("watchlist", 3, false),
            ("watchlist", 4, true),
            ("framing", 0, true),
            ("framing", 0, false),
        ] {
            assert_eq!(scratch.record(depth, entries).expect("records"), recorded, "{depth} {entries}");
        }
        let text = scratch.text();
        assert_eq!(text.lines().count(), 3);
        fs::write(scratch.path(), text.replacen("\"watchlist_entries\":3", "\"watchlist_entries\":2", 1))
            .expect("writes");
        let error = scratch.record("headers", 0).expect_err("changed");
        assert!(error.to_string().contains(":2: the chain is broken"), "{error}");
        fs::write(scratch.path(), format!("{text}{{\"time\":\"20")).expect("writes");
        assert!(scratch.record("headers", 0).expect("a torn line is no break"));
        assert_eq!(scratch.text().lines().count(), 4);
        let without: Vec<&str> = text.lines().skip(1).collect();
        fs::write(scratch.path(), without.join("\n") + "\n").expect("writes");
        assert!(!record_file::verify(&scratch.path(), |_| {}).expect("whole").is_from_the_first, "taken out");
    }

    #[test]
    fn what_was_prepared_and_never_true_leaves_no_record() {
        let scratch = Scratch(tempfile::tempdir().expect("a folder"));
        drop(scratch.audit().prepare(AuditAction::InForce, &change("watchlist", 3)).expect("prepared"));
        assert_eq!(scratch.text(), "");
        assert!(scratch.record("watchlist", 3).expect("now it is true"));
    }

    #[test]
    fn the_end_of_a_watchlist_is_recorded_and_of_nothing_else() {
        let scratch = Scratch(tempfile::tempdir().expect("a folder"));
        let end = |action| scratch.audit().record_end(action).expect("works");
        assert!(!end(AuditAction::Detached), "there was none");
        scratch.record("watchlist", 3).expect("records");
        assert!(end(AuditAction::LeftInForce) && !end(AuditAction::LeftInForce));
        assert!(end(AuditAction::Detached) && !end(AuditAction::Detached) && !end(AuditAction::LeftInForce));
        assert!(scratch.record("watchlist", 3).expect("records"), "in force again");
        assert!(scratch.record("framing", 0).expect("records"));
        assert!(!end(AuditAction::LeftInForce) && !end(AuditAction::Detached));
        let actions: Vec<String> = scratch
            .text()
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["action"].to_string())
            .collect();
        let expected = ["in_force", "left_in_force", "detached", "in_force", "in_force"];
        assert_eq!(actions, expected.map(|action| format!("\"{action}\"")));
    }

    #[test]
    fn records_of_earlier_versions_are_read() {
        let scratch = Scratch(tempfile::tempdir().expect("a folder"));
        let first = "0".repeat(64);
        let old = format!(
            "{{\"time\":\"2026-01-01T00:00:00.000Z\",\"uid\":0,\"version\":\"0.1.0\",\"inspection\":\"watchlist\",\
             \"watchlist_entries\":3,\"watchlist_digest\":\"\",\"previous\":\"{first}\"}}\n"
        );
        fs::write(scratch.path(), old).expect("writes");
        assert!(!scratch.record("watchlist", 3).expect("equal"));
        assert!(scratch.record("watchlist", 4).expect("another list"));
    }
}
