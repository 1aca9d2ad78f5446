//! Services of installed packages: not started now, and not at the next boot.
//!
//! Debian's packages start and enable their services. `/usr/sbin/policy-rc.d` that ends with 101 forbids the start
//! (Debian policy 9.3.3.1). Nothing forbids the links that enable a service: systemd's under `/etc/systemd`, and those
//! of System V init in `/etc/rc?.d`. They are listed before and after, and the new ones are removed. What was enabled
//! before stays. Later upgrades of a package respect a removed link.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::command::run;

/// Keeps services off from its creation on; removes the `policy-rc.d` that it made.
///
/// Signals do not end this program meanwhile: Ctrl-C ends `apt-get`, and the clean-up still happens.
pub(super) struct KeptOff {
    made_policy: bool,
    before: BTreeSet<PathBuf>,
    signals: Vec<SigId>,
}

impl KeptOff {
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    /// Forbids the start of services and notes which are enabled.
    pub(super) fn new() -> Result<Self> {
        let mut kept = Self { made_policy: false, before: boot_links(Path::new("/")), signals: Vec::new() };
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            kept.signals.push(signal_hook::flag::register(signal, Arc::default())?);
        }
        if Path::new(Self::POLICY).exists() {
            return Ok(kept);
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(Self::POLICY)
            .with_context(|| format!("cannot create {}", Self::POLICY))?;
        kept.made_policy = true;
        file.write_all(b"#!/bin/sh\nexit 101\n").with_context(|| format!("cannot write {}", Self::POLICY))?;
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        Ok(kept)
    }

    /// Disables the services that were enabled since [`new`](Self::new), and checks that none is left.
    pub(super) fn disable_new(self) -> Result<()> {
        let enabled: BTreeSet<PathBuf> = boot_links(Path::new("/")).difference(&self.before).cloned().collect();
        if enabled.is_empty() {
            return Ok(());
        }
        for link in &enabled {
            match init_script(link) {
                // The links of the stop sequence stay: without any, an upgrade would make all of them again.
                Some(script) if link.exists() => {
                    run(Command::new("update-rc.d").args([script, "disable"]))?;
                }
                Some(_) => {}
                None => fs::remove_file(link).with_context(|| format!("cannot remove {}", link.display()))?,
            }
        }
        let names: BTreeSet<&str> = enabled.iter().filter_map(|link| service(link)).collect();
        let left: Vec<_> = boot_links(Path::new("/")).difference(&self.before).cloned().collect();
        if !left.is_empty() {
            bail!("these new links still start a service at boot, remove them by hand: {left:?}");
        }
        println!(
            "setup: not started at boot: {} (to see what is: ls /etc/systemd/system/*.wants /etc/rc2.d)",
            names.into_iter().collect::<Vec<_>>().join(", ")
        );
        Ok(())
    }
}

impl Drop for KeptOff {
    fn drop(&mut self) {
        for signal in self.signals.drain(..) {
            signal_hook::low_level::unregister(signal);
        }
        if self.made_policy
            && let Err(error) = fs::remove_file(Self::POLICY)
        {
            eprintln!("setup: cannot remove {} ({error}): remove it by hand, or no service starts", Self::POLICY);
        }
    }
}

/// Every link under `root` that starts something at boot: in systemd's folders `*.wants`, `*.requires` and `*.upholds`,
/// systemd's aliases, and `S..` in the folders of System V init.
fn boot_links(root: &Path) -> BTreeSet<PathBuf> {
    let mut links = BTreeSet::new();
    for folder in ["etc/systemd/system", "etc/systemd/user"] {
        for path in entries(&root.join(folder)) {
            let depends =
                path.extension().is_some_and(|kind| kind == "wants" || kind == "requires" || kind == "upholds");
            if depends && path.is_dir() {
                links.extend(entries(&path).into_iter().filter(|path| enables(path)));
            } else if enables(&path) {
                links.insert(path);
            }
        }
    }
    for folder in entries(&root.join("etc")).into_iter().filter(|path| runlevel(path)) {
        links.extend(entries(&folder).into_iter().filter(|path| init_script(path).is_some()));
    }
    links
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// A link to a unit. A link to `/dev/null` masks the unit instead.
fn enables(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|target| target != Path::new("/dev/null"))
}

/// `rc0.d` to `rc6.d` and `rcS.d`.
fn runlevel(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    matches!(name.as_bytes(), [b'r', b'c', level, b'.', b'd'] if level.is_ascii_alphanumeric())
}

/// The script that a link such as `rc2.d/S01nginx` starts.
fn init_script(link: &Path) -> Option<&str> {
    if !runlevel(link.parent()?) {
        return None;
    }
    let name = link.file_name()?.to_str()?.strip_prefix('S')?;
    let digits = name.bytes().take_while(u8::is_ascii_digit).count();
    (digits == 2).then(|| &name[digits..])
}

/// The unit or script that a link enables.
fn service(link: &Path) -> Option<&str> {
    init_script(link).or_else(|| link.file_name()?.to_str())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_of_both_init_systems_are_found() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let wants = root.path().join("etc/systemd/system/multi-user.target.wants");
        let runlevel = root.path().join("etc/rc2.d");
        for folder in [&wants, &runlevel] {
            fs::create_dir_all(folder).expect("a new folder");
        }
        let systemd = root.path().join("etc/systemd/system");
        for (target, link) in [
            ("/lib/systemd/system/nginx.service", wants.join("nginx.service")),
            ("/lib/systemd/system/ssh.service", systemd.join("sshd.service")),
            ("/dev/null", systemd.join("masked.service")),
            ("../init.d/uhub", runlevel.join("S01uhub")),
            ("../init.d/amule-daemon", runlevel.join("K01amule-daemon")),
        ] {
            symlink(target, link).expect("a new link");
        }
        fs::write(systemd.join("own.service"), "[Service]\n").expect("a new file");
        let links = boot_links(root.path());
        let names: Vec<_> = links.iter().filter_map(|link| service(link)).collect();
        assert_eq!(names, ["uhub", "nginx.service", "sshd.service"]);
    }

    #[test]
    fn only_start_links_of_a_runlevel_name_a_script() {
        assert_eq!(init_script(Path::new("/etc/rc5.d/S01nginx")), Some("nginx"));
        assert_eq!(init_script(Path::new("/etc/rcS.d/S08procps")), Some("procps"));
        assert_eq!(init_script(Path::new("/etc/rc0.d/K01nginx")), None);
        assert_eq!(init_script(Path::new("/etc/init.d/S01nginx")), None);
        assert_eq!(init_script(Path::new("/etc/rc5.d/README")), None);
    }
}
