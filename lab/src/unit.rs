//! Stands in for systemd where no service manager runs: starts a program as a unit file says, with its user, its
//! capabilities, no new privileges, its umask and limits, and its view of the BPF file system. What needs the service
//! manager itself (read-only system, system call filter, memory limit) is left to a booted one.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

/// Folder in which a namespace of the unit keeps a mount for a moment.
const MOVED: &str = "/run/bound";

/// The keys of a unit's section `[Service]`.
#[derive(Clone, Debug)]
pub struct Unit(BTreeMap<String, Vec<String>>);

impl Unit {
    /// Reads a unit file.
    ///
    /// # Errors
    /// The file cannot be read, or has no section `[Service]`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let (_, service) =
            text.split_once("[Service]\n").with_context(|| format!("no [Service] in {}", path.display()))?;
        let mut keys = BTreeMap::<String, Vec<String>>::new();
        for line in service.lines().take_while(|line| !line.starts_with('[')) {
            if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
                keys.entry(key.to_owned()).or_default().push(value.to_owned());
            }
        }
        Ok(Self(keys))
    }

    /// Value of a key that the unit has once.
    ///
    /// # Errors
    /// It has none, or several.
    pub fn key(&self, key: &str) -> Result<&str> {
        let values = self.0.get(key).with_context(|| format!("the unit has no {key}"))?;
        ensure!(values.len() == 1, "the unit has {key} {} times", values.len());
        Ok(&values[0])
    }

    /// Commands that prepare a start, as root: the unit's own, with the folders that the service manager makes.
    /// `user` and `group` stand for the unit's, which the machine may not have.
    ///
    /// # Errors
    /// The unit lacks a key.
    pub fn preparation(&self, user: &str, group: &str) -> Result<String> {
        let own = format!("-o {} -g {}", self.key("User")?, self.key("Group")?);
        let pre = self.key("ExecStartPre")?.strip_prefix('+').context("ExecStartPre is root's")?;
        ensure!(pre.contains(&own), "ExecStartPre gives the folder to the unit's user");
        let mut script = pre.replace(&own, &format!("-o {user} -g {group}"));
        for (folder, mode, base) in [
            (self.key("StateDirectory")?, self.key("StateDirectoryMode")?, "/var/lib"),
            (self.key("RuntimeDirectory")?, self.key("RuntimeDirectoryMode")?, "/run"),
        ] {
            script += &format!(" && install -d -m {mode} -o {user} -g {group} {base}/{folder}");
        }
        Ok(script)
    }

    /// A script that runs `command` as the unit does. It becomes the command: the process id stays.
    ///
    /// # Errors
    /// The unit lacks a key.
    pub fn script(&self, user: &str, group: &str, command: &str) -> Result<String> {
        let capabilities: String = self
            .key("AmbientCapabilities")?
            .split_whitespace()
            .map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()))
            .collect();
        ensure!(self.key("CapabilityBoundingSet")? == self.key("AmbientCapabilities")?, "two sets of capabilities");
        ensure!(self.key("NoNewPrivileges")? == "yes", "no new privileges");
        let bound = self.key("BindPaths")?;
        let hidden = self.key("TemporaryFileSystem")?.split(':').next().unwrap_or_default();
        let (umask, files) = (self.key("UMask")?, self.key("LimitNOFILE")?);
        Ok(format!(
            "set -e; mkdir -p {MOVED}; mount --bind {bound} {MOVED}; mount -t tmpfs -o mode=755 tmpfs {hidden}; \
             mkdir {bound}; mount --move {MOVED} {bound}; umask {umask}; \
             exec prlimit --nofile={files}:{files} setpriv --reuid={user} --regid={group} --clear-groups \
             --bounding-set=-all{capabilities} --inh-caps=-all{capabilities} --ambient-caps=-all{capabilities} \
             --no-new-privs {command}"
        ))
    }

    /// Appends the start of `command` in a mount namespace of its own to `within`, which ends with the name of the
    /// program that it runs: `unshare`.
    ///
    /// # Errors
    /// The unit lacks a key.
    pub fn start(&self, mut within: Command, user: &str, group: &str, command: &str) -> Result<Command> {
        within.args(["--mount", "--propagation", "private", "sh", "-c"]).arg(self.script(user, group, command)?);
        Ok(within)
    }
}
