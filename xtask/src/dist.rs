//! `cargo xtask dist`: a Debian package and a tarball of the agent, with checksums and a bill of materials.
//!
//! Everything lies in `target/dist`. Both archives hold one staged tree, and are made from its files alone: the same
//! commit gives the same bytes. The executable is built here and linked against this machine's glibc; the oldest one it
//! runs with is read from the file and printed.

mod archives;
mod build;
mod installed;
mod licences;
mod linked;
mod roots;
mod sbom;
mod stage;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    build_ebpf,
    command::output,
    setup::{self, Need},
    workspace::{root, target},
};
use installed::Pair;
use linked::Crate;

/// Debian's name of the architecture.
const ARCHITECTURE: &str = "amd64";

/// Arguments of `dist`.
#[derive(Debug, Default, clap::Args)]
pub struct Arguments {
    /// Pack this executable; by default one is built, in which no path of this machine is left
    #[arg(long, value_name = "FILE", conflicts_with = "check_reproducible")]
    pub binary: Option<PathBuf>,
    /// Version of the package. Default: the workspace's, with the commit unless that is tagged
    #[arg(long, value_name = "VERSION")]
    pub package_version: Option<String>,
    /// Install, upgrade, downgrade, remove and purge it in fresh Debian systems, with a running agent and traffic
    #[arg(long)]
    pub test: bool,
    /// With `--test`: upgrade from the agent of this commit, which is built first. By default both packages hold one
    /// agent under two version numbers
    #[arg(long, value_name = "REV", requires = "test")]
    pub upgrade_from: Option<String>,
    /// With `--test`: twenty upgrades and downgrades in each system, not two
    #[arg(long, requires = "test")]
    pub soak: bool,
    /// Also build the object and the executable again, in other folders, and compare bytes
    #[arg(long)]
    pub check_reproducible: bool,
}

/// Packs.
///
/// # Errors
/// When a step fails, or the two builds differ.
pub fn run(arguments: &Arguments) -> Result<()> {
    let version = match &arguments.package_version {
        Some(version) => version.clone(),
        None => version()?,
    };
    let binary = match &arguments.binary {
        Some(binary) => build::stripped(binary, &folder().join("bin"))?,
        None => build::build()?,
    };
    let linked = linked::crates()?;
    let deb = pack(&binary, &binary, &linked, &version, &folder())?;
    let tarball = archives::tarball(&staged(&folder()), &version, &folder())?;
    let sbom = folder().join(format!("peertally-{version}.cdx.json"));
    fs::write(&sbom, sbom::sbom(&linked, &version, &commit_time()?)?)
        .with_context(|| format!("cannot write {}", sbom.display()))?;
    archives::checksums(&folder(), &[&deb, &tarball, &sbom])?;
    println!("dist: {} and {}", deb.display(), tarball.display());
    println!("dist: runs with glibc {} or newer (Debian 12 has 2.36)", build::glibc(&binary)?);
    if arguments.check_reproducible {
        build_ebpf::run(&build_ebpf::Arguments { check: true, ..Default::default() })?;
        build::check_reproducible(&binary)?;
        println!("dist: object and executable are the same bytes when they are built again elsewhere");
    }
    if arguments.test {
        setup::ensure(&[Need::Dist])?;
        let pair = pair(&binary, &linked, &version, arguments.upgrade_from.as_deref())?;
        installed::test(&pair, if arguments.soak { 10 } else { 1 })?;
    }
    Ok(())
}

/// The packages that are upgraded from and to.
fn pair(binary: &Path, linked: &[Crate], version: &str, from: Option<&str>) -> Result<Pair> {
    let folder = folder().join("test");
    fs::create_dir_all(&folder)?;
    let new = pack(binary, binary, linked, &format!("{version}+2"), &folder)?;
    let (older, one_schema) = match from {
        Some(commit) => build::build_commit(commit)?,
        None => (binary.to_owned(), true),
    };
    let old = pack(&older, binary, linked, &format!("{version}+1"), &folder)?;
    Ok(Pair { old, new, one_schema })
}

/// Where everything goes.
fn folder() -> PathBuf {
    target().join("dist")
}

/// The staged tree of what is packed into `folder`.
fn staged(folder: &Path) -> PathBuf {
    folder.join("staged")
}

/// Packs an executable for Debian into `folder`. `generator` writes the manual pages and completions.
fn pack(binary: &Path, generator: &Path, linked: &[Crate], version: &str, folder: &Path) -> Result<PathBuf> {
    let staged = staged(folder);
    if staged.exists() {
        fs::remove_dir_all(&staged).with_context(|| format!("cannot remove {}", staged.display()))?;
    }
    stage::stage(binary, generator, linked, &staged)?;
    archives::deb(&staged, version, &build::glibc(binary)?, folder)
}

/// The workspace's version, and the commit's date and number unless its tag is that version.
fn version() -> Result<String> {
    let manifest: toml::Table =
        fs::read_to_string(root().join("Cargo.toml")).context("cannot read Cargo.toml")?.parse()?;
    let version = manifest["workspace"]["package"]["version"].as_str().context("the workspace has a version")?;
    let git = |arguments: &[&str]| output(Command::new("git").current_dir(root()).args(arguments));
    if git(&["tag", "--points-at", "HEAD"])?.lines().any(|tag| tag == format!("v{version}")) {
        return Ok(version.to_owned());
    }
    // `~` sorts before the version itself (deb-version(7)).
    let commit = git(&["log", "-1", "--date=format:%Y%m%d%H%M", "--format=%cd.%h"])?;
    Ok(format!("{version}~git{}", commit.trim()))
}

/// Time of the commit in seconds since 1970, for all files of archives.
fn commit_time() -> Result<String> {
    let time = output(Command::new("git").current_dir(root()).args(["log", "-1", "--format=%ct"]))?;
    Ok(time.trim().to_owned())
}
