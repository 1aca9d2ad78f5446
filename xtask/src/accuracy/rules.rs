//! The rules, as the module docs of `dissect` describe them: documentation, tiers in use, cost in the benchmark.
//!
//! Generated from the sources, so that page and code agree. A test compares them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use monitor_common::abi::{protocol::Confidence, rule::Rule};

use crate::bench::record;
use crate::workspace::root;

/// The folder with the rules.
const DISSECTORS: &str = "monitor-common/src/dissect";
/// Files there that hold no protocol of their own: helpers and tests.
const HELPERS: [&str; 13] = [
    "byte_set.rs",
    "content.rs",
    "dissector.rs",
    "early_exit.rs",
    "entropy.rs",
    "listen_port.rs",
    "lookalikes.rs",
    "opcode.rs",
    "peer_list.rs",
    "rule_state.rs",
    "testing.rs",
    "text.rs",
    "websocket.rs",
];

/// The section about rules: one part a file.
///
/// # Errors
/// When a source file or the benchmark's baseline cannot be read, or a file has no documentation.
pub(super) fn rules() -> Result<String> {
    let measured = record::names()?;
    let mut text = String::new();
    for path in files(&root().join(DISSECTORS))? {
        let source = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        let documentation = documentation(&source);
        anyhow::ensure!(!documentation.is_empty(), "{name} has no documentation");
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let _ = write!(
            text,
            "### [`{}`](../{name})\n\n{}\n",
            name.trim_start_matches(DISSECTORS).trim_start_matches('/'),
            linked(&documentation)
        );
        let tiers = tiers(&source);
        if !tiers.is_empty() {
            let _ = writeln!(text, "\nConfidence: {}.", tiers.join(", "));
        }
        // The row's name only: figures belong to one machine and have one page. A file inside a protocol's folder may
        // have the name of something else.
        let own = path.parent() == Some(&root().join(DISSECTORS));
        let rows: Vec<String> = measured
            .iter()
            .filter(|row| own && row.split('/').next() == Some(&format!("inspect-{stem}")))
            .map(|row| format!("`{row}`"))
            .collect();
        if !rows.is_empty() {
            let _ = writeln!(text, "\nCost of an inspected packet: [{}](performance.md).", rows.join(", "));
        }
        text.push('\n');
    }
    text.push_str(&table());
    Ok(text)
}

/// The table of all rules, as `replay --flows` and `peertally_rule_verdicts_total` name them.
fn table() -> String {
    let mut text = String::from(
        "### Rules\n\n`replay --flows` and the metric `peertally_rule_verdicts_total` name the rule that labelled a flow.\n\n\
         | rule | protocol | confidence | matches | source |\n|---|---|---|---|---|\n",
    );
    for rule in Rule::ALL {
        let (name, meaning, source) = (rule.name(), rule.meaning(), linked(rule.source()));
        let (protocol, confidence) = (rule.protocol().label(), rule.confidence().label());
        let _ = writeln!(text, "| `{name}` | `{protocol}` | {confidence} | {meaning} | {source} |");
    }
    text
}

/// Every file with a signature, a protocol's own file before those of its folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            paths.extend(files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !HELPERS.iter().any(|helper| path.ends_with(helper))
        {
            paths.push(path);
        }
    }
    paths.sort_by_key(|path| path.with_extension(""));
    Ok(paths)
}

/// The module documentation.
fn documentation(source: &str) -> String {
    let lines: Vec<&str> = source
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    lines.join("\n").trim().to_owned()
}

/// Confidence labels of the rules that the code, not its tests, names.
fn tiers(source: &str) -> Vec<&'static str> {
    let code = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let is_name = |letter: char| letter.is_ascii_alphanumeric();
    let names: BTreeSet<&str> = code
        .iter()
        .flat_map(|line| line.split("Rule::").skip(1))
        .filter_map(|rest| rest.split(|letter| !is_name(letter)).next())
        .collect();
    let used: Vec<Confidence> = Rule::ALL
        .iter()
        .filter(|rule| names.contains(format!("{rule:?}").as_str()))
        .map(|rule| rule.confidence())
        .collect();
    Confidence::ALL.iter().rev().filter(|tier| used.contains(tier)).map(|tier| tier.label()).collect()
}

/// The text with its BEPs and RFCs as links, and code links of rustdoc as plain code.
fn linked(text: &str) -> String {
    let text = text.replace("[`", "`").replace("`]", "`");
    let mut linked = String::new();
    let mut rest = text.as_str();
    loop {
        let next = ["BEP ", "RFC "].iter().filter_map(|word| Some((rest.find(word)?, *word))).min();
        let Some((at, word)) = next else { break };
        let number: String = rest[at + word.len()..].chars().take_while(char::is_ascii_digit).collect();
        let end = at + word.len() + number.len();
        linked.push_str(&rest[..at]);
        match (word, number.parse::<u32>()) {
            ("BEP ", Ok(bep)) => {
                let _ = write!(linked, "[BEP {bep}](https://www.bittorrent.org/beps/bep_{bep:04}.html)");
            }
            (_, Ok(rfc)) => {
                let _ = write!(linked, "[RFC {rfc}](https://www.rfc-editor.org/rfc/rfc{rfc})");
            }
            (_, Err(_)) => linked.push_str(&rest[at..end]),
        }
        rest = &rest[end..];
    }
    linked.push_str(rest);
    linked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_is_described() {
        let rules = rules().expect("the sources are there");
        for file in ["bittorrent.rs", "bittorrent/utp.rs", "kademlia.rs", "waste.rs"] {
            assert!(rules.contains(&format!("/{file})")), "{file}");
        }
        assert!(!rules.contains("testing.rs"));
        assert!(rules.contains("inspect-bittorrent/16384"), "the cost of a signature with a row in the benchmark");
    }

    #[test]
    fn the_page_says_what_the_sources_say() {
        let page = fs::read_to_string(root().join(super::super::PAGE)).expect("the page is in the repository");
        let rules = rules().expect("the sources are there");
        assert!(
            super::super::page::rules_of(&page) == Some(&rules),
            "{} is not current: `cargo xtask accuracy --rules` rewrites this part of it",
            super::super::PAGE
        );
    }

    #[test]
    fn specifications_become_links() {
        assert_eq!(
            linked("see BEP 3, RFC 791 and BEP x"),
            "see [BEP 3](https://www.bittorrent.org/beps/bep_0003.html), [RFC 791](https://www.rfc-editor.org/rfc/rfc791) and BEP x"
        );
    }

    #[test]
    fn tiers_are_those_of_the_code() {
        let source =
            "//! x\n// Rule::MseHeuristic\nfn f() { Rule::BtHandshake }\n#[cfg(test)]\nmod tests { Rule::UtpSyn }\n";
        assert_eq!(tiers(source), ["signature"]);
        assert_eq!(documentation(source), "x");
    }
}
