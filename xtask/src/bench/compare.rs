//! `cargo xtask bench --compare`: a comparison with ndpiReader, and the cost on real interfaces, as a section of the
//! documentation. The section does not name this machine or its folders.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{Format, build_ebpf, cargo_bench, processor::Processor, to_stderr};
use crate::{
    command::{cargo, output},
    setup::{self, Need},
    workspace::{root, shared, target},
};

mod results;
mod section;

use results::Comparison;
use section::section;

const DOCUMENT: &str = "docs/performance.md";
const BEGIN: &str = "<!-- written by cargo xtask bench --compare -->\n";
const END: &str = "<!-- end -->\n";

/// Measures, prints, and rewrites the section. Without a folder, the captures are those of P2P traffic in `shared`.
pub(super) fn run(folder: Option<&Path>, format: Format) -> Result<()> {
    setup::ensure(&[Need::Compare])?;
    let folder = match folder {
        Some(folder) => folder.to_owned(),
        None => default_folder()?,
    };
    let folder = folder.canonicalize().with_context(|| format!("no folder {}", folder.display()))?;
    to_stderr(&mut cargo(&[
        "build",
        "--quiet",
        "--locked",
        "--release",
        "--package",
        "monitor",
        "--bin",
        "peertally",
    ]))?;
    let paths = [
        ("--object", build_ebpf::bench_object()),
        ("--captures", folder),
        ("--peertally", target().join("release/peertally")),
    ];
    let arguments: Vec<String> =
        paths.into_iter().flat_map(|(name, path)| [name.to_owned(), path.display().to_string()]).collect();
    let comparison: Comparison = cargo_bench("compare", &arguments)?;
    let machine = machine()?;
    let section = section(&comparison, &machine);
    match format {
        Format::Table => print!("{section}"),
        Format::Json => {
            let value = json!({ "machine": machine, "captures": comparison.captures, "lab": comparison.lab });
            println!("{}", serde_json::to_string_pretty(&value)?);
        }
    }
    let path = root().join(DOCUMENT);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = replaced(&text, &section).with_context(|| format!("{DOCUMENT} has no place for the section"))?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn default_folder() -> Result<PathBuf> {
    let shared = shared().context("no folder `shared` next to the repository: name a folder with captures")?;
    Ok(shared.join("corpus/p2p"))
}

/// The text with another section between the two marks.
fn replaced(text: &str, section: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{section}{END}{after}"))
}

/// Date, processor and kernel, for people.
fn machine() -> Result<String> {
    let date = output(Command::new("date").args(["-u", "+%-d %B %Y"]))?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    let processor = Processor::read()?;
    let kind = if processor.field("flags").contains("hypervisor") { "virtual machine" } else { "machine" };
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    Ok(format!(
        "{}; {kind} with {} CPUs ({}), Linux {}, load {} when it ended",
        date.trim(),
        processor.count(),
        processor.kind(),
        // What a builder appends to the version names the machine more than the kernel.
        kernel.trim().split('-').next().unwrap_or("unknown"),
        load.split(' ').next().unwrap_or("unknown")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_section_changes() {
        let text = format!("before\n{BEGIN}old\n{END}after\n");
        assert_eq!(replaced(&text, "new\n").as_deref(), Some(&*format!("before\n{BEGIN}new\n{END}after\n")));
        assert_eq!(replaced("no marks\n", "new\n"), None);
    }

    #[test]
    fn the_document_has_a_place_for_the_section() {
        let text = fs::read_to_string(root().join(DOCUMENT)).expect("the document");
        assert!(replaced(&text, "").is_some());
    }
}
