//! What the machine says of itself.

use std::{
    collections::BTreeSet,
    fs, io,
    net::TcpListener,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use peertally_datapath::{
    attached::{
        self,
        inspect::{self, BpfFileSystem, Device, PinnedTables},
    },
    offloads,
    xdp_features::{XdpFeatures, xdp_features},
};

use crate::{config::Resolved, export::status::Status, verbs::status};

/// `/proc` and `/sys`, below a root that tests choose.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
}

impl Default for Machine {
    fn default() -> Self {
        Self { root: PathBuf::from("/") }
    }
}

impl Machine {
    /// The files below `root`.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok().map(|text| text.trim().to_owned())
    }

    fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// File name that a symbolic link points to.
    fn target(&self, path: &str) -> Option<String> {
        Some(fs::read_link(self.path(path)).ok()?.file_name()?.to_string_lossy().into_owned())
    }

    /// Names in a folder, in order.
    fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().filter_map(Result::ok);
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// A number in a line `name: number` of `/proc/self/status`, in this base.
    fn status(&self, name: &str, base: u32) -> Option<u64> {
        let text = self.text("proc/self/status")?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        u64::from_str_radix(value.split_whitespace().next()?, base).ok()
    }
}

/// The kernel and this process.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// Release, such as `6.12.9-amd64`.
    pub release: String,
    /// Machine, such as `x86_64`.
    pub machine: String,
    /// Whether the kernel describes its types.
    pub btf: bool,
    /// `net.core.bpf_jit_enable`, if this process may read it.
    pub jit: Option<u64>,
    /// Effective capabilities.
    pub capabilities: u64,
    /// Soft limit of open files.
    pub open_files: Option<u64>,
    /// Lowest memory limit of the service's control group or this one's, in bytes, and where it is set.
    pub memory_limit: Option<(u64, String)>,
    /// Whether the clock is synchronised, if this machine can tell.
    pub synchronised: Option<bool>,
    /// CPUs that are on.
    pub cpus: usize,
}

/// An interface.
#[derive(Clone, Debug, Default)]
pub struct InterfaceFacts {
    /// Name.
    pub name: String,
    /// The link and the program on its hook; `None` if there is no such interface.
    pub device: Option<Device>,
    /// Name of that program.
    pub program: Option<String>,
    /// Driver.
    pub driver: Option<String>,
    /// What the driver says of XDP, on kernels that ask it.
    pub xdp: Option<XdpFeatures>,
    /// Name and kind of the bond or bridge that it is a part of.
    pub master: Option<(String, String)>,
    /// Interfaces that it consists of or lies on.
    pub lower: Vec<String>,
    /// Offloads that are on.
    pub offloads: BTreeSet<String>,
    /// Receive queues.
    pub queues: usize,
    /// CPUs that its receive interrupts may run on.
    pub interrupt_cpus: BTreeSet<String>,
}

/// A folder on a disk.
#[derive(Clone, Debug, Default)]
pub struct DiskFacts {
    /// The nearest folder that there is.
    pub folder: PathBuf,
    /// Bytes that are free for this user.
    pub free: u64,
    /// Whether it is mounted read-only.
    pub read_only: bool,
    /// Whether it is part of memory.
    pub in_memory: bool,
    /// Mode, if it is the folder itself.
    pub mode: Option<u32>,
}

/// All of it.
#[derive(Debug)]
pub struct Facts {
    /// The kernel and this process.
    pub node: NodeFacts,
    /// Interfaces that are configured.
    pub interfaces: Vec<InterfaceFacts>,
    /// Names of all interfaces.
    pub names: Vec<String>,
    /// The BPF file system.
    pub bpf: BpfFileSystem,
    /// Pinned tables.
    pub pinned: Vec<PinnedTables>,
    /// Interfaces that a program of Peertally runs on.
    pub running: Vec<String>,
    /// The running agent's status.
    pub agent: Option<Status>,
    /// Folder of the agent's state.
    pub disk: DiskFacts,
    /// Why the address of the metrics cannot be bound.
    pub listen: Option<io::ErrorKind>,
}

