//! `cargo xtask dist --test`: installs the package in fresh Debian systems, on the lab's router with real interfaces
//! and traffic, by README's own commands; upgrades, downgrades, removes and purges it.
//!
//! No service manager runs in such a system. The test stands in for it ([`Unit`]): it starts the agent as the installed
//! unit says, and restarts it where the package's scripts would ask systemd to.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use peertally_lab::{self as lab, Agent, Counters, Lab, Metrics, Unit, bittorrent_exchange, xdp};

use super::roots;
use crate::workspace::root;

const CONFIG: &str = "etc/peertally/peertally.toml";
const USER: &str = "peertally";
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);
const CHUNK: usize = 1 << 16;

/// Counters of the kernel's work, which go on whichever agent shows them.
const LASTING: [&str; 4] = [
    "peertally_traffic_packets_total",
    "peertally_traffic_bytes_total",
    "peertally_traffic_flows_total",
    "peertally_skipped_packets_total",
];

/// Two packages, the older one first.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) old: PathBuf,
    pub(super) new: PathBuf,
    /// Whether both keep their counters in tables of one schema.
    pub(super) one_schema: bool,
}

/// Tests in each release of Debian, with this many upgrades and downgrades.
///
/// # Errors
/// The first thing that is not as it must be.
pub(super) fn test(pair: &Pair, cycles: u32) -> Result<()> {
    ensure!(lab::require("dist --test", &["debootstrap"]), "the lab cannot run here; see the line above");
    for base in roots::bases()? {
        let copy = roots::copy(&base)?;
        life(&copy, pair, cycles).with_context(|| format!("in {}", copy.display()))?;
        fs::remove_dir_all(&copy).with_context(|| format!("cannot remove {}", copy.display()))?;
    }
    Ok(())
}

/// A Debian system on the lab's router.
struct Machine<'a> {
    lab: &'a Lab,
    root: &'a Path,
}

impl<'a> Machine<'a> {
    fn new(lab: &'a Lab, root: &'a Path) -> Result<Self> {
        let folder = root.display();
        // As a booted system has it. Without systemd nobody may start services (invoke-rc.d(8)).
        let script = format!(
            "set -e; mount --bind {folder} {folder}; mount -t proc proc {folder}/proc; chmod 700 /sys/fs/bpf; \
             mount --rbind /sys {folder}/sys; mount --rbind /dev {folder}/dev; \
             mount -t tmpfs -o mode=755 tmpfs {folder}/run; printf '#!/bin/sh\\nexit 101\\n' > {folder}/usr/sbin/policy-rc.d; \
             chmod 755 {folder}/usr/sbin/policy-rc.d"
        );
        lab::run(lab.router_command("sh").args(["-c", &script]))?;
        Ok(Self { lab, root })
    }

    /// A command of root in the system.
    fn command(&self, program: &str) -> Command {
        let mut command = self.lab.router_command("chroot");
        command.arg(self.root).arg(program).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
        command
    }

    fn ask(&self, words: &[&str]) -> Result<(bool, String)> {
        let output = lab::output(self.command(words[0]).args(&words[1..]))?;
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        Ok((output.status.success(), said))
    }

    fn does(&self, words: &[&str]) -> Result<String> {
        let (done, said) = self.ask(words)?;
        ensure!(done, "{words:?}: {said}");
        Ok(said)
    }

    fn install(&self, deb: &Path) -> Result<()> {
        let name = deb.file_name().context("a package has a name")?.to_string_lossy();
        fs::copy(deb, self.root.join("root").join(&*name))?;
        self.does(&["dpkg", "--install", &format!("/root/{name}")]).map(drop)
    }

    fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.root.join(path)).is_ok()
    }

    /// Starts the agent as systemd would.
    fn start(&self) -> Result<Agent<'a>> {
        let unit = Unit::read(&self.root.join("usr/lib/systemd/system/peertally.service"))?;
        self.does(&["sh", "-c", &unit.preparation(USER, USER)?])?;
        let command = unit.key("ExecStart")?;
        Agent::start_command(self.lab, unit.start(self.command("unshare"), USER, USER, command)?)
    }

    fn is_attached(&self) -> Result<bool> {
        Ok(xdp(self.lab.router(), "acc1")?.is_some())
    }
}

