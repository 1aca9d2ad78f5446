//! Generates `docs/configuration.md` and `monitor/peertally.example.toml` from the configuration types, and checks that
//! the committed ones are current. `UPDATE_DOCS=1 cargo test -p monitor` writes them.

use std::fmt::Write;

use clap::{Args as _, Command};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::{
    RunArgs,
    changes::is_applied,
    raw::{Raw, RawHook},
};
use crate::generated::assert_current;

struct Key {
    path: String,
    name: String,
    kind: String,
    default: Option<Value>,
    example: Option<Value>,
    range: String,
    required: bool,
    text: String,
    children: Vec<Key>,
    repeated: bool,
}

fn keys(schema: &Map<String, Value>, prefix: &str) -> Vec<Key> {
    let required: Vec<&str> = list(schema.get("required")).filter_map(Value::as_str).collect();
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    properties
        .map(|(name, property)| {
            let property = property.as_object().expect("a property is a schema");
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            let items =
                property.get("items").and_then(Value::as_object).filter(|items| items.contains_key("properties"));
            let repeated = items.is_some();
            let inner = items.unwrap_or(property);
            let inner_path = if repeated { format!("{path}[]") } else { path.clone() };
            let text = property.get("description").and_then(Value::as_str).unwrap_or_default();
            assert!(!text.is_empty(), "{path} has no documentation");
            Key {
                kind: kind(property),
                default: property.get("default").filter(|value| !value.is_null()).cloned(),
                example: list(property.get("examples")).next().cloned(),
                range: property.get("x-range").and_then(Value::as_str).unwrap_or_default().to_owned(),
                required: required.contains(&name.as_str()),
                text: text.split_whitespace().collect::<Vec<_>>().join(" "),
                children: keys(inner, &inner_path),
                path,
                name: name.clone(),
                repeated,
            }
        })
        .collect()
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

fn kind(property: &Map<String, Value>) -> String {
    if let Some(short) = property.get("x-short-form").and_then(Value::as_str) {
        return format!("table or {short}");
    }
    let words: Vec<String> = list(property.get("oneOf"))
        .filter_map(|choice| Some(format!("`{}`", choice.get("const")?.as_str()?)))
        .collect();
    if !words.is_empty() {
        return words.join(", ");
    }
    if let Some(choice) = list(property.get("anyOf")).find_map(Value::as_object) {
        return kind(choice);
    }
    let name = match property.get("type") {
        Some(Value::String(name)) => name.as_str(),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or("?"),
        _ => panic!("a key without a type: {property:?}"),
    };
    match (name, property.get("items").and_then(Value::as_object)) {
        ("array", Some(items)) if items.contains_key("properties") => "tables".to_owned(),
        ("array", Some(items)) => match kind(items).as_str() {
            "string" => "list of strings".to_owned(),
            "prefix" => "list of prefixes".to_owned(),
            kind => panic!("a list without a plural: {kind}"),
        },
        ("object", _) if property.contains_key("properties") => "table".to_owned(),
        ("object", _) => "table of strings".to_owned(),
        (name, _) => name.to_owned(),
    }
}

fn root() -> Vec<Key> {
    let generator = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true).into_generator();
    let schema = generator.into_root_schema_for::<Raw>();
    keys(schema.as_object().expect("an object"), "")
}

fn toml_of(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(key, value)| format!("{key} = {}", toml_of(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(toml_of).collect();
            format!("[{}]", items.join(", "))
        }
        value => value.to_string(),
    }
}

fn reference() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         Generated from the types in `monitor/src/config/raw.rs` by `UPDATE_DOCS=1 cargo test -p monitor`; a test fails when it is not current.\n\n\
         `peertally run` reads the file given with `--config` or `PEERTALLY_CONFIG`, else `/etc/peertally/peertally.toml` if it exists, else it runs\n\
         with the defaults. A flag wins over the environment, the environment over the file, the file over the default:\n\n\
         | key | flag | environment |\n|---|---|---|\n",
    );
    let keys = root();
    flags(&mut out, &keys);
    out.push_str(
        "\n\
         `peertally check-config [FILE]` checks that file and attaches nothing. An unknown key is an error. Durations are written `10s`, `5m`, `1h 30m`,\n\
         `7days`; amounts of bytes `500 MB` (10^6) or `10 GiB` (2^30). `monitor/peertally.example.toml` has every key.\n\n\
         The column `reload` says whether SIGHUP and `peertally reload` apply a change of the key, or a restart is needed.\n",
    );
    table(&mut out, "Top level", "", &keys);
    sections(&mut out, &keys);
    out
}

