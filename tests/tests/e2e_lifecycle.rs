//! The agent's end, orderly or not, changes nothing for traffic and loses no count.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use peertally_lab::{self as lab, Agent, INTERNET_V4, Lab, WebServer, bittorrent_exchange, xdp};
use peertally_tests::executable;

const MEGABYTE: usize = 1 << 20;
const KEYS: &str = "drain_interval = \"200ms\"\n";
const PATIENCE: Duration = Duration::from_secs(20);

/// Frames that the router's interfaces have received.
fn frames(lab: &Lab) -> Result<u64> {
    let counters = lab.router().counters()?;
    Ok(counters.iter().filter(|(name, _)| *name != "lo").map(|(_, counters)| counters.rx_packets).sum())
}

/// Waits until the agent has counted exactly the frames received since `before`.
fn agrees(lab: &Lab, agent: &Agent<'_>, before: u64) -> Result<()> {
    let mut last = String::new();
    lab::wait_for("agreement with the interfaces", PATIENCE, Duration::from_millis(200), || {
        let totals = agent.node_totals()?;
        let received = frames(lab)? - before;
        last = format!("{totals:?}, {received} frames received");
        Ok(totals.packets + totals.skipped == received)
    })
    .with_context(|| last)
}

#[test]
fn a_killed_agent_loses_nothing() -> Result<()> {
    if !lab::require("a_killed_agent_loses_nothing", &["nginx", "openssl", "curl"]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let _web = WebServer::start(&lab, MEGABYTE)?;
    let url = format!("http://{INTERNET_V4}/file");
    let before = frames(&lab)?;
    let mut agent = Agent::start(&lab, &executable()?, KEYS)?;
    let program = xdp(lab.router(), "acc1")?.context("an attached program")?;
    lab::fetch(lab.subscriber(1), &url)?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), MEGABYTE)?;
    agrees(&lab, &agent, before)?;
    let counted = agent.metrics()?;
    // Traffic that the agent has not drained yet, and traffic while there is none.
    bittorrent_exchange(lab.subscriber(1), lab.internet(), MEGABYTE)?;
    agent.process().kill()?;
    ensure!(xdp(lab.router(), "acc1")?.is_some_and(|xdp| xdp.id == program.id), "the program is gone with the agent");
    ensure!(lab::fetch(lab.subscriber(1), &url)? == MEGABYTE as u64, "traffic stopped with the agent");
    bittorrent_exchange(lab.subscriber(1), lab.internet(), MEGABYTE)?;
    drop(agent);

    let agent = Agent::start(&lab, &executable()?, KEYS)?;
    agrees(&lab, &agent, before)?;
    let resumed = agent.metrics()?;
    let counters = counted.samples().iter().filter(|sample| {
        // What counts the kernel's work; the agent's own work starts anew, as a process's counters do.
        [
            "peertally_traffic_packets_total",
            "peertally_traffic_bytes_total",
            "peertally_traffic_flows_total",
            "peertally_skipped_packets_total",
        ]
        .contains(&sample.name.as_str())
    });
    for sample in counters {
        let labels: Vec<_> = sample.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let now = resumed.sum(&sample.name, &labels) as f64;
        ensure!(now >= sample.value, "{} {labels:?} went down from {} to {now}", sample.name, sample.value);
    }
    lab.close()
}

#[test]
fn an_agent_that_leaves_is_taken_over_from() -> Result<()> {
    if !lab::require("an_agent_that_leaves_is_taken_over_from", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let before = frames(&lab)?;
    let mut agent = Agent::start(&lab, &executable()?, &format!("{KEYS}on_exit = \"leave\"\n"))?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), MEGABYTE)?;
    let status = agent.process().terminate(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", agent.process().log());
    drop(agent);
    ensure!(xdp(lab.router(), "core0")?.is_some_and(|xdp| xdp.native), "the program did not stay");
    bittorrent_exchange(lab.subscriber(1), lab.internet(), MEGABYTE)?;

    let mut agent = Agent::start(&lab, &executable()?, &format!("{KEYS}on_exit = \"detach\"\n"))?;
    agrees(&lab, &agent, before)?;
    let status = agent.process().terminate(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", agent.process().log());
    for interface in ["acc1", "core0"] {
        ensure!(xdp(lab.router(), interface)?.is_none(), "{interface} has still a program");
    }
    let pins = lab::output(lab.router_command("find").args(["/sys/fs/bpf/peertally", "-not", "-type", "d"]))?;
    ensure!(pins.stdout.is_empty(), "pins are left: {}", String::from_utf8_lossy(&pins.stdout));
    // Traffic goes on without any program.
    bittorrent_exchange(lab.subscriber(1), lab.internet(), MEGABYTE)?;
    lab.close()
}
