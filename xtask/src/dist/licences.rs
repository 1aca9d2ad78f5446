//! The licences of what is linked: each crate with its expression, and each text once.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::linked::Crate;

/// Starts of the names of files with licences and notices, in capitals.
const NAMES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];

/// Licences whose text is the same for every work, so that one copy serves crates that ship none.
const COMMON: [&str; 2] = ["Apache-2.0", "MIT"];

/// The text of all licences, for the package.
///
/// # Errors
/// A crate ships no text, and none of its licences is common.
pub(super) fn texts(linked: &[Crate]) -> Result<String> {
    let mut list = String::new();
    let mut texts = BTreeMap::<String, Vec<String>>::new();
    for each in linked.iter().filter(|each| each.source.is_some()) {
        let expression = each.license.as_deref().unwrap_or("see below");
        let files = files(each.manifest_path.parent().context("a manifest lies in a folder")?)?;
        let name = format!("{} {}", each.name, each.version);
        list += &format!("{name}: {expression}\n");
        if files.is_empty() && !COMMON.iter().any(|common| expression.contains(common)) {
            bail!("{name} ships no licence, and {expression} is none whose text is known: add it by hand");
        }
        for file in files {
            let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            texts.entry(String::from_utf8_lossy(&text).trim().to_owned()).or_default().push(name.clone());
        }
    }
    let mut out = format!(
        "Peertally links these crates, the Rust standard library (MIT OR Apache-2.0) and SQLite (public domain):\n\n{list}"
    );
    for (text, names) in texts {
        out += &format!("\n{}\n{}\n\n{text}\n", "-".repeat(78), names.join(", "));
    }
    Ok(out)
}

/// Files with licences in a crate's folder, sorted.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_uppercase();
        if path.is_file() && NAMES.iter().any(|start| name.starts_with(start)) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::linked::crates;

    #[test]
    fn every_crate_of_others_is_named_with_its_licence() {
        let crates = crates().expect("cargo");
        let text = texts(&crates).expect("texts");
        for each in crates.iter().filter(|each| each.source.is_some()) {
            assert!(text.contains(&format!("{} {}: ", each.name, each.version)), "{}", each.name);
        }
        assert!(text.contains("Permission is hereby granted") && text.contains("Apache License"));
    }
}
