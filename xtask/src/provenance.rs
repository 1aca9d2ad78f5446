//! The sources of the committed BPF object: a hash over them, and the record next to the object.
//!
//! Needs no BPF toolchain, so that a test on stable Rust can detect an outdated object. The record has no time and no
//! path: equal sources and tools give equal records. The hash covers the two crates' manifests and sources, the build
//! profile, the workspace's entries for the dependencies, and the locked versions that they lead to; a change elsewhere
//! in the workspace leaves it alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::workspace::root;

/// The crates that an object is built from.
const CRATES: [&str; 2] = ["monitor-ebpf", "monitor-common"];

/// Sources that reach no shipped object.
const BENCH_SOURCES: &str = "monitor-ebpf/src/bin";

/// One object that the builder makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// The binary target's name in `monitor-ebpf`.
    pub bin: &'static str,
    /// The committed object, from the repository's root.
    pub path: &'static str,
}

impl Object {
    /// The record next to the object: `x.bpf.o` has `x.provenance.json`.
    pub fn provenance(&self) -> PathBuf {
        root().join(self.path.replace(".bpf.o", ".provenance.json"))
    }

    /// The committed object.
    pub fn file(&self) -> PathBuf {
        root().join(self.path)
    }
}

/// Every object of the repository.
pub const OBJECTS: &[Object] = &[Object { bin: "peertally-bpf", path: "crates/datapath/ebpf/peertally.bpf.o" }];

/// The record of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// The object's file name.
    pub object: String,
    /// SHA-256 of the object.
    pub sha256: String,
    /// Size of the object in bytes.
    pub bytes: u64,
    /// [`source_hash`] of its sources.
    pub source_sha256: String,
    /// `rustc --version` of the compiler.
    pub compiler: String,
    /// The compiler's LLVM.
    pub compiler_llvm: String,
    /// `bpf-linker --version`.
    pub linker: String,
    /// The LLVM version of `llvm-strip`.
    pub strip_llvm: String,
    /// Compiler flags, with the replaced path prefixes by name.
    pub flags: Vec<String>,
}

impl Provenance {
    /// Reads the record next to an object.
    ///
    /// # Errors
    /// When it is missing or unreadable, as after a merge conflict.
    pub fn read(object: &Object) -> Result<Self> {
        let path = object.provenance();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no provenance record", path.display()))
    }
}

