//! Why a program's label differs from the truth: a small table that people write, `explanations.toml` next to this
//! file.
//!
//! Each disagreement takes the first entry that fits. One that none fits is an error, and so is an entry that fits
//! none: the table describes the present state only.

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::flow::{Flow, LabelOutcome};

/// One explanation, for the flows that fit all its conditions.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Explanation {
    /// Captures by name; `*` stands for any characters. All when left out.
    #[serde(default)]
    captures: Vec<String>,
    /// True protocols by label, `other` for no P2P. All when left out.
    #[serde(default)]
    truth: Vec<String>,
    /// Our outcome: `right`, `missed`, `wrong`.
    ours: String,
    /// nDPI's outcome.
    ndpi: String,
    /// nDPI's label, when the explanation is about one; `none` when it lists no such flow.
    #[serde(default)]
    ndpi_label: Option<String>,
    /// Restricts the entry to flows with (or without) a reference signature; any if left out.
    #[serde(default)]
    visible: Option<bool>,
    /// Whether captures of the corpus need not show it: it is about the lab's own.
    #[serde(default)]
    pub(super) lab: bool,
    /// The sentence that is printed.
    pub(super) why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    explanation: Vec<Explanation>,
}

/// All explanations, in the order in which they are tried.
///
/// # Errors
/// When the table is not well formed.
pub(super) fn all() -> Result<Vec<Explanation>> {
    let table: Table = toml::from_str(include_str!("explanations.toml")).context("explanations.toml")?;
    Ok(table.explanation)
}

/// Whether both labels are right.
pub(super) fn agreed(flow: &Flow) -> bool {
    flow.our_outcome() == LabelOutcome::Right && flow.ndpi_outcome() == LabelOutcome::Right
}

impl Explanation {
    pub(super) fn fits(&self, flow: &Flow) -> bool {
        let any = |list: &[String], fits: &dyn Fn(&str) -> bool| list.is_empty() || list.iter().any(|item| fits(item));
        let label = flow.ndpi.as_ref().map_or("none", |ndpi| ndpi.name.as_str());
        any(&self.captures, &|pattern| glob(pattern, &flow.capture))
            && any(&self.truth, &|truth| truth == flow.protocol().unwrap_or("other"))
            && self.ours == flow.our_outcome().word()
            && self.ndpi == flow.ndpi_outcome().word()
            && self.ndpi_label.as_deref().is_none_or(|wanted| wanted == label)
            && self.visible.is_none_or(|visible| visible == flow.visible)
    }
}

/// Whether the name fits a pattern in which `*` stands for any characters.
fn glob(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(behind) = name.strip_prefix(start) else { return false };
    (0..=behind.len()).filter(|index| behind.is_char_boundary(*index)).any(|index| glob(rest, &behind[index..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_well_formed_and_explains_with_known_words() {
        for explanation in all().expect("well formed") {
            for outcome in [&explanation.ours, &explanation.ndpi] {
                assert!(["right", "missed", "wrong"].contains(&outcome.as_str()), "{explanation:?}");
            }
            assert!(explanation.ours != "right" || explanation.ndpi != "right", "nothing to explain: {explanation:?}");
            assert!(explanation.why.ends_with('.'), "a sentence: {explanation:?}");
        }
    }

    #[test]
    fn patterns_fit_whole_names() {
        assert!(glob("lab_*_plain.pcap", "lab_dc_adc_plain.pcap"));
        assert!(glob("*", "") && glob("a*", "a") && glob("a*b*c", "a-b-b-c"));
        assert!(!glob("lab_*", "gen_lab_x") && !glob("lab", "lab_x") && !glob("*.pcap", "a.pcapng"));
    }
}
