//! Network lab: a router between subscribers and an "internet", all in namespaces of their own, with real clients.
//!
//! ```text
//! s1 eth0 --- acc1 +--------+
//! s2 eth0 --- acc2 | router | core0 --- eth0 internet
//! sN eth0 --- accN +--------+
//! ```
//!
//! Subscriber i has 100.64.i.2 and 2001:db8:i::2, the internet 198.51.100.2 and 2001:db8:ffff::2; the router is `.1`
//! and `::1` on each link. Segmentation offloads are off, so that what an interface counts is what a wire would carry.
//!
//! A lab never touches the machine's own network, never kills a process that it did not start, and cleans up: dropping
//! a [`Lab`] removes it, a guard process removes it if its owner is killed, and a new lab removes leftovers of dead
//! owners. Nothing here waits for a fixed time: see [`wait_for`].

mod agent;
mod capture;
mod clients;
mod counters;
mod guard;
mod http;
mod metrics;
mod mounts;
mod netns;
mod peer;
mod process;
mod prometheus;
mod require;
mod scenario;
mod scenarios;
mod servers;
mod signature;
pub mod tools;
mod torrent;
mod truth;
mod unit;
mod wait;
mod web;
mod xdp;

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

pub use self::{
    agent::{Agent, LISTEN, LabelledBytes, NodeTotals, SubscriberRow, configuration, is_p2p},
    capture::{Capture, Frame, frames, until},
    clients::{
        aioslsk::Aioslsk,
        amule::{Amule, AmuleSetup, KadSetup},
        aria2::Aria2,
        ctorrent::Ctorrent,
        libtorrent::{LIBTORRENT_PORT, Libtorrent},
        ncdc::Ncdc,
        node::NodePeer,
        qbittorrent::Qbittorrent,
        rtorrent::Rtorrent,
        transmission::Transmission,
    },
    counters::{Counters, IpCount, IpReference},
    http::{HttpServer, Request, http_get},
    metrics::{Metrics, Sample},
    netns::Namespace,
    peer::{bittorrent_exchange, plain_exchange},
    process::{Process, output, run, without_package},
    prometheus::{Prometheus, promtool_check},
    require::{SOAK_VARIABLE, STRICT_VARIABLE, repetitions, require, strict},
    scenario::{Expected, IpVersion, Scenario, ScenarioOutcome, Share, Stage, play_all},
    scenarios::scenarios,
    servers::{
        announce::AnnounceServer,
        direct_connect::{ADC_PORT, AdcHub, NMDC_PORT, NmdcHub},
        edonkey::EdonkeyServer,
        soulseek::{SOULSEEK_PORT, SoulseekServer},
        tracker::{TRACKER_PORT, Tracker},
    },
    signature::{SIGNATURES, protocol_of},
    torrent::{Reported, Transfer, make_file, make_torrent},
    truth::{Flow, FlowKey, FlowKind, Truth, background},
    unit::Unit,
    wait::{interrupt, wait_for, wait_for_some},
    web::{DnsServer, WebServer, fetch},
    xdp::{Xdp, xdp},
};
use self::{guard::Guard, mounts::Mounts, netns::Link};

/// Prefix of every name the lab gives: `pt-<pid>-<number>-<role>`.
const PREFIX: &str = "pt";
/// Pools that hold the subscribers, in the form that `--subscribers` takes.
pub const POOLS: [&str; 2] = ["100.64.0.0/16/32", "2001:db8::/36/64"];
/// The router's interface towards the internet.
pub const CORE: &str = "core0";
/// Address of the internet host.
pub const INTERNET_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// Address of the internet host.
pub const INTERNET_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 2);

/// Number of labs that this process has made. Tests run in threads, and each has its own lab.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A lab; dropping it removes everything it made.
#[derive(Debug)]
pub struct Lab {
    name: String,
    directory: PathBuf,
    router: Namespace,
    internet: Namespace,
    subscribers: Vec<Namespace>,
    mounts: Option<Mounts>,
    guard: Option<Guard>,
}

