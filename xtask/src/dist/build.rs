//! The executable of a package: built without paths of this machine, and stripped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::folder;
use crate::{
    command::{cargo, cargo_home, output, run},
    workspace::root,
};

/// Builds the workspace's agent.
pub(super) fn build() -> Result<PathBuf> {
    stripped(&build_in(root(), &folder().join("cargo"))?, &folder().join("bin"))
}

/// Builds the agent of the sources in `workspace`, with an own target folder.
fn build_in(workspace: &Path, target: &Path) -> Result<PathBuf> {
    let remaps = [(cargo_home(), "/cargo"), (target.to_owned(), "/target"), (workspace.to_owned(), "/peertally")];
    let mapped = |flag: &str| -> Vec<String> {
        remaps.iter().map(|(from, to)| format!("{flag}={}={to}", from.display())).collect()
    };
    let mut command = cargo(&["build", "--release", "--locked", "--package", "monitor", "--bin", "peertally"]);
    command.current_dir(workspace).arg("--target-dir").arg(target);
    // The separator that lets paths have spaces (cargo's reference, `CARGO_ENCODED_RUSTFLAGS`).
    command.env("CARGO_ENCODED_RUSTFLAGS", mapped("--remap-path-prefix").join("\u{1f}"));
    // SQLite and the cryptography have parts in C.
    command.env("CFLAGS", mapped("-ffile-prefix-map").join(" ")).env("CARGO_INCREMENTAL", "0");
    run(&mut command)?;
    Ok(target.join("release/peertally"))
}

/// A copy of an executable without symbols and debug information, in `to`.
pub(super) fn stripped(binary: &Path, to: &Path) -> Result<PathBuf> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let copy = to.join("peertally");
    run(Command::new("strip").arg("-o").arg(&copy).arg(binary))?;
    Ok(copy)
}

/// Builds what git has of the present commit in another folder, and compares.
pub(super) fn check_reproducible(binary: &Path) -> Result<()> {
    let elsewhere = tempfile::Builder::new().prefix("peertally-rebuild").tempdir()?;
    let sources = elsewhere.path().join("sources");
    fs::create_dir(&sources)?;
    let archive = elsewhere.path().join("sources.tar");
    if !output(Command::new("git").current_dir(root()).args(["status", "--porcelain", "--untracked-files=no"]))?
        .is_empty()
    {
        bail!("there are changes that are not committed: commit them, so that both builds have the same sources");
    }
    run(Command::new("git").current_dir(root()).args(["archive", "--output"]).arg(&archive).arg("HEAD"))?;
    run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&sources))?;
    let again = stripped(&build_in(&sources, &elsewhere.path().join("target"))?, elsewhere.path())?;
    if fs::read(binary)? != fs::read(&again)? {
        bail!("{} and {} differ: compare them with `cmp -l` or diffoscope", binary.display(), again.display());
    }
    Ok(())
}

/// Builds the agent of another commit; returns it, and whether its tables have the schema of the present sources.
pub(super) fn build_commit(commit: &str) -> Result<(PathBuf, bool)> {
    let folder = folder().join("from");
    let sources = folder.join("sources");
    if sources.exists() {
        fs::remove_dir_all(&sources).with_context(|| format!("cannot remove {}", sources.display()))?;
    }
    fs::create_dir_all(&sources)?;
    let archive = folder.join("sources.tar");
    run(Command::new("git").current_dir(root()).args(["archive", "--output"]).arg(&archive).arg(commit))?;
    run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&sources))?;
    let schema = |workspace: &Path| -> Result<String> {
        let text = fs::read_to_string(workspace.join("monitor-common/src/abi/limits.rs"))?;
        let line = text.lines().find(|line| line.contains("const SCHEMA_VERSION")).context("no SCHEMA_VERSION")?;
        Ok(line.to_owned())
    };
    let one_schema = schema(&sources)? == schema(root())?;
    let built = build_in(&sources, &folder.join("cargo"))?;
    Ok((stripped(&built, &folder.join("bin"))?, one_schema))
}

/// The oldest glibc with all symbols that the executable needs, such as `2.34`.
pub(super) fn glibc(binary: &Path) -> Result<String> {
    let symbols = output(Command::new("objdump").arg("--dynamic-syms").arg(binary))?;
    let newest = symbols
        .split("GLIBC_")
        .skip(1)
        .filter_map(|rest| {
            let version: String = rest.chars().take_while(|letter| letter.is_ascii_digit() || *letter == '.').collect();
            let numbers: Vec<u32> = version.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
            Some((numbers, version))
        })
        .max();
    newest.map(|(_, version)| version).with_context(|| format!("{} names no version of glibc", binary.display()))
}
