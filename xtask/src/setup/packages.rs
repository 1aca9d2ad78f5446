//! Debian packages: installed with `--no-remove`, so that no package of this machine goes.
//!
//! A simulation comes first. If `apt-get` would remove something, each wanted package is simulated alone. Those that
//! remove nothing are installed, the others are reported with the packages that they conflict with.

use std::fmt;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::needs::Package;
use super::services::KeptOff;
use crate::command::run;

/// A wanted package that was not installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// The wanted package.
    pub(super) package: Package,
    /// Reason against the installation.
    conflict: Conflict,
}

/// Why `apt-get` cannot install a package as the machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Conflict {
    /// Installing it would remove these installed packages.
    Removes(Vec<String>),
    /// The installation fails with this message.
    Fails(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Package { name, why, .. } = self.package;
        write!(text, "{name} ({why}) was not installed: ")?;
        match &self.conflict {
            Conflict::Removes(installed) => {
                let installed = installed.join(", ");
                write!(text, "it conflicts with the installed package {installed}, and setup removes nothing. ")?;
                write!(text, "If {installed} is not needed, remove it by hand and run setup again")
            }
            Conflict::Fails(message) => write!(text, "apt-get says: {message}"),
        }
    }
}

/// `apt-get` that asks nothing and shows one line a step.
pub(crate) fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-o", "Dpkg::Use-Pty=0", "-o", "Acquire::Retries=3"]);
    command
}

/// Installs the packages that need no removal; returns the others.
pub(super) fn install(wanted: &[Package]) -> Result<Vec<Refused>> {
    // Lists may be missing (fresh machine) or old (packages gone from the archive): refresh once.
    run(apt().arg("update"))?;
    let (fitting, refused) = split(wanted, simulate);
    for refused in &refused {
        println!("setup: {refused}");
    }
    if fitting.is_empty() {
        return Ok(refused);
    }
    if let Some(conflict) = simulate(&fitting) {
        let names = fitting.iter().map(|package| package.name).collect::<Vec<_>>().join(" ");
        match conflict {
            Conflict::Removes(installed) => bail!(
                "{names}: together these conflict with the installed {}, and setup removes nothing",
                installed.join(", ")
            ),
            Conflict::Fails(message) => bail!("{names}: together these cannot be installed: {message}"),
        }
    }
    let services = KeptOff::new()?;
    let installed = run(apt()
        .args(["install", "--yes", "--no-remove", "--no-install-recommends"])
        .args(fitting.iter().map(|package| package.name)));
    // Also after a failure: some of the packages may have been configured.
    services.disable_new()?;
    installed?;
    Ok(refused)
}

/// Divides packages into those that can be installed together and those that conflict with an installed one.
fn split(wanted: &[Package], simulate: impl Fn(&[Package]) -> Option<Conflict>) -> (Vec<Package>, Vec<Refused>) {
    if simulate(wanted).is_none() {
        return (wanted.to_vec(), Vec::new());
    }
    let (mut fitting, mut refused) = (Vec::new(), Vec::new());
    for package in wanted {
        match simulate(&[*package]) {
            None => fitting.push(*package),
            Some(conflict) => refused.push(Refused { package: *package, conflict }),
        }
    }
    (fitting, refused)
}

/// Reasons against these packages; nothing is changed.
fn simulate(packages: &[Package]) -> Option<Conflict> {
    let ended = apt()
        .env("LC_ALL", "C")
        .args(["install", "--simulate", "--no-install-recommends"])
        .args(packages.iter().map(|package| package.name))
        .stdin(Stdio::null())
        .output()
        .context("cannot start apt-get");
    match ended {
        Ok(ended) if ended.status.success() => {
            let removed = removals(&String::from_utf8_lossy(&ended.stdout));
            (!removed.is_empty()).then_some(Conflict::Removes(removed))
        }
        Ok(ended) => {
            let said = [ended.stdout, ended.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
            Some(Conflict::Fails(reasons(&said)))
        }
        Err(error) => Some(Conflict::Fails(format!("{error:#}"))),
    }
}

/// The packages of a simulation's lines `Remv NAME [VERSION] ..`.
fn removals(simulation: &str) -> Vec<String> {
    simulation
        .lines()
        .filter_map(|line| line.strip_prefix("Remv ")?.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// The lines of `apt-get` that say why it failed: unmet dependencies and errors.
fn reasons(said: &str) -> String {
    let lines: Vec<&str> = said
        .lines()
        .skip_while(|line| !line.starts_with("The following packages have unmet") && !line.starts_with("E: "))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() { said.trim().to_owned() } else { lines.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::super::needs::package;
    use super::*;

    const QEMU: Package = package("qemu-system-x86", "qemu-system-x86_64", "boots the kernels");
    const CPIO: Package = package("cpio", "cpio", "packs the guest's file system");

    #[test]
    fn removals_are_read_from_a_simulation() {
        let simulation = "Reading package lists...\n\
            The following packages will be REMOVED:\n  busybox-static\n\
            Remv busybox-static [1:1.35.0-4+deb12u1+b1]\n\
            Inst busybox (1:1.35.0-4+deb12u1+b1 Debian:12.15/oldstable [amd64])\n\
            Conf busybox (1:1.35.0-4+deb12u1+b1 Debian:12.15/oldstable [amd64])\n";
        assert_eq!(removals(simulation), ["busybox-static"]);
        assert_eq!(removals("Inst cpio (2.13+dfsg-7.1)\n"), Vec::<String>::new());
    }

    #[test]
    fn a_conflict_is_named_and_the_rest_is_installed() {
        let simulate =
            |packages: &[Package]| packages.contains(&QEMU).then(|| Conflict::Removes(vec!["qemu-utils".to_owned()]));
        let (fitting, refused) = split(&[QEMU, CPIO], simulate);
        assert_eq!(fitting, [CPIO]);
        let message = refused.iter().map(ToString::to_string).collect::<String>();
        assert!(message.starts_with("qemu-system-x86 (boots the kernels) was not installed"), "{message}");
        assert!(message.contains("conflicts with the installed package qemu-utils"), "{message}");
    }

    #[test]
    fn packages_without_a_conflict_are_simulated_once() {
        let (fitting, refused) = split(&[QEMU, CPIO], |_| None);
        assert_eq!((fitting.len(), refused.len()), (2, 0));
    }

    #[test]
    fn errors_are_picked_out_of_the_progress() {
        let said = "Reading package lists...\nThe following packages have unmet dependencies:\n \
            a : Depends: b (= 1) but 2 is to be installed\nE: Unable to correct problems, you have held broken packages.\n";
        assert!(reasons(said).starts_with("The following packages have unmet dependencies:; a : Depends: b"));
    }
}