/// The problem with a committed object, if any. Host only: reads files and hashes them.
///
/// # Errors
/// When the sources cannot be read.
pub fn stale(object: &Object) -> Result<Option<String>> {
    let provenance = match Provenance::read(object) {
        Ok(provenance) => provenance,
        Err(error) => return Ok(Some(format!("{error:#}"))),
    };
    let Ok(bytes) = fs::read(object.file()) else {
        return Ok(Some(format!("{} is missing", object.path)));
    };
    if sha256(&bytes) != provenance.sha256 {
        return Ok(Some(format!("{} is not the object that its provenance describes", object.path)));
    }
    if source_hash()? != provenance.source_sha256 {
        return Ok(Some(format!("{} was built from other sources", object.path)));
    }
    Ok(None)
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// Hash over all inputs of the objects except the tools.
///
/// # Errors
/// When a source or a manifest cannot be read.
pub fn source_hash() -> Result<String> {
    let mut hash = Sha256::new();
    let mut add = |name: &str, content: &[u8]| {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(content);
    };
    for (name, path) in sources()? {
        add(&name, &fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    for (name, text) in workspace_settings()? {
        add(&name, text.as_bytes());
    }
    Ok(hexadecimal(&hash.finalize()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Source files by their name from the root.
fn sources() -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for member in CRATES {
        let folder = root().join(member);
        for file in ["Cargo.toml", "build.rs"] {
            let path = folder.join(file);
            if path.is_file() {
                found.insert(format!("{member}/{file}"), path);
            }
        }
        collect(&folder.join("src"), &format!("{member}/src"), &mut found)?;
    }
    Ok(found)
}

fn collect(folder: &Path, name: &str, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        let Some(file) = path.file_name().and_then(|file| file.to_str()) else { continue };
        let name = format!("{name}/{file}");
        if path.is_dir() && name == BENCH_SOURCES {
            continue;
        }
        if path.is_dir() {
            collect(&path, &name, found)?;
        } else if file.ends_with(".rs") {
            found.insert(name, path);
        }
    }
    Ok(())
}

/// The parts of the workspace's manifest and lock file that reach the object.
fn workspace_settings() -> Result<BTreeMap<String, String>> {
    let read = |path: &Path| -> Result<toml::Table> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        text.parse().with_context(|| format!("{} is not TOML", path.display()))
    };
    let manifest = read(&root().join("Cargo.toml"))?;
    let mut settings = BTreeMap::new();
    for key in ["release", "ebpf"] {
        if let Some(profile) = manifest.get("profile").and_then(|profiles| profiles.get(key)) {
            settings.insert(format!("profile {key}"), profile.to_string());
        }
    }
    if let Some(edition) = manifest.get("workspace").and_then(|table| table.get("package")?.get("edition")) {
        settings.insert("edition".to_owned(), edition.to_string());
    }
    let mut direct = BTreeSet::new();
    for member in CRATES {
        let member = read(&root().join(member).join("Cargo.toml"))?;
        if let Some(dependencies) = member.get("dependencies").and_then(toml::Value::as_table) {
            direct.extend(dependencies.keys().cloned());
        }
    }
    let shared = manifest.get("workspace").and_then(|table| table.get("dependencies"));
    for name in &direct {
        if let Some(entry) = shared.and_then(|table| table.get(name)) {
            settings.insert(format!("dependency {name}"), entry.to_string());
        }
    }
    for (name, locked) in locked(&read(&root().join("Cargo.lock"))?, direct) {
        settings.insert(format!("locked {name}"), locked);
    }
    Ok(settings)
}

/// Locked versions of the given packages and of all that they need. Members of the workspace are left out: their
/// sources are hashed, and their lock entries mix in what only tests need.
fn locked(lock: &toml::Table, start: BTreeSet<String>) -> BTreeMap<String, String> {
    let packages = lock.get("package").and_then(toml::Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let text = |package: &toml::Value, key: &str| {
        package.get(key).and_then(toml::Value::as_str).unwrap_or_default().to_owned()
    };
    let mut found = BTreeMap::new();
    let mut queue: Vec<String> = start.into_iter().collect();
    while let Some(wanted) = queue.pop() {
        // An entry is `name`, or `name version` where several versions are locked.
        let (name, version) = wanted.split_once(' ').unwrap_or((&wanted, ""));
        for package in packages {
            if text(package, "name") != name
                || (!version.is_empty() && text(package, "version") != version)
                || package.get("source").is_none()
            {
                continue;
            }
            let key = format!("{name} {}", text(package, "version"));
            if found.insert(key, text(package, "checksum")).is_none()
                && let Some(needs) = package.get("dependencies").and_then(toml::Value::as_array)
            {
                queue.extend(needs.iter().filter_map(toml::Value::as_str).map(str::to_owned));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_closure_follows_versions_and_leaves_members_out() {
        let lock: toml::Table = r#"
            [[package]]
            name = "member"
            version = "1.0.0"
            dependencies = ["far 1.0.0"]
            [[package]]
            name = "near"
            version = "1.0.0"
            source = "registry"
            checksum = "a"
            dependencies = ["far 2.0.0"]
            [[package]]
            name = "far"
            version = "1.0.0"
            source = "registry"
            checksum = "b"
            [[package]]
            name = "far"
            version = "2.0.0"
            source = "registry"
            checksum = "c"
        "#
        .parse()
        .expect("valid TOML");
        let found = locked(&lock, ["member".to_owned(), "near".to_owned()].into());
        assert_eq!(found.keys().collect::<Vec<_>>(), ["far 2.0.0", "near 1.0.0"]);
    }

    #[test]
    fn source_hash_is_stable_within_a_tree() {
        assert_eq!(source_hash().expect("sources"), source_hash().expect("sources"));
    }
}
