//! Writes `docs/detection.md`: fixed texts, the rules of the signatures, and the tables.
//!
//! The part about the lab's own captures is between two marks. A run without such captures keeps it, so that the rest
//! can be compared byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::Examined;
use super::corpus::Set;
use super::explanations::{Explanation, agreed};
use super::flow::{Flow, Truth};
use super::score::{Score, TIERS, by, total};

/// Marks around the part about the lab's captures.
const LIVE: [&str; 2] = ["<!-- lab: begin -->\n", "<!-- lab: end -->\n"];
/// Marks around the part that is made from the sources alone.
const RULES: [&str; 2] = ["<!-- rules: begin -->\n", "<!-- rules: end -->\n"];
/// In front of the date of a page.
const DATED: &str = "Last change of these tables: ";

/// Text between two marks of a page.
fn between<'a>(page: &'a str, marks: [&str; 2]) -> Option<&'a str> {
    let behind = page.split_once(marks[0])?.1;
    Some(behind.split_once(marks[1])?.0)
}

/// The page's own date.
pub(super) fn date(page: &str) -> Option<&str> {
    page.lines().find_map(|line| line.strip_prefix(DATED)?.strip_suffix('.'))
}

/// The section about the lab's captures, as a page has it.
pub(super) fn live_of(page: &str) -> Option<&str> {
    between(page, LIVE)
}

/// The rules, as a page has them.
pub(super) fn rules_of(page: &str) -> Option<&str> {
    between(page, RULES)
}

/// The page with other rules and nothing else changed.
pub(super) fn with_rules(page: &str, rules: &str) -> Option<String> {
    let (before, rest) = page.split_once(RULES[0])?;
    let (_, after) = rest.split_once(RULES[1])?;
    Some(format!("{before}{}{rules}{}{after}", RULES[0], RULES[1]))
}

/// The whole page.
pub(super) fn page(date: &str, rules: &str, corpus: &Examined, live: &str) -> String {
    let mut page = String::from(include_str!("intro.md"));
    let _ = write!(page, "\n## Rules\n\n{}{rules}{}", RULES[0], RULES[1]);
    let _ = write!(
        page,
        "\n## On the corpus\n\n`cargo xtask accuracy`: {} captures, compared with nDPI {} (`ndpiReader {} -C TABLE -i CAPTURE`).\n{DATED}{date}.\n",
        corpus.captures,
        corpus.ndpi_version,
        super::programs::NDPI_OPTIONS.join(" "),
    );
    page.push_str(&tables(corpus));
    let _ = write!(page, "\n## On the lab's captures\n\n{}{live}{}", LIVE[0], LIVE[1]);
    page.push('\n');
    page.push_str(include_str!("limits.md"));
    page
}

fn tables(corpus: &Examined) -> String {
    let set = |wanted: fn(&Set) -> bool| corpus.flows.iter().filter(move |(set, _)| wanted(set)).map(|(_, flow)| flow);
    let peers = |set: fn(&Set) -> bool| {
        corpus.flows.iter().filter(move |(of, flow)| set(of) && flow.truth != Truth::Other).map(|(_, flow)| flow)
    };
    let mut text = String::from("\n### P2P captures, by protocol\n\n");
    text.push_str(&peer_table(
        "protocol",
        &by(peers(|set| *set == Set::Plain), protocol),
        &total(peers(|set| *set == Set::Plain)),
    ));
    text.push_str("\n### A mix of protocols, in different encapsulations\n\n");
    let reframed: BTreeMap<String, Score> = corpus
        .flows
        .iter()
        .filter_map(|(set, flow)| match set {
            Set::Reframed(name) if flow.truth != Truth::Other => Some((name, flow)),
            _ => None,
        })
        .fold(BTreeMap::new(), |mut scores, (name, flow)| {
            scores.entry(name.clone()).or_insert_with(Score::default).add(flow);
            scores
        });
    text.push_str(&peer_table("framing", &reframed, &total(peers(|set| matches!(set, Set::Reframed(_))))));
    text.push_str("\n### Flows that are not P2P\n\n");
    let beside = corpus.flows.iter().filter(|(set, flow)| *set != Set::Negative && flow.truth == Truth::Other);
    text.push_str(&other_table(&[
        ("captures without P2P", total(set(|set| *set == Set::Negative))),
        ("other traffic in P2P captures", total(beside.map(|(_, flow)| flow))),
    ]));
    text.push_str(
        "\n### Disagreements\n\nFlows that one or both programs label differently from the ground truth.\n\n",
    );
    text.push_str(&disagreements(corpus));
    text
}

