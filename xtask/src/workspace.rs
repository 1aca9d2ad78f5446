//! Folders: the repository's root, the target folder, the `shared` folder next to the repository.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The repository's root. Fixed at compile time: xtask always runs from the tree it was built in.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."))
}

/// Folders of the workspace's members, as the manifest lists them.
///
/// # Errors
/// When the manifest cannot be read.
pub fn members() -> Result<Vec<String>> {
    let manifest: toml::Table =
        fs::read_to_string(root().join("Cargo.toml")).context("cannot read Cargo.toml")?.parse()?;
    let members = manifest
        .get("workspace")
        .and_then(|table| table.get("members")?.as_array())
        .context("Cargo.toml lists no members")?;
    Ok(members.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect())
}

/// Cargo's target folder: `CARGO_TARGET_DIR`, or `target` in the repository.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// The folder with captures and lab scenarios next to the repository, if there is one.
pub fn shared() -> Option<PathBuf> {
    let folder = root().parent()?.join("shared");
    folder.is_dir().then_some(folder)
}
