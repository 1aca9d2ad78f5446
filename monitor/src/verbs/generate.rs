//! `peertally generate FOLDER`: manual pages, and completions for bash, zsh and fish, from the command line's own
//! definition. For packagers; hidden from help.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap_complete::Shell;
use peertally_core::exit::{Exit, ExitCause};

/// Name of the executable in the completions.
const NAME: &str = "peertally";

/// A page that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}; give a folder that this user may write", path.display())]
pub struct GenerateError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl ExitCause for GenerateError {
    fn exit(&self) -> Exit {
        if self.source.kind() == io::ErrorKind::PermissionDenied { Exit::Rights } else { Exit::Unavailable }
    }
}

/// Writes the pages of `command` to `man` and its completions to `completions` in a folder; returns what to print.
///
/// # Errors
/// [`GenerateError`].
pub fn generate(command: &clap::Command, folder: &Path) -> Result<String, GenerateError> {
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| GenerateError { path, source }
    };
    for folder in [&man, &completions] {
        fs::create_dir_all(folder).map_err(failed(folder))?;
    }
    clap_mangen::generate_to(command.clone(), &man).map_err(failed(&man))?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command.clone(), NAME, &completions).map_err(failed(&completions))?;
    }
    Ok(String::new())
}
