//! Windows of policies outlive the agent: one that is killed at any point counts every byte once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use monitor_common::abi::protocol::Protocol;
use peertally_lab::{self as lab, Agent, Lab, bittorrent_exchange, plain_exchange};
use peertally_store::{
    events::{self, EventKind},
    history,
    store::open_reader,
};
use peertally_tests::executable;

const CHUNK: usize = 1 << 18;
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);
/// Points at which the agent is killed; ten times as many in the long form.
const POINTS: u32 = 6;

/// A month, which nothing but the kept history spans here, and an event when nearly all chunks have passed.
fn policies(threshold: u64) -> String {
    format!(
        "drain_interval = \"100ms\"\non_exit = \"leave\"\n[[policies]]\nname = \"month\"\nthreshold = {threshold}\nwindow = \"31days\"\n\
         [[policies]]\nname = \"short\"\nthreshold = \"900 GB\"\nwindow = \"1m\"\n"
    )
}

/// P2P bytes of all subscribers in the history.
fn kept_bytes(lab: &Lab) -> Result<u64> {
    let mut bytes = 0;
    let reader = open_reader(&lab.subdirectory("state")?)?;
    history::measures(&reader, |measure| {
        assert!(Protocol::from_number(measure.key.protocol).is_some_and(|protocol| protocol.class().is_some()));
        bytes += measure.sum.totals.bytes_up + measure.sum.totals.bytes_down;
    })?;
    Ok(bytes)
}

/// P2P bytes of all subscribers in the kernel's tables.
fn counted_bytes(agent: &Agent<'_>) -> Result<u64> {
    let rows = agent.subscribers()?;
    Ok(rows.iter().filter(|row| row.is_p2p()).map(|row| row.bytes_up + row.bytes_down).sum())
}

/// Waits until the history has exactly what the kernel has counted.
fn agrees(lab: &Lab, agent: &Agent<'_>, at_least: u64) -> Result<u64> {
    let mut last = (0, 0);
    lab::wait_for("agreement of the history with the tables", PATIENCE, PAUSE, || {
        last = (kept_bytes(lab)?, counted_bytes(agent)?);
        Ok(last.0 == last.1 && last.1 >= at_least)
    })
    .with_context(|| format!("{last:?} bytes in the history and the tables, {at_least} expected"))?;
    Ok(last.0)
}

#[test]
fn an_agent_killed_at_many_points_loses_nothing_of_a_window_and_counts_nothing_twice() -> Result<()> {
    if !lab::require("an_agent_killed_at_many_points_loses_nothing_of_a_window_and_counts_nothing_twice", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let points = lab::repetitions(POINTS);
    let chunk = CHUNK as u64;
    // Two chunks at each point.
    let threshold = u64::from(points) * 2 * chunk - chunk;
    let (mut agent, _) = Agent::start_before_traffic(&lab, &executable()?, &policies(threshold))?;
    let mut expected = 0;
    for point in 0..points {
        bittorrent_exchange(lab.subscriber(1), lab.internet(), CHUNK)?;
        plain_exchange(lab.subscriber(1), lab.internet(), CHUNK)?;
        // Before a drain, between a drain and its commit, or after some.
        for _ in 0..point % 4 {
            let drains = agent.metrics()?.sum("peertally_drain_duration_seconds_count", &[]);
            lab::wait_for("the next drain", PATIENCE, Duration::from_millis(5), || {
                Ok(agent.metrics()?.sum("peertally_drain_duration_seconds_count", &[]) > drains)
            })?;
        }
        agent.process().kill()?;
        ensure!(kept_bytes(&lab)? >= expected, "the store lost what it had at point {point}");
        // And while there is no agent.
        bittorrent_exchange(lab.subscriber(1), lab.internet(), CHUNK)?;
        drop(agent);
        agent = Agent::start(&lab, &executable()?, &policies(threshold))?;
        expected = agrees(&lab, &agent, expected + 2 * chunk).with_context(|| format!("point {point}"))?;
    }
    ensure!(agent.metrics()?.sum("peertally_history_failures_total", &[]) == 0, "a commit failed");
    let rows = events::list(&open_reader(&lab.subdirectory("state")?)?, None, 100)?;
    let fired: Vec<_> = rows.iter().filter(|row| row.kind == EventKind::Fired).collect();
    ensure!(fired.len() == 1, "one event, of the month: {rows:?}");
    let message: serde_json::Value = serde_json::from_str(&fired[0].message)?;
    let value = message["value"].as_u64().context("a number")?;
    ensure!(message["policy"] == "month" && (threshold..=expected).contains(&value), "{message}");
    println!("{points} points, {expected} bytes in the window, fired at {value}");
    drop(agent);
    lab.close()
}
