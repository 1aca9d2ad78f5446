//! The agent on the lab's router, with its metrics and status.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    Counters, Lab, POOLS,
    http::{self, http_get},
    metrics::Metrics,
    process::{Process, run},
    subscriber_v4,
    wait::wait_for,
};

/// Where an agent of a lab listens, inside the router.
pub const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9847);

/// Starts of an agent before a lab counts as not silent.
const STARTS: u32 = 5;

/// An agent that monitors every interface of the router that leads to a host.
#[derive(Debug)]
pub struct Agent<'a> {
    lab: &'a Lab,
    process: Process,
}

impl<'a> Agent<'a> {
    /// Starts an agent as [`Agent::start`] does, and gives the interfaces' counters from before. No frame came between
    /// these and the ready agent: it cannot have missed one.
    ///
    /// # Errors
    /// As [`Agent::start`], or the interfaces are not silent for that long.
    pub fn start_before_traffic(
        lab: &'a Lab,
        executable: &Path,
        toml: &str,
    ) -> Result<(Self, BTreeMap<String, Counters>)> {
        let received = |counters: &BTreeMap<String, Counters>| -> u64 {
            counters.iter().filter(|(name, _)| *name != "lo").map(|(_, counters)| counters.rx_packets).sum()
        };
        for _ in 0..STARTS {
            lab.settle()?;
            let before = lab.router().counters()?;
            let agent = Self::start(lab, executable, toml)?;
            if received(&lab.router().counters()?) == received(&before) {
                return Ok((agent, before));
            }
            // Whether the frame came before the program was attached is not known.
            drop(agent);
            run(lab.router_command(executable.to_str().context("a path in UTF-8")?).arg("detach"))?;
        }
        bail!("a frame came during each of {STARTS} starts of the agent")
    }

    /// Starts `executable` with the lab's interfaces and pools, and the rest of the configuration in `toml`;
    /// returns when it is ready: attached natively, and its counters read once.
    ///
    /// # Errors
    /// The agent ends, or is not ready in time.
    pub fn start(lab: &'a Lab, executable: &Path, toml: &str) -> Result<Self> {
        Self::spawn(lab, lab.router_command(executable.to_str().context("a path in UTF-8")?), toml)
    }

    /// As [`Agent::start`], for an agent that may open `files` files.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_with_files(lab: &'a Lab, executable: &Path, toml: &str, files: u64) -> Result<Self> {
        let mut command = lab.router_command("prlimit");
        command.arg(format!("--nofile={files}:{files}")).arg(executable);
        Self::spawn(lab, command, toml)
    }

    fn spawn(lab: &'a Lab, mut command: Command, toml: &str) -> Result<Self> {
        let file = configuration(lab, toml)?;
        command.args(["run", "--config"]).arg(&file);
        Self::start_command(lab, command)
    }

    /// Starts an agent by a whole command; returns when it is ready.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_command(lab: &'a Lab, mut command: Command) -> Result<Self> {
        let mut agent = Self { lab, process: Process::spawn("peertally", lab.directory(), &mut command)? };
        wait_for("ready agent", Duration::from_secs(60), Duration::from_millis(50), || {
            agent.process.ensure_running()?;
            Ok(agent.get("/readyz").is_ok_and(|(status, _)| status == 200))
        })
        .with_context(|| agent.process.log())?;
        Ok(agent)
    }

    /// Starts an agent that is expected to refuse, and gives its exit code and its words.
    ///
    /// # Errors
    /// The agent does not end, or a signal ends it.
    pub fn refusal(lab: &Lab, command: &mut Command) -> Result<(i32, String)> {
        let mut process = Process::spawn("refusal", lab.directory(), command)?;
        let status = process.wait(Duration::from_secs(30)).with_context(|| process.log())?;
        Ok((status.code().context("an exit code")?, process.log()))
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Fetches a path from it: status and body.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        http_get(self.lab.router(), LISTEN, path)
    }

    /// Metrics of the node and of every subscriber.
    ///
    /// # Errors
    /// The agent does not answer with metrics.
    pub fn metrics(&self) -> Result<Metrics> {
        let (status, body) = self.get("/metrics")?;
        ensure!(status == 200, "/metrics answers {status}: {body}");
        Metrics::parse(&body)
    }

    /// Counts of all interfaces, including flows under inspection.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn node_totals(&self) -> Result<NodeTotals> {
        let metrics = self.metrics()?;
        Ok(NodeTotals {
            packets: metrics.sum("peertally_traffic_packets_total", &[])
                + metrics.sum("peertally_pending_packets", &[]),
            bytes: metrics.sum("peertally_traffic_bytes_total", &[]) + metrics.sum("peertally_pending_bytes", &[]),
            skipped: metrics.sum("peertally_skipped_packets_total", &[]),
        })
    }

    /// IP bytes with a P2P label, and those that are pending.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn labelled_bytes(&self) -> Result<LabelledBytes> {
        let metrics = self.metrics()?;
        let named = metrics
            .select("peertally_traffic_bytes_total", &[])
            .filter(|sample| sample.labels.get("protocol").is_some_and(|protocol| is_p2p(protocol)));
        Ok(LabelledBytes {
            settled: named.map(|sample| sample.value as u64).sum(),
            pending: metrics.sum("peertally_pending_bytes", &[]),
        })
    }

    /// Waits until every packet that the router's interfaces received since `before` is drained, equal to the kernel's
    /// own counts in packets and bytes, and gives every tally.
    ///
    /// # Errors
    /// The counts do not become equal, or an interface dropped packets.
    pub fn settled(&self, before: &BTreeMap<String, Counters>) -> Result<Vec<SubscriberRow>> {
        let mut last = String::new();
        wait_for("agreement with the interfaces", Duration::from_secs(20), Duration::from_millis(250), || {
            let totals = self.node_totals()?;
            let after = self.lab.router().counters()?;
            let (mut packets, mut bytes) = (0, 0);
            for (name, counters) in after.iter().filter(|(name, _)| *name != "lo") {
                packets += counters.rx_packets - before[name].rx_packets;
                // With native XDP a veth counts bytes after the Ethernet header: IP bytes.
                bytes += counters.rx_bytes - before[name].rx_bytes;
                ensure!(counters.rx_dropped == before[name].rx_dropped, "{name} dropped packets: {counters:?}");
            }
            last = format!("agent {totals:?}, interfaces {packets} packets, {bytes} bytes");
            // Neighbours are static: there is no frame but IP.
            Ok(totals.skipped == 0 && totals.packets == packets && totals.bytes == bytes)
        })
        .with_context(|| last)?;
        self.subscribers()
    }

    /// Every tally of every subscriber, from its control socket.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn subscribers(&self) -> Result<Vec<SubscriberRow>> {
        let socket = control_socket(self.lab);
        let stream = UnixStream::connect(&socket).with_context(|| format!("connect to {}", socket.display()))?;
        let (status, body) = http::ask(stream, "/subscribers")?;
        ensure!(status == 200, "/subscribers answers {status}: {body}");
        body.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }
}

