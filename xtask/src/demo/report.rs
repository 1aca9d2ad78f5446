//! The end of the demonstration: the counts, compared with those of the kernel and of the clients.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use peertally_lab::{self as lab, Agent, Counters, HttpServer, Lab, NodeTotals, SubscriberRow};

use super::participants::{Account, ROLES, Role};

/// Lines of `/metrics` that are shown.
const METRIC_LINES: usize = 8;

/// Everything that the verdict depends on.
pub(super) struct DemoOutcome {
    /// Tallies of every subscriber.
    pub(super) rows: Vec<SubscriberRow>,
    /// The agent's counts of all interfaces.
    pub(super) counted: NodeTotals,
    /// Frames that the monitored interfaces received, by the kernel's own counters.
    pub(super) frames: u64,
    /// The clients' own reports.
    pub(super) account: Account,
    /// The event that the exec hook got.
    pub(super) event: serde_json::Value,
    /// Requests that the webhook's receiver got.
    pub(super) webhooks: usize,
}

/// Reads everything once the last packet is drained.
pub(super) fn gather(
    lab: &Lab,
    agent: &Agent<'_>,
    before: &BTreeMap<String, Counters>,
    account: Account,
    event_file: &Path,
    webhook: &HttpServer,
) -> Result<DemoOutcome> {
    lab.settle()?;
    let received = |counters: &BTreeMap<String, Counters>| -> u64 {
        counters.iter().filter(|(name, _)| *name != "lo").map(|(_, counters)| counters.rx_packets).sum()
    };
    let mut counted = NodeTotals::default();
    let mut frames = 0;
    // The verdict says so if they never agree.
    lab::wait_for("agreement with the interfaces", Duration::from_secs(10), Duration::from_millis(500), || {
        counted = agent.node_totals()?;
        frames = received(&lab.router().counters()?) - received(before);
        Ok(counted.packets + counted.skipped == frames)
    })
    .or_else(|error| if error.to_string().starts_with("interrupted") { Err(error) } else { Ok(()) })?;
    let text = fs::read_to_string(event_file).context("read the event that the exec hook wrote")?;
    let first = serde_json::Deserializer::from_str(&text).into_iter().next().context("an event")?;
    let mut rows = agent.subscribers()?;
    rows.sort_by_key(|row| {
        (
            ROLES.iter().enumerate().position(|(index, _)| row.is_of(index as u8 + 1)),
            row.subscriber.clone(),
            row.protocol.clone(),
        )
    });
    Ok(DemoOutcome {
        rows,
        counted,
        frames,
        account,
        event: first.context("read the event as JSON")?,
        webhooks: webhook.requests().len(),
    })
}

/// Prints totals and event.
pub(super) fn print(outcome: &DemoOutcome) {
    println!("\nResult\n  Tallies of the agent, in IP bytes:");
    println!(
        "  {:<18}{:<14}{:<12}{:>6}{:>12}{:>10}{:>14}{:>12}",
        "subscriber", "protocol", "confidence", "flows", "packets up", "bytes up", "packets down", "bytes down"
    );
    for row in outcome.rows.iter().filter(|row| row.packets_up + row.packets_down > 0) {
        println!(
            "  {:<18}{:<14}{:<12}{:>6}{:>12}{:>10}{:>14}{:>12}",
            row.subscriber,
            row.protocol,
            row.confidence,
            row.flows,
            row.packets_up,
            human(row.bytes_up),
            row.packets_down,
            human(row.bytes_down)
        );
    }
    println!("  What the clients say they got, without headers:");
    for (index, Role { name, .. }) in ROLES.iter().enumerate() {
        let torrent =
            outcome.account.torrent[index].map_or_else(|| "-".to_owned(), |reported| human(reported.received));
        println!(
            "  subscriber {} ({name}): BitTorrent {torrent}, web {}",
            index + 1,
            human(outcome.account.web[index])
        );
    }
    println!(
        "  The router's interfaces received {} frames; the agent counted {} IP packets and {} other frames.",
        outcome.frames, outcome.counted.packets, outcome.counted.skipped
    );
    println!("  The event that the policy's hooks got (exec and webhook, {} deliveries by web):", outcome.webhooks);
    let event = serde_json::to_string_pretty(&outcome.event).unwrap_or_default();
    for line in event.lines() {
        println!("    {line}");
    }
}

/// Prints the first lines of `/metrics`.
pub(super) fn print_metrics(agent: &Agent<'_>) -> Result<()> {
    let (_status, body) = agent.get("/metrics")?;
    let lines = body.lines().filter(|line| line.starts_with("peertally_traffic_bytes_total"));
    for line in lines.take(METRIC_LINES) {
        println!("    {line}");
    }
    Ok(())
}

/// Bytes for people.
pub(super) fn human(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
