//! What the package carries beside the agent: the rules for Prometheus name metrics that there are, and are valid; the
//! configuration of a fresh installation starts no agent.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use peertally_lab as lab;
use peertally_tests::executable;

const RULES: [&str; 2] = ["packaging/prometheus/peertally-alerts.yml", "packaging/prometheus/peertally-recording.yml"];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// Words that start as the metrics do, without the records of the rules themselves.
fn metrics(text: &str) -> BTreeSet<&str> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    let words = text.split(|letter: char| !is_part(letter));
    words.filter(|word| word.starts_with("peertally_")).collect()
}

#[test]
fn rules_name_metrics_that_there_are() -> Result<()> {
    let documented = fs::read_to_string(file("docs/metrics.md"))?;
    for name in RULES {
        let text = fs::read_to_string(file(name))?;
        let found = metrics(&text);
        ensure!(!found.is_empty(), "{name} has no metric");
        for metric in found {
            ensure!(documented.contains(&format!("| `{metric}` |")), "{name}: there is no metric {metric}");
        }
    }
    Ok(())
}

#[test]
fn rules_are_valid() -> Result<()> {
    if !lab::require("rules_are_valid", &["promtool"]) {
        return Ok(());
    }
    lab::run(Command::new("promtool").args(["check", "rules"]).args(RULES.map(file)))
}

#[test]
fn a_fresh_configuration_starts_no_agent() -> Result<()> {
    let shipped = file("packaging/peertally.toml");
    let run = |path: &Path| lab::output(Command::new(executable()?).args(["run", "--config"]).arg(path));
    let refused = run(&shipped)?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(64), "{:?}: {said}", refused.status);
    ensure!(said.contains("no interface is given") && said.contains("[[interfaces]]"), "{said}");

    // The same file with its interfaces named is valid.
    let folder = tempfile::tempdir()?;
    let named = folder.path().join("peertally.toml");
    let text = fs::read_to_string(&shipped)?;
    fs::write(&named, uncommented(&text))?;
    let check = lab::output(Command::new(executable()?).arg("check-config").arg(&named))?;
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    ensure!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    said.find("eth0").zip(said.find("eth1")).map(|_| ()).with_context(|| format!("no interface in {said}"))
}

/// The configuration with its commented interfaces.
fn uncommented(text: &str) -> String {
    let is_key = |line: &str| ["#[[", "#name", "#role"].iter().any(|start| line.starts_with(start));
    text.lines().flat_map(|line| [if is_key(line) { &line[1..] } else { line }, "\n"]).collect()
}
