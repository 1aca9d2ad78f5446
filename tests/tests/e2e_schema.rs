//! Pins of another schema: known tables are replaced and their counts go on, unknown ones are left alone.
//!
//! The tables that are read have had their layouts since schema 10, so the folder of a present agent that is renamed
//! stands for one of an older version.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use monitor_common::abi::limits::SCHEMA_VERSION;
use peertally_lab::{self as lab, Agent, Counters, Lab, bittorrent_exchange, xdp};
use peertally_tests::executable;

const CHUNK: usize = 1 << 16;
const KEYS: &str = "drain_interval = \"200ms\"\non_exit = \"leave\"\n";
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(200);
/// Where pins lie.
const BASE: &str = "/sys/fs/bpf/peertally";

/// Waits until the agent has counted exactly the frames that the router's interfaces have received since `before`.
fn agrees(lab: &Lab, agent: &Agent<'_>, before: &BTreeMap<String, Counters>) -> Result<()> {
    let mut last = String::new();
    lab::wait_for("agreement with the interfaces", PATIENCE, PAUSE, || {
        let totals = agent.node_totals()?;
        let received = |counters: &BTreeMap<String, Counters>| -> u64 {
            counters.iter().filter(|(name, _)| *name != "lo").map(|(_, counters)| counters.rx_packets).sum()
        };
        let received = received(&lab.router().counters()?) - received(before);
        last = format!("{totals:?}, {received} frames received");
        Ok(totals.packets + totals.skipped == received)
    })
    .with_context(|| last)
}

fn leave(agent: &mut Agent<'_>) -> Result<()> {
    ensure!(agent.process().terminate(PATIENCE)?.success(), "{}", agent.process().log());
    Ok(())
}

/// Every pin and record below our folder, but for the numbers of interfaces, which a refused start may add.
fn pins(lab: &Lab) -> Result<BTreeSet<String>> {
    let found = lab::output(lab.router_command("find").args([BASE, "-printf", "%P\n"]))?;
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    Ok(found.lines().filter(|pin| !pin.contains("interface_")).map(str::to_owned).collect())
}

/// Renames the folder of the pins of a schema.
fn rename(lab: &Lab, from: u32, to: u32) -> Result<()> {
    let folder = |schema: u32| format!("{BASE}/v{schema}");
    lab::run(lab.router_command("mv").args(["-T", &folder(from), &folder(to)]))
}

fn refusal(lab: &Lab, toml: &str) -> Result<(i32, String)> {
    let file = lab::configuration(lab, toml)?;
    let mut command = lab.router_command(executable()?.to_str().context("a path in UTF-8")?);
    Agent::refusal(lab, command.args(["run", "--config"]).arg(file))
}

/// Packets of a subscriber under BitTorrent.
fn packets(agent: &Agent<'_>) -> Result<u64> {
    let rows = agent.subscribers()?.into_iter().filter(|row| row.protocol == "bittorrent" && row.is_of(1));
    Ok(rows.map(|row| row.packets_up + row.packets_down).sum())
}

#[test]
fn pins_of_an_older_schema_are_taken_over_and_those_of_an_unknown_one_are_left_alone() -> Result<()> {
    let name = "pins_of_an_older_schema_are_taken_over_and_those_of_an_unknown_one_are_left_alone";
    if !lab::require(name, &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let (mut agent, before) = Agent::start_before_traffic(&lab, &executable()?, KEYS)?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), CHUNK)?;
    agrees(&lab, &agent, &before)?;
    lab::wait_for("a labelled subscriber", PATIENCE, PAUSE, || Ok(packets(&agent)? > 0))?;
    let counted = packets(&agent)?;
    leave(&mut agent)?;
    drop(agent);
    let program = xdp(lab.router(), "acc1")?.context("a program")?.id;

    // Unknown: refused by name, with the next step, and nothing is changed.
    rename(&lab, SCHEMA_VERSION, 9)?;
    let found = pins(&lab)?;
    let (code, said) = refusal(&lab, KEYS)?;
    ensure!(code == 69 && said.contains("/v9/link_") && said.contains("peertally detach"), "{code}: {said}");
    let unchanged = |found: &BTreeSet<String>| -> Result<()> {
        let now = pins(&lab)?;
        ensure!(now == *found, "{found:?}, then {now:?}");
        ensure!(xdp(lab.router(), "acc1")?.map(|xdp| xdp.id) == Some(program), "another program counts");
        Ok(())
    };
    unchanged(&found)?;

    // Known, but the start is refused by the kernel on one interface: the pins have their name of before.
    rename(&lab, 9, SCHEMA_VERSION - 1)?;
    let found = pins(&lab)?;
    lab.router().ip("link add zz0 type bridge")?;
    lab.router().ip("link set zz0 up")?;
    let (code, said) = refusal(&lab, &format!("{KEYS}\n[[interfaces]]\nname = \"zz0\"\nrole = \"access\"\n"))?;
    ensure!(code == 69 && said.contains("zz0"), "{code}: {said}");
    let counts_of_a_moment = format!("v{}/replaced_0", SCHEMA_VERSION - 1);
    ensure!(!pins(&lab)?.contains(&counts_of_a_moment), "nothing was counted in the tables that were given up");
    unchanged(&found)?;

    // Known: taken over with all counts, those without an agent included.
    bittorrent_exchange(lab.subscriber(1), lab.internet(), CHUNK)?;
    let mut agent = Agent::start(&lab, &executable()?, KEYS)?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), CHUNK)?;
    agrees(&lab, &agent, &before)?;
    lab::wait_for("three exchanges under the subscriber", PATIENCE, PAUSE, || Ok(packets(&agent)? > 2 * counted))?;
    let now = pins(&lab)?;
    let old = |pin: &&String| pin.contains(&format!("v{}", SCHEMA_VERSION - 1)) || pin.contains("replaced_");
    ensure!(!now.iter().any(|pin| old(&pin)) && !now.contains(&format!("v{SCHEMA_VERSION}/schema")), "{now:?}");
    leave(&mut agent)?;
    drop(agent);
    // And it is an ordinary set of tables from now on.
    let mut agent = Agent::start(&lab, &executable()?, KEYS)?;
    agrees(&lab, &agent, &before)?;
    leave(&mut agent)?;
    lab.close()
}
