//! Commit subjects: `area: summary` in at most 72 columns, so that `git log --oneline` fits a terminal and sorts by
//! area.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::command::output;

/// The last commit before the rule.
const BEFORE: &str = "c9d7c40";
/// Columns of a subject.
const WIDEST: usize = 72;
/// Words of a summary, at least.
const FEWEST_WORDS: usize = 2;

/// Commits with a subject that is too wide or has another form.
pub(super) fn of(root: &Path) -> Result<Vec<String>> {
    let git = |arguments: &[&str]| output(Command::new("git").current_dir(root).args(arguments));
    let range = if git(&["merge-base", "--is-ancestor", BEFORE, "HEAD"]).is_ok() {
        format!("{BEFORE}..HEAD")
    } else {
        println!("habits: the history has no commit {BEFORE} (a shallow clone?): every commit in it is checked");
        "HEAD".to_owned()
    };
    Ok(findings(&git(&["log", "--no-merges", "--format=%h %s", &range])?))
}

/// One finding for each bad subject in lines of hash and subject. Without a subject, a line has nothing after the hash.
fn findings(log: &str) -> Vec<String> {
    let check = |line: &str| {
        let (commit, subject) = line.split_once(' ').unwrap_or((line, ""));
        let columns = subject.chars().count();
        if columns > WIDEST {
            Some(format!("{commit}: {columns} columns: {subject}"))
        } else if !has_form(subject) {
            Some(format!("{commit}: not `area: summary`: {subject:?}"))
        } else {
            None
        }
    };
    log.lines().filter_map(check).collect()
}

/// Whether a subject is `area: summary`. The area is one name in lower case, or several with commas.
fn has_form(subject: &str) -> bool {
    let Some((area, summary)) = subject.split_once(": ") else { return false };
    let is_name = |name: &str| {
        let allowed = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-_/. ".contains(letter);
        name.starts_with(|letter: char| letter.is_ascii_lowercase()) && name.chars().all(allowed)
    };
    area.split(", ").all(is_name) && summary.split_whitespace().count() >= FEWEST_WORDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_counted_in_characters() {
        let (fits, wide) = (format!("a: b {}", "ä".repeat(67)), format!("a: b {}", "c".repeat(68)));
        let log = format!("1111111 {fits}\n2222222 {wide}\n");
        assert_eq!(findings(&log), [format!("2222222: 73 columns: {wide}")]);
    }

    #[test]
    fn subjects_name_an_area_and_say_something() {
        for subject in ["docs: wrap long lines", "lab, xtask: plain words", "data path: CO-RE for 6.1", "a/b_c.d: e f"]
        {
            assert!(has_form(subject), "{subject}");
        }
        for subject in ["", "x", "wrap long lines", "docs:", "docs: x", "docs:wrap lines", "Docs: wrap lines", ": a b"]
        {
            assert!(!has_form(subject), "{subject}");
        }
        assert_eq!(findings("1111111 \n2222222\n").len(), 2, "an empty subject, with and without git's space");
    }
}
