//! The files of the repository, with the text of those that the checks read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::source::Source;
use crate::command::output;

/// Kinds of files with text that a check reads.
const TEXT: [&str; 3] = ["md", "rs", "toml"];

/// The repository's files by their paths from its root.
#[derive(Debug, Default)]
pub(super) struct Tree {
    root: PathBuf,
    /// Every file and every folder.
    paths: BTreeSet<String>,
    /// Text by path.
    texts: BTreeMap<String, String>,
    /// Code and comments of Rust sources by path.
    sources: BTreeMap<String, Source>,
}

impl Tree {
    /// Reads tracked files, and new files that git does not ignore.
    ///
    /// # Errors
    /// When git does not answer or a file cannot be read.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let listed = output(Command::new("git").current_dir(root).args(list)).context("cannot list the repository")?;
        let mut tree = Self { root: root.to_owned(), ..Self::default() };
        // A file that was removed and is not committed is still listed.
        for path in listed.split('\0').filter(|path| !path.is_empty() && root.join(path).is_file()) {
            let is_text = path.rsplit_once('.').is_some_and(|(_, kind)| TEXT.contains(&kind));
            let text = is_text.then(|| fs::read_to_string(root.join(path)));
            tree.add(path, text.transpose().with_context(|| format!("cannot read {path}"))?);
        }
        Ok(tree)
    }

    fn add(&mut self, path: &str, text: Option<String>) {
        for (end, _) in path.match_indices('/') {
            self.paths.insert(path[..end].to_owned());
        }
        self.paths.insert(path.to_owned());
        if let Some(text) = text.as_ref().filter(|_| path.ends_with(".rs")) {
            self.sources.insert(path.to_owned(), Source::parse(text));
        }
        self.texts.extend(text.map(|text| (path.to_owned(), text)));
    }

    /// A tree of these files, for tests.
    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let mut tree = Self::default();
        for (path, text) in files {
            tree.add(path, Some((*text).to_owned()));
        }
        tree
    }

    /// The repository's root.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether there is a file or folder with this path.
    pub(super) fn has(&self, path: &str) -> bool {
        self.paths.contains(path.trim_end_matches('/'))
    }

    /// Files with a path that is `tail` or ends with it.
    pub(super) fn ending(&self, tail: &str) -> impl Iterator<Item = &str> {
        self.paths.iter().map(String::as_str).filter(move |path| {
            path.strip_suffix(tail).is_some_and(|before| before.is_empty() || before.ends_with('/'))
        })
    }

    /// The text of a file.
    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.texts.get(path).map(String::as_str)
    }

    /// Rust sources by path.
    pub(super) fn sources(&self) -> impl Iterator<Item = (&str, &Source)> {
        self.sources.iter().map(|(path, source)| (path.as_str(), source))
    }

    /// Paths and texts of the files of one kind.
    pub(super) fn files<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.texts
            .iter()
            .filter(move |(path, _)| path.rsplit_once('.').is_some_and(|(_, ending)| ending == kind))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }
}
