//! Dependencies that a manifest names and no source does.
//!
//! rustc's lint `unused_crate_dependencies` looks at one target at a time, so that every dependency of one test is
//! reported in all others. This check takes a package's targets together. Its limits: it searches for names and
//! resolves nothing, so a local module with the name of a dependency hides an unused one, and a dependency that is
//! there only to switch a feature on needs a line in [`WITHOUT_NAME`].

use anyhow::{Context as _, Result};
use toml::{Table, Value};

use super::tree::Tree;

/// Dependencies that no source names, with the reason for them.
const WITHOUT_NAME: &[(&str, &str)] = &[];

/// Unused dependencies of every manifest, and unused rows of the workspace's table.
pub(super) fn of(tree: &Tree) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    let mut inherited = Vec::new();
    let manifests = tree.files("toml").filter(|(path, _)| path.rsplit('/').next() == Some("Cargo.toml"));
    let manifests = manifests
        .map(|(path, text)| Ok((path, text.parse::<Table>().with_context(|| format!("cannot parse {path}"))?)))
        .collect::<Result<Vec<_>>>()?;
    for (path, manifest) in &manifests {
        let folder = path.trim_end_matches("Cargo.toml");
        let targets = [
            // What only tests and benches name belongs into `dev-dependencies`.
            ("dependencies", vec!["src/", "fuzz_targets/"]),
            ("dev-dependencies", vec!["src/", "benches/", "tests/", "examples/"]),
            ("build-dependencies", vec!["build.rs"]),
        ];
        for (kind, folders) in targets {
            let code = code(tree, folder, &folders);
            for (name, value) in tables(manifest, kind) {
                if value.get("workspace").is_some() {
                    inherited.push(name.clone());
                }
                let excused = WITHOUT_NAME.iter().any(|(excused, _)| excused == name);
                let crate_name = crate_name(tree, &manifests, folder, name, value);
                if !excused && !code.iter().any(|code| names(code, &crate_name)) {
                    findings.push(format!("{path}: {kind}: {name}"));
                }
            }
        }
    }
    for (path, manifest) in &manifests {
        let table = manifest.get("workspace").and_then(|workspace| workspace.get("dependencies"));
        for name in table.and_then(Value::as_table).into_iter().flat_map(Table::keys) {
            if !inherited.contains(name) {
                findings.push(format!("{path}: workspace.dependencies: no member uses {name}"));
            }
        }
    }
    Ok(findings)
}

/// The dependencies of one kind, those of `[target.'cfg(..)']` included.
fn tables<'a>(manifest: &'a Table, kind: &'a str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    manifest
        .get(kind)
        .into_iter()
        .chain(targets.filter_map(move |target| target.get(kind)))
        .filter_map(Value::as_table)
        .flatten()
}

/// Code of the package in `folder`, in some of its folders.
fn code<'a>(tree: &'a Tree, folder: &str, folders: &[&str]) -> Vec<&'a str> {
    tree.sources()
        .filter(|(path, _)| {
            path.strip_prefix(folder).is_some_and(|path| folders.iter().any(|folder| path.starts_with(folder)))
        })
        .map(|(_, source)| source.code.as_str())
        .collect()
}

/// The name in sources: of a package of this repository, its `[lib]` may have another.
fn crate_name(tree: &Tree, manifests: &[(&str, Table)], folder: &str, name: &str, value: &Value) -> String {
    let workspace = manifests.iter().find(|(path, _)| *path == "Cargo.toml").map(|(_, manifest)| manifest);
    let shared = workspace.and_then(|root| root.get("workspace")?.get("dependencies")?.get(name));
    let (value, folder) =
        if value.get("workspace").is_some() { (shared.unwrap_or(value), "") } else { (value, folder) };
    let library = value.get("path").and_then(Value::as_str).and_then(|path| {
        let path = super::references::joined(folder, path);
        let manifest = tree.text(&format!("{path}/Cargo.toml"))?.parse::<Table>().ok()?;
        Some(manifest.get("lib")?.get("name")?.as_str()?.to_owned())
    });
    library.unwrap_or_else(|| name.to_owned()).replace('-', "_")
}

/// Whether code names a crate: `name::..`, `use name ..` or `extern crate name`.
fn names(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + name.len()..]);
        let inside = |next: Option<char>| next.is_some_and(|next| next.is_alphanumeric() || next == '_');
        if inside(before.chars().next_back()) || inside(after.chars().next()) {
            return false;
        }
        after.trim_start().starts_with("::")
            || before.trim_end().ends_with("use")
            || before.trim_end().ends_with("crate")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_dependencies_are_named_and_used_ones_are_not() {
        let tree = Tree::of(&[
            (
                "Cargo.toml",
                "[workspace.dependencies]\nagent = { path = \"agent\" }\nanyhow = \"1\"\nlog = \"0.4\"\nserde = \"1\"\ntoml = \"0.9\"\nuuid = \"1\"\n",
            ),
            ("agent/Cargo.toml", "[lib]\nname = \"the_agent\"\n"),
            (
                "a/Cargo.toml",
                "[dependencies]\nagent.workspace = true\nanyhow.workspace = true\nserde = { workspace = true }\n\
                 uuid.workspace = true\n[dev-dependencies]\nlog.workspace = true\n",
            ),
            ("a/src/lib.rs", "use anyhow as _;\n// serde::Serialize\nfn f() { the_agent::run(\"serde::de\") }\n"),
            ("a/tests/b.rs", "fn f() { catalog::x(); log::info!(\"\"); uuid::f() }\n"),
        ]);
        let findings = of(&tree).expect("manifests parse");
        assert_eq!(
            findings,
            [
                "a/Cargo.toml: dependencies: serde",
                "a/Cargo.toml: dependencies: uuid",
                "Cargo.toml: workspace.dependencies: no member uses toml"
            ]
        );
    }
}