/// The flags of `run` and their environment variables, each with the key that it replaces.
fn flags(out: &mut String, keys: &[Key]) {
    for flag in RunArgs::augment_args(Command::new("run")).get_arguments() {
        let Some(long) = flag.get_long() else { continue };
        let value = flag.get_value_names().and_then(|names| names.first()).expect("a value name").replace('|', "\\|");
        let variable = flag.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
        let repeated = if flag.get_value_delimiter() == Some(',') { " (comma-separated)" } else { "" };
        let key = keys.iter().find(|key| key.name == flag.get_id().as_str()).map(|key| match key.children.as_slice() {
            // The only key of a table stands for it.
            [only] => only,
            _ => key,
        });
        let key = key.map(|key| format!("`{}` ", key.path)).unwrap_or_default();
        let _infallible = writeln!(out, "| {key}| `--{long} {value}` | {variable}{repeated} |");
    }
}

fn sections(out: &mut String, keys: &[Key]) {
    for key in keys.iter().filter(|key| !key.children.is_empty()) {
        let path = key.path.replace("[]", "");
        let title = if key.repeated { format!("`[[{path}]]`") } else { format!("`[{path}]`") };
        table(out, &title, &key.text, &key.children);
        sections(out, &key.children);
    }
}

fn table(out: &mut String, title: &str, text: &str, keys: &[Key]) {
    let _infallible = write!(out, "\n## {title}\n\n");
    if !text.is_empty() {
        let _infallible = write!(out, "{text}\n\n");
    }
    out.push_str("| key | type | default | range | reload | meaning |\n|---|---|---|---|---|---|\n");
    for key in keys {
        let default = match &key.default {
            _ if key.required => "required".to_owned(),
            _ if key.text.contains("Default: ") => String::new(),
            Some(Value::Array(items)) if items.is_empty() => "none".to_owned(),
            Some(Value::Object(_)) | None => String::new(),
            Some(value) => format!("`{}`", toml_of(value)),
        };
        let reload = reload(key);
        let _infallible =
            writeln!(out, "| `{}` | {} | {default} | {} | {reload} | {} |", key.name, key.kind, key.range, key.text);
    }
}

/// Whether a reload applies a key: all of it, a part, or nothing.
fn reload(key: &Key) -> &'static str {
    let of_children: Vec<&str> = key.children.iter().map(reload).collect();
    match &of_children[..] {
        [] => {
            if is_applied(&key.path) {
                "applies"
            } else {
                "restart"
            }
        }
        [first, rest @ ..] if rest.iter().all(|each| each == first) => first,
        _ => "parts",
    }
}

fn example() -> String {
    let mut out = String::from(
        "## Peertally configuration: every key with its default or an example. Generated from the types in\n\
         ## monitor/src/config/raw.rs; docs/configuration.md explains each key. Remove a `#` to set a key, then check with\n\
         ## `peertally check-config FILE`.\n",
    );
    example_of(&mut out, &root());
    out
}

/// Plain keys first: in TOML, keys after a table header belong to that table.
fn example_of(out: &mut String, keys: &[Key]) {
    for key in keys.iter().filter(|key| key.children.is_empty()) {
        out.push('\n');
        comment(out, &key.text);
        let value = key.example.as_ref().or(key.default.as_ref());
        let value = value.unwrap_or_else(|| panic!("{} needs #[schemars(example = ..)]", key.path));
        let _infallible = writeln!(out, "#{} = {}", key.name, toml_of(value));
    }
    for key in keys.iter().filter(|key| !key.children.is_empty()) {
        out.push('\n');
        let path = key.path.replace("[]", "");
        let mut section = String::new();
        comment(&mut section, &key.text);
        let _infallible = if key.repeated { writeln!(section, "#[[{path}]]") } else { writeln!(section, "#[{path}]") };
        example_of(&mut section, &key.children);
        if is_alternative(&key.path) {
            // A hook has one kind: the others stay comments when the example is uncommented.
            out.push_str("## Instead of the table above:\n");
            let commented = |line: &str| match line.strip_prefix('#') {
                Some(key) if !key.starts_with('#') => format!("##   {key}\n"),
                _ => format!("{line}\n"),
            };
            section = section.lines().map(commented).collect();
        }
        out.push_str(&section);
    }
}

/// Whether a table is that of a hook kind other than the first.
fn is_alternative(path: &str) -> bool {
    RawHook::KINDS.iter().skip(1).any(|kind| path.strip_prefix("hooks[].") == Some(kind.name))
}

fn comment(out: &mut String, text: &str) {
    let mut line = String::from("##");
    for word in text.split(' ') {
        if line.len() + word.len() > 110 {
            out.push_str(&line);
            line = String::from("\n##");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}

#[test]
fn the_reference_is_current() {
    assert_current("docs/configuration.md", &reference());
}

#[test]
fn the_example_is_current_and_valid() {
    let example = example();
    assert_current("monitor/peertally.example.toml", &example);
    let path = std::path::Path::new("peertally.example.toml");
    super::parse(path, &example, &super::Overrides::default()).expect("the example as shipped is valid");
    let uncommented: String = example
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with('#')).unwrap_or(line))
        .map(|line| format!("{line}\n"))
        .collect();
    super::parse(path, &uncommented, &super::Overrides::default()).expect("the example with every key set is valid");
}
