//! `peertally audit verify`: checks the chains of the files of records.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use peertally_core::exit::{Exit, ExitCause};

use crate::{
    agent::{
        audit::{Audit, AuditAction, AuditError},
        record_file::{self, ChainError},
    },
    config::{self, ConfigError, Overrides},
};

/// Files of records in the folder of the state.
const FILES: [&str; 2] = ["audit.jsonl", "watchlist-hits.jsonl"];

/// Why the records cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The configuration, which names the folder.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file cannot be read, or its chain does not hold.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// There is nothing to check.
    #[error("there are no records in {}; name their files", .0.display())]
    Nothing(PathBuf),
}

impl ExitCause for VerifyError {
    fn exit(&self) -> Exit {
        match self {
            Self::Config(error) => error.exit(),
            Self::Chain(ChainError::Broken { .. }) => Exit::Data,
            Self::Chain(ChainError::Read { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Exit::Rights
            }
            Self::Chain(ChainError::Read { .. }) | Self::Nothing(_) => Exit::Unavailable,
        }
    }
}

/// Why the end of a watchlist was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The configuration, which names the folder.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

/// Records that the program was detached, if a watchlist was in force.
///
/// # Errors
/// [`RecordError`].
pub fn record_detach(config: Option<&Path>) -> Result<(), RecordError> {
    let resolved = config::load(config, &Overrides::default())?;
    Audit::new(&resolved.state_dir, resolved.rotation).record_end(AuditAction::Detached)?;
    Ok(())
}

/// Checks files, or all files of records in the configured folder; returns what to print.
///
/// # Errors
/// [`VerifyError`] at the first file that does not hold.
pub fn verify(files: &[PathBuf], config: Option<&Path>) -> Result<String, VerifyError> {
    let mut files = files.to_vec();
    if files.is_empty() {
        let folder = config::load(config, &Overrides::default())?.state_dir;
        files.extend(FILES.iter().map(|file| folder.join(file)).filter(|file| file.exists()));
        if files.is_empty() {
            return Err(VerifyError::Nothing(folder));
        }
    }
    let mut out = String::new();
    for file in files {
        let chain = record_file::verify(&file, |_| {})?;
        let _infallible =
            write!(out, "{}: {} records, the chain holds, last digest {}", file.display(), chain.records, chain.last);
        let notes = [
            (!chain.is_from_the_first, "older files were removed".to_owned()),
            (chain.unchained > 0, format!("the first {} are of an earlier version, without a chain", chain.unchained)),
            (chain.is_torn, "the last line is incomplete, and the next record removes it".to_owned()),
        ];
        for (_, note) in notes.iter().filter(|(holds, _)| *holds) {
            let _infallible = write!(out, "; {note}");
        }
        out.push('\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Rotation;

    #[test]
    fn a_configuration_that_cannot_be_read_is_no_reason_to_check_another_folder() {
        let missing = Path::new("/nowhere7/peertally.toml");
        assert_eq!(verify(&[], Some(missing)).expect_err("no such file").exit(), Exit::Usage);
        assert!(matches!(record_detach(Some(missing)), Err(RecordError::Config(_))));
    }

    #[test]
    fn a_chain_is_checked_and_a_break_has_its_own_code() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.jsonl");
        let mut file = record_file::RecordFile::open(path.clone(), Rotation::default()).expect("opens");
        file.append(["{\"a\":1}", "{\"a\":2}", "{\"a\":3}"]);
        let said = verify(std::slice::from_ref(&path), None).expect("holds");
        assert!(said.contains("3 records, the chain holds") && !said.contains(';'), "{said}");
        let text = std::fs::read_to_string(&path).expect("reads");
        std::fs::write(&path, text.replace("\"a\":2", "\"a\":9")).expect("writes");
        let error = verify(std::slice::from_ref(&path), None).expect_err("changed");
        assert_eq!(error.exit(), Exit::Data, "{error}");
        assert!(error.to_string().contains(":3: the chain is broken"), "{error}");
    }
}
