//! The status for people.

use std::{fmt::Write, time::Duration};

use peertally_store::events::EventState;

use crate::{
    config::values::show_duration,
    export::status::{OtherProgram, Status},
};

/// Writes a status as lines.
#[must_use]
pub fn show(status: &Status) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _infallible = writeln!(out, "{name:<12} {value}");
    };
    let uptime = Duration::from_secs(status.uptime_seconds.max(0.0) as u64);
    line("agent", format!("{} on {}, pid {}, up {}", status.version, status.node, status.pid, show_duration(uptime)));
    line("ready", status.not_ready.clone().map_or_else(|| "yes".to_owned(), |reason| format!("no: {reason}")));
    for warning in &status.warnings {
        line("warning", warning.clone());
    }
    if let Some(config) = &status.config {
        let age = Duration::from_secs(status.config_age_seconds.max(0.0) as u64);
        line("config", format!("{} ({}), for {}", config.display(), status.config_digest, show_duration(age)));
    }
    line("metrics", status.metrics.clone());
    line("inspection", status.inspection.clone());
    line("evidence", status.evidence.clone());
    for each in &status.attached {
        let detail = each.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
        line("attached", format!("{} ({}, {}){detail}", each.interface, each.role, each.mode));
    }
    for OtherProgram { interface, mode, program, pins } in &status.other_programs {
        line(
            "other",
            format!("{interface} ({mode}): program {program} of Peertally is not this agent's, pins: {pins}"),
        );
    }
    if let (Some(age), Some(took)) = (status.snapshot_age_seconds, status.drain_duration_seconds) {
        line(
            "last drain",
            format!("{age:.1} s ago, took {:.1} ms, {} failed so far", took * 1000.0, status.drain_failures),
        );
    }
    for table in &status.tables {
        let share = table.entries as f64 * 100.0 / table.capacity.max(1) as f64;
        let warning = if table.nearly_full { ", nearly full" } else { "" };
        line("table", format!("{}: {} of {} ({share:.1} %{warning})", table.table, table.entries, table.capacity));
    }
    line("pending", format!("{} flows under inspection", status.pending_flows));
    for (name, counts) in [("skipped", &status.skipped), ("event", &status.events)] {
        for each in counts {
            line(name, format!("{}: {}", each.name, each.count));
        }
    }
    for policy in &status.policies {
        let (cooling, pending, allowed) = (policy.cool_down, policy.pending, policy.allow_list);
        line(
            "policy",
            format!(
                "{}: {} events; suppressed {cooling} times by cool-down, {pending} times while an event waited, {allowed} times by \
                 the allow list",
                policy.policy, policy.events
            ),
        );
    }
    if !status.kept_events.is_empty() {
        let counts: Vec<String> =
            status.kept_events.iter().map(|each| format!("{} {}", each.count, each.name)).collect();
        line("events", counts.join(", "));
    }
    if !status.verdict_records.is_empty() {
        let counts: Vec<String> =
            status.verdict_records.iter().map(|each| format!("{} {}", each.count, each.name)).collect();
        line("records", counts.join(", "));
    }
    if let Some(held) = status.kept_events.iter().find(|each| each.name == EventState::Held.label()) {
        line("alarm", format!("{} events wait for a person: `peertally events --held` lists them", held.count));
    }
    for hook in &status.hooks {
        let why: Vec<String> = hook.failures.iter().map(|each| format!("{} {}", each.count, each.name)).collect();
        let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join(", ")) };
        line(
            "hook",
            format!(
                "{}: {} delivered, {} failed{why}, {} in progress, {} waiting",
                hook.hook, hook.delivered, hook.failed, hook.in_flight, hook.queued
            ),
        );
    }
    if !status.protocols.is_empty() {
        let _infallible = writeln!(
            out,
            "\n{:<14} {:<12} {:>12} {:>14} {:>18} {:>12}",
            "protocol", "confidence", "flows", "packets", "bytes", "subscribers"
        );
        for row in &status.protocols {
            let _infallible = writeln!(
                out,
                "{:<14} {:<12} {:>12} {:>14} {:>18} {:>12}",
                row.protocol, row.confidence, row.flows, row.packets, row.bytes, row.active_subscribers
            );
        }
    }
    out
}

/// Writes a status as one JSON object.
#[must_use]
pub fn json(status: &Status) -> String {
    let text = serde_json::to_string_pretty(status).expect("strings, numbers and lists always serialise");
    text + "\n"
}
