//! Content hashes and the whole agent: in `framing` none comes out of it anywhere; with `watchlist`, a listed one is a
//! hit with its endpoints in a file of its owner, the change is audited, and the hash itself still comes out nowhere.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use anyhow::{Result, ensure};
use peertally_lab::{self as lab, Agent, Lab, bittorrent_exchange};
use peertally_tests::executable;

/// The info hash that [`bittorrent_exchange`] uses.
const HASH: [u8; 20] = [0xa5; 20];
const KEYS: &str = "drain_interval = \"200ms\"\non_exit = \"detach\"\n";
const TABLES: &str = "[metrics]\nsubscribers = true\n";

fn hexadecimal() -> String {
    HASH.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the text or bytes show the hash in any way that people or programs write it.
fn shows(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_lowercase();
    let escaped: String = HASH.iter().map(|byte| format!("%{byte:02x}")).collect();
    bytes.windows(6).any(|window| window == &HASH[..6])
        || text.contains(&hexadecimal()[..12])
        || text.contains(&escaped[..18])
}

/// Every file of the state folder, the agent's log and its answers; fails where one shows the hash.
fn search(lab: &Lab, agent: &mut Agent<'_>) -> Result<()> {
    for path in ["/metrics", "/metrics/subscribers"] {
        let (status, body) = agent.get(path)?;
        ensure!(status == 200 && body.contains("bittorrent"), "{path}: {status}");
        ensure!(!shows(body.as_bytes()), "{path} shows the hash");
    }
    ensure!(!shows(agent.process().log().as_bytes()), "the log shows the hash");
    let rows = format!("{:?}", agent.subscribers()?);
    ensure!(!shows(rows.as_bytes()), "the control socket shows the hash");
    for entry in fs::read_dir(lab.subdirectory("state")?)? {
        let path = entry?.path();
        ensure!(!shows(&fs::read(&path)?), "{} shows the hash", path.display());
    }
    Ok(())
}

fn seen(agent: &Agent<'_>) -> Result<()> {
    lab::wait_for("BitTorrent", Duration::from_secs(20), Duration::from_millis(100), || {
        Ok(agent.metrics()?.sum("peertally_traffic_packets_total", &[("protocol", "bittorrent")]) > 0)
    })
}

#[test]
fn framing_lets_no_content_out() -> Result<()> {
    if !lab::require("framing_lets_no_content_out", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let mut agent = Agent::start(&lab, &executable()?, &format!("{KEYS}{TABLES}"))?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), 1 << 16)?;
    seen(&agent)?;
    search(&lab, &mut agent)?;
    ensure!(!lab.subdirectory("state")?.join("audit.jsonl").exists(), "nothing to record");
    drop(agent);
    lab.close()
}

#[test]
fn a_listed_content_is_a_hit() -> Result<()> {
    if !lab::require("a_listed_content_is_a_hit", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let list = lab.directory().join("watchlist");
    fs::write(&list, format!("# notices\n{}\n{}\n", "12".repeat(20), hexadecimal()))?;
    let keys = format!("{KEYS}inspection = \"watchlist\"\nwatchlist_file = {list:?}\n{TABLES}");
    let mut agent = Agent::start(&lab, &executable()?, &keys)?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), 1 << 16)?;
    seen(&agent)?;
    // Both sides shake hands, and what the subscriber sent counts.
    lab::wait_for("hits", Duration::from_secs(20), Duration::from_millis(100), || {
        Ok(agent.metrics()?.sum("peertally_watchlist_hits_total", &[("protocol", "bittorrent")]) == 1)
    })?;
    let (_, subscribers) = agent.get("/metrics/subscribers")?;
    let row = subscribers.lines().find(|line| line.starts_with("peertally_subscriber_watchlist_hits_total{"));
    ensure!(row.is_some_and(|row| row.ends_with(" 1")), "{row:?}");
    search(&lab, &mut agent)?;
    let state = lab.subdirectory("state")?;
    let hits = fs::read_to_string(state.join("watchlist-hits.jsonl"))?;
    let rows: Vec<serde_json::Value> = hits.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(rows.len() == 1, "{hits}");
    for row in &rows {
        ensure!(row["list_line"] == 3 && row["protocol"] == "bittorrent" && row["confidence"] == "signature", "{row}");
    }
    ensure!(rows[0]["source"] == lab::subscriber_v4(1).to_string(), "{hits}");
    only_for_its_owner(&state.join("watchlist-hits.jsonl"))?;
    only_for_its_owner(&state.join("audit.jsonl"))?;
    let audit = fs::read_to_string(state.join("audit.jsonl"))?;
    ensure!(
        audit.lines().count() == 1 && audit.contains("\"inspection\":\"watchlist\",\"watchlist_entries\":2"),
        "{audit}"
    );
    drop(agent);
    // Back to the default: recorded, too.
    let agent = Agent::start(&lab, &executable()?, &format!("{KEYS}{TABLES}"))?;
    let audit = fs::read_to_string(state.join("audit.jsonl"))?;
    ensure!(audit.lines().count() == 2 && audit.contains("\"inspection\":\"framing\""), "{audit}");
    drop(agent);
    lab.close()
}

fn only_for_its_owner(path: &Path) -> Result<()> {
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "{} has mode {mode:o}", path.display());
    Ok(())
}
