//! `peertally init`: writes a first configuration from the interfaces and routes that this machine has.
//!
//! It guesses: the interface of the default route faces the core, all others face subscribers, and what is routed to
//! those are pools. A person reads the file before anything counts.

mod routes;
mod text;

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::Args;
use peertally_core::exit::{Exit, ExitCause};
use peertally_datapath::attached::inspect::{self, Device};

pub use self::{routes::Route, text::Found};

/// The flags of `peertally init`.
#[derive(Args, Clone, Debug)]
pub struct InitArgs {
    /// File to write, such as /etc/peertally/peertally.toml. Default: standard output.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write over a file that is there.
    #[arg(long, requires = "output")]
    pub force: bool,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The kernel cannot be asked.
    #[error(
        "cannot read the interfaces of this machine: {0}; write the configuration by hand (monitor/peertally.example.toml)"
    )]
    Interfaces(#[source] io::Error),
    /// A file is there.
    #[error("{} is there already; compare it with the output of `peertally init`, or write over it with --force", .0.display())]
    Exists(PathBuf),
    /// The file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
}

impl ExitCause for InitError {
    fn exit(&self) -> Exit {
        match self {
            Self::Interfaces(_) => Exit::Unavailable,
            Self::Exists(_) => Exit::Usage,
            Self::Write { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::Rights,
            Self::Write { .. } => Exit::Unavailable,
        }
    }
}

/// Writes the configuration, or returns it.
///
/// # Errors
/// [`InitError`].
pub fn main(args: &InitArgs) -> Result<String, InitError> {
    let devices = inspect::devices().map_err(InitError::Interfaces)?;
    let text = text::configuration(&Found { routes: routes::all(&devices), vlans: routes::vlans(), devices });
    let Some(path) = &args.output else { return Ok(text) };
    write(path, &text, args.force)?;
    Ok(format!(
        "wrote {0}. Read it, correct roles and pools, then:\n  peertally check-config {0}\n  peertally doctor --config {0}\n",
        path.display()
    ))
}

fn write(path: &Path, text: &str, force: bool) -> Result<(), InitError> {
    let error = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => InitError::Exists(path.to_owned()),
        _ => InitError::Write { path: path.to_owned(), source },
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(error)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).mode(0o644);
    let options = if force { options.create(true).truncate(true) } else { options.create_new(true) };
    options.open(path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(error)
}

/// An interface by its index.
fn by_index(devices: &[Device], index: u32) -> Option<&Device> {
    devices.iter().find(|device| device.link.index == index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_stays_unless_told_otherwise() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("etc/peertally.toml");
        write(&file, "a", false).expect("made, with its folder");
        let error = write(&file, "b", false).expect_err("it is there");
        assert_eq!(error.exit(), Exit::Usage);
        assert_eq!(fs::read_to_string(&file).expect("read"), "a");
        write(&file, "b", true).expect("written over");
        assert_eq!(fs::read_to_string(&file).expect("read"), "b");
    }
}
