//! Comment width: rustfmt leaves comments as they are, so nothing else checks them.

use super::tree::Tree;

/// Columns of a line with a comment, as of a line of code (`rustfmt.toml`).
const WIDEST: usize = 120;

/// Lines that are too wide because of a comment.
pub(super) fn of(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for (path, source) in tree.sources() {
        let lines: Vec<&str> = tree.text(path).into_iter().flat_map(str::lines).collect();
        for (number, comment) in &source.comments {
            let columns = lines.get(number - 1).map_or(0, |line| line.chars().count());
            if columns > WIDEST && can_be_wrapped(comment) {
                findings.push(format!("{path}:{number}: {columns} columns"));
            }
        }
    }
    findings
}

/// A row of a table cannot be wrapped, nor a single word such as an address.
fn can_be_wrapped(comment: &str) -> bool {
    let text = comment.trim_start_matches(['/', '!', '*', ' ']).trim();
    !text.starts_with('|') && text.contains(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_comments_are_found_where_they_can_be_wrapped() {
        let (word, words) = ("x".repeat(120), "x ".repeat(60));
        let text = format!(
            "/// {word}\n/// {words}y\n    let a = 1; // {words}\nlet b = \"// {words}\";\n//! | {words} |\n// short\n"
        );
        let tree = Tree::of(&[("a.rs", &text), ("b.md", &text)]);
        assert_eq!(of(&tree), ["a.rs:2: 125 columns", "a.rs:3: 138 columns"]);
    }
}
