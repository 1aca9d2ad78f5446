//! Commit subjects: at most 72 columns, so that `git log --oneline` fits a terminal.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::command::output;

/// The last commit before the rule.
const BEFORE: &str = "c9d7c40";
/// Columns of a subject.
const WIDEST: usize = 72;

/// Commits with a subject that is too wide.
pub(super) fn of(root: &Path) -> Result<Vec<String>> {
    let git = |arguments: &[&str]| output(Command::new("git").current_dir(root).args(arguments));
    let range = if git(&["merge-base", "--is-ancestor", BEFORE, "HEAD"]).is_ok() {
        format!("{BEFORE}..HEAD")
    } else {
        println!("habits: the history has no commit {BEFORE} (a shallow clone?): every commit in it is checked");
        "HEAD".to_owned()
    };
    Ok(too_wide(&git(&["log", "--no-merges", "--format=%h %s", &range])?))
}

fn too_wide(log: &str) -> Vec<String> {
    log.lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, subject)| subject.chars().count() > WIDEST)
        .map(|(commit, subject)| format!("{commit}: {} columns: {subject}", subject.chars().count()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_counted_in_characters() {
        let (fits, wide) = ("ä".repeat(72), "a".repeat(73));
        let log = format!("1111111 {fits}\n2222222 {wide}\n");
        assert_eq!(too_wide(&log), [format!("2222222: 73 columns: {wide}")]);
    }
}
