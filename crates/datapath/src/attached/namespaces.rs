//! Namespaces that the program and its pins live in: the network namespace of the interfaces, and the mount namespace
//! that holds the BPF file system.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use super::pins;

/// Where iproute2 binds named network namespaces (ip-netns(8)).
const NAMED: &str = "/run/netns";

/// The network namespace of this thread, as the kernel writes it: `net:[4026531840]`. The number is unique among the
/// namespaces that exist.
///
/// # Errors
/// `/proc` is not there.
pub(super) fn network() -> io::Result<String> {
    Ok(fs::read_link("/proc/thread-self/ns/net")?.to_string_lossy().into_owned())
}

/// A network namespace in words: its name for `ip netns` if it has one, else a process that lives in it.
pub(super) fn describe_network(namespace: &str) -> String {
    let inode = namespace.trim_start_matches("net:[").trim_end_matches(']').parse::<u64>();
    let entries = fs::read_dir(NAMED).into_iter().flatten().filter_map(Result::ok);
    let named = entries.filter(|entry| fs::metadata(entry.path()).is_ok_and(|file| Ok(file.ino()) == inode));
    if let Some(entry) = named.map(|entry| entry.file_name()).next() {
        return format!("{namespace} (`ip netns exec {}`)", entry.to_string_lossy());
    }
    let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let mut ids: Vec<u32> = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    ids.sort_unstable();
    let lives_in =
        |id: &u32| fs::read_link(format!("/proc/{id}/ns/net")).is_ok_and(|found| found.to_string_lossy() == namespace);
    match ids.into_iter().find(lives_in) {
        Some(id) => format!("{namespace} (that of process {id}: `nsenter --net=/proc/{id}/ns/net`)"),
        None => format!("{namespace} (no process lives in it)"),
    }
}

/// Whether the pins end with this mount namespace, because that of the process that started this one does not hold
/// their file system. So it is after `ip netns exec`, which mounts `/sys` anew. `false` if that cannot be told.
///
/// Looks at our own folder, which a service manager may bind into the agent's namespace.
pub(super) fn pins_are_private() -> bool {
    let folder = pins::base();
    let mounts = |process: u32| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let device = |path: &Path| fs::metadata(path).map(|file| file.dev());
    let Some(own) = mounts(std::process::id()) else { return false };
    let mut process = std::process::id();
    while let Some(parent) = parent(process).filter(|parent| *parent != 0) {
        process = parent;
        if mounts(process).is_none_or(|other| other == own) {
            continue;
        }
        let seen = Path::new("/proc").join(process.to_string()).join("root");
        let seen = seen.join(folder.strip_prefix("/").unwrap_or(&folder));
        return match (device(&seen), device(&folder)) {
            (Ok(theirs), Ok(ours)) => theirs != ours,
            (Err(error), Ok(_)) => error.kind() == io::ErrorKind::NotFound,
            _ => false,
        };
    }
    false
}

/// The process that started another one (`PPid` of proc_pid_status(5)).
fn parent(process: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_parent_and_the_first_one_has_none() {
        assert_eq!(parent(std::process::id()), Some(std::os::unix::process::parent_id()));
        assert_eq!(parent(1), Some(0));
    }

    #[test]
    fn a_namespace_without_a_name_is_described_by_a_process() {
        let own = network().expect("a namespace");
        assert!(describe_network(&own).starts_with(&own));
        assert!(describe_network("net:[1]").contains("no process"));
    }
}
