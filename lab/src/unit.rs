//! Stands in for systemd where no service manager runs: starts a program as a unit file says, with its user, its
//! capabilities, no new privileges, its umask and limits, and its view of the BPF file system. What needs the service
//! manager itself (read-only system, system call filter, memory limit) is left to a booted one.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

/// Folder in which a namespace of the unit keeps a mount for a moment.
const MOVED: &str = "/run/bound";

/// Unit beside the agent's that root's preparation is in.
const PREPARING: &str = "peertally-pins.service";

/// The keys of a unit's section `[Service]`, and the command of the unit that prepares its start.
#[derive(Clone, Debug)]
pub struct Unit {
    keys: BTreeMap<String, Vec<String>>,
    preparation: String,
}

/// The keys of a unit file's section `[Service]`.
fn service(path: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let (_, service) = text.split_once("[Service]\n").with_context(|| format!("no [Service] in {}", path.display()))?;
    let mut keys = BTreeMap::<String, Vec<String>>::new();
    for line in service.lines().take_while(|line| !line.starts_with('[')) {
        if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            keys.entry(key.to_owned()).or_default().push(value.to_owned());
        }
    }
    Ok(keys)
}

/// The value of a key that is there once.
fn once<'a>(keys: &'a BTreeMap<String, Vec<String>>, key: &str) -> Result<&'a str> {
    let values = keys.get(key).with_context(|| format!("the unit has no {key}"))?;
    ensure!(values.len() == 1, "the unit has {key} {} times", values.len());
    Ok(&values[0])
}

impl Unit {
    /// Reads the agent's unit file, and the one beside it that prepares its start.
    ///
    /// # Errors
    /// A file cannot be read, or has no section `[Service]`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        ensure!(text.contains(&format!("Requires={PREPARING}\n")), "{} needs no {PREPARING}", path.display());
        let preparation = once(&service(&path.with_file_name(PREPARING))?, "ExecStart")?.to_owned();
        Ok(Self { keys: service(path)?, preparation })
    }

    /// Value of a key that the unit has once.
    ///
    /// # Errors
    /// It has none, or several.
    pub fn key(&self, key: &str) -> Result<&str> {
        once(&self.keys, key)
    }

    /// Commands that prepare a start, as root: the unit's own, with the folders that the service manager makes.
    /// `user` and `group` stand for the unit's, which the machine may not have.
    ///
    /// # Errors
    /// The unit lacks a key.
    pub fn preparation(&self, user: &str, group: &str) -> Result<String> {
        let own = format!("-o {} -g {}", self.key("User")?, self.key("Group")?);
        ensure!(self.preparation.contains(&own), "the folder of the pins is not the unit's user's");
        let mut script = self.preparation.replace(&own, &format!("-o {user} -g {group}"));
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
