//! Hooks against real processes and a real HTTP server: successes and every kind of failure.

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
    event_on(Evidence::Answered)
}

fn event_on(evidence: Evidence) -> Arc<PolicyEvent> {
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
    let key = testing::key("10.0.0.1", Protocol::BitTorrent, Confidence::Signature);
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

async fn run(script: &str, limit: Duration) -> Result<(), Failure> {
    exec::run(
        Path::new("/bin/sh"),
        &["-c".to_owned(), script.to_owned()],
        &[("PEERTALLY_EVENT_ID", "1")],
        &event().to_json(SubscriberForm::Both),
        limit,
    )
    .await
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
        let inner = super::Dispatcher::start(configs, &book)?;
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
    async fn finish(self, grace: Duration) -> TempDir {
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
    let one_way = event_on(Evidence::OneWay).to_json(SubscriberForm::Both);
    let one_way: serde_json::Value = serde_json::from_slice(&one_way).expect("JSON");
    assert_eq!(one_way["evidence"], "one_way");
    assert!(json(SubscriberForm::Pseudonym)["subscriber"].get("block").is_none());
    assert!(!String::from_utf8_lossy(&event.to_json(SubscriberForm::Pseudonym)).contains("10.0.0.1"));
    assert!(json(SubscriberForm::Block)["subscriber"].get("pseudonym").is_none());
}

#[tokio::test]
async fn a_program_gets_the_event_and_a_bare_environment() {
    let directory = tempfile::tempdir().expect("directory");
    let out = directory.path().join("out");
    let script = format!("cat > {0}; env | sort > {0}.env; pwd > {0}.pwd", out.display());
    run(&script, Duration::from_secs(5)).await.expect("ran");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&out).expect("read")).expect("JSON");
    assert_eq!(json["policy"], "heavy");
    let environment = std::fs::read_to_string(out.with_extension("env")).expect("read");
    let names: Vec<&str> = environment.lines().filter_map(|line| line.split('=').next()).collect();
    assert_eq!(
        names.iter().filter(|name| !["PWD", "_", "SHLVL", "OLDPWD"].contains(*name)).collect::<Vec<_>>(),
        [&"PATH", &"PEERTALLY_EVENT_ID"]
    );
}

#[tokio::test]
async fn failing_programs_say_why() {
    let failure = run("echo something >&2; exit 3", Duration::from_secs(5)).await.expect_err("fails");
    assert_eq!(failure.reason, EXIT_STATUS);
    assert!(failure.detail.contains("exit status 3") && failure.detail.contains("something"), "{}", failure.detail);
    let failure = run("kill -KILL $$", Duration::from_secs(5)).await.expect_err("fails");
    assert_eq!(failure.reason, SIGNAL);
    let failure = exec::run(Path::new("/nonexistent"), &[], &[], b"", Duration::from_secs(1)).await.expect_err("fails");
    assert_eq!(failure.reason, SPAWN);
}

#[tokio::test]
async fn input_ignored_or_refused_is_no_failure() {
    let large = vec![b'x'; 1 << 20];
    for script in ["true", "exec <&-; sleep 0.1; true"] {
        exec::run(Path::new("/bin/sh"), &["-c".to_owned(), script.to_owned()], &[], &large, Duration::from_secs(5))
            .await
            .expect(script);
    }
}

#[tokio::test]
async fn endless_output_is_read_and_thrown_away() {
    run("head -c 10000000 /dev/zero; head -c 10000000 /dev/zero >&2", Duration::from_secs(20)).await.expect("ran");
    let failure =
        run("head -c 100000 /dev/zero | tr '\\0' x; exit 1", Duration::from_secs(5)).await.expect_err("fails");
    assert!(failure.detail.len() < 5000, "{}", failure.detail.len());
}

#[tokio::test]
async fn a_hanging_program_is_killed_with_its_children() {
    let directory = tempfile::tempdir().expect("directory");
    let pids = directory.path().join("pids");
    // The shell and its child both ignore the polite signal.
    let script = format!(
        "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >> {0}; while :; do sleep 1; done' & echo $$ >> {0}; wait; while :; do sleep 1; done",
        pids.display()
    );
    let begun = Instant::now();
    let failure = run(&script, Duration::from_millis(500)).await.expect_err("hangs");
    assert_eq!(failure.reason, TIMEOUT);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let pids = std::fs::read_to_string(&pids).expect("read");
    assert_eq!(pids.lines().count(), 2);
    for pid in pids.lines() {
        assert!(ends(pid).await, "process {pid} is still there");
    }
}

