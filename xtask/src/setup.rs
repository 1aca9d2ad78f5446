//! `cargo xtask setup`: the one place that installs anything. Every verb calls [`ensure`] with what it needs.
//!
//! Installs only what is missing, from Debian's archive, crates.io and the package indexes of Python and Node.js, with
//! progress on the terminal. Without root it installs nothing of Debian's and says the exact command. Never starts a service: the tests
//! start their own.

mod needs;
mod node;
mod python;

use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{find, output, run as run_command};
use crate::toolchain;
pub use needs::Need;
use needs::{CargoTool, Package};

/// What `setup` takes.
#[derive(Debug, Default, clap::Args)]
pub struct Arguments {
    /// What to install for; all when not given
    #[arg(long = "with", value_name = "WHAT", value_delimiter = ',')]
    pub with: Vec<Need>,
    /// Say what is missing, install nothing; the exit code is 1 when something is
    #[arg(long)]
    pub dry_run: bool,
}

/// Installs for the chosen verbs.
///
/// # Errors
/// When something cannot be installed, or with `--dry-run` is missing.
pub fn run(arguments: &Arguments) -> Result<()> {
    let needs = if arguments.with.is_empty() { Need::ALL } else { &arguments.with };
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

/// Installs what the given verbs need and is missing; silent when nothing is.
///
/// # Errors
/// When something cannot be installed; the message has the command that would.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let missing = Missing::of(needs)?;
    if missing.is_empty() {
        return Ok(());
    }
    missing.print();
    missing.install(needs)
}

fn names(needs: &[Need]) -> String {
    needs.iter().map(|need| need.name()).collect::<Vec<_>>().join(",")
}

/// What has to be installed.
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
            println!("  {:28} Python packages of tests/lab/requirements.txt: a Soulseek client", "aioslsk");
        }
        if self.node {
            println!("  {:28} Node.js packages of tests/lab/node: peers of these networks", "webtorrent, libp2p");
        }
    }

    fn install(&self, needs: &[Need]) -> Result<()> {
        if !self.packages.is_empty() {
            self.install_packages(needs)?;
        }
        for tool in &self.tools {
            tool.install()?;
        }
        if self.python {
            python::install()?;
        }
        if self.node {
            node::install()?;
        }
        let left = Self::of(needs)?;
        if !left.is_empty() {
            left.print();
            bail!("installed, and still missing: see the list above");
        }
        println!("setup: all that {} need is installed", names(needs));
        Ok(())
    }

    fn install_packages(&self, needs: &[Need]) -> Result<()> {
        let packages: Vec<&str> = self.packages.iter().map(|package| package.name).collect();
        let by_hand =
            format!("sudo apt-get update && sudo apt-get install --yes --no-install-recommends {}", packages.join(" "));
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
        let _services_stay_off = ServicesStayOff::new()?;
        // Lists may be missing (fresh machine) or old (packages gone from the archive): refresh once.
        run_command(apt().arg("update")).with_context(|| format!("by hand: {by_hand}"))?;
        run_command(apt().args(["install", "--yes", "--no-install-recommends"]).args(&packages))
            .with_context(|| format!("by hand: {by_hand}"))
    }
}

/// `apt-get` that asks nothing and shows one line a step.
pub(crate) fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-o", "Dpkg::Use-Pty=0", "-o", "Acquire::Retries=3"]);
    command
}

/// Whether this process has root's rights.
pub fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
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

/// Keeps Debian's packages from starting their services while they are being installed (Debian policy 9.3.3.1:
/// `/usr/sbin/policy-rc.d` that ends with 101 forbids it). Removes what it made.
struct ServicesStayOff {
    ours: bool,
}

impl ServicesStayOff {
    const FILE: &str = "/usr/sbin/policy-rc.d";

    fn new() -> Result<Self> {
        if Path::new(Self::FILE).exists() {
            return Ok(Self { ours: false });
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(Self::FILE)
            .with_context(|| format!("cannot create {}", Self::FILE))?;
        std::io::Write::write_all(&mut file, b"#!/bin/sh\nexit 101\n")?;
        file.set_permissions(std::fs::Permissions::from_mode(0o755))?;
        Ok(Self { ours: true })
    }
}

impl Drop for ServicesStayOff {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = std::fs::remove_file(Self::FILE)
        {
            eprintln!("setup: cannot remove {} ({error}): remove it by hand, or no service starts", Self::FILE);
        }
    }
}
