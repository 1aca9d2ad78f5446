//! `cargo xtask setup`: installs packages and tools. Nothing else installs anything: a verb with needs calls
//! [`ensure`].
//!
//! Installs missing packages only, from Debian's archive, crates.io and the package indexes of Python and Node.js, and
//! shows its progress on the terminal. Without root, it installs no Debian package and prints the command that would.
//! Setup never removes an installed package, starts no service, and leaves no service enabled for the next boot.

mod needs;
mod node;
mod packages;
mod python;
mod services;
mod tools;

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum as _;

use crate::command::find;
use crate::toolchain;
pub use needs::Need;
use needs::Package;
use packages::Refused;
pub(crate) use packages::apt;
use tools::CargoTool;

/// Arguments of `setup`.
#[derive(Debug, Default, clap::Args)]
pub struct Arguments {
    /// Commands to install for; all by default
    #[arg(long = "with", value_name = "WHAT", value_delimiter = ',')]
    pub with: Vec<Need>,
    /// List missing packages and install nothing; exit code 1 if any is missing
    #[arg(long)]
    pub dry_run: bool,
}

/// Installs for the chosen verbs.
///
/// # Errors
/// When something cannot be installed, or with `--dry-run` is missing.
pub fn run(arguments: &Arguments) -> Result<()> {
    let needs = if arguments.with.is_empty() { Need::value_variants() } else { &arguments.with };
    let missing = Missing::of(needs)?;
    if missing.is_empty() {
        println!("setup: nothing is missing for {}", names(needs));
        return Ok(());
    }
    missing.print();
    if arguments.dry_run {
        bail!("something is missing. Run `cargo xtask setup --with {}`", names(needs));
    }
    missing.install(needs)
}

/// Installs missing packages and tools of the given needs. Prints nothing if none is missing.
///
/// # Errors
/// When something cannot be installed; the message has the command that would.
pub fn ensure(needs: &[Need]) -> Result<()> {
    ensure_all(needs, true)
}

/// Installs the packages of the given needs, and compiles no cargo tool, which takes minutes.
///
/// # Errors
/// When a package cannot be installed; the message has the command that would.
pub fn ensure_packages(needs: &[Need]) -> Result<()> {
    ensure_all(needs, false)
}

fn ensure_all(needs: &[Need], tools: bool) -> Result<()> {
    let mut missing = Missing::of(needs)?;
    if !tools {
        missing.tools.clear();
    }
    if missing.is_empty() {
        return Ok(());
    }
    missing.print();
    missing.install(needs)
}

fn names(needs: &[Need]) -> String {
    needs.iter().map(|need| need.word()).collect::<Vec<_>>().join(",")
}

/// Missing packages and tools.
#[derive(Debug, Default)]
struct Missing {
    packages: Vec<Package>,
    tools: Vec<&'static CargoTool>,
    /// The Python packages of the lab's clients.
    python: bool,
    /// The Node.js packages of the lab's clients.
    node: bool,
}

impl Missing {
    fn of(needs: &[Need]) -> Result<Self> {
        let mut missing = Self::default();
        for need in needs {
            // Any toolchain that fits will do: Debian's packages are only one way to have one.
            if *need == Need::Ebpf && toolchain::available() {
                continue;
            }
            for package in need.packages() {
                if !missing.packages.contains(package) {
                    missing.packages.push(*package);
                }
            }
            missing.python |= need.peers() && !python::is_installed();
            missing.node |= need.peers() && !node::is_installed();
            for tool in need.tools() {
                let known = missing.tools.iter().any(|other| other.program == tool.program);
                if !known && !tool.is_installed() {
                    missing.tools.push(tool);
                }
            }
        }
        // A tool that must be compiled needs its libraries.
        for tool in &missing.tools {
            for package in tool.packages {
                if !missing.packages.contains(package) {
                    missing.packages.push(*package);
                }
            }
        }
        missing.packages = not_installed(&missing.packages)?;
        Ok(missing)
    }

    fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.tools.is_empty() && !self.python && !self.node
    }

    fn print(&self) {
        println!("setup: missing on this machine:");
        for package in &self.packages {
            println!("  {:28} Debian package: {}", package.name, package.why);
        }
        for tool in &self.tools {
            println!("  {:28} cargo tool, version {}: {}", tool.program, tool.version, tool.why);
        }
        if self.python {
            println!("  {:28} Python packages of lab/peers/requirements.txt: a Soulseek client", "aioslsk");
        }
        if self.node {
            println!("  {:28} Node.js packages of lab/peers/node: peers of these networks", "webtorrent, libp2p");
        }
    }

    fn install(&self, needs: &[Need]) -> Result<()> {
        let refused = if self.packages.is_empty() { Vec::new() } else { self.install_packages(needs)? };
        let compilable = |tool: &&&CargoTool| {
            !tool.packages.iter().any(|wanted| refused.iter().any(|refused| refused.package == *wanted))
        };
        let tools: Vec<_> = self.tools.iter().filter(compilable).collect();
        for (index, tool) in tools.iter().enumerate() {
            tool.install(index + 1, tools.len())?;
        }
        if self.python {
            python::install()?;
        }
        if self.node {
            node::install()?;
        }
        if !refused.is_empty() {
            bail!("{}", refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
        }
        let mut left = Self::of(needs)?;
        left.tools.retain(|tool| self.tools.iter().any(|installed| installed.program == tool.program));
        if !left.is_empty() {
            left.print();
            bail!("installed, and still missing: see the list above");
        }
        println!("setup: everything for {} is installed", names(needs));
        Ok(())
    }

    /// Installs the Debian packages; returns those that `apt-get` could only install by removing others.
    fn install_packages(&self, needs: &[Need]) -> Result<Vec<Refused>> {
        let packages: Vec<&str> = self.packages.iter().map(|package| package.name).collect();
        let by_hand = format!(
            "sudo apt-get update && sudo apt-get install --yes --no-remove --no-install-recommends {}",
            packages.join(" ")
        );
        if find("apt-get").is_none() {
            bail!(
                "this is no Debian system: install what Debian calls {}, then run `cargo xtask setup --with {}` again",
                packages.join(" "),
                names(needs)
            );
        }
        if !is_root() {
            bail!("no rights to install packages. Run:\n  {by_hand}");
        }
        packages::install(&self.packages).with_context(|| format!("by hand: {by_hand}"))
    }
}

/// Whether this process has root's rights.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn not_installed(packages: &[Package]) -> Result<Vec<Package>> {
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    if find("dpkg-query").is_none() {
        return Ok(packages
            .iter()
            .copied()
            .filter(|package| package.probe.is_some_and(|it| find(it).is_none()))
            .collect());
    }
    // dpkg-query fails for a package it never heard of and still prints the others.
    let listed = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(packages.iter().map(|package| package.name))
        .output()
        .context("cannot start dpkg-query")?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    Ok(packages
        .iter()
        .copied()
        .filter(|package| !package.any_origin || package.probe.is_none_or(|probe| find(probe).is_none()))
        .filter(|package| !listed.lines().any(|line| line == format!("{} installed", package.name)))
        .collect())
}
