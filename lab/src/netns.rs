//! Network namespaces of the lab, and the links between them.
//!
//! Commands enter with `nsenter`, which changes the network namespace only: `ip netns exec` would also hide
//! `/sys/fs/bpf`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::Command,
    thread,
};

use anyhow::{Context, Result, anyhow};
use rustix::{
    fd::AsFd,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::{
    counters::{self, Counters},
    process::run,
};

/// Where iproute2 binds named namespaces (ip-netns(8)).
pub(super) const RUN: &str = "/run/netns";

/// A named network namespace. It is removed by the lab that owns it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    pub(super) fn new(name: String) -> Self {
        Self { name }
    }

    pub(super) fn create(&self) -> Result<()> {
        run(Command::new("ip").args(["netns", "add", &self.name]))?;
        self.ip("link set lo up")
    }

    /// Name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// File that stands for the namespace.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(RUN).join(&self.name)
    }

    /// A command that runs inside: it has the process id of the program itself, and the machine's mounts.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program);
        command
    }

    /// Runs `ip` inside with arguments separated by blanks.
    ///
    /// # Errors
    /// Errors of `ip`.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments.split(' ')))
    }

    /// Runs `work` on a thread inside: sockets it makes belong to the namespace for their whole life.
    ///
    /// # Errors
    /// The namespace cannot be entered, or `work` fails or panics.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = self.path();
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
                    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                        .with_context(|| format!("enter {}", path.display()))?;
                    work()
                })
                .join()
                .map_err(|_| anyhow!("work inside {} panicked", self.name))?
        })
    }

    /// Writes a value below `/proc/sys` inside.
    ///
    /// # Errors
    /// The kernel has no such key, or refuses the value.
    pub fn write_sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.inside(|| fs::write(format!("/proc/sys/{key}"), value).with_context(|| format!("set {key} to {value}")))
    }

    /// Counters of every interface inside.
    ///
    /// # Errors
    /// The kernel's table cannot be read.
    pub fn counters(&self) -> Result<BTreeMap<String, Counters>> {
        self.inside(counters::read)
    }

    /// Whether `interface` has a link-local address in use. The reports of its multicast groups follow at once.
    ///
    /// # Errors
    /// The kernel's table cannot be read.
    pub(super) fn has_link_local(&self, interface: &str) -> Result<bool> {
        self.inside(|| {
            let path = "/proc/thread-self/net/if_inet6";
            let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
            Ok(text.lines().any(|line| is_usable_link_local(line, interface)))
        })
    }

    /// TCP segments that were sent again from inside.
    ///
    /// # Errors
    /// The kernel's table cannot be read.
    pub fn tcp_resent(&self) -> Result<u64> {
        self.inside(counters::tcp_resent)
    }
}

/// Whether a line of `/proc/net/if_inet6` (address, index, prefix length, scope, flags, name; net/ipv6/addrconf.c) is a
/// link-local address of `interface` that is not tentative.
fn is_usable_link_local(line: &str, interface: &str) -> bool {
    /// `IFA_F_TENTATIVE` of linux/if_addr.h.
    const TENTATIVE: u8 = 0x40;
    /// `IFA_LINK` of net/if_inet6.h.
    const LINK_SCOPE: &str = "20";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, _, _, LINK_SCOPE, flags, name] = fields[..] else { return false };
    name == interface && u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & TENTATIVE == 0)
}

/// A link to make between the router and a host.
pub(super) struct Link<'a> {
    pub(super) router: &'a Namespace,
    pub(super) router_interface: &'a str,
    pub(super) host: &'a Namespace,
    /// The /24 of the link; the router is .1, the host .2.
    pub(super) network_v4: [u8; 3],
    /// The /64 of the link; the router is ::1, the host ::2.
    pub(super) network_v6: [u16; 4],
    /// Byte that tells the link's hardware addresses from those of others.
    pub(super) mac: u8,
}

/// Makes the link: addresses, routes and neighbours are static, so that an idle link carries nothing.
pub(super) fn connect(link: &Link<'_>) -> Result<()> {
    let Link { router, router_interface: side, host, .. } = link;
    let [a, b, c] = link.network_v4;
    let [p, q, r, s] = link.network_v6;
    let address = |number: u8| (Ipv4Addr::new(a, b, c, number), Ipv6Addr::new(p, q, r, s, 0, 0, 0, number.into()));
    let mac = |number: u8| format!("02:00:00:00:{:02x}:{number:02x}", link.mac);
    let (router_name, host_name) = (router.name(), host.name());
    run(Command::new("ip").args(
        format!(
            "link add {side} netns {router_name} address {} type veth peer name eth0 netns {host_name} address {}",
            mac(1),
            mac(2)
        )
        .split(' '),
    ))?;
    for (namespace, interface, own, other) in [(router, *side, 1, 2), (host, "eth0", 2, 1)] {
        let (own_v4, own_v6) = address(own);
        let (other_v4, other_v6) = address(other);
        // No router solicitations and no second multicast report: an idle link is silent. Duplicate address detection
        // would delay the first report by up to two seconds, the second of which is silent (RFC 4862 section 5.4).
        namespace.write_sysctl(&format!("net/ipv6/conf/{interface}/accept_dad"), "0")?;
        namespace.write_sysctl(&format!("net/ipv6/conf/{interface}/router_solicitations"), "0")?;
        namespace.write_sysctl(&format!("net/ipv6/conf/{interface}/mldv2_unsolicited_report_interval"), "10")?;
        namespace.ip(&format!("addr add {own_v4}/24 dev {interface}"))?;
        namespace.ip(&format!("addr add {own_v6}/64 dev {interface} nodad"))?;
        run(namespace
            .command("ethtool")
            .args(["-K", interface, "tso", "off", "gso", "off", "gro", "off", "tx", "off"]))?;
        namespace.ip(&format!("link set {interface} up"))?;
        for neighbour in [other_v4.to_string(), other_v6.to_string()] {
            namespace.ip(&format!("neigh replace {neighbour} lladdr {} nud permanent dev {interface}", mac(other)))?;
        }
    }
    let (gateway_v4, gateway_v6) = address(1);
    host.ip(&format!("route add default via {gateway_v4}"))?;
    host.ip(&format!("route add default via {gateway_v6}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tentative_address_is_not_in_use() {
        let line =
            |scope: &str, flags: &str| format!("fe80000000000000000000fffe000102 02 40 {scope} {flags}     eth0");
        assert!(is_usable_link_local(&line("20", "80"), "eth0"));
        assert!(!is_usable_link_local(&line("20", "c0"), "eth0"));
        assert!(!is_usable_link_local(&line("00", "80"), "eth0"));
        assert!(!is_usable_link_local(&line("20", "80"), "core0"));
    }
}