/// Whether a process ends (or is only a zombie) soon.
async fn ends(pid: &str) -> bool {
    for _ in 0..200 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

#[tokio::test]
async fn a_child_left_behind_holds_nothing_up_and_ends() {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("pid");
    let begun = Instant::now();
    run(&format!("sleep 1000 & echo $! > {}", file.display()), Duration::from_secs(30)).await.expect("ran");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let pid = std::fs::read_to_string(&file).expect("read");
    assert!(ends(pid.trim()).await, "the child is still there");
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

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_hanging_hook_wait_in_the_store_and_the_next_start_delivers_them() {
    let mut config = shell("sleep 1000");
    (config.queue, config.concurrency, config.timeout) = (3, 1, Duration::from_secs(60));
    let dispatcher = Dispatcher::start(&[config]).expect("started");
    let sent: Vec<_> = (0..3).map(|_| event()).collect();
    sent.iter().for_each(|event| dispatcher.send(0, event));
    until(|| dispatcher.stats()[0].report().in_flight == 1).await;
    let report = dispatcher.stats()[0].report();
    assert_eq!((report.in_flight, report.queued, dispatcher.stats()[0].room()), (1, 2, 0));
    assert!(report.oldest.is_some());
    assert_eq!(report.accepted(), 3);
    let folder = dispatcher.finish(Duration::from_millis(100)).await;

    let out = folder.path().join("out");
    let config = shell(&format!("cat >> {0}; echo >> {0}", out.display()));
    let dispatcher = Dispatcher::start_in(folder, &[config]).expect("started");
    assert_eq!(settled(&dispatcher).await.delivered, 3);
    let text = std::fs::read_to_string(&out).expect("delivered");
    for event in &sent {
        assert_eq!(text.matches(&event.id.to_string()).count(), 1, "with the id of before, once");
        assert_eq!(dispatcher.state(event), EventState::Delivered);
    }
    let folder = dispatcher.finish(Duration::ZERO).await;
    // What was delivered is not delivered again.
    let dispatcher = Dispatcher::start_in(folder, &[shell("exit 1")]).expect("started");
    assert_eq!(dispatcher.stats()[0].report().waiting(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cool_down_begins_with_the_first_delivery_by_any_hook_and_never_without_one() {
    let (mut good, mut bad) = (shell("cat > /dev/null"), shell("exit 1"));
    (good.name, bad.name) = ("good".into(), "bad".into());
    let dispatcher = Dispatcher::start(&[good, bad]).expect("started");
    let (both, none) = (event(), event());
    dispatcher.add(&both, &["good", "bad"], EventState::Queued);
    dispatcher.add(&none, &["bad"], EventState::Queued);
    until(|| dispatcher.state(&both) == EventState::Delivered && dispatcher.state(&none) == EventState::Dead).await;
    let mut standings = Vec::new();
    until(|| {
        standings.extend(dispatcher.book.take_settled().into_iter().map(|(_, standing)| standing));
        standings.len() == 2
    })
    .await;
    assert!(standings.contains(&None), "the dead one may fire again");
    assert!(standings.iter().any(|standing| matches!(standing, Some(Standing::Cooling(_)))));
    assert_eq!(dispatcher.book.standings().expect("reads").len(), 1, "one cool-down, and nothing waits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_decides_about_held_and_dead_events() {
    let folder = tempfile::tempdir().expect("a folder");
    let gate = folder.path().join("open");
    let dispatcher = Dispatcher::start_in(folder, &[shell(&format!("cat > /dev/null; test -e {}", gate.display()))])
        .expect("started");
    let (released, discarded) = (event(), event());
    dispatcher.add(&released, &["h"], EventState::Held);
    dispatcher.add(&discarded, &["h"], EventState::Held);
    let book = Arc::clone(&dispatcher.book);
    let decide = |event: &PolicyEvent, decision| {
        let (book, id) = (Arc::clone(&book), event.id.to_string());
        async move {
            let decided = tokio::task::spawn_blocking(move || book.decide(&id, decision, "tester")).await;
            decided.expect("no panic").map(|_| ()).map_err(|error| error.to_string())
        }
    };
    assert_eq!(dispatcher.stats()[0].report().waiting(), 0, "held events wait for nobody's hook");
    let refused = decide(&released, Decision::Redeliver).await.expect_err("nothing failed");
    assert!(refused.contains("is held"), "{refused}");
    decide(&released, Decision::Release).await.expect("released");
    until(|| dispatcher.state(&released) == EventState::Dead).await;
    std::fs::write(&gate, "").expect("written");
    decide(&released, Decision::Redeliver).await.expect("again");
    until(|| dispatcher.state(&released) == EventState::Delivered).await;
    decide(&released, Decision::Release).await.expect_err("delivered");
    decide(&released, Decision::Redeliver).await.expect_err("no hook failed");
    decide(&discarded, Decision::Discard).await.expect("discarded");
    assert_eq!(dispatcher.state(&discarded), EventState::Discarded);
    decide(&discarded, Decision::Release).await.expect_err("discarded");
    let report = settled(&dispatcher).await;
    assert_eq!((report.delivered, failed(&report, EXIT_STATUS)), (1, 1));
    let unknown = decide(&event(), Decision::Discard).await.expect_err("unknown");
    assert!(unknown.contains("there is no event"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_hook_is_not_configured_any_more_is_dead() {
    let mut config = shell("sleep 1000");
    config.timeout = Duration::from_secs(60);
    let dispatcher = Dispatcher::start(&[config]).expect("started");
    let waiting = event();
    dispatcher.send(0, &waiting);
    let folder = dispatcher.finish(Duration::ZERO).await;
    let mut other = shell("true");
    other.name = "other".into();
    let dispatcher = Dispatcher::start_in(folder, &[other]).expect("started");
    assert_eq!(dispatcher.state(&waiting), EventState::Dead);
    assert!(dispatcher.book.standings().expect("reads").is_empty(), "the subscriber may fire again");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_hook_does_not_delay_another() {
    let mut hanging = shell("sleep 1000");
    hanging.name = "hanging".into();
    let dispatcher = Dispatcher::start(&[(shell("cat > /dev/null")), hanging]).expect("started");
    for _ in 0..5 {
        dispatcher.send(1, &event());
        dispatcher.send(0, &event());
    }
    assert_eq!(settled(&dispatcher).await.delivered, 5);
    dispatcher.finish(Duration::ZERO).await;
}

/// A server that answers with the next status of a list, repeats the last one, and keeps all requests.
struct Server {
    url: String,
    got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    calls: Arc<AtomicUsize>,
}

async fn server(statuses: &'static [u16], wait: Duration) -> Server {
    let got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>> = Arc::default();
    let calls = Arc::new(AtomicUsize::new(0));
    let (kept, counted) = (Arc::clone(&got), Arc::clone(&calls));
    let answer = move |headers: HeaderMap, body: Bytes| async move {
        let call = counted.fetch_add(1, SeqCst);
        kept.lock().expect("lock").push((headers, body));
        tokio::time::sleep(wait).await;
        let status = StatusCode::from_u16(statuses[call.min(statuses.len() - 1)]).expect("status");
        (status, [("location", "http://127.0.0.1:1/elsewhere")], "a".repeat(100_000)).into_response()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}/events?token=secret", listener.local_addr().expect("address"));
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/events", post(answer))).await });
    Server { url, got, calls }
}

fn webhook(url: &str) -> HookConfig {
    let headers = BTreeMap::from([("Authorization".to_owned(), "Bearer hidden".to_owned())]);
    let mut config = hook(&webhook::KIND, Endpoint::new(url, &headers, None).expect("endpoint"));
    config.subscriber = SubscriberForm::Pseudonym;
    config.retries = 4;
    config
}

async fn deliver(config: HookConfig) -> HookReport {
    let dispatcher = Dispatcher::start(&[config]).expect("started");
    dispatcher.send(0, &event());
    let report = settled(&dispatcher).await;
    dispatcher.finish(Duration::ZERO).await;
    assert_eq!(report.accepted(), 1);
    report
}

#[tokio::test]
async fn a_webhook_posts_json_with_the_event_id() {
    let server = server(&[204], Duration::ZERO).await;
    assert_eq!(deliver(webhook(&server.url)).await.delivered, 1);
    let got = server.got.lock().expect("lock");
    let (headers, body) = &got[0];
    let json: serde_json::Value = serde_json::from_slice(body).expect("JSON");
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["authorization"], "Bearer hidden");
    assert_eq!(headers["x-peertally-event-id"].to_str().ok(), json["id"].as_str());
    assert_eq!(headers["idempotency-key"], headers["x-peertally-event-id"]);
    assert!(json["subscriber"].get("block").is_none(), "an address left the node");
}

#[tokio::test]
async fn server_errors_are_retried_with_the_same_id_and_refusals_are_not() {
    let flaky = server(&[500, 429, 408, 200], Duration::ZERO).await;
    let report = deliver(webhook(&flaky.url)).await;
    assert_eq!((report.delivered, count(&report, SERVER).attempts), (1, 3));
    {
        let got = flaky.got.lock().expect("lock");
        assert!(got.iter().all(|(headers, _)| headers["idempotency-key"] == got[0].0["idempotency-key"]));
    }
    let refusing = server(&[403], Duration::ZERO).await;
    let report = deliver(webhook(&refusing.url)).await;
    assert_eq!((failed(&report, REJECTED), refusing.calls.load(SeqCst)), (1, 1));
    let moved = server(&[307], Duration::ZERO).await;
    let report = deliver(webhook(&moved.url)).await;
    assert_eq!((failed(&report, REJECTED), moved.calls.load(SeqCst)), (1, 1), "a redirect was followed");
    let broken = server(&[503], Duration::ZERO).await;
    let report = deliver(webhook(&broken.url)).await;
    assert_eq!((failed(&report, SERVER), broken.calls.load(SeqCst)), (1, 5));
}

#[tokio::test]
async fn a_slow_or_absent_server_is_given_up() {
    let slow = server(&[200], Duration::from_secs(60)).await;
    let mut config = webhook(&slow.url);
    (config.timeout, config.retries) = (Duration::from_millis(200), 1);
    let report = deliver(config).await;
    assert_eq!((failed(&report, TIMEOUT), slow.calls.load(SeqCst)), (1, 2));
    let absent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("address");
    let mut config = webhook(&format!("http://{absent}/"));
    config.retries = 1;
    let report = deliver(config).await;
    assert_eq!(failed(&report, CONNECT), 1);
    assert_eq!(count(&report, CONNECT).attempts, 2);
}

#[tokio::test]
async fn a_server_that_speaks_something_else_is_a_failure() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}/", listener.local_addr().expect("address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            use tokio::io::AsyncWriteExt;
            let _gone = stream.write_all(b"SSH-2.0-x\r\n").await;
        }
    });
    let mut config = webhook(&url);
    config.retries = 0;
    assert_eq!(failed(&deliver(config).await, IO), 1);
}

#[test]
fn secrets_are_not_shown() {
    let config = webhook("https://host/path?token=secret#x");
    let shown = format!("{config:?}");
    assert!(!shown.contains("secret") && !shown.contains("hidden"), "{shown}");
}

/// A TLS server with a certificate of its own making that answers 200; its URL and its certificate.
async fn tls_server() -> (String, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("usable");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("https://localhost:{}/", listener.local_addr().expect("address").port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = vec![0; 65_536];
            let _read = stream.read(&mut request).await;
            let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    (url, made.cert.pem())
}

#[tokio::test]
async fn tls_is_checked_against_the_systems_authorities_and_the_ca_file() {
    let (url, certificate) = tls_server().await;
    let directory = tempfile::tempdir().expect("directory");
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, certificate).expect("written");
    let known = Endpoint::new(&url, &BTreeMap::new(), Some(&ca_file)).expect("endpoint");
    assert_eq!(deliver(hook(&webhook::KIND, known)).await.delivered, 1);
    let unknown = Endpoint::new(&url, &BTreeMap::new(), None).expect("endpoint");
    match Dispatcher::start(&[hook(&webhook::KIND, unknown.clone())]) {
        Ok(_) => assert_eq!(failed(&deliver(hook(&webhook::KIND, unknown)).await, CONNECT), 1),
        Err(error) => assert!(error.to_string().contains("ca-certificates"), "{error}"),
    }
    std::fs::write(&ca_file, "no certificate").expect("written");
    let broken = Endpoint::new(&url, &BTreeMap::new(), Some(&ca_file)).expect("endpoint");
    let error = Dispatcher::start(&[hook(&webhook::KIND, broken)]).expect_err("refused");
    assert!(error.to_string().contains("ca.pem"), "{error}");
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
