//! The bill of materials: CycloneDX 1.5 (<https://cyclonedx.org/docs/1.5/json/>), as JSON.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::linked::Crate;
use crate::command::output;

/// The crate with SQLite's source.
const SQLITE: &str = "libsqlite3-sys";

/// The bill of a package with this version. `time` is that of the commit, in seconds since 1970.
pub(super) fn sbom(linked: &[Crate], version: &str, time: &str) -> Result<String> {
    let root = format!("pkg:generic/peertally@{version}");
    let mut components: Vec<Value> = linked.iter().map(component).collect();
    let mut dependencies: Vec<Value> = linked
        .iter()
        .map(|each| {
            let mut on: Vec<String> = each.depends_on.iter().map(|place| linked[*place].purl()).collect();
            if each.name == SQLITE {
                on.push("sqlite".to_owned());
            }
            json!({ "ref": each.purl(), "dependsOn": on })
        })
        .collect();
    let ours: Vec<String> = linked.iter().filter(|each| each.source.is_none()).map(Crate::purl).collect();
    dependencies.push(json!({ "ref": root, "dependsOn": ours }));
    // What is linked and no crate of the list.
    components.push(json!({
        "type": "library", "bom-ref": "sqlite", "name": "sqlite", "version": sqlite_version(linked)?,
        "licenses": [{ "license": { "name": "Public domain" } }]
    }));
    let rust = output(Command::new("rustc").arg("--version"))?;
    let rust = rust.split_whitespace().nth(1).context("rustc names its version")?;
    components.push(json!({
        "type": "library", "bom-ref": "rust-std", "name": "rust-std", "version": rust,
        "licenses": [{ "expression": "MIT OR Apache-2.0" }]
    }));
    let time = output(Command::new("date").args(["--utc", "+%Y-%m-%dT%H:%M:%SZ", &format!("--date=@{time}")]))?;
    let bill = json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {
            "timestamp": time.trim(),
            "tools": { "components": [{ "type": "application", "name": "cargo xtask dist" }] },
            "component": { "type": "application", "bom-ref": root, "name": "peertally", "version": version,
                "licenses": [{ "expression": "MIT OR Apache-2.0" }] }
        },
        "components": components, "dependencies": dependencies
    });
    Ok(serde_json::to_string_pretty(&bill)? + "\n")
}

fn component(each: &Crate) -> Value {
    let mut component =
        json!({ "type": "library", "bom-ref": each.purl(), "name": each.name, "version": each.version });
    if each.source.is_some() {
        component["purl"] = each.purl().into();
    }
    if let Some(license) = &each.license {
        // Older manifests write a slash.
        component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
    }
    if let Some(checksum) = &each.checksum {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

/// The version that the bundled header names.
fn sqlite_version(linked: &[Crate]) -> Result<String> {
    let sys = linked.iter().find(|each| each.name == SQLITE).context("SQLite is linked")?;
    let header = sys.manifest_path.with_file_name("sqlite3").join("sqlite3.h");
    let text = fs::read_to_string(&header).with_context(|| format!("cannot read {}", header.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("#define SQLITE_VERSION ")).context("SQLITE_VERSION")?;
    Ok(line.trim().trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::dist::linked::crates;

    #[test]
    fn each_dependency_is_a_component() {
        let bill: Value =
            serde_json::from_str(&sbom(&crates().expect("cargo"), "1.2.3", "0").expect("a bill")).expect("JSON");
        assert_eq!(bill["metadata"]["timestamp"], "1970-01-01T00:00:00Z");
        let rows = |key: &str| bill[key].as_array().expect("a list").clone();
        let mut known: BTreeSet<String> =
            rows("components").iter().map(|each| each["bom-ref"].as_str().expect("a reference").to_owned()).collect();
        assert_eq!(known.len(), rows("components").len(), "a reference is used twice");
        known.insert("pkg:generic/peertally@1.2.3".to_owned());
        for row in rows("dependencies") {
            for on in row["dependsOn"].as_array().expect("a list").iter().chain([&row["ref"]]) {
                assert!(known.contains(on.as_str().expect("a reference")), "{on}");
            }
        }
    }
}
