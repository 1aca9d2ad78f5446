//! The configuration: a TOML file, overlaid by environment and flags, and checked.
//!
//! `raw` holds the typed keys, `typed` reads them, `resolve` turns them into settings. This room reads the
//! configuration file, its watchlist and the host name; it opens no socket, loads nothing and writes no file.
//!
//! A check goes through three stages: syntax, then keys and types, then values. A syntax error ends the check. Each
//! later stage reports all its mistakes at once, each with file, line, key and next step.

pub mod changes;
pub mod locate;
pub(crate) mod messages;
mod options;
pub mod raw;
#[cfg(test)]
mod reference;
pub mod resolve;
mod rotation;
pub mod run_args;
mod typed;
pub mod values;
mod warnings;
mod watchlist_file;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

pub use resolve::{Overrides, Resolved};
pub use rotation::Rotation;
pub use run_args::RunArgs;

use peertally_core::exit::{Exit, ExitCause};

/// Read by `run` without `--config`, if it exists.
pub const DEFAULT_PATH: &str = "/etc/peertally/peertally.toml";
/// The control socket of an agent and of `status`, unless another is named.
pub const DEFAULT_CONTROL_SOCKET: &str = "/run/peertally/control.sock";

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}; {}", path.display(), read_hint(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// Keys or values that cannot be used.
    #[error("{}", Listed(.0))]
    Invalid(Vec<Problem>),
}

impl ExitCause for ConfigError {
    fn exit(&self) -> Exit {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::Rights,
            Self::Read { .. } | Self::Invalid(_) => Exit::Usage,
        }
    }
}

/// One mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file and, where known, the line; `None` for a flag or an environment variable.
    pub place: Option<(PathBuf, Option<usize>)>,
    /// The key, as a path: `policies[0].window`. Empty if the file could not be read as TOML.
    pub key: String,
    /// The mistake and its correction.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some((file, Some(line))) => write!(f, "{}:{line}: ", file.display())?,
            Some((file, None)) => write!(f, "{}: ", file.display())?,
            None => {}
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", messages::escape_invisible(&self.key))?;
        }
        f.write_str(&messages::escape_invisible(&self.message))
    }
}

/// Problems, one a line.
struct Listed<'a>(&'a [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

fn read_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "create it, name another with --config FILE, or omit --config to run with defaults",
        io::ErrorKind::PermissionDenied => "run as root, or make the file readable for this user",
        io::ErrorKind::InvalidData => "the file must be UTF-8 text",
        _ => "check the path",
    }
}

/// Reads `file` (or the default path if it exists, or nothing), overlays `overrides` and checks the result. Reads the
/// file of the watchlist and the name of the host, too.
///
/// # Errors
/// [`ConfigError`] with every problem found.
pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Resolved, ConfigError> {
    let overrides = &Overrides { host_name: overrides.host_name.clone().or_else(host_name), ..overrides.clone() };
    let default = Path::new(DEFAULT_PATH);
    let path = file.or_else(|| default.exists().then_some(default));
    let Some(path) = path else {
        return resolve::resolve(&raw::Raw::default(), overrides, &locate::Locator::none());
    };
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let locator = locate::Locator::new(path, &text);
    let mut resolved = parse(path, &text, overrides)?;
    if let Some(file) = &resolved.watchlist_file {
        let list = watchlist_file::read(file)
            .map_err(|error| ConfigError::Invalid(vec![locator.problem("watchlist_file", error.to_string())]))?;
        resolved.digest = digest(&[&text, &list.digest]);
        resolved.datapath.watchlist = std::sync::Arc::new(list);
    }
    Ok(resolved)
}

/// The host name that the kernel knows, the default of `node`.
fn host_name() -> Option<String> {
    Some(rustix::system::uname().nodename().to_string_lossy().into_owned()).filter(|name| !name.is_empty())
}

/// As [`load`], for text already read; `path` is where it came from. Reads nothing else: the watchlist stays empty.
///
/// # Errors
/// [`ConfigError::Invalid`] with every problem found.
pub fn parse(path: &Path, text: &str, overrides: &Overrides) -> Result<Resolved, ConfigError> {
    let locator = locate::Locator::new(path, text);
    let raw = typed::read(text, &locator).map_err(|mut problems| {
        problems.sort_by(|left, right| left.place.cmp(&right.place));
        ConfigError::Invalid(problems)
    })?;
    let resolved = resolve::resolve(&raw, overrides, &locator)?;
    Ok(Resolved { digest: digest(&[text]), ..resolved })
}

/// Digits of a digest that people compare.
const DIGEST_DIGITS: usize = 16;

/// The start of the BLAKE3 of texts, in hexadecimal.
fn digest(texts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for text in texts {
        hasher.update(text.as_bytes());
    }
    let mut digits = hasher.finalize().to_hex().to_string();
    digits.truncate(DIGEST_DIGITS);
    digits
}

#[cfg(test)]
mod tests;
