//! Rewrites the messages of serde for people who write configuration files, and suggests the name that was meant.
//! Escapes the texts of a file for a terminal.

use super::raw::RawHook;
use crate::deliver::kind::HookKind;

/// A text of a configuration for a terminal: control and other invisible characters are escaped.
pub(crate) fn escape_invisible(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        match c {
            // These only need an escape inside quotes.
            '"' | '\'' | '\\' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
        shown
    })
}

/// The key that a message reports as missing.
pub(super) fn missing_key(message: &str) -> Option<&str> {
    message.trim().strip_prefix("missing field `")?.strip_suffix('`')
}

/// Whether a message is about a key that does not exist.
pub(super) fn is_unknown_key(message: &str) -> bool {
    message.starts_with("unknown field ")
}

/// Whether a message is about a list where another type belongs.
pub(super) fn is_about_a_list(message: &str) -> bool {
    message.starts_with("invalid type: sequence")
}

/// The message in the words of the configuration. `value` is the text that the error is about.
pub(super) fn plain(message: &str, value: &str) -> String {
    if let Some(key) = missing_key(message) {
        return format!("the key `{key}` is missing");
    }
    if message.starts_with("unknown ") {
        return unknown(message);
    }
    if message == "invalid socket address syntax" {
        return format!("{value} is not ADDRESS:PORT; write for example \"127.0.0.1:9847\"");
    }
    if message == "wanted string or table" {
        return format!("{value} is not text in quotes");
    }
    let Some((kind, rest)) = message.strip_prefix("invalid ").and_then(|rest| rest.split_once(": ")) else {
        return message.to_owned();
    };
    let Some((found, expected)) = rest.split_once(", expected ") else { return message.to_owned() };
    match (kind, found) {
        ("value", number) if number.starts_with("integer ") && is_number(expected) => {
            format!("{} is out of range", found_in_words(number))
        }
        ("type" | "value", _) => format!("{} is not {}", found_in_words(found), expected_in_words(expected)),
        _ => message.to_owned(),
    }
}

/// As [`plain`], but a wrong value is named by its type only. For places that can hold a secret.
pub(super) fn plain_without_value(message: &str) -> String {
    let Some((kind, rest)) = message.strip_prefix("invalid ").and_then(|rest| rest.split_once(": ")) else {
        // The remaining messages name keys, not values.
        return plain(message, "this value");
    };
    // The value may hold the separator, too: the expected type is after the last one.
    match (kind, rest.rsplit_once(", expected ")) {
        ("type" | "value", Some((found, expected))) => {
            format!("{} is not {}", found_type(found), expected_in_words(expected))
        }
        _ => "this value cannot be used here".to_owned(),
    }
}

/// The type of the value that serde describes.
fn found_type(found: &str) -> &'static str {
    match found.split_once(' ').map_or(found, |(kind, _)| kind) {
        "sequence" => "a list",
        "map" => "a table",
        "string" => "text",
        "integer" | "floating" => "a number",
        "boolean" => "a boolean",
        _ => "this value",
    }
}

/// The message for a key or word that does not exist, with the closest name that does.
fn unknown(message: &str) -> String {
    let message =
        message.replacen("unknown field ", "unknown key ", 1).replacen("unknown variant ", "unknown value ", 1);
    let fault = message.split(", ").next().unwrap_or(&message);
    match (moved(&message), suggestion(&message)) {
        (Some(kind), _) => format!("{fault}; write it in a table [hooks.{}]", kind.name),
        (None, Some(known)) => format!("{fault}; did you mean `{known}`?"),
        (None, None) => message,
    }
}

/// The value that serde describes, as it would be written.
fn found_in_words(found: &str) -> &str {
    match found {
        "sequence" => "a list",
        "map" => "a table",
        _ => ["string ", "integer ", "boolean ", "floating point "]
            .iter()
            .find_map(|kind| found.strip_prefix(kind))
            .map_or(found, |value| value.trim_matches('`')),
    }
}

fn is_number(expected: &str) -> bool {
    matches!(expected, "u8" | "u16" | "u32" | "u64" | "usize")
}

/// A type of Rust as a type of TOML. The types of this crate describe themselves.
fn expected_in_words(expected: &str) -> &str {
    match expected {
        _ if is_number(expected) => "a whole number",
        "a boolean" => "`true` or `false`",
        "a string" | "path string" => "text in quotes",
        "a sequence" => "a list",
        "a map" => "a table",
        "socket address" => "an address and port such as \"127.0.0.1:9847\"",
        _ if expected.starts_with("struct ") => "a table",
        _ => expected,
    }
}

/// The kind of hook that has an unknown key of `[[hooks]]` in its table: the key stands one table too high.
fn moved(message: &str) -> Option<&'static HookKind> {
    let mut quoted = message.strip_prefix("unknown key ")?.split('`').skip(1).step_by(2);
    let typed = quoted.next()?;
    let of_hooks = quoted.any(|known| known == "retry_delay");
    RawHook::KINDS.iter().copied().find(|kind| of_hooks && kind.keys.contains(&typed))
}

/// The closest of the names that the message offers (`unknown key `x`, expected one of `a`, `b``).
fn suggestion(message: &str) -> Option<&str> {
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
