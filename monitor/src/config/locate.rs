//! Finds the line of a key in a configuration file, and turns TOML errors into problems with a suggestion.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::Problem;

/// Where the text of a configuration came from. Without a file, everything came from flags or defaults.
#[derive(Debug)]
pub struct Locator<'text> {
    file: Option<(PathBuf, &'text str)>,
}

/// One step into a document: a key or an index.
#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl<'text> Locator<'text> {
    /// A locator for the text of a file.
    #[must_use]
    pub fn new(path: &Path, text: &'text str) -> Self {
        Self { file: Some((path.to_owned(), text)) }
    }

    /// A locator for a configuration without a file.
    #[must_use]
    pub const fn none() -> Self {
        Self { file: None }
    }

    /// The file, if there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|(path, _)| path.as_path())
    }

    /// A problem of the key at `path`, such as `policies[0].window`.
    #[must_use]
    pub fn problem(&self, path: &str, message: impl Into<String>) -> Problem {
        let place =
            self.file.as_ref().map(|(file, text)| (file.clone(), offset_of(text, path).map(|at| line(text, at))));
        Problem { place, key: path.to_owned(), message: message.into() }
    }

    /// The problem that a TOML error describes.
    #[must_use]
    pub fn problem_of(&self, error: &toml::de::Error) -> Problem {
        let place =
            self.file.as_ref().map(|(file, text)| (file.clone(), error.span().map(|span| line(text, span.start))));
        let message = error.message().trim().to_owned();
        let fault = message.split(", expected").next().unwrap_or(&message);
        let message = match (moved(&message), suggestion(&message)) {
            (Some(table), _) => format!("{fault}; write it in a table {table}"),
            (None, Some(known)) => format!("{fault}; did you mean `{known}`?"),
            (None, None) => message,
        };
        Problem { place, key: String::new(), message }
    }
}

/// One-based line of a byte offset.
fn line(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

/// Keys of a hook kind that are easily written one table too high, and their table.
const KIND_KEYS: &[(&str, &str)] = &[
    ("command", "[hooks.exec]"),
    ("url", "[hooks.webhook]"),
    ("headers", "[hooks.webhook]"),
    ("ca_file", "[hooks.webhook]"),
];

/// The table that an unknown key of `[[hooks]]` belongs to.
fn moved(message: &str) -> Option<&'static str> {
    let mut quoted = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let typed = quoted.next()?;
    let of_hooks = quoted.any(|known| known == "retry_delay");
    KIND_KEYS.iter().find(|(key, _)| of_hooks && *key == typed).map(|(_, table)| *table)
}

/// The closest of the names that serde's message offers (`unknown field `x`, expected one of `a`, `b``).
fn suggestion(message: &str) -> Option<&str> {
    if !message.starts_with("unknown ") {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let typed = quoted.next()?;
    closest(typed, quoted)
}

/// The name most like `typed`, if any is like it at all.
pub(super) fn closest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&typed.to_lowercase(), name), name))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, name)| name)
}

/// Splits `policies[0].window` into its steps.
fn steps(path: &str) -> impl Iterator<Item = Step<'_>> {
    path.split(['.', '['])
        .filter(|part| !part.is_empty())
        .map(|part| part.strip_suffix(']').and_then(|index| index.parse().ok()).map_or(Step::Key(part), Step::Index))
}

/// Byte offset of the deepest part of `path` that the document has.
fn offset_of(text: &str, path: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut table: Option<&DeTable<'_>> = Some(document.get_ref());
    let mut array = None;
    let mut offset = None;
    for step in steps(path) {
        let value = match step {
            Step::Key(key) => table.and_then(|table| table.get(key)),
            Step::Index(index) => array.and_then(|array: &toml::de::DeArray<'_>| array.get(index)),
        };
        let Some(value) = value else { break };
        offset = Some(value.span().start);
        (table, array) = match value.get_ref() {
            DeValue::Table(inner) => (Some(inner), None),
            DeValue::Array(inner) => (None, Some(inner)),
            _ => (None, None),
        };
    }
    offset
}
