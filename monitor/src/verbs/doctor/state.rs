//! What Peertally keeps: pins, tables, files, and its port.

use std::io;

use peertally_datapath::attached::inspect::BpfFileSystem;

use super::{Finding, facts::Facts};
use crate::config::Resolved;

/// Free bytes below which the store may soon fail to write.
const LITTLE: u64 = 256 << 20;

/// Judges what is kept.
pub(super) fn judge(facts: &Facts, resolved: &Resolved) -> Vec<Finding> {
    let mut findings = vec![bpf_file_system(facts)];
    findings.extend(pins(facts));
    findings.push(agent(facts));
    findings.extend(tables(facts));
    findings.push(disk(facts, resolved));
    findings.push(port(facts, resolved));
    findings
}

fn bpf_file_system(facts: &Facts) -> Finding {
    match facts.bpf {
        BpfFileSystem::Mounted => Finding::ok("bpffs", "a BPF file system is mounted at /sys/fs/bpf"),
        BpfFileSystem::Missing => Finding::note(
            "bpffs",
            "no BPF file system is mounted at /sys/fs/bpf: `run` mounts one, which needs CAP_SYS_ADMIN",
        ),
        BpfFileSystem::Private => Finding::warning(
            "bpffs",
            "the BPF file system seen here ends with this mount namespace, and the counters with it",
            "start the agent with `nsenter --net=/run/netns/NAME` instead of `ip netns exec`",
        ),
    }
}

fn pins(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for tables in &facts.pinned {
        let version = &tables.version;
        if !tables.is_own_version {
            findings.push(Finding::warning(
                "pins",
                format!("tables {version} are of another version of Peertally"),
                "`run` takes over what it knows (schema 10 or newer) and names the rest: for that, start that version, or \
                 `peertally detach`: its counters end with it",
            ));
        } else if let Some(namespace) = &tables.other_namespace {
            findings.push(Finding::error(
                "pins",
                format!("tables {version} count interfaces of the network namespace {namespace}"),
                "start the agent there, or `peertally detach`: its counters end with it",
            ));
        } else if !tables.complete {
            findings.push(Finding::note(
                "pins",
                format!("tables {version} are half made: a start was killed; the next one makes them anew"),
            ));
        } else {
            findings.push(Finding::ok("pins", format!("tables {version} are complete")));
        }
    }
    findings
}

fn agent(facts: &Facts) -> Finding {
    match &facts.agent {
        Some(status) => match &status.not_ready {
            None => Finding::ok("agent", format!("{} runs, process {}", status.version, status.pid)),
            Some(reason) => Finding::warning(
                "agent",
                format!("it runs, but is not ready: {reason}"),
                "`peertally status` and the agent's log say more",
            ),
        },
        None if facts.running.is_empty() => Finding::note("agent", "none runs, and nothing is attached"),
        None => Finding::warning(
            "agent",
            format!("none runs, and the program counts on on {}", facts.running.join(", ")),
            "start the agent: it takes the counters over; or `peertally detach`",
        ),
    }
}

fn tables(facts: &Facts) -> Vec<Finding> {
    let Some(status) = &facts.agent else { return Vec::new() };
    let full = status.tables.iter().filter(|table| table.nearly_full);
    full.map(|table| {
        let share = table.entries as f64 * 100.0 / table.capacity.max(1) as f64;
        Finding::warning(
            "tables",
            format!("`{}` is {share:.0} % full", table.table),
            "raise its size in the configuration (`capacity`); `peertally plan` shows what it takes",
        )
    })
    .collect()
}

fn disk(facts: &Facts, resolved: &Resolved) -> Finding {
    let (disk, wanted) = (&facts.disk, resolved.state_dir.display());
    let folder = disk.folder.display();
    if disk.read_only {
        return Finding::error(
            "disk",
            format!("{folder} is read-only: neither events nor pseudonym keys can be kept"),
            format!("mount it writable, or set `state_dir` to another folder than {wanted}"),
        );
    }
    if disk.free < LITTLE {
        return Finding::warning(
            "disk",
            format!("{} MiB are free in {folder}: events and records are lost when it is full", disk.free >> 20),
            "make room, or set `state_dir` to another file system",
        );
    }
    if disk.in_memory {
        return Finding::warning(
            "disk",
            format!("{folder} is in memory: events, cool-downs and the pseudonym key end with the machine"),
            "set `state_dir` to a folder on a disk",
        );
    }
    match disk.mode {
        Some(mode) if mode & 0o077 != 0 => Finding::warning(
            "disk",
            format!("others may enter {wanted} (mode {mode:04o})"),
            format!("chmod 0700 {wanted}; the agent does so at its start"),
        ),
        _ => Finding::ok("disk", format!("{} MiB are free in {folder}", disk.free >> 20)),
    }
}

