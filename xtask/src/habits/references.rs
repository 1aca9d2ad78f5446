//! Dead references: files, sections and anchors that documents and comments name and the repository does not have.
//!
//! Looked at are Markdown files as a whole, and comments of Rust sources. A reference is one of:
//! - a path that starts with a folder of the repository's root: `docs/..`, `monitor/..`;
//! - a name that ends in `.rs` or `.md`: some file must have that name, or that end of a path;
//! - the target of a Markdown link, with its anchor;
//! - a number with a dot, or `section` and a number, after the name of a page: a heading of the page must start with
//!   it. Before `section`, the name may stand without `.md`, in small letters.
//!
//! Absolute paths are not looked at. A path with a placeholder (`<protocol>`, `*`, `{a,b}`, `NAME`) counts up to the
//! folder before it.

use super::tree::Tree;

/// Names of files that this repository does not have: Rust's old name of a module, and a page of Nicotine+.
const ELSEWHERE: &[&str] = &["mod.rs", "doc/SLSKPROTOCOL.md"];

/// Words in front of `section 3` that name no page: grammar, and the name of a file format.
const NO_PAGES: &[&str] = &["and", "in", "of", "or", "see", "to"];

/// Dead references of every document and source.
pub(super) fn of(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for (path, text) in tree.files("md") {
        for (index, line) in text.lines().enumerate() {
            let dead = dead_words(tree, path, line).into_iter().chain(dead_links(tree, path, line));
            findings.extend(dead.map(|dead| format!("{path}:{}: {dead}", index + 1)));
        }
    }
    for (path, source) in tree.sources() {
        for (number, comment) in &source.comments {
            findings.extend(dead_words(tree, path, comment).into_iter().map(|dead| format!("{path}:{number}: {dead}")));
        }
    }
    findings.dedup();
    findings
}

/// Paths, names of files and sections in a line.
fn dead_words(tree: &Tree, path: &str, line: &str) -> Vec<String> {
    let mut dead = Vec::new();
    let inside = |next: char| next.is_ascii_alphanumeric() || "_-./".contains(next);
    let mut at = 0;
    while let Some(start) = line[at..].find(inside).map(|start| at + start) {
        let end = line[start..].find(|next| !inside(next)).map_or(line.len(), |length| start + length);
        at = end;
        let (before, after) = (line[..start].chars().next_back(), &line[end..]);
        // An absolute path, one in a home folder or behind a variable, an address, a link (looked at elsewhere).
        let foreign =
            matches!(before, Some('~' | '$' | '}' | '>' | '@' | ':' | '*')) || is_link_target(path, line, start);
        let word = line[start..end].trim_end_matches('.');
        if foreign || word.starts_with(['/', '.', '-']) || word.contains("..") {
            continue;
        }
        let open = after.starts_with(['<', '{', '*', '$']);
        let name = word.rsplit('/').next().unwrap_or_default();
        let open = open || name.len() > 1 && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
        let word = if open { word.rsplit_once('/').map_or("", |(folder, _)| folder) } else { word };
        if let Some(problem) = problem(tree, path, word, after) {
            dead.push(problem);
        }
    }
    dead
}

fn is_link_target(path: &str, line: &str, start: usize) -> bool {
    path.ends_with(".md") && line[..start].ends_with("](")
}

fn problem(tree: &Tree, path: &str, word: &str, after: &str) -> Option<String> {
    let is_page =
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase()) && after.starts_with(" section ");
    if is_page && !NO_PAGES.contains(&word) && section(after).is_some() {
        return problem(tree, path, &format!("{word}.md"), after);
    }
    let file = word.ends_with(".rs") || word.ends_with(".md");
    let rooted = word.split_once('/').is_some_and(|(folder, _)| tree.has(folder) && !folder.contains('.'));
    if word.starts_with('.') || ELSEWHERE.contains(&word) || !(file || rooted) {
        return None;
    }
    let beside = joined(path.rsplit_once('/').map_or("", |(folder, _)| folder), word);
    let target = [word, &beside].into_iter().find(|target| tree.has(target));
    let target = target.or_else(|| if file { tree.ending(word).next() } else { None });
    let Some(target) = target else { return Some(word.to_owned()) };
    let section = section(after).filter(|_| target.ends_with(".md"))?;
    let found = tree.text(target).is_some_and(|text| headings(text).any(|heading| has_number(heading, section)));
    (!found).then(|| format!("{word} section {section}"))
}

