//! Reads the text of a configuration file into typed keys, and reports every unknown key and every value of a wrong
//! type.
//!
//! serde stops at its first error. So each faulty entry is removed after its report, and the rest is read again.

use std::{fmt::Write as _, ops::Range};

use serde::Deserialize as _;
use toml::de::{DeArray, DeTable, DeValue, Deserializer, Error};

use super::{
    Problem,
    locate::Locator,
    messages,
    raw::{Raw, RawHook},
};

/// One step into a document.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

impl Step {
    fn key(&self) -> Option<&str> {
        match self {
            Self::Key(key) => Some(key),
            Self::Index(_) => None,
        }
    }
}

/// The typed keys of `text`.
///
/// # Errors
/// The first syntax error; without one, every unknown key, every missing key and every value of a wrong type.
pub(super) fn read(text: &str, locator: &Locator<'_>) -> Result<Raw, Vec<Problem>> {
    let document =
        DeTable::parse(text).map_err(|error| vec![locator.problem_at(error.span(), "", error.message().trim())])?;
    let root = document.span();
    let original = DeValue::Table(document.into_inner());
    let mut rest = original.clone();
    let mut problems = Vec::new();
    // Steps in the original document: indices change when an item is removed.
    let mut removed: Vec<Vec<Step>> = Vec::new();
    loop {
        let DeValue::Table(table) = &rest else { return Err(problems) };
        let error = match Raw::deserialize(Deserializer::from(toml::Spanned::new(root.clone(), table.clone()))) {
            Ok(raw) if problems.is_empty() => return Ok(raw),
            Ok(_) => return Err(problems),
            Err(error) => error,
        };
        let Some(steps) = find(&original, &error) else {
            // The place is unknown, so the value may be a secret.
            let plain = messages::plain_without_value(error.message().trim());
            problems.push(locator.problem_at(error.span(), "", &plain));
            return Err(problems);
        };
        if !is_consequence(&error, &steps, &removed) {
            problems.push(problem_of(&error, &steps, &original, text, locator));
        }
        // Without the entry the next pass finds the next mistake.
        if find(&rest, &error).and_then(|steps| remove(&mut rest, &steps)).is_none() {
            return Err(problems);
        }
        removed.push(steps);
    }
}

/// Whether a key is missing only because it was reported and removed.
fn is_consequence(error: &Error, table: &[Step], removed: &[Vec<Step>]) -> bool {
    let Some(key) = messages::missing_key(error.message()) else { return false };
    let missing = Step::Key(key.to_owned());
    removed.iter().any(|steps| steps.split_last() == Some((&missing, table)))
}

fn problem_of(error: &Error, steps: &[Step], document: &DeValue<'_>, text: &str, locator: &Locator<'_>) -> Problem {
    let message = error.message().trim();
    // The message names an unknown key itself.
    let named =
        if messages::is_unknown_key(message) { steps.split_last().map_or(steps, |(_, table)| table) } else { steps };
    let entry = entry(document, steps);
    let mut plain = if may_hold_secret(steps) {
        messages::plain_without_value(message)
    } else {
        let value = error.span().and_then(|span| text.get(span)).unwrap_or_default();
        messages::plain(message, value)
    };
    // serde describes a date as a table.
    if let (Some(DeValue::Datetime(_)), Some(rest)) = (entry, plain.strip_prefix("a table is not ")) {
        plain = format!("a date is not {rest}");
    }
    if let (Some(DeValue::Array(items)), Some(Step::Key(key))) = (entry, steps.last())
        && plain.starts_with("a list is not a table")
        && items.iter().all(|item| item.get_ref().is_table())
        && !items.is_empty()
    {
        let keys: Vec<&str> = steps.iter().filter_map(Step::key).collect();
        let _infallible = write!(plain, "; {key} is one table: write [{}]", keys.join("."));
    }
    locator.problem_at(error.span(), &path(named), &plain)
}

/// The entry at `steps`; `None` if there is none.
fn entry<'a, 'text>(document: &'a DeValue<'text>, steps: &[Step]) -> Option<&'a DeValue<'text>> {
    steps.iter().try_fold(document, |value, step| match (value, step) {
        (DeValue::Table(table), Step::Key(key)) => table.get(key.as_str()).map(toml::Spanned::get_ref),
        (DeValue::Array(items), Step::Index(index)) => items.get(*index).map(toml::Spanned::get_ref),
        _ => None,
    })
}

/// Whether an entry belongs to the table of a hook kind, where URLs, headers and arguments can hold secrets.
fn may_hold_secret(steps: &[Step]) -> bool {
    let [Step::Key(hooks), Step::Index(_), Step::Key(kind), ..] = steps else { return false };
    hooks == "hooks" && RawHook::KINDS.iter().any(|each| each.name == kind)
}

/// Path of a key, such as `policies[0].window`.
fn path(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps {
        let _infallible = match step {
            Step::Key(key) if path.is_empty() => write!(path, "{key}"),
            Step::Key(key) => write!(path, ".{key}"),
            Step::Index(index) => write!(path, "[{index}]"),
        };
    }
    path
}

/// The entry that an error is about: the one with its span. A header such as `[[hooks]]` is the span of the list and of
/// its first item.
fn find(document: &DeValue<'_>, error: &Error) -> Option<Vec<Step>> {
    let span = error.span()?;
    let mut path = Vec::new();
    let is_outer = messages::is_about_a_list(error.message());
    search(document, &span, is_outer, &mut path).then_some(path)
}

fn search(value: &DeValue<'_>, span: &Range<usize>, is_outer: bool, path: &mut Vec<Step>) -> bool {
    let mut visit = |step: Step, value: &toml::Spanned<DeValue<'_>>, is_key: bool| {
        path.push(step);
        let is_here = is_key || value.span() == *span;
        // The search adds its steps to the path, so an outer entry must end it before.
        if is_outer && is_here {
            return true;
        }
        if search(value.get_ref(), span, is_outer, path) || is_here {
            return true;
        }
        path.pop();
        false
    };
    match value {
        DeValue::Table(table) => {
            table.iter().any(|(key, value)| visit(Step::Key(key.get_ref().to_string()), value, key.span() == *span))
        }
        DeValue::Array(items) => items.iter().enumerate().any(|(index, value)| visit(Step::Index(index), value, false)),
        _ => false,
    }
}

/// Removes the entry at `steps`; `None` if there is none.
fn remove(value: &mut DeValue<'_>, steps: &[Step]) -> Option<()> {
    let (step, further) = steps.split_first()?;
    match (value, step) {
        (DeValue::Table(table), Step::Key(key)) if further.is_empty() => table.remove(key.as_str()).map(drop),
        (DeValue::Table(table), Step::Key(key)) => remove(table.get_mut(key.as_str())?.get_mut(), further),
        (DeValue::Array(items), Step::Index(index)) if further.is_empty() => {
            let mut kept = DeArray::new();
            items.iter().enumerate().filter(|(at, _)| at != index).for_each(|(_, item)| kept.push(item.clone()));
            *items = kept;
            Some(())
        }
        (DeValue::Array(items), Step::Index(index)) => remove(items.get_mut(*index)?.get_mut(), further),
        _ => None,
    }
}
