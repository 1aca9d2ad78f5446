//! Generic mode behind GRO says that it counts merged packets; native mode has nothing to say.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use peertally_lab::{self as lab, Agent, Lab};
use peertally_tests::executable;

const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);
const METRIC: &str = "peertally_xdp_merged_packets";

fn set_offload(lab: &Lab, state: &str) -> Result<()> {
    lab::run(lab.router_command("ethtool").args(["-K", "acc1", "gro", state]))
}

/// The value of the metric for an interface; `None` without a row.
fn merged(agent: &Agent<'_>, interface: &str) -> Result<Option<f64>> {
    let metrics = agent.metrics()?;
    let labels = [("interface", interface)];
    Ok(metrics.select(METRIC, &labels).next().map(|row| row.value))
}

#[test]
fn generic_mode_behind_gro_says_so() -> Result<()> {
    if !lab::require("generic_mode_behind_gro_says_so", &["ethtool"]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    set_offload(&lab, "off")?;
    let mut agent = Agent::start(&lab, &executable()?, "drain_interval = \"200ms\"\nxdp_mode = \"generic\"\n")?;
    ensure!(merged(&agent, "acc1")? == Some(0.0), "the offload is off");
    set_offload(&lab, "on")?;
    lab::wait_for("the warning", PATIENCE, PAUSE, || Ok(merged(&agent, "acc1")? == Some(1.0)))?;
    ensure!(agent.process().log().contains("ethtool -K acc1 gro off"), "{}", agent.process().log());
    let peertally = executable()?;
    let mut status = lab.router_command(peertally.to_str().context("a path in UTF-8")?);
    let said = lab::output(status.args(["status", "--socket"]).arg(lab.directory().join("control.sock")))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(said.contains("acc1 counts merged packets"), "{said}");
    set_offload(&lab, "off")?;
    lab::wait_for("the end of it", PATIENCE, PAUSE, || Ok(merged(&agent, "acc1")? == Some(0.0)))?;
    drop(agent);
    lab.close()
}

#[test]
fn native_mode_has_nothing_to_say() -> Result<()> {
    if !lab::require("native_mode_has_nothing_to_say", &["ethtool"]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    set_offload(&lab, "on")?;
    let mut agent = Agent::start(&lab, &executable()?, "drain_interval = \"200ms\"\n")?;
    ensure!(merged(&agent, "acc1")? == Some(0.0), "native XDP runs before GRO");
    ensure!(!agent.process().log().contains("merged packets"), "{}", agent.process().log());
    drop(agent);
    lab.close()
}