impl Facts {
    /// Reads them.
    #[must_use]
    pub fn read(resolved: &Resolved) -> Self {
        let machine = Machine::default();
        let devices = inspect::devices().unwrap_or_default();
        let interfaces = resolved.interfaces.iter().map(|each| machine.interface(&each.name, &devices)).collect();
        let running = attached::running().unwrap_or_default();
        Self {
            node: machine.node(),
            interfaces,
            names: devices.iter().map(|device| device.link.name.to_string()).collect(),
            bpf: inspect::bpf_file_system(),
            pinned: inspect::pinned().unwrap_or_default(),
            running: running.iter().map(|each| each.interface.to_string()).collect(),
            agent: status::query(&resolved.control_socket).ok(),
            disk: disk(&resolved.state_dir),
            listen: TcpListener::bind(resolved.listen).err().map(|error| error.kind()),
        }
    }
}

impl Machine {
    /// The kernel and this process.
    #[must_use]
    pub fn node(&self) -> NodeFacts {
        let name = rustix::system::uname();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        NodeFacts {
            release: self.text("proc/sys/kernel/osrelease").unwrap_or_default(),
            machine: name.machine().to_string_lossy().into_owned(),
            btf: self.path("sys/kernel/btf/vmlinux").exists(),
            jit: self.number("proc/sys/net/core/bpf_jit_enable"),
            capabilities: self.status("CapEff", 16).unwrap_or(0),
            open_files: limit.current,
            memory_limit: self.memory_limit(),
            synchronised: synchronised(),
            cpus: self.text("sys/devices/system/cpu/online").map_or(1, |text| count_list(&text)),
        }
    }

    /// The lowest limit of the service's control group and those above it, or of this process's.
    fn memory_limit(&self) -> Option<(u64, String)> {
        const MOUNT: &str = "sys/fs/cgroup";
        const SERVICE: &str = "/system.slice/peertally.service";
        let own = || {
            let groups = self.text("proc/self/cgroup")?;
            groups.lines().find_map(|line| line.strip_prefix("0::")).map(ToOwned::to_owned)
        };
        let service = self.path(&format!("{MOUNT}{SERVICE}")).exists().then(|| SERVICE.to_owned());
        let group = service.or_else(own)?;
        let mut limits = Vec::new();
        let mut at = Path::new(&group);
        loop {
            let file = format!("{MOUNT}{}/memory.max", at.display().to_string().trim_end_matches('/'));
            if let Some(limit) = self.number(&file) {
                limits.push((limit, format!("/{file}")));
            }
            match at.parent() {
                Some(above) => at = above,
                None => break,
            }
        }
        limits.into_iter().min()
    }

    /// An interface.
    #[must_use]
    pub fn interface(&self, name: &str, devices: &[Device]) -> InterfaceFacts {
        let folder = format!("sys/class/net/{name}");
        let device = devices.iter().find(|device| &*device.link.name == name);
        let index = device.map(|device| device.link.index);
        let master = devices.iter().find(|other| Some(other.link.index) == device.and_then(|device| device.master));
        let is_lower = |other: &&Device| {
            other.master == index || device.is_some_and(|device| device.parent == Some(other.link.index))
        };
        let lower = devices.iter().filter(|_| index.is_some()).filter(is_lower);
        // `/sys` may show the devices of another network namespace (ip-netns(8) mounts it anew, nsenter(1) does not).
        let is_shown = index.is_some() && self.number(&format!("{folder}/ifindex")) == index.map(u64::from);
        let queues = if is_shown { self.names(&format!("{folder}/queues")) } else { Vec::new() };
        InterfaceFacts {
            name: name.to_owned(),
            program: device.and_then(|device| inspect::program_name(device.link.hook.program?)),
            driver: self.target(&format!("{folder}/device/driver")).filter(|_| is_shown),
            xdp: index.and_then(|index| xdp_features(index).ok()),
            master: master.map(|master| (master.link.name.to_string(), master.kind.clone())),
            lower: lower.map(|lower| lower.link.name.to_string()).collect(),
            offloads: offloads::active(name).unwrap_or_default(),
            queues: queues.iter().filter(|queue| queue.starts_with("rx-")).count(),
            interrupt_cpus: if is_shown { self.interrupt_cpus(&folder) } else { BTreeSet::new() },
            device: device.cloned(),
        }
    }

    /// CPUs that the interrupts of a card may run on (Documentation/core-api/irq/irq-affinity.rst).
    fn interrupt_cpus(&self, folder: &str) -> BTreeSet<String> {
        let interrupts = self.names(&format!("{folder}/device/msi_irqs"));
        interrupts.iter().filter_map(|irq| self.text(&format!("proc/irq/{irq}/effective_affinity_list"))).collect()
    }
}

