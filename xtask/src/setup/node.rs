//! The lab's clients for Node.js: exact versions, in a folder of the repository's `target`.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use peertally_lab::tools::{NODE_ENVIRONMENT, NODE_INSTALLED, NODE_SOURCES};

use crate::command::run;

/// Wanted files, the lock last: [`NODE_INSTALLED`] is a copy of it, written after a complete installation.
const FILES: [&str; 2] = ["package.json", "package-lock.json"];

/// Whether exactly the locked versions were installed.
pub(super) fn is_installed() -> bool {
    let wanted = fs::read(Path::new(NODE_SOURCES).join(FILES[1]));
    wanted.is_ok_and(|wanted| fs::read(NODE_INSTALLED).is_ok_and(|have| have == wanted))
}

/// Installs anew what the lock names.
pub(super) fn install() -> Result<()> {
    fs::create_dir_all(NODE_ENVIRONMENT).with_context(|| format!("cannot create {NODE_ENVIRONMENT}"))?;
    for file in FILES {
        let (from, to) = (Path::new(NODE_SOURCES).join(file), Path::new(NODE_ENVIRONMENT).join(file));
        fs::copy(&from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    // No package's own script runs: what they would build or fetch is not needed.
    let mut command = Command::new("npm");
    command.current_dir(NODE_ENVIRONMENT).args([
        "ci",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
    ]);
    run(&mut command).context("cannot install the lab's packages for Node.js")?;
    fs::copy(Path::new(NODE_SOURCES).join(FILES[1]), NODE_INSTALLED).context("cannot note what was installed")?;
    Ok(())
}
