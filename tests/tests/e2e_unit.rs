//! The agent as its unit starts it: a user of its own, three capabilities, and a view of its own folder of pins. It
//! does all its work, tells the service manager, and root's commands work beside it.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use peertally_lab::{self as lab, Agent, Lab, Unit, bittorrent_exchange, configuration, xdp};
use peertally_tests::executable;

/// The machine need not know the unit's user.
const USER: &str = "64123";
const PEERTALLY: &str = "/run/program/peertally";
const CONFIG: &str = "/run/program/peertally.toml";
const PATIENCE: Duration = Duration::from_secs(60);
const MEGABYTE: usize = 1 << 20;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn unit_file() -> PathBuf {
    root().join("packaging/systemd/peertally.service")
}

/// A router with the unit's folders, the executable and a configuration with the default paths.
struct Node {
    lab: Lab,
    unit: Unit,
    notify: UnixDatagram,
}

impl Node {
    fn new(toml: &str) -> Result<Self> {
        let lab = Lab::new(1)?;
        let unit = Unit::read(&unit_file())?;
        // As on a machine that systemd has booted.
        let machine = "chmod 755 /run && chmod 700 /sys/fs/bpf && mount -t tmpfs -o mode=755 tmpfs /var/lib \
                       && mkdir -m 755 /run/program";
        sh(&lab, machine)?;
        sh(&lab, &format!("cp {} {PEERTALLY}", executable()?.display()))?;
        let node = Self { notify: UnixDatagram::bind(lab.directory().join("notify"))?, lab, unit };
        node.notify.set_read_timeout(Some(PATIENCE))?;
        fs::set_permissions(node.lab.directory(), fs::Permissions::from_mode(0o755))?;
        fs::set_permissions(node.socket(), fs::Permissions::from_mode(0o777))?;
        node.configure(toml)?;
        sh(&node.lab, &node.unit.preparation(USER, USER)?)?;
        Ok(node)
    }

    fn socket(&self) -> PathBuf {
        self.lab.directory().join("notify")
    }

    /// The lab's configuration with the default paths.
    fn configure(&self, toml: &str) -> Result<()> {
        let text = fs::read_to_string(configuration(&self.lab, toml)?)?;
        let own = |line: &&str| !line.starts_with("state_dir") && !line.starts_with("control_socket");
        let text: String = text.lines().filter(own).flat_map(|line| [line, "\n"]).collect();
        let file = self.lab.directory().join("unit.toml");
        fs::write(&file, text)?;
        sh(&self.lab, &format!("cp {} {CONFIG}", file.display()))
    }

    /// A command of the unit's service.
    fn service(&self, command: &str) -> Result<Command> {
        let mut start = self.unit.start(self.lab.router_command("unshare"), USER, USER, command)?;
        start.env("NOTIFY_SOCKET", self.socket()).env("WATCHDOG_USEC", "1500000");
        Ok(start)
    }

    fn start(&self) -> Result<Agent<'_>> {
        Agent::start_command(&self.lab, self.service(&format!("{PEERTALLY} run --config {CONFIG}"))?)
    }

    /// Waits for a message to the service manager that has this line.
    fn hears(&self, line: &str) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut message = [0; 512];
        let mut heard = Vec::new();
        while Instant::now() < end {
            let length = self.notify.recv(&mut message).with_context(|| format!("{line} after {heard:?}"))?;
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            if text.lines().any(|each| each == line) {
                return Ok(());
            }
            heard.push(text);
        }
        bail!("no {line} in {heard:?}")
    }

    /// What a command of root says, outside the unit.
    fn root_says(&self, arguments: &[&str]) -> Result<String> {
        let output = lab::output(self.lab.router_command(PEERTALLY).args(arguments).args(["--config", CONFIG]))?;
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        ensure!(output.status.success(), "{arguments:?}: {said}");
        Ok(said)
    }
}

fn sh(lab: &Lab, script: &str) -> Result<()> {
    lab::run(lab.router_command("sh").args(["-c", script]))
}

