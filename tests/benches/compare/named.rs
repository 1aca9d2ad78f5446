//! How many flows and protocols each program names in the same file.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

/// Flows by protocol; those without a name are under [`NAMELESS`].
type Flows = BTreeMap<String, u64>;

/// What the programs call flows that they do not name; fragments show no ports.
const NAMELESS: [&str; 3] = ["Unknown", "unclassified", "fragment"];

/// The names of `ndpiReader` and of both engines.
pub(crate) fn all(peertally: &Path, capture: &Path) -> Result<Value> {
    let ndpi = ndpi(&output(Command::new("ndpiReader").arg("-i").arg(capture))?)?;
    let ours = |engine: &str| -> Result<Flows> {
        let arguments = ["replay", "--flows", "--format", "json", "--engine", engine];
        ours(&output(Command::new(peertally).args(arguments).arg(capture))?)
    };
    let rows = [("ndpiReader", ndpi), ("host engine", ours("host")?), ("kernel engine", ours("kernel")?)];
    Ok(rows.into_iter().map(|(name, flows)| row(name, &flows)).collect())
}

fn row(name: &str, flows: &Flows) -> Value {
    let named = || flows.iter().filter(|(protocol, _)| !NAMELESS.contains(&protocol.as_str()));
    let protocols: Vec<&String> = named().map(|(protocol, _)| protocol).collect();
    let (all, named): (u64, u64) = (flows.values().sum(), named().map(|(_, flows)| flows).sum());
    eprintln!("{name:<40}{all} flows, {named} named, of {} protocols", protocols.len());
    json!({ "program": name, "flows": all, "named": named, "protocols": protocols })
}

fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// The list "Detected protocols" of `ndpiReader`: a name, then packets, bytes and flows.
fn ndpi(printed: &[u8]) -> Result<Flows> {
    let text = String::from_utf8_lossy(printed);
    let mut flows = Flows::new();
    let lines = text.lines().skip_while(|line| !line.starts_with("Detected protocols:")).skip(1);
    for line in lines.take_while(|line| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, .., "flows:", count] = fields[..] else { continue };
        *flows.entry(name.to_owned()).or_default() += count.parse::<u64>().with_context(|| line.to_owned())?;
    }
    ensure!(!flows.is_empty(), "ndpiReader printed no list of detected protocols");
    Ok(flows)
}

/// The flow rows of `peertally replay --flows --format json`.
fn ours(printed: &[u8]) -> Result<Flows> {
    let report: Value = serde_json::from_slice(printed).context("the JSON of peertally replay")?;
    let mut flows = Flows::new();
    for row in report["flows"].as_array().context("flows of peertally replay")? {
        *flows.entry(row["protocol"].as_str().context("a flow's protocol")?.to_owned()).or_default() += 1;
    }
    Ok(flows)
}
