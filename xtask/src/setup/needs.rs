//! Requirements of each verb. Names are Debian 12's.

use clap::ValueEnum as _;

use super::tools::{BPF_LINKER, CARGO_DENY, CARGO_FUZZ, CargoTool};

/// Group of requirements of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Need {
    /// Building the BPF object
    Ebpf,
    /// Packing the agent, and installing the package in fresh Debian systems
    Dist,
    /// Booting other kernels
    Kernels,
    /// Network namespaces and the tools that tests compare with
    Tests,
    /// The demonstration's real clients
    Demo,
    /// The P2P clients of the lab
    Lab,
    /// The licence, source and advisory check
    Deny,
    /// The program that `bench --compare` compares with
    Compare,
    /// The program that labels are compared with
    Accuracy,
    /// The fuzzer
    Fuzz,
}

/// A Debian package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Package {
    /// Name in Debian 12.
    pub(super) name: &'static str,
    /// A program that proves it is there, for systems other than Debian.
    pub(super) probe: Option<&'static str>,
    /// Purpose.
    pub(super) why: &'static str,
    /// Whether the program will do wherever it comes from: Debian's package conflicts with others that bring it.
    pub(super) any_origin: bool,
}

pub(super) const fn package(name: &'static str, probe: &'static str, why: &'static str) -> Package {
    Package { name, probe: if probe.is_empty() { None } else { Some(probe) }, why, any_origin: false }
}

const fn program(name: &'static str, probe: &'static str, why: &'static str) -> Package {
    Package { any_origin: true, ..package(name, probe, why) }
}

const EBPF: &[Package] = &[
    package("rustc-web", "", "a compiler whose LLVM fits bpf-linker's"),
    package("libstd-rust-web-dev-bpf", "", "core for the BPF target"),
    package("llvm-22", "/usr/lib/llvm-22/bin/llvm-strip", "llvm-strip"),
];

/// libFuzzer is compiled from its sources.
const CXX: Package = package("build-essential", "c++", "compiling libFuzzer");

const KERNELS: &[Package] = &[
    package("qemu-system-x86", "qemu-system-x86_64", "boots the kernels"),
    package("busybox-static", "busybox", "the guest's user space"),
    package("cpio", "cpio", "packs the guest's file system"),
    package("xz-utils", "xz", "unpacks kernel modules"),
];

const DIST: &[Package] = &[
    package("debootstrap", "debootstrap", "makes fresh Debian systems"),
    package("binutils", "strip", "strips the executable, lists its symbols"),
];

const DEMO: &[Package] = &[
    package("iproute2", "ip", "network namespaces and veth pairs"),
    package("ethtool", "ethtool", "segmentation offloads of the veth pairs"),
    package("transmission-daemon", "transmission-daemon", "a BitTorrent client"),
    package("transmission-cli", "transmission-create", "makes torrents, drives the client"),
    package("opentracker", "opentracker", "a BitTorrent tracker"),
    package("nginx-light", "nginx", "an ordinary web server"),
    package("openssl", "openssl", "the web server's certificate"),
    package("curl", "curl", "ordinary web traffic"),
];

const LAB: &[Package] = &[
    package("aria2", "aria2c", "a BitTorrent client"),
    package("python3-libtorrent", "", "BitTorrent over uTP, and DHT"),
    package("amule-daemon", "amuled", "an eDonkey client"),
    package("amule-utils", "amulecmd", "drives the eDonkey client"),
    package("rtorrent", "rtorrent", "a BitTorrent client"),
    package("ctorrent", "ctorrent", "a BitTorrent client"),
    package("qbittorrent-nox", "qbittorrent-nox", "a BitTorrent client"),
    package("ncdc", "ncdc", "a Direct Connect client"),
    package("uhub", "uhub", "a Direct Connect hub"),
    package("python3-venv", "python3", "an environment for clients in Python"),
    program("nodejs", "node", "WebTorrent and libp2p peers"),
    program("npm", "npm", "installs these peers"),
    package("tmux", "tmux", "drives clients that want a terminal"),
    package("tcpdump", "tcpdump", "an independent count of packets"),
];

const NDPI: Package = package("libndpi-bin", "ndpiReader", "another program that labels flows, to compare with");

const TESTS: &[Package] = &[
    package("prometheus", "prometheus", "a real scrape, and promtool's check of the metrics"),
    package("xdp-tools", "xdp-filter", "an XDP program that is not ours"),
];

const COMPARE: &[Package] = &[NDPI, package("iperf3", "iperf3", "connections through the lab")];

impl Need {
    /// The word of `--with`.
    pub fn word(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// The tables of what it needs.
    pub(super) fn packages(self) -> impl Iterator<Item = &'static Package> {
        let tables: &[&[Package]] = match self {
            Self::Ebpf => &[EBPF],
            Self::Dist => &[DEMO, DIST],
            Self::Kernels => &[KERNELS],
            Self::Tests => &[DEMO, LAB, TESTS],
            Self::Demo => &[DEMO],
            Self::Lab => &[DEMO, LAB],
            Self::Compare => &[DEMO, COMPARE],
            Self::Deny => &[],
            Self::Fuzz => &[&[CXX]],
            Self::Accuracy => &[&[NDPI]],
        };
        tables.iter().copied().flatten()
    }

    /// Whether it needs the lab's peers in Python and for Node.js.
    pub(super) fn peers(self) -> bool {
        matches!(self, Self::Tests | Self::Lab)
    }

    pub(super) fn tools(self) -> &'static [CargoTool] {
        match self {
            Self::Ebpf => &[BPF_LINKER],
            Self::Deny => &[CARGO_DENY],
            Self::Fuzz => &[CARGO_FUZZ],
            Self::Dist | Self::Kernels | Self::Tests | Self::Demo | Self::Lab | Self::Compare | Self::Accuracy => &[],
        }
    }
}
