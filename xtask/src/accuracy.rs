//! `cargo xtask accuracy`: our labels and nDPI's over captures with known ground truth, written to `docs/detection.md`.
//!
//! Runs the host engine (the kernel program's source) and Debian's `ndpiReader` over the corpus next to the
//! repository and over folders of the lab's captures. A disagreement that `accuracy/explanations.toml` does not explain
//! is an error, and so is an explanation that explains nothing. Nothing in the page belongs to the machine that wrote
//! it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use peertally_lab::POOLS;

use crate::command::output;
use crate::setup::{self, Need};
use crate::workspace::{root, shared};

mod corpus;
mod explanations;
mod flow;
mod page;
mod programs;
mod rules;
mod score;

use corpus::{Capture, Set};
use explanations::{Explanation, agreed};
use flow::Flow;
use programs::Programs;

/// The page, in the repository.
const PAGE: &str = "docs/detection.md";

/// Arguments of `accuracy`.
#[derive(Debug, Default, clap::Args)]
pub struct Arguments {
    /// Folders with captures of the lab, named CLIENT-MODE-IPVERSION.pcap, to examine in addition to the corpus
    #[arg(long, value_name = "DIR", conflicts_with_all = ["check", "rules"])]
    pub captures: Vec<PathBuf>,
    /// Write nothing; fail if the page differs from the result for corpus and sources
    #[arg(long)]
    pub check: bool,
    /// Rewrite only the part that describes the rules: needs neither captures nor nDPI
    #[arg(long, conflicts_with = "check")]
    pub rules: bool,
}

/// Result over a set of captures.
struct Examined {
    captures: usize,
    ndpi_version: String,
    flows: Vec<(Set, Flow)>,
    explanations: Vec<Explanation>,
}

/// Examines and writes, or compares.
///
/// # Errors
/// When a program fails, a disagreement has no explanation or an explanation no disagreement; with `--check`, when the
/// page differs.
pub fn run(arguments: &Arguments) -> Result<()> {
    let path = root().join(PAGE);
    let old = fs::read_to_string(&path).unwrap_or_default();
    let rules = rules::rules()?;
    if arguments.rules {
        let new = page::with_rules(&old, &rules).with_context(|| format!("{PAGE} has no part about rules"))?;
        fs::write(&path, new).with_context(|| format!("cannot write {PAGE}"))?;
        println!("accuracy: the rules in {PAGE} are those of the sources");
        return Ok(());
    }
    let Some(folder) = shared().map(|shared| shared.join("corpus")).filter(|folder| folder.join("FLOWS.tsv").is_file())
    else {
        println!("SKIPPED: accuracy on the corpus: no shared/corpus next to the repository");
        if arguments.check && page::rules_of(&old) != Some(&rules) {
            bail!("{PAGE} is not current: `cargo xtask accuracy --rules` rewrites the part about rules");
        }
        if arguments.captures.is_empty() {
            return Ok(());
        }
        bail!("the page is about the corpus and the lab: nothing is written without the corpus");
    };
    setup::ensure(&[Need::Accuracy])?;
    let programs = Programs::new()?;
    let found = examine(&programs, &corpus::corpus(&folder)?)?;
    let mut lab = Vec::new();
    for folder in &arguments.captures {
        lab.extend(corpus::live(folder)?);
    }
    let today = output(Command::new("date").args(["-u", "+%-d %B %Y"]).env("LC_ALL", "C"))?.trim().to_owned();
    let lab = if lab.is_empty() { None } else { Some(examine(&programs, &lab)?) };
    let live = match &lab {
        Some(lab) => page::live(&today, lab),
        None => page::live_of(&old).unwrap_or("No captures of the lab yet.\n").to_owned(),
    };
    let problems = problems(&found, lab.as_ref());
    // An unchanged page keeps its date.
    let dated = page::date(&old).map(|date| page::page(date, &rules, &found, &live));
    let current = dated.as_deref() == Some(old.as_str());
    if arguments.check && !current {
        bail!("{PAGE} is not current: run `cargo xtask accuracy` and commit what it writes");
    }
    if !current {
        fs::write(&path, page::page(&today, &rules, &found, &live)).with_context(|| format!("cannot write {PAGE}"))?;
    }
    println!("accuracy: {PAGE} {}", if current { "is current" } else { "is written" });
    if !problems.is_empty() {
        bail!(
            "accuracy: {} to explain in xtask/src/accuracy/explanations.toml:\n  {}",
            problems.len(),
            problems.join("\n  ")
        );
    }
    Ok(())
}

/// Runs both programs over the captures.
fn examine(programs: &Programs, captures: &[Capture]) -> Result<Examined> {
    let mut flows = Vec::new();
    for (number, capture) in captures.iter().enumerate() {
        if number % 50 == 0 {
            println!("accuracy: capture {} of {}, {}", number + 1, captures.len(), capture.name);
        }
        flows.extend(flows_of(programs, capture)?.into_iter().map(|flow| (capture.set.clone(), flow)));
    }
    let explanations = explanations::all()?;
    Ok(Examined { captures: captures.len(), ndpi_version: programs.ndpi_version()?, flows, explanations })
}

/// TCP and UDP flows of one capture. Two connections between equal ports are one flow, and a label of either counts.
fn flows_of(programs: &Programs, capture: &Capture) -> Result<Vec<Flow>> {
    let ndpi = programs.ndpi(&capture.path)?;
    // Labels by endpoint depend on which end is the subscriber. The corpus does not say which end is.
    let pools: &[&str] = if capture.set == Set::Live { &POOLS } else { &[] };
    let mut flows: std::collections::BTreeMap<flow::Key, Flow> = std::collections::BTreeMap::new();
    for row in programs.ours(&capture.path, pools)? {
        if !["tcp", "udp"].contains(&row.l4.as_str()) || row.protocol == "fragment" {
            continue;
        }
        let key = row.key();
        let (truth, visible) = capture.truth(&key);
        let flow = flows.entry(key.clone()).or_insert_with(|| Flow {
            capture: capture.name.clone(),
            ndpi: ndpi.get(&key).cloned(),
            key,
            truth,
            visible,
            ours: ("unclassified".to_owned(), "none".to_owned()),
            packets: 0,
            bytes: 0,
        });
        flow.packets += row.packets;
        flow.bytes += row.bytes;
        if row.protocol != "unclassified" {
            flow.ours = (row.protocol, row.confidence);
        }
    }
    Ok(flows.into_values().collect())
}

/// Disagreements without an explanation, explanations without a disagreement.
fn problems(corpus: &Examined, lab: Option<&Examined>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut used = vec![false; corpus.explanations.len()];
    let flows = corpus.flows.iter().chain(lab.into_iter().flat_map(|lab| &lab.flows));
    for (_, flow) in flows.filter(|(_, flow)| !agreed(flow)) {
        match page::explanation(&corpus.explanations, flow) {
            Some(number) => used[number] = true,
            None => {
                let ndpi = flow.ndpi.as_ref().map_or("not listed", |ndpi| ndpi.name.as_str());
                problems.push(format!(
                    "{} {}: truth {}, we say {}, nDPI says {ndpi}",
                    flow.capture,
                    flow.key.ports(),
                    flow.protocol().unwrap_or("other"),
                    flow.ours.0
                ));
            }
        }
    }
    let idle = corpus.explanations.iter().zip(used).filter(|(explanation, used)| !used && !explanation.lab);
    problems.extend(idle.map(|(explanation, _)| format!("no flow is explained by: {}", explanation.why)));
    problems
}