fn port(facts: &Facts, resolved: &Resolved) -> Finding {
    let listen = resolved.listen;
    match facts.listen {
        None => Finding::ok("port", format!("{listen} is free")),
        Some(io::ErrorKind::AddrInUse) if facts.agent.is_some() => {
            Finding::ok("port", format!("{listen} is the agent's"))
        }
        Some(io::ErrorKind::AddrInUse) => Finding::error(
            "port",
            format!("another process listens on {listen}"),
            format!("ss -ltnp 'sport = {}' names it; set `listen` to another port", listen.port()),
        ),
        Some(io::ErrorKind::AddrNotAvailable) => Finding::error(
            "port",
            format!("this machine has no address {}", listen.ip()),
            "set `listen` to an address of this machine",
        ),
        Some(kind) => {
            Finding::error("port", format!("cannot listen on {listen}: {kind}"), "set `listen` to another port")
        }
    }
}

#[cfg(test)]
mod tests {
    use peertally_datapath::attached::inspect::PinnedTables;

    use super::*;
    use crate::{
        config::{Overrides, parse},
        export::status::TableRow,
        verbs::doctor::{
            Severity,
            facts::{DiskFacts, NodeFacts},
        },
    };

    fn facts() -> Facts {
        Facts {
            node: NodeFacts::default(),
            interfaces: Vec::new(),
            names: Vec::new(),
            bpf: BpfFileSystem::Mounted,
            pinned: Vec::new(),
            running: Vec::new(),
            agent: None,
            disk: DiskFacts { folder: "/var/lib".into(), free: 1 << 40, ..DiskFacts::default() },
            listen: None,
        }
    }

    fn worse(facts: &Facts) -> Vec<(&'static str, Severity)> {
        let resolved = parse("p.toml".as_ref(), "", &Overrides::default()).expect("the defaults");
        let findings = judge(facts, &resolved);
        let worse = findings.iter().filter(|finding| finding.severity > Severity::Note);
        worse.map(|finding| (finding.check, finding.severity)).collect()
    }

    #[test]
    fn a_machine_before_the_first_start_has_no_finding() {
        assert_eq!(worse(&facts()), []);
    }

    #[test]
    fn pins_of_others_and_of_other_namespaces_are_named() {
        let pinned = |is_own_version, complete, other: Option<&str>| Facts {
            pinned: vec![PinnedTables {
                version: "v1".into(),
                is_own_version,
                complete,
                other_namespace: other.map(ToOwned::to_owned),
            }],
            ..facts()
        };
        assert_eq!(worse(&pinned(true, true, None)), []);
        assert_eq!(worse(&pinned(true, false, None)), []);
        assert_eq!(worse(&pinned(false, true, None)), [("pins", Severity::Warning)]);
        assert_eq!(worse(&pinned(true, true, Some("net:[1]"))), [("pins", Severity::Error)]);
    }

    #[test]
    fn a_program_without_an_agent_is_named() {
        assert_eq!(worse(&Facts { running: vec!["eth0".into()], ..facts() }), [("agent", Severity::Warning)]);
    }

    #[test]
    fn full_tables_of_a_running_agent_are_named() {
        let row = |nearly_full| TableRow { table: "tallies".into(), entries: 9, capacity: 10, nearly_full };
        let status = |row| Status { tables: vec![row], ..Status::default() };
        assert_eq!(worse(&Facts { agent: Some(status(row(true))), ..facts() }), [("tables", Severity::Warning)]);
        assert_eq!(worse(&Facts { agent: Some(status(row(false))), ..facts() }), []);
    }

    use crate::export::status::Status;

    #[test]
    fn disks_that_cannot_keep_events_are_named() {
        let disk = |disk| Facts { disk, ..facts() };
        let good = || facts().disk;
        assert_eq!(worse(&disk(DiskFacts { read_only: true, ..good() })), [("disk", Severity::Error)]);
        assert_eq!(worse(&disk(DiskFacts { free: 1 << 20, ..good() })), [("disk", Severity::Warning)]);
        assert_eq!(worse(&disk(DiskFacts { in_memory: true, ..good() })), [("disk", Severity::Warning)]);
        assert_eq!(worse(&disk(DiskFacts { mode: Some(0o755), ..good() })), [("disk", Severity::Warning)]);
        assert_eq!(worse(&disk(DiskFacts { mode: Some(0o700), ..good() })), []);
    }

    #[test]
    fn a_port_of_another_process_is_an_error_and_the_agents_own_is_not() {
        let taken = || Facts { listen: Some(io::ErrorKind::AddrInUse), ..facts() };
        assert_eq!(worse(&taken()), [("port", Severity::Error)]);
        assert_eq!(worse(&Facts { agent: Some(Status::default()), ..taken() }), []);
    }
}
