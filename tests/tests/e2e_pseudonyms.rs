//! A pseudonym key that is replaced: new names everywhere, and old ones that root can still resolve.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use peertally_lab::{self as lab, Agent, Lab, bittorrent_exchange};
use peertally_tests::executable;

const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);
const KEYS: &str = "drain_interval = \"200ms\"\non_exit = \"leave\"\n";

/// The one subscriber that the metrics show, after some traffic.
fn shown(lab: &Lab, agent: &Agent<'_>) -> Result<String> {
    bittorrent_exchange(lab.subscriber(1), lab.internet(), 1 << 16)?;
    lab::wait_for_some("a subscriber", PATIENCE, PAUSE, || {
        let metrics = agent.metrics()?;
        let mut rows = metrics.select("peertally_top_subscriber_bytes_total", &[]);
        Ok(rows.next().and_then(|row| row.labels.get("subscriber").cloned()))
    })
}

#[test]
fn a_replaced_key_gives_new_names_and_the_old_ones_resolve() -> Result<()> {
    if !lab::require("a_replaced_key_gives_new_names_and_the_old_ones_resolve", &["touch"]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let agent = Agent::start(&lab, &executable()?, KEYS)?;
    let old = shown(&lab, &agent)?;
    drop(agent);
    // The honest twin: the next start has the same names.
    let agent = Agent::start(&lab, &executable()?, &format!("{KEYS}pseudonym_rotation = \"1h\"\n"))?;
    ensure!(shown(&lab, &agent)? == old, "a young key was replaced");
    drop(agent);

    let key = lab.directory().join("state/pseudonym.key");
    lab::run(lab.router_command("touch").args(["-d", "2 hours ago"]).arg(key))?;
    let agent = Agent::start(&lab, &executable()?, &format!("{KEYS}pseudonym_rotation = \"1h\"\n"))?;
    let rotations = |outcome| -> Result<u64> {
        Ok(agent.metrics()?.sum("peertally_pseudonym_key_rotations_total", &[("outcome", outcome)]))
    };
    lab::wait_for("the new key", PATIENCE, PAUSE, || Ok(rotations("done")? == 1))?;
    let new = shown(&lab, &agent)?;
    ensure!(new != old && rotations("failed")? == 0, "{new}");
    let resolve = |pseudonym: &str| -> Result<(bool, String)> {
        let peertally = executable()?;
        let mut command = lab.router_command(peertally.to_str().context("a path in UTF-8")?);
        let config = lab.directory().join("peertally.toml");
        let output = lab::output(command.args(["resolve", pseudonym, "--config"]).arg(config))?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    };
    for (pseudonym, key) in [(&new, "the present key"), (&old, "an older key")] {
        let (found, said) = resolve(pseudonym)?;
        ensure!(found && said.contains("100.64.1.2/32") && said.contains(key), "{said}");
    }
    let (found, said) = resolve("0123456789abcdef01234567")?;
    ensure!(!found && said.contains("under any of 2 keys"), "{said}");
    drop(agent);
    lab.close()
}
