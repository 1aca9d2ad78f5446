//! Hooks against real processes and a real HTTP server: successes and every kind of failure.

mod programs;
mod queue;
mod receivers;

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
    routing::post,
};
use monitor_common::abi::{
    protocol::{Confidence, Protocol, Verdict},
    remotes::RemoteSet,
    settings::InspectionDepth,
    tally::Totals,
};
use peertally_core::{
    policy::{Policy, PolicyEvent, ProtocolSet, Standing, evaluate::Firing, event::EventSource},
    subscriber::{Pseudonyms, Subscriber},
    testing,
    words::{Evidence, Metric, PolicyDirection, SubscriberForm},
};

use peertally_store::{
    Store, StoreError,
    events::{self, Decision, EventKind, EventState, NewEvent},
    writer::Unobserved,
};
use tempfile::TempDir;

use super::{
    DispatchError, HookConfig, HookReport,
    book::EventBook,
    failure::{CONNECT, Failure, FailureReason, IO, REJECTED, SERVER, TIMEOUT},
    kind::{HookKind, HookTarget},
    kinds::{
        exec::{self, EXIT_STATUS, Program, SIGNAL, SPAWN},
        webhook::{self, Endpoint},
    },
    stats::FailureCount,
};
use crate::{config::raw::RawHook, generated::assert_block_current};

pub(crate) fn event() -> Arc<PolicyEvent> {
    event_of("10.0.0.1", Evidence::Answered)
}

fn event_of(address: &str, evidence: Evidence) -> Arc<PolicyEvent> {
    let policy = Policy {
        name: "heavy".into(),
        protocols: ProtocolSet::default_policy(),
        min_confidence: Confidence::Structural,
        metric: Metric::Bytes,
        direction: PolicyDirection::Both,
        threshold: 1000,
        window: Duration::from_secs(60),
        cool_down: Duration::from_secs(60),
        allow: Vec::new(),
        hooks: vec![0],
    };
    let firing = Firing {
        policy: 0,
        subscriber: 0,
        value: 1234,
        parts: vec![(Verdict { protocol: Protocol::BitTorrent, confidence: Confidence::Signature }, 1234)],
        totals: Totals { flows: 5, packets_up: 3, bytes_up: 234, packets_down: 4, bytes_down: 1000 },
        remotes: RemoteSet(0b1011),
        window_start: SystemTime::now() - Duration::from_secs(60),
        window_end: SystemTime::now(),
    };
    let key = testing::key(address, Protocol::BitTorrent, Confidence::Signature);
    let subscriber = Subscriber::of(&key).expect("a subscriber");
    let pseudonyms = Pseudonyms::with_key([1; 32]);
    Arc::new(PolicyEvent::new(
        uuid::Uuid::now_v7(),
        firing,
        &Arc::new(policy),
        subscriber,
        &pseudonyms,
        &EventSource { node: "edge-1".into(), inspection: InspectionDepth::Framing, evidence },
    ))
}

fn hook(kind: &'static HookKind, target: impl HookTarget + 'static) -> HookConfig {
    HookConfig {
        name: "h".into(),
        kind,
        target: Arc::new(target),
        subscriber: SubscriberForm::Both,
        timeout: Duration::from_secs(5),
        retries: 0,
        retry_delay: Duration::from_millis(10),
        queue: 10,
        concurrency: 2,
    }
}

fn shell(script: &str) -> HookConfig {
    let program = Program { program: "/bin/sh".into(), arguments: vec!["-c".to_owned(), script.to_owned()] };
    hook(&exec::KIND, program)
}

/// A dispatcher over a store of its own.
#[derive(Debug)]
struct Dispatcher {
    inner: super::Dispatcher,
    book: Arc<EventBook>,
    folder: TempDir,
}

impl Dispatcher {
    fn start(configs: &[HookConfig]) -> Result<Self, DispatchError> {
        Self::start_in(tempfile::tempdir().expect("a folder"), configs)
    }

    fn start_in(folder: TempDir, configs: &[HookConfig]) -> Result<Self, DispatchError> {
        // A delivery that was ended may still note something on another thread.
        let store = loop {
            match Store::open(folder.path(), Unobserved) {
                Err(StoreError::InUse { .. }) => std::thread::yield_now(),
                opened => break opened.expect("opens"),
            }
        };
        let book = EventBook::new(store).expect("reads");
        let mut inner = super::Dispatcher::new(configs, &book)?;
        inner.begin();
        Ok(Self { inner, book, folder })
    }

    /// Commits an event for some hooks, and hands it to them.
    fn add(&self, event: &PolicyEvent, hooks: &[&str], state: EventState) {
        let new = NewEvent {
            id: event.id.to_string(),
            kind: EventKind::Fired,
            fired: None,
            policy: event.policy.name.to_string(),
            measures: event.policy.measures(),
            subscriber: event.subscriber,
            time: self.book.now(),
            cool_down: event.policy.cool_down,
            state,
            reason: "",
            hooks: hooks.iter().map(|hook| (*hook).to_owned()).collect(),
            message: String::from_utf8(event.to_json(SubscriberForm::Both)).expect("text"),
        };
        let own = new.clone();
        self.book.store().writer().write(move |transaction| events::insert(transaction, &own)).expect("commits");
        if state == EventState::Queued {
            self.book.enqueue(&new.id, &new.hooks, &new.time);
        }
    }

