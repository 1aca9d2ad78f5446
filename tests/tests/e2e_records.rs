//! Records of the agent: hits through a full disk, and an audit file that says what was in force, and never what was
//! wanted.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use peertally_lab::{self as lab, Agent, Lab, bittorrent_exchange, configuration};
use peertally_tests::executable;

const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);
/// The info hash of [`bittorrent_exchange`].
const HASH: &str = "a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5";

fn watching(lab: &Lab, on_exit: &str) -> Result<String> {
    let list = lab.directory().join("watchlist");
    fs::write(&list, HASH)?;
    Ok(format!(
        "drain_interval = \"200ms\"\non_exit = \"{on_exit}\"\ninspection = \"watchlist\"\nwatchlist_file = {list:?}\n"
    ))
}

fn peertally(lab: &Lab) -> Result<Command> {
    Ok(lab.router_command(executable()?.to_str().context("a path in UTF-8")?))
}

/// Standard output of a command that ends well.
fn said(command: &mut Command) -> Result<String> {
    let output = lab::output(command)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Records of a file in the router's mounts.
fn records(lab: &Lab, path: &Path) -> Result<Vec<serde_json::Value>> {
    let text = said(lab.router_command("cat").arg(path))?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

#[test]
fn hits_survive_a_full_disk() -> Result<()> {
    if !lab::require("hits_survive_a_full_disk", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let state = lab.subdirectory("state")?;
    lab::run(lab.router_command("mount").args(["-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs"]).arg(&state))?;
    let mut agent = Agent::start(&lab, &executable()?, &watching(&lab, "detach")?)?;
    let count = |agent: &Agent<'_>, name: &str| -> Result<u64> {
        Ok(agent.metrics()?.sum(name, &[("file", "watchlist_hits")]))
    };
    let exchange = || bittorrent_exchange(lab.subscriber(1), lab.internet(), 1 << 16);
    exchange()?;
    lab::wait_for("a hit", PATIENCE, PAUSE, || Ok(count(&agent, "peertally_records_written_total")? > 0))?;
    let fill =
        lab.router_command("dd").arg("if=/dev/zero").arg(format!("of={}", state.join("fill").display())).output();
    ensure!(!fill?.status.success(), "the disk is not full");
    // Fill the rest of the last page of the file, too: more hits than fit there.
    for _ in 0..20 {
        exchange()?;
    }
    lab::wait_for("waiting hits", PATIENCE, PAUSE, || Ok(count(&agent, "peertally_records_waiting")? > 0))?;
    ensure!(count(&agent, "peertally_record_write_failures_total")? > 0);
    let (status, ready) = agent.get("/readyz")?;
    ensure!(status == 200 && ready.contains("records: watchlist hits cannot be written"), "{status} {ready}");
    lab::run(lab.router_command("rm").arg(state.join("fill")))?;
    lab::wait_for("written hits", PATIENCE, PAUSE, || Ok(count(&agent, "peertally_records_waiting")? == 0))?;
    let rows = records(&lab, &state.join("watchlist-hits.jsonl"))?;
    ensure!(rows.len() as u64 == count(&agent, "peertally_records_written_total")?, "{} rows", rows.len());
    let hits = agent.metrics()?.sum("peertally_watchlist_hits_total", &[]);
    ensure!(rows.len() as u64 == hits && rows.len() > 20, "{} rows of {hits} hits", rows.len());
    ensure!(rows.iter().all(|row| row["list_digest"].as_str().is_some_and(|digest| digest.len() == 64)), "{rows:?}");
    ensure!(agent.metrics()?.sum("peertally_records_lost_total", &[]) == 0, "a hit was lost");
    // The store writes again, too: its next commit has what it could not write.
    lab::wait_for("no warning", PATIENCE, PAUSE, || Ok(agent.get("/readyz")? == (200, "ok\n".to_owned())))
        .with_context(|| format!("{:?}", agent.get("/readyz")))?;
    let log = agent.process().log();
    ensure!(log.matches("cannot write watchlist hits").count() == 1, "said once: {log}");
    ensure!(log.contains("watchlist hits are written again"), "{log}");
    let config = lab.directory().join("peertally.toml");
    let verified = said(peertally(&lab)?.args(["audit", "verify", "--config"]).arg(config))?;
    ensure!(verified.matches("the chain holds").count() == 2, "{verified}");
    drop(agent);
    lab.close()
}

#[test]
fn the_audit_file_says_what_was_in_force() -> Result<()> {
    if !lab::require("the_audit_file_says_what_was_in_force", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let audit = lab.subdirectory("state")?.join("audit.jsonl");
    let keys = "drain_interval = \"200ms\"\non_exit = \"leave\"\n";
    let agent = Agent::start(&lab, &executable()?, keys)?;
    // A second agent, with a port, a socket and a state of its own, is refused by the lock.
    let second = lab.subdirectory("second")?;
    let file = configuration(&lab, &watching(&lab, "leave")?)?;
    let text = fs::read_to_string(&file)?
        .replace(":9847", ":9848")
        .replace("control.sock", "second.sock")
        .replace("/state\"", "/second\"");
    fs::write(&file, text)?;
    let (code, refused) = Agent::refusal(&lab, peertally(&lab)?.args(["run", "--config"]).arg(&file))?;
    ensure!(code == 69 && refused.contains("another `peertally run`"), "{code}: {refused}");
    ensure!(
        fs::read_to_string(second.join("audit.jsonl")).unwrap_or_default().is_empty(),
        "what never was in force is recorded"
    );
    drop(agent);

    let mut agent = Agent::start(&lab, &executable()?, &watching(&lab, "leave")?)?;
    let actions = || -> Result<Vec<String>> {
        let rows = records(&lab, &audit)?;
        Ok(rows.iter().map(|row| row["action"].as_str().unwrap_or_default().to_owned()).collect())
    };
    lab::wait_for("the record", PATIENCE, PAUSE, || Ok(actions()? == ["in_force"]))?;
    ensure!(agent.process().terminate(PATIENCE)?.success(), "{}", agent.process().log());
    drop(agent);
    ensure!(actions()? == ["in_force", "left_in_force"], "{:?}", actions()?);
    let config = lab.directory().join("peertally.toml");
    said(peertally(&lab)?.args(["detach", "--config"]).arg(&config))?;
    ensure!(actions()? == ["in_force", "left_in_force", "detached"], "{:?}", actions()?);
    said(peertally(&lab)?.args(["detach", "--config"]).arg(&config))?;
    ensure!(actions()?.len() == 3, "what was detached is not detached again");
    let row = &records(&lab, &audit)?[0];
    ensure!(row["inspection"] == "watchlist" && row["watchlist_entries"] == 1 && row["uid"] == 0, "{row}");

    let verify =
        || -> Result<std::process::Output> { lab::output(peertally(&lab)?.args(["audit", "verify"]).arg(&audit)) };
    ensure!(verify()?.status.success(), "{:?}", verify()?);
    let text = fs::read_to_string(&audit)?;
    fs::write(&audit, text.replacen("\"watchlist_entries\":1", "\"watchlist_entries\":0", 1))?;
    ensure!(verify()?.status.code() == Some(65), "{:?}", verify()?);
    lab.close()
}