/// The number in `` ` 3.4`` or `` ` section 3.4``, behind the name of a page.
fn section(after: &str) -> Option<&str> {
    let after = after.trim_start_matches(['`', ')', '"', '\'']);
    let after = after.strip_prefix(' ')?;
    let (named, number) = match after.strip_prefix("section ") {
        Some(number) => (true, number),
        None => (false, after),
    };
    let end = number.find(|next: char| !next.is_ascii_digit() && next != '.').unwrap_or(number.len());
    let number = number[..end].trim_end_matches('.');
    // Without the word, a number alone may be a count.
    (!number.is_empty() && (named || number.contains('.'))).then_some(number)
}

fn has_number(heading: &str, number: &str) -> bool {
    heading.strip_prefix(number).is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
}

/// Markdown links of a line to files and anchors of the repository.
fn dead_links(tree: &Tree, path: &str, line: &str) -> Vec<String> {
    let mut dead = Vec::new();
    for (at, _) in line.match_indices("](") {
        let target = line[at + 2..].split([')', ' ']).next().unwrap_or_default();
        if target.contains("://") || target.starts_with("mailto:") || target.is_empty() {
            continue;
        }
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let file = if file.is_empty() { path.to_owned() } else { joined(folder, file) };
        let has_anchor =
            |text: &str| text.contains(&format!("id=\"{anchor}\"")) || anchors(text).iter().any(|one| one == anchor);
        if !tree.has(&file) || !anchor.is_empty() && file.ends_with(".md") && !tree.text(&file).is_some_and(has_anchor)
        {
            dead.push(target.to_owned());
        }
    }
    dead
}

/// `path` seen from `folder`, without `.` and `..`.
pub(super) fn joined(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Headings outside of code blocks, without their marks.
fn headings(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter_map(move |line| {
        code ^= line.trim_start().starts_with("```");
        (!code && line.starts_with('#')).then(|| line.trim_start_matches('#').trim())
    })
}

/// Anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    for heading in headings(text) {
        let mut anchor = String::new();
        for next in heading.to_lowercase().chars() {
            match next {
                ' ' => anchor.push('-'),
                '-' | '_' => anchor.push(next),
                next if next.is_alphanumeric() => anchor.push(next),
                _ => {}
            }
        }
        let same = anchors.iter().filter(|one| **one == anchor).count();
        anchors.push(if same == 0 { anchor } else { format!("{anchor}-{same}") });
    }
    anchors
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Page\n\n## 3.4 Peers, `uTP`\n\n```sh\n# no heading\n```\n";

    fn dead(path: &str, text: &str) -> Vec<String> {
        let tree =
            Tree::of(&[("docs/page.md", PAGE), ("monitor/src/run.rs", ""), ("tests/src/lib.rs", ""), (path, text)]);
        of(&tree).into_iter().map(|finding| finding.splitn(3, ": ").last().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn existing_files_and_sections_are_found() {
        let text = "// `docs/page.md` 3.4, page.md section 3, page section 3.4, src/run.rs, monitor/src/, `monitor/src/{run,x}.rs`, /docs/x.md,\n\
                    // tests/src/<name>.rs, https://a.example/docs/x.md, 3.4 of and/or, $HOME/tests/x.rs, tests/src/NAME, target/x.rs..\n\
                    const A: &str = \"docs/none.md\"; // run.rs:12.";
        assert_eq!(dead("monitor/src/a.rs", text), ["target/x.rs"]);
    }

    #[test]
    fn dead_files_sections_and_links_are_named() {
        let text = "See `docs/gone.md`, page.md 3.5 and (design section 2). `gone.rs` [a](page.md#34-peers-utp) [b](page.md#gone)\n\
                    [c](../monitor/src/gone.rs) [d](#here) [e](https://a.example/x)\n## Here\n";
        let expected =
            ["docs/gone.md", "page.md section 3.5", "design.md", "gone.rs", "page.md#gone", "../monitor/src/gone.rs"];
        assert_eq!(dead("docs/other.md", text), expected);
    }

    #[test]
    fn paths_are_joined() {
        assert_eq!(joined("docs/decisions", "../page.md"), "docs/page.md");
        assert_eq!(joined("", "./docs//page.md"), "docs/page.md");
    }
}