fn life(root: &Path, pair: &Pair, cycles: u32) -> Result<()> {
    let lab = Lab::new(1)?;
    let machine = Machine::new(&lab, root)?;
    install(&machine, pair)?;
    let agent = upgrades(&machine, pair, cycles)?;
    remove(&machine, pair, agent)?;
    println!("dist: {}: install, {cycles} upgrades and downgrades under traffic, remove, purge", root.display());
    lab.close()
}

/// The command blocks of README's installation.
fn readme() -> Result<Vec<String>> {
    let text = fs::read_to_string(root().join("README.md")).context("cannot read README.md")?;
    let blocks = text.split("```sh package\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0.to_owned()));
    let blocks: Vec<String> = blocks.collect();
    ensure!(blocks.len() == 3, "README.md has {} blocks `sh package`: install, name interfaces, start", blocks.len());
    Ok(blocks)
}

/// README's installation, up to the first subscriber: all is there, enabled, and not started before an interface is
/// named; without one the agent refuses.
fn install(machine: &Machine<'_>, pair: &Pair) -> Result<()> {
    let blocks = readme()?;
    let name = pair.old.file_name().context("a package has a name")?;
    fs::copy(&pair.old, machine.root.join("root").join(name))?;
    machine.does(&["sh", "-ec", &format!("cd /root\n{}", blocks[0])])?;
    for path in [
        "usr/share/man/man1/peertally.1.gz",
        "usr/share/bash-completion/completions/peertally",
        "usr/share/zsh/vendor-completions/_peertally",
        "usr/share/fish/vendor_completions.d/peertally.fish",
        "usr/share/doc/peertally/copyright",
        "etc/systemd/system/multi-user.target.wants/peertally.service",
    ] {
        ensure!(machine.has(path), "{path} is not installed");
    }
    let config = machine.root.join(CONFIG);
    ensure!(config.metadata()?.permissions().mode() & 0o777 == 0o640, "all can read {}", config.display());
    let (done, said) = machine.ask(&["peertally", "run"])?;
    ensure!(!done && said.contains("no interface is given"), "{said}");
    ensure!(!machine.is_attached()?, "a fresh installation has attached something");
    machine.does(&["sh", "-ec", &blocks[1].replace("eth0", "acc1").replace("eth1", "core0")])?;
    machine.does(&["peertally", "check-config"])?;
    let mut agent = None;
    for command in blocks[2].lines() {
        if command == "systemctl start peertally" {
            agent = Some(machine.start()?);
        } else {
            machine.does(&["sh", "-ec", command])?;
        }
    }
    let mut agent = agent.context("README.md does not start the service")?;
    bittorrent_exchange(machine.lab.subscriber(1), machine.lab.internet(), CHUNK)?;
    lab::wait_for("a counted subscriber", PATIENCE, PAUSE, || {
        Ok(agent.metrics()?.sum("peertally_top_subscriber_bytes_total", &[]) > 0)
    })?;
    let status = agent.process().terminate(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", agent.process().log());
    machine.does(&["peertally", "detach"])?;
    // What follows waits for drains.
    let text = fs::read_to_string(&config)?;
    fs::write(&config, format!("drain_interval = \"200ms\"\n{text}")).context("cannot write the configuration")
}

/// Upgrades and downgrades under traffic: every frame is counted, and no counter goes down.
fn upgrades<'a>(machine: &Machine<'a>, pair: &Pair, cycles: u32) -> Result<Agent<'a>> {
    let lab = machine.lab;
    lab.settle()?;
    let before = lab.router().counters()?;
    let mut agent = machine.start()?;
    ensure!(received(lab, &before)? == 0, "frames came before the first start was ready: start the test again");
    let done = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let sender = scope.spawn(|| -> Result<()> {
            while !done.load(Ordering::Relaxed) {
                bittorrent_exchange(lab.subscriber(1), lab.internet(), CHUNK)?;
            }
            Ok(())
        });
        let result = (0..2 * cycles).try_for_each(|number| {
            let package = if number % 2 == 0 { &pair.new } else { &pair.old };
            let counted = agent.metrics()?;
            machine.install(package)?;
            agent.process().ensure_running().context("the upgrade has ended the agent")?;
            take_over(machine, &mut agent)?;
            if pair.one_schema { none_went_down(&counted, &agent.metrics()?) } else { Ok(()) }
        });
        done.store(true, Ordering::Relaxed);
        sender.join().expect("the sender does not panic")?;
        result
    })?;
    if pair.one_schema {
        agrees(lab, &agent, &before)?;
    }
    let text = fs::read_to_string(machine.root.join(CONFIG))?;
    ensure!(text.contains("acc1"), "an upgrade has replaced the configuration");
    Ok(agent)
}

