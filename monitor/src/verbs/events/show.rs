//! Events for people and for programs.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use peertally_core::policy::event::rfc3339;
use peertally_store::events::{Decision, EventRow};
use serde_json::{Value, json};

/// What a decision did, in a few words.
pub(super) const fn done(decision: Decision) -> &'static str {
    match decision {
        Decision::Release => "released, its hooks will get it",
        Decision::Discard => "discarded",
        Decision::Redeliver => "its hooks will get it again",
    }
}

fn time(ms: i64) -> String {
    rfc3339(SystemTime::UNIX_EPOCH + Duration::from_millis(ms.max(0).unsigned_abs()))
}

fn state(event: &EventRow) -> String {
    if event.reason.is_empty() {
        event.state.label().to_owned()
    } else {
        format!("{} ({})", event.state.label(), event.reason)
    }
}

/// Columns for people.
pub(super) fn table(events: &[EventRow]) -> String {
    let mut out = format!(
        "{:<36} {:<24} {:<8} {:<20} {:<20} {:<20} {}\n",
        "id", "time", "kind", "state", "policy", "subscriber", "hooks"
    );
    for event in events {
        let hooks: Vec<String> = event
            .deliveries
            .iter()
            .map(|each| {
                let why = if each.reason.is_empty() { String::new() } else { format!(": {}", each.reason) };
                format!("{} {} ({} attempts{why})", each.hook, each.state.label(), each.attempts)
            })
            .collect();
        let _infallible = writeln!(
            out,
            "{:<36} {:<24} {:<8} {:<20} {:<20} {:<20} {}",
            event.id,
            time(event.time_ms),
            event.kind.label(),
            state(event),
            event.subject.policy,
            event.subject.subscriber.block().to_string(),
            hooks.join(", ")
        );
    }
    out
}

/// One JSON object with a list of events. `event` is what a hook with `subscriber = "both"` gets.
pub(super) fn json(events: &[EventRow]) -> String {
    let rows: Vec<Value> = events
        .iter()
        .map(|event| {
            let hooks: Vec<Value> = event
                .deliveries
                .iter()
                .map(|each| {
                    json!({ "hook": each.hook, "state": each.state.label(), "attempts": each.attempts, "reason": each.reason })
                })
                .collect();
            json!({
                "id": event.id,
                "kind": event.kind.label(),
                "state": event.state.label(),
                "reason": event.reason,
                "policy": event.subject.policy,
                "time": time(event.time_ms),
                "since": time(event.state_ms),
                "hooks": hooks,
                "event": serde_json::from_str::<Value>(&event.message).unwrap_or(Value::Null),
            })
        })
        .collect();
    let text = serde_json::to_string_pretty(&json!({ "events": rows })).expect("strings and lists always serialise");
    text + "\n"
}
