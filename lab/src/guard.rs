//! Removes a lab even if its owner is killed.
//!
//! The guard is a shell that waits for the end of its standard input. The kernel closes this when the owner ends, even
//! by SIGKILL. The guard then removes the lab as [`remove`] does. A later [`sweep`] removes the rest.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    netns::RUN,
    process::{output, run},
    wait::wait_for,
};

/// Arguments: scratch folder, namespaces. A line on standard input dismisses the guard.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
read -r dismissed && exit 0
directory=$1; shift
for namespace; do
  for process in $(ip netns pids "$namespace" 2>/dev/null); do kill -KILL "$process"; done
  ip netns delete "$namespace" 2>/dev/null
done
rm -rf --one-file-system "$directory"
"#;

/// Prefix of scratch folders, before the lab's name.
const DIRECTORY_PREFIX: &str = "peertally-lab-";

/// A waiting guard.
#[derive(Debug)]
pub(super) struct Guard(Child);

impl Guard {
    /// Starts the guard of the lab `name`; it outlives Ctrl-C, being in a process group of its own.
    pub(super) fn start(name: &str, namespaces: Vec<String>) -> Result<Self> {
        let child = Command::new("/bin/sh")
            .args(["-c", SCRIPT, name])
            .arg(directory(name))
            .args(namespaces)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("start the lab's guard")?;
        Ok(Self(child))
    }

    /// Sends the guard home without doing anything.
    pub(super) fn dismiss(mut self) {
        if let Some(mut stdin) = self.0.stdin.take() {
            // If the guard is gone there is nobody to dismiss.
            stdin.write_all(b"dismissed\n").ok();
        }
        self.0.wait().ok();
    }
}

/// The scratch folder of the lab `name`.
pub(super) fn directory(name: &str) -> PathBuf {
    env::temp_dir().join(format!("{DIRECTORY_PREFIX}{name}"))
}

/// Kills all processes in the namespaces, then deletes the namespaces and the scratch folder.
///
/// # Errors
/// Something could not be removed; the error names it.
pub(super) fn remove<'a>(directory: &Path, namespaces: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut left = Vec::new();
    for namespace in namespaces.filter(|namespace| Path::new(RUN).join(namespace).exists()) {
        if let Err(error) = remove_namespace(namespace) {
            left.push(format!("{error:#}"));
        }
    }
    if let Err(error) = fs::remove_dir_all(directory)
        && error.kind() != io::ErrorKind::NotFound
    {
        left.push(format!("{}: {error}", directory.display()));
    }
    ensure!(left.is_empty(), "left: {}", left.join("; "));
    Ok(())
}

fn remove_namespace(namespace: &str) -> Result<()> {
    wait_for(
        &format!("end of the processes in {namespace}"),
        Duration::from_secs(30),
        Duration::from_millis(20),
        || {
            let pids = processes(namespace)?;
            for pid in &pids {
                // An error means that it ended meanwhile.
                kill_process(*pid, Signal::KILL).ok();
            }
            Ok(pids.is_empty())
        },
    )?;
    run(Command::new("ip").args(["netns", "delete", namespace]))
}

/// Processes inside a namespace. Only the lab starts any there.
fn processes(namespace: &str) -> Result<Vec<Pid>> {
    let listed = output(Command::new("ip").args(["netns", "pids", namespace]))?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let own = i32::try_from(std::process::id())?;
    Ok(text
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .filter(|pid| *pid != own)
        .filter_map(Pid::from_raw)
        .collect())
}

/// Removes leftovers of owners that are dead, as far as possible: a guard may do so concurrently.
pub(super) fn sweep(prefix: &str) {
    let mut dead: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for namespace in names(Path::new(RUN)) {
        let mut parts = namespace.rsplitn(2, '-');
        if let (Some(_role), Some(lab)) = (parts.next(), parts.next())
            && is_dead(lab, prefix)
        {
            dead.entry(lab.to_owned()).or_default().push(namespace.clone());
        }
    }
    for folder in names(&env::temp_dir()) {
        if let Some(lab) = folder.strip_prefix(DIRECTORY_PREFIX)
            && is_dead(lab, prefix)
        {
            dead.entry(lab.to_owned()).or_default();
        }
    }
    for (lab, namespaces) in dead {
        if let Err(error) = remove(&directory(&lab), namespaces.iter().map(String::as_str)) {
            eprintln!("lab {lab} of a dead process: {error:#}");
        }
    }
}

/// Whether `lab` is a lab's name (`<prefix>-<pid>-<number>`) and the owner with this pid has ended.
fn is_dead(lab: &str, prefix: &str) -> bool {
    let parts: Vec<_> = lab.split('-').collect();
    let [head, pid, number] = parts[..] else { return false };
    head == prefix
        && number.parse::<u32>().is_ok()
        && pid.parse::<u32>().is_ok()
        && !Path::new("/proc").join(pid).exists()
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