/// Restarts the agent, as `try-restart` in the script of an upgrade does.
fn take_over<'a>(machine: &Machine<'a>, agent: &mut Agent<'a>) -> Result<()> {
    let status = agent.process().terminate(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", agent.process().log());
    ensure!(machine.is_attached()?, "the program is gone with the agent");
    *agent = machine.start()?;
    Ok(())
}

/// Removal beside a running agent is refused; after its end it detaches, and keeps configuration and state. Purge
/// leaves nothing.
fn remove<'a>(machine: &Machine<'a>, pair: &Pair, mut agent: Agent<'a>) -> Result<()> {
    let (removed, said) = machine.ask(&["dpkg", "--remove", "peertally"])?;
    ensure!(!removed && said.contains("the package stays"), "{said}");
    ensure!(machine.has("usr/bin/peertally") && machine.is_attached()?, "a refused removal has removed something");
    agent.process().ensure_running().context("a refused removal has ended the agent")?;
    let status = agent.process().terminate(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", agent.process().log());
    drop(agent);

    machine.does(&["dpkg", "--remove", "peertally"])?;
    ensure!(!machine.is_attached()?, "the program outlives its package");
    ensure!(!machine.has("usr/bin/peertally"), "the executable is left");
    ensure!(machine.has("var/lib/peertally/peertally.db") && machine.has(CONFIG), "a removal has taken state away");
    bittorrent_exchange(machine.lab.subscriber(1), machine.lab.internet(), CHUNK)?;

    machine.install(&pair.new)?;
    drop(machine.start()?);
    machine.does(&["dpkg", "--purge", "peertally"])?;
    ensure!(!machine.is_attached()?, "the program outlives its package");
    for path in ["var/lib/peertally", "etc/peertally", "etc/systemd/system/multi-user.target.wants/peertally.service"] {
        ensure!(!machine.has(path), "a purge leaves /{path}");
    }
    Ok(())
}

/// Frames that the router's interfaces have received since `before`.
fn received(lab: &Lab, before: &BTreeMap<String, Counters>) -> Result<u64> {
    let sum = |counters: &BTreeMap<String, Counters>| -> u64 {
        counters.iter().filter(|(name, _)| *name != "lo").map(|(_, counters)| counters.rx_packets).sum()
    };
    Ok(sum(&lab.router().counters()?) - sum(before))
}

/// Waits until the agent has counted exactly the frames received since `before`.
fn agrees(lab: &Lab, agent: &Agent<'_>, before: &BTreeMap<String, Counters>) -> Result<()> {
    let mut last = String::new();
    lab::wait_for("agreement with the interfaces", PATIENCE, PAUSE, || {
        let (totals, received) = (agent.node_totals()?, received(lab, before)?);
        last = format!("{totals:?}, {received} frames received");
        Ok(totals.packets + totals.skipped == received)
    })
    .with_context(|| last)
}

fn none_went_down(before: &Metrics, after: &Metrics) -> Result<()> {
    for sample in before.samples().iter().filter(|sample| LASTING.contains(&sample.name.as_str())) {
        let labels: Vec<_> = sample.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let now = after.sum(&sample.name, &labels) as f64;
        ensure!(now >= sample.value, "{} {labels:?} went down from {} to {now}", sample.name, sample.value);
    }
    Ok(())
}