#[test]
fn the_unit_exposes_little() -> Result<()> {
    if !lab::require("the_unit_exposes_little", &["systemd-analyze"]) {
        return Ok(());
    }
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--no-pager", "--offline=true", "--threshold=20"]).arg(unit_file());
    let output = lab::output(&mut analyze)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

#[test]
fn the_agent_works_as_its_unit() -> Result<()> {
    if !lab::require("the_agent_works_as_its_unit", &["setpriv", "prlimit", "unshare"]) {
        return Ok(());
    }
    let keys = "drain_interval = \"200ms\"\n";
    let node = Node::new(keys)?;
    let mut agent = node.start()?;
    node.hears("READY=1")?;
    node.hears("WATCHDOG=1")?;
    bittorrent_exchange(node.lab.subscriber(1), node.lab.internet(), MEGABYTE)?;
    lab::wait_for("labelled traffic", PATIENCE, Duration::from_millis(100), || {
        Ok(agent.labelled_bytes()?.settled >= MEGABYTE as u64)
    })?;

    // The unit's ExecReload, as the unit's user.
    node.configure("drain_interval = \"300ms\"\n")?;
    let reload = lab::output(&mut node.service(&format!("{PEERTALLY} reload"))?)?;
    ensure!(reload.status.success(), "{}", String::from_utf8_lossy(&reload.stderr));
    node.hears("RELOADING=1")?;
    node.hears("READY=1")?;

    // Root's commands reach the agent's socket, store and key, and leave them to their owner.
    let status = lab::output(node.lab.router_command(PEERTALLY).arg("status"))?;
    ensure!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    node.root_says(&["events"])?;
    let scrape = agent.metrics()?;
    let mut rows = scrape.select("peertally_top_subscriber_bytes_total", &[]);
    let pseudonym = rows.find_map(|row| row.labels.get("subscriber")).context("a row of a subscriber")?;
    ensure!(node.root_says(&["resolve", pseudonym])?.contains("100.64."), "root cannot name {pseudonym}");

    let before = agent.node_totals()?;
    let status = agent.process().terminate(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", agent.process().log());
    node.hears("STOPPING=1")?;
    ensure!(xdp(node.lab.router(), "acc1")?.is_some(), "the program is gone with the agent");
    node.root_says(&["events"])?;
    drop(agent);

    // The pins are there for the next start, and root's commands have left nothing that the agent cannot open.
    sh(&node.lab, &node.unit.preparation(USER, USER)?)?;
    let mut agent = node.start()?;
    let resumed = agent.node_totals()?;
    ensure!(resumed.packets >= before.packets && resumed.bytes >= before.bytes, "{resumed:?} after {before:?}");
    let status = agent.process().terminate(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", agent.process().log());
    drop(agent);
    ensure!(node.root_says(&["detach"])?.contains("removed"), "nothing was detached");
    ensure!(xdp(node.lab.router(), "acc1")?.is_none(), "the program is attached still");
    sh(&node.lab, &node.unit.preparation(USER, USER)?)?;
    drop(node.start()?);
    node.lab.close()
}

#[test]
fn hooks_get_none_of_the_agents_capabilities() -> Result<()> {
    if !lab::require("hooks_get_none_of_the_agents_capabilities", &["setpriv", "prlimit", "unshare"]) {
        return Ok(());
    }
    let file = "/var/lib/peertally/hook";
    let node = Node::new(&format!(
        "drain_interval = \"200ms\"\n[[policies]]\nname = \"much\"\nprotocols = [\"bittorrent\"]\nthreshold = \"1 MB\"\n\
         window = \"1m\"\nhooks = [\"shows\"]\n[[hooks]]\nname = \"shows\"\n\
         exec = [\"/bin/sh\", \"-c\", \"cat /proc/self/status > {file}.new && mv {file}.new {file}\"]\n"
    ))?;
    let mut agent = node.start()?;
    let own = fs::read_to_string(format!("/proc/{}/status", agent.process().id()))?;
    bittorrent_exchange(node.lab.subscriber(1), node.lab.internet(), 2 * MEGABYTE)?;
    let read = || lab::output(node.lab.router_command("cat").arg(file));
    lab::wait_for("the hook's words", PATIENCE, Duration::from_millis(100), || Ok(read()?.status.success()))
        .with_context(|| agent.process().log())?;
    let hook = String::from_utf8_lossy(&read()?.stdout).into_owned();
    let value = |status: &str, key: &str| {
        status.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim().to_owned()).unwrap_or_default()
    };
    // CAP_NET_ADMIN 12, CAP_PERFMON 38, CAP_BPF 39 (include/uapi/linux/capability.h).
    let three = format!("{:016x}", (1_u64 << 12) | (1 << 38) | (1 << 39));
    ensure!(value(&own, "CapEff:") == three && value(&own, "CapBnd:") == three, "{own}");
    ensure!(value(&own, "NoNewPrivs:") == "1" && value(&own, "Uid:").starts_with(USER), "{own}");
    for set in ["CapEff:", "CapPrm:", "CapAmb:"] {
        ensure!(value(&hook, set) == "0".repeat(16), "{set} of a hook: {hook}");
    }
    drop(agent);
    node.lab.close()
}

#[test]
fn without_the_folder_of_the_pins_the_start_is_refused() -> Result<()> {
    if !lab::require("without_the_folder_of_the_pins_the_start_is_refused", &["setpriv", "prlimit", "unshare"]) {
        return Ok(());
    }
    let node = Node::new("")?;
    // Root's folder, which the unit's user may not enter.
    sh(&node.lab, "chown root:root /sys/fs/bpf/peertally")?;
    let mut start = node.service(&format!("{PEERTALLY} run --config {CONFIG}"))?;
    let (code, said) = Agent::refusal(&node.lab, &mut start)?;
    ensure!(code == 77 && said.contains("/sys/fs/bpf/peertally"), "{code}: {said}");
    ensure!(xdp(node.lab.router(), "acc1")?.is_none(), "a refused start has attached something");
    node.lab.close()
}