/// One tally, as the agent exports it.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct SubscriberRow {
    /// Address block.
    pub subscriber: String,
    /// Protocol.
    pub protocol: String,
    /// Confidence.
    pub confidence: String,
    /// Flows.
    pub flows: u64,
    /// IP packets from the subscriber.
    pub packets_up: u64,
    /// IP bytes from the subscriber.
    pub bytes_up: u64,
    /// IP packets to the subscriber.
    pub packets_down: u64,
    /// IP bytes to the subscriber.
    pub bytes_down: u64,
}

impl SubscriberRow {
    /// Whether it is a tally of subscriber `number` of the lab.
    #[must_use]
    pub fn is_of(&self, number: u8) -> bool {
        let own = [format!("{}/32", subscriber_v4(number)), format!("2001:db8:{number:x}::/64")];
        own.contains(&self.subscriber)
    }

    /// Whether it is a P2P protocol.
    #[must_use]
    pub fn is_p2p(&self) -> bool {
        is_p2p(&self.protocol)
    }
}

/// Whether a protocol's label names a P2P protocol.
#[must_use]
pub fn is_p2p(protocol: &str) -> bool {
    !["unclassified", "fragment"].contains(&protocol)
}

/// IP bytes of all interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LabelledBytes {
    /// With a P2P label.
    pub settled: u64,
    /// Under no label yet.
    pub pending: u64,
}

/// The agent's counts of all interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeTotals {
    /// IP packets.
    pub packets: u64,
    /// IP bytes.
    pub bytes: u64,
    /// Frames that were not counted as IP.
    pub skipped: u64,
}

/// Writes a configuration for the lab, followed by `toml`. State and sockets are in its folder.
///
/// # Errors
/// The file system's.
pub fn configuration(lab: &Lab, toml: &str) -> Result<PathBuf> {
    let state = lab.subdirectory("state")?;
    let mut text = format!(
        "listen = \"{LISTEN}\"\nstate_dir = {state:?}\ncontrol_socket = {:?}\nnode = \"laboratory\"\n",
        control_socket(lab)
    );
    // Keys of the caller come first: TOML has them before any table.
    let (keys, tables) = match toml.find("\n[") {
        Some(table) => toml.split_at(table),
        None if toml.starts_with('[') => ("", toml),
        None => (toml, ""),
    };
    text += keys;
    for interface in lab.interfaces() {
        let (name, role) = interface.split_once(':').context("an interface with its role")?;
        text += &format!("\n[[interfaces]]\nname = \"{name}\"\nrole = \"{role}\"\n");
    }
    for pool in POOLS {
        let (prefix, assign) = pool.rsplit_once('/').context("a pool with its block length")?;
        text += &format!("\n[[subscribers.pools]]\nprefix = \"{prefix}\"\nassign = {assign}\n");
    }
    text += "\n";
    text += tables;
    let file = lab.directory().join("peertally.toml");
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    Ok(file)
}

fn control_socket(lab: &Lab) -> PathBuf {
    lab.directory().join("control.sock")
}