/// Section on a run over the lab's captures.
pub(super) fn live(date: &str, live: &Examined) -> String {
    let peers = || live.flows.iter().map(|(_, flow)| flow).filter(|flow| flow.truth != Truth::Other);
    let others = total(live.flows.iter().map(|(_, flow)| flow).filter(|flow| flow.truth == Truth::Other));
    let mut text = format!(
        "`cargo xtask lab --capture DIR`, then `cargo xtask accuracy --captures DIR`: {} captures of {date}, nDPI {}. \
         The client is the subscriber.\n\n",
        live.captures, live.ndpi_version
    );
    text.push_str(&peer_table("capture", &by(peers(), |flow| flow.capture.clone()), &total(peers())));
    text.push('\n');
    text.push_str(&other_table(&[("name resolution and discovery in lab captures", others)]));
    text.push('\n');
    text.push_str(&disagreements(live));
    text
}

fn protocol(flow: &Flow) -> String {
    flow.protocol().unwrap_or("other").to_owned()
}

fn peer_table(name: &str, scores: &BTreeMap<String, Score>, total: &Score) -> String {
    let mut text = format!(
        "| {name} | flows | found | {} | wrong | with a reference signature: found | packets found | bytes found | nDPI found | found without guessing | nDPI wrong |\n|---|{}\n",
        TIERS.join(" | "),
        "---:|".repeat(7 + TIERS.len() + 2),
    );
    let total = ("**all**".to_owned(), total.clone());
    for (name, score) in scores.iter().chain([(&total.0, &total.1)]) {
        let [packets, bytes] = score.shares();
        let tiers: Vec<String> = score.found.iter().map(u64::to_string).collect();
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {} of {} | {packets} | {bytes} | {} | {} | {} |",
            score.flows,
            score.found(),
            tiers.join(" | "),
            score.wrong,
            score.visible_found,
            score.visible,
            score.ndpi_found,
            score.ndpi_inspected,
            score.ndpi_wrong,
        );
    }
    text
}

fn other_table(rows: &[(&str, Score)]) -> String {
    let mut text = String::from("| traffic | flows | labelled by us | labelled P2P by nDPI |\n|---|---:|---:|---:|\n");
    for (name, score) in rows {
        let _ = writeln!(text, "| {name} | {} | {} | {} |", score.flows, score.wrong, score.ndpi_wrong);
    }
    text
}

/// Disagreements under their explanations, with the captures they are in; those without one come last.
fn disagreements(examined: &Examined) -> String {
    let mut groups: BTreeMap<usize, BTreeMap<[String; 4], Vec<&Flow>>> = BTreeMap::new();
    for (set, flow) in examined.flows.iter().filter(|(_, flow)| !agreed(flow)) {
        let explanation = explanation(&examined.explanations, flow).unwrap_or(usize::MAX);
        let ours = match flow.ours.0.as_str() {
            "unclassified" | "" => "-".to_owned(),
            label => format!("{label} ({})", flow.ours.1),
        };
        let ndpi = flow.ndpi.as_ref().map_or("not listed", |ndpi| ndpi.name.as_str()).to_owned();
        let group = groups.entry(explanation).or_default();
        // The framings of the mix disagree alike: one row.
        let capture = if matches!(set, Set::Reframed(_)) { "the mix, framed".to_owned() } else { flow.capture.clone() };
        group.entry([capture, protocol(flow), ours, ndpi]).or_default().push(flow);
    }
    let mut text = String::new();
    for (number, captures) in groups {
        let flows: usize = captures.values().map(Vec::len).sum();
        let why = examined
            .explanations
            .get(number)
            .map_or("**Without explanation.**", |explanation| explanation.why.as_str());
        let _ = writeln!(text, "{why} {flows} flow{}:\n", if flows == 1 { "" } else { "s" });
        text.push_str("| capture | truth | our label | nDPI's label | flows | which |\n|---|---|---|---|---:|---|\n");
        for ([capture, truth, ours, ndpi], flows) in captures {
            // A set, because a flow may be in many captures.
            let which: BTreeSet<String> = flows.iter().map(|flow| flow.key.ports()).collect();
            let shown: Vec<&str> = which.iter().take(3).map(String::as_str).collect();
            let more = if which.len() > shown.len() { ", .." } else { "" };
            let _ = writeln!(
                text,
                "| {capture} | {truth} | {ours} | {ndpi} | {} | {}{more} |",
                flows.len(),
                shown.join(", ")
            );
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// Number of the first explanation that fits.
pub(super) fn explanation(explanations: &[Explanation], flow: &Flow) -> Option<usize> {
    explanations.iter().position(|explanation| explanation.fits(flow))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_page_are_found_again() {
        let corpus =
            Examined { captures: 0, ndpi_version: "4.2.0".to_owned(), flows: Vec::new(), explanations: Vec::new() };
        let page = page("1 January 2026", "rules\n", &corpus, "live\n");
        assert_eq!(
            (date(&page), rules_of(&page), live_of(&page)),
            (Some("1 January 2026"), Some("rules\n"), Some("live\n"))
        );
        let other = with_rules(&page, "others\n").expect("marks");
        assert_eq!(rules_of(&other), Some("others\n"));
        assert_eq!(with_rules(&other, "rules\n").as_deref(), Some(page.as_str()));
    }
}
