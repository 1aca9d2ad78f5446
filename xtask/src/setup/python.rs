//! The lab's clients in Python: exact versions, in an environment of their own in the repository's `target`.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use peertally_lab::tools::{PYTHON, PYTHON_ENVIRONMENT, REQUIREMENTS};

use crate::command::run;

/// Debian's interpreter: another one on the path may be of a version for which the packages were not tried.
const DEBIAN_PYTHON: &str = "/usr/bin/python3";

/// A copy of the list that was installed: the last thing that is written.
fn marker() -> std::path::PathBuf {
    Path::new(PYTHON_ENVIRONMENT).join("requirements.txt")
}

/// Whether exactly the listed versions were installed.
pub(super) fn is_installed() -> bool {
    Path::new(PYTHON).exists()
        && fs::read(REQUIREMENTS).ok().is_some_and(|wanted| fs::read(marker()).is_ok_and(|have| have == wanted))
}

/// Makes the environment anew.
pub(super) fn install() -> Result<()> {
    run(Command::new(DEBIAN_PYTHON).args(["-m", "venv", "--clear", PYTHON_ENVIRONMENT]))?;
    // The list is complete: nothing that it does not name may come along.
    run(Command::new(PYTHON).args(["-m", "pip", "install", "--quiet", "--no-deps", "--requirement", REQUIREMENTS]))
        .context("cannot install the lab's Python packages")?;
    fs::copy(REQUIREMENTS, marker()).context("cannot note what was installed")?;
    Ok(())
}