/// Members of a list such as `0-3,8`.
fn count_list(text: &str) -> usize {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<usize>().ok()?.checked_sub(first.parse().ok()?)? + 1)
    };
    text.split(',').filter_map(count).sum()
}

/// Whether the clock is synchronised, by systemd's word for it (timedatectl(1)), which asks the kernel (adjtimex(2)).
fn synchronised() -> Option<bool> {
    let output = Command::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"]).output().ok()?;
    match String::from_utf8_lossy(&output.stdout).trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// The disk under a folder that need not be there yet.
fn disk(folder: &Path) -> DiskFacts {
    /// `TMPFS_MAGIC` and `RAMFS_MAGIC` of include/uapi/linux/magic.h.
    const MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];
    let there = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let mode = fs::metadata(folder).ok().map(|folder| folder.mode() & 0o777);
    let space = rustix::fs::statvfs(there);
    DiskFacts {
        folder: there.to_owned(),
        free: space.as_ref().map_or(u64::MAX, |space| space.f_bavail.saturating_mul(space.f_frsize)),
        read_only: space.is_ok_and(|space| space.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY)),
        in_memory: rustix::fs::statfs(there).is_ok_and(|status| MEMORY.contains(&status.f_type)),
        mode,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use peertally_core::reconcile::{Hook, Link};

    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn lists_of_cpus_are_counted() {
        assert_eq!(count_list("0"), 1);
        assert_eq!(count_list("0-3,8,10-11"), 7);
        assert_eq!(count_list(""), 0);
    }

    #[test]
    fn the_lowest_memory_limit_of_the_service_and_above_counts() {
        let root = tempfile::tempdir().expect("a folder");
        write(root.path(), "proc/self/cgroup", "0::/user.slice\n");
        write(root.path(), "sys/fs/cgroup/user.slice/memory.max", "1000\n");
        let machine = Machine::at(root.path());
        assert_eq!(machine.memory_limit().expect("a limit").0, 1000);
        write(root.path(), "sys/fs/cgroup/system.slice/peertally.service/memory.max", "max\n");
        assert_eq!(machine.memory_limit(), None);
        write(root.path(), "sys/fs/cgroup/system.slice/memory.max", "4096\n");
        let (bytes, file) = machine.memory_limit().expect("a limit");
        assert_eq!((bytes, file.as_str()), (4096, "/sys/fs/cgroup/system.slice/memory.max"));
    }

    fn device(name: &str, index: u32) -> Device {
        Device::of(Link { name: Arc::from(name), index, hook: Hook::default() })
    }

    #[test]
    fn parts_and_queues_of_interfaces_are_read() {
        let root = tempfile::tempdir().expect("a folder");
        let machine = Machine::at(root.path());
        let devices = [
            Device { kind: "bond".into(), ..device("bond7", 70) },
            Device { master: Some(70), ..device("eth7", 71) },
            Device { kind: "vlan".into(), parent: Some(71), ..device("eth7.5", 72) },
        ];
        assert_eq!(machine.interface("bond7", &devices).lower, ["eth7"]);
        assert_eq!(machine.interface("eth7", &devices).master, Some(("bond7".into(), "bond".into())));
        assert_eq!(machine.interface("eth7.5", &devices).lower, ["eth7"]);
        assert_eq!(machine.interface("nowhere7", &devices).device, None);
        write(root.path(), "sys/class/net/eth7/queues/rx-0/x", "");
        write(root.path(), "sys/class/net/eth7/queues/tx-0/x", "");
        write(root.path(), "sys/class/net/eth7/ifindex", "71\n");
        assert_eq!(machine.interface("eth7", &devices).queues, 1);
        // Another namespace's device of that name.
        write(root.path(), "sys/class/net/eth7/ifindex", "3\n");
        assert_eq!(machine.interface("eth7", &devices).queues, 0);
    }

    #[test]
    fn capabilities_are_read() {
        let root = tempfile::tempdir().expect("a folder");
        write(root.path(), "proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n");
        assert_eq!(Machine::at(root.path()).status("CapEff", 16), Some(0x1ff_ffff_ffff));
    }
}
