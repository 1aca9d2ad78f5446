//! The crates whose code is in the package: in the executable, or in the eBPF object inside it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{
    command::{cargo, output},
    workspace::root,
};

/// Packages whose dependencies are linked, with the target that they are built for.
const ROOTS: [&str; 2] = ["monitor", "monitor-ebpf"];
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A crate.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Crate {
    pub(super) name: String,
    pub(super) version: String,
    /// SPDX expression.
    pub(super) license: Option<String>,
    pub(super) manifest_path: PathBuf,
    /// `None` for a crate of the workspace.
    pub(super) source: Option<String>,
    id: String,
    /// SHA-256 of the published archive, from Cargo.lock.
    #[serde(skip)]
    pub(super) checksum: Option<String>,
    /// Places in the list of those that it depends on.
    #[serde(skip)]
    pub(super) depends_on: Vec<usize>,
}

impl Crate {
    /// Reference of the crate in a bill of materials (purl-spec, type cargo).
    pub(super) fn purl(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Crate>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    dependencies: Vec<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// Names and versions that are linked: no build or test dependency, and only for the package's target.
fn names() -> Result<BTreeSet<(String, String)>> {
    let mut names = BTreeSet::new();
    for package in ROOTS {
        let tree = output(&mut cargo(&[
            "tree",
            "--locked",
            "--package",
            package,
            "--edges=normal,no-proc-macro",
            "--target",
            TARGET,
            "--prefix=none",
            "--no-dedupe",
            "--format={p}",
        ]))?;
        for line in tree.lines() {
            let mut words = line.split_whitespace();
            if let (Some(name), Some(version)) = (words.next(), words.next()) {
                names.insert((name.to_owned(), version.trim_start_matches('v').to_owned()));
            }
        }
    }
    Ok(names)
}

/// The linked crates, sorted by name and version.
pub(super) fn crates() -> Result<Vec<Crate>> {
    let names = names()?;
    let metadata = output(&mut cargo(&["metadata", "--format-version=1", "--locked", "--filter-platform", TARGET]))?;
    let metadata: Metadata = serde_json::from_str(&metadata).context("cargo metadata is not as expected")?;
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let lock: Lock = toml::from_str(&lock).context("Cargo.lock is not as expected")?;
    let checksums: BTreeMap<_, _> =
        lock.package.into_iter().map(|locked| ((locked.name, locked.version), locked.checksum)).collect();
    let mut crates: Vec<Crate> = metadata
        .packages
        .into_iter()
        .filter(|each| names.contains(&(each.name.clone(), each.version.clone())))
        .collect();
    crates.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    let places: BTreeMap<String, usize> =
        crates.iter().enumerate().map(|(place, each)| (each.id.clone(), place)).collect();
    for each in &mut crates {
        each.checksum = checksums.get(&(each.name.clone(), each.version.clone())).cloned().flatten();
    }
    for node in metadata.resolve.nodes {
        if let Some(place) = places.get(&node.id) {
            crates[*place].depends_on = node.dependencies.iter().filter_map(|id| places.get(id).copied()).collect();
        }
    }
    Ok(crates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_listed_and_what_only_builds_is_not() {
        let crates = crates().expect("cargo answers");
        let has = |name: &str| crates.iter().any(|each| each.name == name);
        for linked in ["monitor", "monitor-ebpf", "aya-ebpf", "clap", "libsqlite3-sys", "ring", "tokio"] {
            assert!(has(linked), "{linked}");
        }
        for absent in ["proptest", "cc", "serde_derive", "xtask", "peertally-lab"] {
            assert!(!has(absent), "{absent}");
        }
        let registry = crates.iter().filter(|each| each.source.is_some());
        for each in registry {
            assert!(each.checksum.is_some() && each.license.is_some(), "{}", each.name);
        }
    }
}
