//! Finds the line of a key in a configuration file.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

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

    /// A problem of the text at `span`; `key` is the path of its key, if known.
    #[must_use]
    pub fn problem_at(&self, span: Option<Range<usize>>, key: &str, message: &str) -> Problem {
        let place = self.file.as_ref().map(|(file, text)| (file.clone(), span.map(|span| line(text, span.start))));
        Problem { place, key: key.to_owned(), message: message.to_owned() }
    }
}

/// One-based line of a byte offset.
fn line(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
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