impl Lab {
    /// Builds a lab with `subscribers` subscribers (at most 200).
    ///
    /// # Errors
    /// Missing rights or tools; whatever was made so far is removed.
    pub fn new(subscribers: u8) -> Result<Self> {
        ensure!(subscribers <= 200, "a lab has at most 200 subscribers");
        guard::sweep(PREFIX);
        let name = format!("{PREFIX}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = guard::directory(&name);
        let namespace = |role: &str| Namespace::new(format!("{name}-{role}"));
        let router = namespace("rtr");
        let internet = namespace("net");
        let subscribers: Vec<_> = (1..=subscribers).map(|i| namespace(&format!("s{i}"))).collect();
        let guard = Guard::start(
            &name,
            subscribers.iter().chain([&router, &internet]).map(Namespace::name).map(str::to_owned).collect(),
        )?;
        let mut lab = Self { name, directory, router, internet, subscribers, mounts: None, guard: Some(guard) };
        lab.build()?;
        lab.mounts = Some(Mounts::new(&lab.router)?);
        Ok(lab)
    }

    fn build(&self) -> Result<()> {
        fs::create_dir(&self.directory).with_context(|| format!("create {}", self.directory.display()))?;
        // The tracker drops its rights and must still be able to enter.
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o755))?;
        for namespace in self.subscribers.iter().chain([&self.router, &self.internet]) {
            namespace.create()?;
        }
        for (index, subscriber) in self.subscribers.iter().enumerate() {
            let number = u8::try_from(index + 1)?;
            netns::connect(&Link {
                router: &self.router,
                router_interface: &access(usize::from(number)),
                host: subscriber,
                network_v4: [100, 64, number],
                network_v6: [0x2001, 0xdb8, u16::from(number), 0],
                mac: number,
            })?;
        }
        netns::connect(&Link {
            router: &self.router,
            router_interface: CORE,
            host: &self.internet,
            network_v4: [198, 51, 100],
            network_v6: [0x2001, 0xdb8, 0xffff, 0],
            mac: 0xff,
        })?;
        self.router.write_sysctl("net/ipv4/ip_forward", "1")?;
        self.router.write_sysctl("net/ipv6/conf/all/forwarding", "1")?;
        // Silence before the link is up, or before the address is in use, is not the end of the announcements.
        let hosts = self.subscribers.iter().chain([&self.internet]).map(|host| (host, "eth0".to_owned()));
        let sides = (1..=self.subscribers.len()).map(access).chain([CORE.to_owned()]).map(|side| (&self.router, side));
        for (namespace, interface) in hosts.chain(sides) {
            let what = format!("link-local address of {interface} in {}", namespace.name());
            wait_for(&what, Duration::from_secs(30), Duration::from_millis(20), || {
                namespace.has_link_local(&interface)
            })?;
        }
        self.settle()
    }

    /// Waits until the interfaces are silent: joining groups and announcing addresses is over.
    ///
    /// # Errors
    /// They never fall silent.
    pub fn settle(&self) -> Result<()> {
        let mut last = BTreeMap::new();
        let mut unchanged = 0;
        wait_for("silent interfaces", Duration::from_secs(30), Duration::from_millis(100), || {
            let now = self.router.counters()?;
            unchanged = if now == last { unchanged + 1 } else { 0 };
            last = now;
            Ok(unchanged >= 10)
        })
    }

    /// Name of this lab: `pt-<pid>-<number>`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Scratch folder; removed with the lab.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A command on the router as the agent sees it: with the router's `/sys` and a BPF file system of its own.
    ///
    /// # Panics
    /// Never: a lab without mounts is not given out.
    #[must_use]
    pub fn router_command(&self, program: &str) -> Command {
        self.mounts.as_ref().expect("a built lab has mounts").command(&self.router, program)
    }

    /// Makes a folder in the scratch folder.
    ///
    /// # Errors
    /// The file system's.
    pub fn subdirectory(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }

    /// The router's namespace.
    #[must_use]
    pub fn router(&self) -> &Namespace {
        &self.router
    }

    /// The internet's namespace.
    #[must_use]
    pub fn internet(&self) -> &Namespace {
        &self.internet
    }

    /// Subscriber `number`, from 1.
    ///
    /// # Panics
    /// There is no such subscriber.
    #[must_use]
    pub fn subscriber(&self, number: usize) -> &Namespace {
        &self.subscribers[number - 1]
    }

    /// `NAME:ROLE` of every monitored router interface, as `--interface` takes them.
    #[must_use]
    pub fn interfaces(&self) -> Vec<String> {
        let access = (1..=self.subscribers.len()).map(|number| format!("{}:access", access(number)));
        access.chain([format!("{CORE}:core")]).collect()
    }

    /// Removes the lab and says whether anything is left.
    ///
    /// # Errors
    /// Something could not be removed; the error names it.
    pub fn close(mut self) -> Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> Result<()> {
        let Some(guard) = self.guard.take() else { return Ok(()) };
        let namespaces: Vec<_> = self.subscribers.iter().chain([&self.router, &self.internet]).collect();
        drop(self.mounts.take());
        let left = guard::remove(&self.directory, namespaces.iter().map(|namespace| namespace.name()));
        guard.dismiss();
        left
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("lab {} was not removed entirely: {error:#}", self.name);
        }
    }
}

/// The router's interface towards subscriber `number`.
#[must_use]
pub fn access(number: usize) -> String {
    format!("acc{number}")
}

/// IPv4 address of subscriber `number`.
#[must_use]
pub fn subscriber_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 64, number, 2)
}

/// IPv6 address of subscriber `number`.
#[must_use]
pub fn subscriber_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, u16::from(number), 0, 0, 0, 0, 2)
}
