//! Fresh Debian systems in folders, made by debootstrap from the archive that this machine's apt uses.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result};

use super::folder;
use crate::command::{output, run};

/// Releases in which the package is installed: the oldest that it is for, and the newest.
pub(super) const SUITES: [&str; 2] = ["bookworm", "trixie"];

/// What a minimal system lacks of the package's dependencies. The agent runs without a service manager there.
const PACKAGES: &str = "systemd-standalone-sysusers";

/// Makes a system for each release, at the same time; returns their folders. One that is there is taken.
pub(super) fn bases() -> Result<Vec<PathBuf>> {
    let archive = archive()?;
    thread::scope(|scope| {
        let makers: Vec<_> = SUITES.iter().map(|suite| scope.spawn(|| base(suite, &archive))).collect();
        makers.into_iter().map(|maker| maker.join().expect("debootstrap's thread does not panic")).collect()
    })
}

fn base(suite: &str, archive: &str) -> Result<PathBuf> {
    let base = folder().join("roots").join(suite);
    if base.exists() {
        return Ok(base);
    }
    let making = base.with_extension("new");
    if making.exists() {
        fs::remove_dir_all(&making).with_context(|| format!("cannot remove {}", making.display()))?;
    }
    fs::create_dir_all(&making)?;
    println!("dist: making a system of {suite} in {}", base.display());
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", &format!("--include={PACKAGES}"), suite]).arg(&making).arg(archive);
    output(&mut command)?;
    fs::rename(&making, &base)?;
    Ok(base)
}

/// Address of the archive with Debian's main packages that apt is set up with.
fn archive() -> Result<String> {
    let sites = output(Command::new("apt-get").args([
        "indextargets",
        "--format=$(SITE)",
        "Created-By: Packages",
        "Component: main",
        "Label: Debian",
    ]))?;
    sites.lines().next().map(str::to_owned).context("apt has no archive of Debian: look at /etc/apt/sources.list")
}

/// A copy of a base that a test may change.
pub(super) fn copy(base: &Path) -> Result<PathBuf> {
    let copy = base.with_extension("run");
    if copy.exists() {
        fs::remove_dir_all(&copy).with_context(|| format!("cannot remove {}", copy.display()))?;
    }
    run(Command::new("cp").args(["--archive", "--reflink=auto"]).arg(base).arg(&copy))?;
    Ok(copy)
}