    fn send(&self, hook: usize, event: &PolicyEvent) {
        let name = Arc::clone(&self.stats()[hook].name);
        self.add(event, &[&name], EventState::Queued);
    }

    fn stats(&self) -> &[Arc<super::HookStats>] {
        self.inner.stats()
    }

    fn state(&self, event: &PolicyEvent) -> EventState {
        let rows = self.book.read(|connection| events::list(connection, None, 1000)).expect("reads");
        rows.into_iter().find(|row| row.id == event.id.to_string()).expect("the event").state
    }

    /// Ends the workers and the store.
    async fn finish(mut self, grace: Duration) -> TempDir {
        self.inner.finish(grace).await;
        self.folder
    }
}

/// Waits until nothing is in progress, and returns the counts.
async fn settled(dispatcher: &Dispatcher) -> HookReport {
    for _ in 0..2_000 {
        let report = dispatcher.stats()[0].report();
        if report.waiting() == 0 {
            return report;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("hooks did not settle: {:?}", dispatcher.stats()[0].report());
}

fn count(report: &HookReport, reason: FailureReason) -> FailureCount {
    *report.failures.iter().find(|count| count.reason == reason).expect("a reason of the kind")
}

fn failed(report: &HookReport, reason: FailureReason) -> u64 {
    count(report, reason).events
}

#[test]
fn the_event_says_what_was_measured_and_names_the_subscriber_as_asked() {
    let event = event();
    let json = |form| serde_json::from_slice::<serde_json::Value>(&event.to_json(form)).expect("JSON");
    let both = json(SubscriberForm::Both);
    assert_eq!(both["version"], 1);
    assert_eq!(both["id"], event.id.to_string());
    assert_eq!(both["subscriber"]["block"], "10.0.0.1/32");
    assert_eq!(both["subscriber"]["pseudonym"].as_str().map(str::len), Some(24));
    assert_eq!(both["value"], 1234);
    assert_eq!(both["confidence"], "signature");
    assert_eq!(both["protocols"][0]["protocol"], "bittorrent");
    let totals = ["bytes_up", "bytes_down", "packets_up", "packets_down", "flows"].map(|key| both[key].as_u64());
    assert_eq!(totals, [234, 1000, 3, 4, 5].map(Some));
    assert_eq!(both["remotes"], serde_json::json!({ "estimate": 3, "standard_error": 1 }));
    assert_eq!(both["inspection"], "framing");
    assert_eq!(both["evidence"], "answered");
    let one_way = event_of("10.0.0.1", Evidence::OneWay).to_json(SubscriberForm::Both);
    let one_way: serde_json::Value = serde_json::from_slice(&one_way).expect("JSON");
    assert_eq!(one_way["evidence"], "one_way");
    assert!(json(SubscriberForm::Pseudonym)["subscriber"].get("block").is_none());
    assert!(!String::from_utf8_lossy(&event.to_json(SubscriberForm::Pseudonym)).contains("10.0.0.1"));
    assert!(json(SubscriberForm::Block)["subscriber"].get("pseudonym").is_none());
}

/// Waits until a condition holds.
async fn until(mut holds: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the condition never held");
}

/// The documented event has the keys of a real one, at every level.
#[test]
fn the_documented_event_is_current() {
    fn shape(value: &serde_json::Value) -> serde_json::Value {
        match value {
            serde_json::Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), shape(value))).collect(),
            serde_json::Value::Array(items) => items.iter().take(1).map(shape).collect(),
            serde_json::Value::String(_) => "text".into(),
            serde_json::Value::Number(_) => 0.into(),
            other => other.clone(),
        }
    }
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/hooks.md")).expect("docs/hooks.md");
    let example = page.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let documented: serde_json::Value = serde_json::from_str(example).expect("JSON");
    let real: serde_json::Value = serde_json::from_slice(&event().to_json(SubscriberForm::Both)).expect("JSON");
    assert_eq!(shape(&documented), shape(&real));
}

/// The page's tables of kinds and of failure reasons are those of the code.
#[test]
fn the_documented_kinds_are_current() {
    let mut kinds =
        String::from("| kind | a delivery is | `subscriber` by default | `retries` by default |\n|---|---|---|---|\n");
    let mut reasons: Vec<(FailureReason, Vec<String>)> = Vec::new();
    for kind in RawHook::KINDS {
        let (name, form) = (kind.name, kind.subscriber.label());
        let _infallible = writeln!(kinds, "| `{name}` | {} | `{form}` | {} |", kind.delivers, kind.retries);
        for reason in kind.reasons {
            match reasons.iter_mut().find(|(known, _)| known.label == reason.label) {
                Some((known, names)) => {
                    assert_eq!(known, reason, "two reasons have the label {}", reason.label);
                    names.push(format!("`{name}`"));
                }
                None => reasons.push((*reason, vec![format!("`{name}`")])),
            }
        }
    }
    let mut table = String::from("| reason | kinds | meaning |\n|---|---|---|\n");
    for (reason, names) in &reasons {
        let _infallible = writeln!(table, "| `{}` | {} | {} |", reason.label, names.join(", "), reason.meaning);
    }
    assert_block_current("docs/hooks.md", "hook kinds", &kinds);
    assert_block_current("docs/hooks.md", "failure reasons", &table);
}
