//! Verdict records and the whole agent: a real conversation has exactly one, found by what a notice names, and no file
//! has the address of its remote. Records wait in the kernel while no agent runs.

use std::{fs, net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use peertally_lab::{self as lab, Agent, INTERNET_V4, Lab, bittorrent_exchange, plain_exchange};
use peertally_tests::executable;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);
const KEYS: &str = "drain_interval = \"200ms\"\n";

/// The answer of `peertally records` with these arguments.
fn records(lab: &Lab, arguments: &[&str]) -> Result<Vec<Value>> {
    let peertally = executable()?;
    let mut command = lab.router_command(peertally.to_str().context("a path in UTF-8")?);
    let config = lab.directory().join("peertally.toml");
    let command = command.arg("records").args(arguments).args(["--format", "json", "--config"]).arg(config);
    let output = lab::output(command)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    Ok(answer["records"].as_array().context("a list")?.clone())
}

fn written(agent: &Agent<'_>, count: u64) -> Result<()> {
    lab::wait_for("records on the disk", PATIENCE, PAUSE, || {
        Ok(agent.metrics()?.sum("peertally_records_written_total", &[("file", "verdict_records")]) == count)
    })
}

#[test]
fn a_conversation_has_one_record_and_no_file_its_remote() -> Result<()> {
    if !lab::require("a_conversation_has_one_record_and_no_file_its_remote", &[]) {
        return Ok(());
    }
    let lab = Lab::new(2)?;
    let mut agent = Agent::start(&lab, &executable()?, KEYS)?;
    // The honest twin first: it has none.
    plain_exchange(lab.subscriber(1), lab.internet(), 1 << 16)?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), 1 << 16)?;
    written(&agent, 1)?;
    let own = IpAddr::from(lab::subscriber_v4(1)).to_string();
    let remote = INTERNET_V4.to_string();
    let found = records(&lab, &["--address", &own])?;
    ensure!(found.len() == 1, "{found:?}");
    let record = &found[0];
    ensure!(record["protocol"] == "bittorrent" && record["rule"] == "bt-handshake", "{record}");
    ensure!(
        record["confidence"] == "signature" && record["transport"] == "tcp" && record["answered"] == true,
        "{record}"
    );
    let (port, time) = (record["own_port"].to_string(), record["time"].as_str().context("a time")?.to_owned());
    let pseudonym = record["subscriber"].as_str().context("a pseudonym")?.to_owned();
    let whole = ["--address", &own, "--port", &port, "--remote", &remote, "--at", &time, "--tolerance", "1s"];
    ensure!(records(&lab, &whole)? == found, "what a notice names finds it");
    ensure!(records(&lab, &["--pseudonym", &pseudonym])? == found, "the pseudonym finds it");
    let other_port = if port == "1" { "2" } else { "1" };
    let neighbour = IpAddr::from(lab::subscriber_v4(2)).to_string();
    for arguments in [
        vec!["--address", &own, "--port", other_port],
        vec!["--address", &own, "--remote", &own],
        vec!["--address", &own, "--at", "2020-01-01T00:00:00Z"],
        vec!["--address", &neighbour],
    ] {
        ensure!(records(&lab, &arguments)?.is_empty(), "{arguments:?} finds one");
    }
    agent.process().terminate(PATIENCE)?;
    drop(agent);
    for entry in fs::read_dir(lab.subdirectory("state")?)? {
        let path = entry?.path();
        let bytes = fs::read(&path)?;
        // The history of policies and booked totals name subscribers' blocks, and nothing names a remote.
        let shows = bytes.windows(4).any(|window| window == INTERNET_V4.octets())
            || bytes.windows(remote.len()).any(|window| window == remote.as_bytes());
        ensure!(!shows, "{} has {remote}", path.display());
    }
    lab.close()
}

#[test]
fn records_wait_in_the_kernel_for_the_next_agent() -> Result<()> {
    if !lab::require("records_wait_in_the_kernel_for_the_next_agent", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let mut agent = Agent::start(&lab, &executable()?, KEYS)?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), 1 << 16)?;
    written(&agent, 1)?;
    agent.process().kill()?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), 1 << 16)?;
    drop(agent);
    let agent = Agent::start(&lab, &executable()?, KEYS)?;
    written(&agent, 1)?;
    let own = IpAddr::from(lab::subscriber_v4(1)).to_string();
    let found = records(&lab, &["--address", &own])?;
    ensure!(
        found.len() == 2,
        "one that was committed before the kill, and one of the time without an agent: {found:?}"
    );
    drop(agent);
    // No bytes for records: nothing is made.
    let off = "on_exit = \"detach\"\n";
    let mut detach = lab.router_command(executable()?.to_str().context("a path in UTF-8")?);
    lab::run(detach.arg("detach").arg("--config").arg(lab.directory().join("peertally.toml")))?;
    let agent = Agent::start(&lab, &executable()?, &format!("{KEYS}{off}\n[verdict_records]\nbuffer_kilobytes = 0\n"))?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), 1 << 16)?;
    lab::wait_for("the flow", PATIENCE, PAUSE, || {
        Ok(agent.metrics()?.sum("peertally_traffic_flows_total", &[("protocol", "bittorrent")]) > 0)
    })?;
    ensure!(records(&lab, &["--address", &own])?.len() == 2, "no more than before");
    drop(agent);
    lab.close()
}
