//! The tools that cargo compiles: exact versions from crates.io, without debug information and link-time optimisation.

use std::io::{IsTerminal as _, Write as _};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::needs::{Package, package};
use crate::command::{find, output, shown, watch};

/// A tool that cargo compiles.
#[derive(Debug)]
pub(super) struct CargoTool {
    /// The program and the crate.
    pub(super) program: &'static str,
    /// The exact version.
    pub(super) version: &'static str,
    /// Arguments to `cargo install`.
    arguments: &'static [&'static str],
    /// Environment of `cargo install`.
    environment: &'static [(&'static str, &'static str)],
    /// Debian packages needed to compile it.
    pub(super) packages: &'static [Package],
    /// Purpose.
    pub(super) why: &'static str,
}

pub(super) const BPF_LINKER: CargoTool = CargoTool {
    program: "bpf-linker",
    version: "0.13.0",
    arguments: &["--no-default-features", "--features", "llvm-22"],
    environment: &[("LLVM_PREFIX", "/usr/lib/llvm-22")],
    packages: LLVM,
    why: "links BPF objects",
};

pub(super) const CARGO_DENY: CargoTool = CargoTool {
    program: "cargo-deny",
    version: "0.20.2",
    arguments: &["--no-default-features"],
    environment: &[],
    packages: &[],
    why: "checks licences, sources and known vulnerabilities of dependencies",
};

pub(super) const CARGO_FUZZ: CargoTool = CargoTool {
    program: "cargo-fuzz",
    version: "0.13.2",
    arguments: &[],
    environment: &[],
    packages: &[],
    why: "builds and runs the fuzz targets",
};

const LLVM: &[Package] = &[
    package("llvm-22-dev", "/usr/lib/llvm-22/bin/llvm-config", "bpf-linker is linked with LLVM 22"),
    package("build-essential", "cc", "compiling bpf-linker"),
    package("zlib1g-dev", "", "LLVM's libraries need it"),
];

/// Settings of a tool's build. Nobody debugs a tool, and none of them is a bottleneck: what counts is the compile time.
const PROFILE: [(&str, &str); 4] = [
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
];

impl CargoTool {
    /// Whether exactly this version is installed.
    pub(super) fn is_installed(&self) -> bool {
        find(self.program)
            .and_then(|path| output(Command::new(path).arg("--version")).ok())
            .is_some_and(|text| text.split_whitespace().any(|word| word == self.version))
    }

    /// Compiles and installs the tool. `number` and `of` are for the progress line.
    pub(super) fn install(&self, number: usize, of: usize) -> Result<()> {
        let mut command = Command::new("cargo");
        command.args(["install", self.program, "--version", self.version, "--locked", "--force"]).args(self.arguments);
        // The outer cargo's settings are for the workspace, not for a tool.
        for name in ["CARGO_TARGET_DIR", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "RUSTC", "RUSTC_BOOTSTRAP"] {
            command.env_remove(name);
        }
        command.envs(PROFILE).envs(self.environment.iter().copied());
        println!("  $ {}", shown(&command));
        let terminal = std::io::stdout().is_terminal();
        let every = Duration::from_secs(if terminal { 1 } else { 30 });
        let mut compiled = 0;
        let ended = watch(&mut command, every, |event| match event {
            Ok(line) if line.trim_start().starts_with("Compiling ") => compiled += 1,
            Ok(_) => {}
            Err(elapsed) => show(terminal, &progress(self.program, (number, of), compiled, elapsed)),
        });
        if terminal {
            println!();
        }
        ended.with_context(|| format!("cannot install {} {}", self.program, self.version))
    }
}

fn progress(program: &str, (number, of): (usize, usize), compiled: usize, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    format!(
        "setup: tool {number} of {of}, {program}: {compiled} crates so far, {}:{:02} min",
        seconds / 60,
        seconds % 60
    )
}

/// On a terminal, each progress line replaces the last one.
fn show(terminal: bool, line: &str) {
    if terminal {
        print!("\r{line}\x1b[K");
        if let Err(error) = std::io::stdout().flush() {
            eprintln!("setup: cannot write the progress: {error}");
        }
    } else {
        println!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_line_names_the_tool_and_the_time() {
        let line = progress("cargo-deny", (2, 3), 41, Duration::from_secs(125));
        assert_eq!(line, "setup: tool 2 of 3, cargo-deny: 41 crates so far, 2:05 min");
    }
}
