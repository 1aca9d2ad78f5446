//! The kernel, the rights of this process, its limits, and the clock.

use super::{Finding, facts::Facts, facts::NodeFacts, needed};
use crate::verbs::plan::{Plan, PlanError};

/// The oldest kernel on which the program is verified.
const OLDEST: (u32, u32) = (6, 1);
/// Open files for the core beside the metrics port's clients.
const OPEN_FILES: u64 = 1024;

/// Capabilities of include/uapi/linux/capability.h that attaching needs.
const NEEDED: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];
/// Has the rights of the two newer ones.
const CAP_SYS_ADMIN: u32 = 21;

/// Judges the node.
pub(super) fn judge(facts: &Facts, plan: &Result<Plan, PlanError>) -> Vec<Finding> {
    let node = &facts.node;
    let mut findings = vec![kernel(node), machine(node), btf(node), jit(node), rights(node), open_files(node)];
    findings.extend(memory(node, plan));
    findings.push(clock(node));
    findings
}

/// Major and minor number of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel(node: &NodeFacts) -> Finding {
    let release = &node.release;
    match version(release) {
        Some(version) if version >= OLDEST => Finding::ok("kernel", format!("Linux {release}")),
        _ => Finding::error(
            "kernel",
            format!("Linux {release} is older than {}.{}, which the program needs", OLDEST.0, OLDEST.1),
            "install a newer kernel; Debian 12 and later have one",
        ),
    }
}

fn machine(node: &NodeFacts) -> Finding {
    if node.machine == "x86_64" {
        return Finding::ok("machine", "x86_64");
    }
    Finding::warning(
        "machine",
        format!("Peertally is not tested on {}", node.machine),
        "count a capture with `peertally replay` under both engines first, and compare",
    )
}

fn btf(node: &NodeFacts) -> Finding {
    if node.btf {
        return Finding::ok("btf", "the kernel describes its types (/sys/kernel/btf/vmlinux)");
    }
    Finding::note("btf", "the kernel does not describe its types (CONFIG_DEBUG_INFO_BTF); Peertally does not need that")
}

fn jit(node: &NodeFacts) -> Finding {
    match node.jit {
        Some(0) => Finding::warning(
            "jit",
            "the BPF JIT compiler is off: each packet costs many times as much",
            "sysctl -w net.core.bpf_jit_enable=1, and keep it in /etc/sysctl.d",
        ),
        Some(_) => Finding::ok("jit", "the BPF JIT compiler is on"),
        None => Finding::note("jit", "whether the BPF JIT compiler is on can be read by root only"),
    }
}

fn rights(node: &NodeFacts) -> Finding {
    let is_set = |bit: u32| node.capabilities >> bit & 1 != 0;
    let has = |bit: u32| is_set(bit) || bit > CAP_SYS_ADMIN && is_set(CAP_SYS_ADMIN);
    let missing: Vec<&str> = NEEDED.iter().filter(|(_, bit)| !has(*bit)).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Finding::ok("rights", "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON");
    }
    Finding::error(
        "rights",
        format!("this process lacks {}: it cannot load or attach the program", missing.join(", ")),
        "start it as root, or give its service AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON",
    )
}

fn open_files(node: &NodeFacts) -> Finding {
    match node.open_files {
        Some(limit) if limit < OPEN_FILES => Finding::warning(
            "open_files",
            format!("at most {limit} open files: many clients of the metrics port could use them up"),
            format!("LimitNOFILE={OPEN_FILES} in the service, or `ulimit -n {OPEN_FILES}`"),
        ),
        Some(limit) => Finding::ok("open_files", format!("at most {limit}")),
        None => Finding::ok("open_files", "unlimited"),
    }
}

fn memory(node: &NodeFacts, plan: &Result<Plan, PlanError>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (Ok(made), Some(needed)) = (plan, needed(plan)) else { return findings };
    let mib = needed >> 20;
    if let Some(memory) = made.memory_bytes.filter(|memory| *memory < needed) {
        findings.push(Finding::error(
            "memory",
            format!("tables and agent take {mib} MiB, and this machine has {} MiB", memory >> 20),
            "lower `capacity.flows`, `capacity.tallies` or `capacity.peers`; `peertally plan` shows what each takes",
        ));
    } else {
        findings.push(Finding::ok("memory", format!("tables and agent take at most {mib} MiB")));
    }
    if let Some((limit, file)) = node.memory_limit.as_ref().filter(|(limit, _)| *limit < needed) {
        findings.push(Finding::error(
            "memory_limit",
            format!("tables and agent take {mib} MiB, and {file} allows {} MiB; maps are charged, too", limit >> 20),
            "raise MemoryMax of the service (`systemctl edit peertally`), or lower the capacities",
        ));
    }
    findings
}

fn clock(node: &NodeFacts) -> Finding {
    match node.synchronised {
        Some(true) => Finding::ok("clock", "synchronised"),
        Some(false) => Finding::warning(
            "clock",
            "the clock is not synchronised: the times of events and notices may be wrong",
            "install and start chrony or systemd-timesyncd",
        ),
        None => Finding::note("clock", "whether the clock is synchronised cannot be told here (no timedatectl)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::doctor::Severity;

    fn node() -> NodeFacts {
        NodeFacts { release: "6.12.9-amd64".into(), capabilities: 1 << 12 | 1 << 38 | 1 << 39, ..Default::default() }
    }

    #[test]
    fn old_kernels_are_errors_and_others_are_not() {
        for (release, expected) in
            [("6.1.0-28-amd64", Severity::Ok), ("6.0.19", Severity::Error), ("7.0", Severity::Ok)]
        {
            assert_eq!(kernel(&NodeFacts { release: release.into(), ..node() }).severity, expected, "{release}");
        }
        assert_eq!(kernel(&NodeFacts { release: "?".into(), ..node() }).severity, Severity::Error);
    }

    #[test]
    fn each_missing_right_is_named() {
        assert_eq!(rights(&node()).severity, Severity::Ok);
        assert_eq!(rights(&NodeFacts { capabilities: 1 << 12 | 1 << 21, ..node() }).severity, Severity::Ok);
        let finding = rights(&NodeFacts { capabilities: 1 << 39, ..node() });
        assert_eq!(finding.severity, Severity::Error);
        assert!(finding.found.contains("CAP_NET_ADMIN, CAP_PERFMON"), "{}", finding.found);
    }

    #[test]
    fn a_service_with_too_little_memory_is_told_before_it_is_killed() {
        let resolved = crate::config::parse("p.toml".as_ref(), "", &crate::config::Overrides::default());
        let plan = Plan::new(&resolved.expect("the defaults"));
        let limited = |bytes| NodeFacts { memory_limit: Some((bytes, "/x/memory.max".into())), ..node() };
        let is_limited = |node: &NodeFacts| memory(node, &plan).iter().any(|finding| finding.check == "memory_limit");
        assert!(is_limited(&limited(16 << 20)));
        assert!(!is_limited(&limited(64 << 30)));
    }

    #[test]
    fn a_jit_that_is_off_is_a_warning() {
        assert_eq!(jit(&NodeFacts { jit: Some(0), ..node() }).severity, Severity::Warning);
        assert_eq!(jit(&NodeFacts { jit: Some(1), ..node() }).severity, Severity::Ok);
        assert_eq!(jit(&node()).severity, Severity::Note);
    }
}
