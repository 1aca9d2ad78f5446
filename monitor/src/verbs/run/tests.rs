//! The whole agent over a data path that is a fake: start, scrape, events, failures, end.

mod events;
mod kill_points;
mod policies;

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use monitor_common::abi::{
    protocol::{Confidence, Protocol, Verdict},
    tally::Direction,
};
use peertally_core::{
    exit::{Exit, ExitCause},
    interface::Interface,
    snapshot::{Counts, Snapshot},
    testing::{Kernel, bytes, key},
    words::OnExit,
};
use peertally_datapath::{LoadOptions, ReleasedFlows};
use tokio::sync::oneshot;

use super::{AuditError, Datapath, OwnedError, PseudonymKeyError, RunError, serve};
use crate::{
    agent::{record_file::ChainError, reload::ReloadResult},
    config::{Overrides, Resolved},
    verbs::{reload, status},
};

#[derive(Debug, thiserror::Error)]
#[error("the fake kernel said no")]
struct No(Exit);

impl ExitCause for No {
    fn exit(&self) -> Exit {
        self.0
    }
}

/// A test's view of its fake data path.
#[derive(Debug, Default)]
struct Seen {
    drains: u32,
    finished: Option<OnExit>,
    fail_drains: bool,
    panic: bool,
    taken_off: bool,
    /// Configurations that were applied while it ran.
    applied: u32,
    refuse: bool,
    bytes: u64,
    /// Sets the wall clock an hour on and an hour back, in turn, from one drain to the next.
    wall_jumps: bool,
    /// Subscribers that each count so many bytes; 0 stands for one.
    subscribers: u32,
}

struct Fake {
    kernel: Kernel,
    begun: Instant,
    seen: Arc<Mutex<Seen>>,
}

impl Fake {
    fn start(seen: &Arc<Mutex<Seen>>) -> impl FnOnce(&Resolved) -> Result<Self, No> + Send + 'static {
        let seen = Arc::clone(seen);
        move |_| Ok(Self { kernel: Kernel::new(), begun: Instant::now(), seen })
    }
}

impl Datapath for Fake {
    type Error = No;

    fn drain(&mut self) -> Result<Snapshot, No> {
        let mut seen = self.seen.lock().expect("lock");
        seen.drains += 1;
        assert!(!seen.panic, "a bug in the drain");
        if seen.fail_drains {
            return Err(No(Exit::Unavailable));
        }
        for number in 0..seen.subscribers.max(1) {
            let address = std::net::Ipv4Addr::from_bits(0x0a00_0001 + number).to_string();
            self.kernel.count(key(&address, Protocol::BitTorrent, Confidence::Signature), bytes(seen.bytes, 0));
        }
        let verdict = Verdict { protocol: Protocol::BitTorrent, confidence: Confidence::Signature };
        self.kernel.count_node("eth0", Direction::Up, verdict, seen.bytes);
        self.kernel.unanswer(Counts { flows: 0, packets: 1, bytes: 1 });
        let mut snapshot = self.kernel.drain_at(self.begun.elapsed());
        if seen.wall_jumps {
            let hour = Duration::from_secs(3600);
            let (on, back) = (snapshot.taken_at + hour, snapshot.taken_at - hour);
            snapshot.taken_at = if seen.drains.is_multiple_of(2) { on } else { back };
        }
        if seen.taken_off {
            snapshot.attachments[0].mode = "none";
        }
        Ok(snapshot)
    }

    fn apply(&mut self, _options: &LoadOptions, _interfaces: &[Interface]) -> Result<ReleasedFlows, No> {
        let mut seen = self.seen.lock().expect("lock");
        if seen.refuse {
            return Err(No(Exit::Unavailable));
        }
        seen.applied += 1;
        Ok(ReleasedFlows::default())
    }

    fn finish(self, on_exit: OnExit) -> Result<(), No> {
        self.seen.lock().expect("lock").finished = Some(on_exit);
        Ok(())
    }
}

fn configuration_text(directory: &Path) -> String {
    format!(
        "interfaces = [{{ name = \"eth0\" }}]\nlisten = \"127.0.0.1:0\"\ndrain_interval = \"100ms\"\nstate_dir = \"{0}/state\"\n\
         control_socket = \"{0}/run/control.sock\"\nshutdown_grace = \"2s\"\n",
        directory.display()
    )
}

fn configuration(directory: &Path, more: &str) -> Resolved {
    let text = configuration_text(directory) + more;
    crate::config::parse(Path::new("p.toml"), &text, &Overrides::default()).expect("valid")
}

struct Running {
    seen: Arc<Mutex<Seen>>,
    address: std::net::SocketAddr,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<(), RunError>>,
}

async fn start(resolved: Resolved, seen: Seen) -> Running {
    let seen = Arc::new(Mutex::new(seen));
    let (stop, stopped) = oneshot::channel::<()>();
    let (bound, address) = oneshot::channel();
    let datapath = Fake::start(&seen);
    let stop_signal = async move {
        let _dropped = stopped.await;
    };
    let task = tokio::spawn(serve(resolved, datapath, stop_signal, Some(bound)));
    Running { seen, address: address.await.expect("started"), stop, task }
}

impl Running {
    async fn get(&self, path: &str) -> (u16, String) {
        crate::listen::http::tests::get(self.address, path).await
    }

    /// Waits until a page has a text.
    async fn wait_for(&self, path: &str, part: &str) -> String {
        for _ in 0..400 {
            let (_, body) = self.get(path).await;
            if body.contains(part) {
                return body;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} never had {part}: {}", self.get(path).await.1);
    }

    async fn stop(self) -> (Result<(), RunError>, Arc<Mutex<Seen>>) {
        self.stop.send(()).expect("running");
        (self.task.await.expect("no panic"), self.seen)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drains_publishes_fires_and_ends_in_order() {
    let directory = tempfile::tempdir().expect("directory");
    let out = directory.path().join("event.json");
    let more = format!(
        "on_exit = \"detach\"\n[[policies]]\nname = \"heavy\"\nthreshold = 500\nwindow = \"1m\"\nhooks = [\"save\"]\n\
         [[hooks]]\nname = \"save\"\nexec = [\"/bin/sh\", \"-c\", \"cat > {}\"]\n",
        out.display()
    );
    let resolved = configuration(directory.path(), &more);
    let socket = resolved.control_socket.clone();
    let running = start(resolved, Seen { bytes: 300, ..Seen::default() }).await;
    running.wait_for("/metrics", "peertally_hook_deliveries_total{hook=\"save\"} 1").await;
    assert_eq!(running.get("/readyz").await, (200, "ok\n".to_owned()));
    assert_eq!(running.get("/livez").await.0, 200);
    assert_eq!(running.get("/metrics/subscribers").await.0, 404, "off by default");
    let event: serde_json::Value = serde_json::from_slice(&std::fs::read(&out).expect("delivered")).expect("JSON");
    assert_eq!(event["subscriber"]["block"], "10.0.0.1/32");
    assert!(event["value"].as_u64() >= Some(500));

    let asked = socket.clone();
    let status = tokio::task::spawn_blocking(move || status::query(&asked)).await.expect("asked").expect("answered");
    assert!(status.ready);
    assert_eq!(status.hooks[0].delivered, 1);
    assert_eq!(status.policies[0].events, 1);
    let shown = status::show(&status);
    assert!(shown.contains("heavy: 1 events") && shown.contains("eth0 (access, native)"), "{shown}");

    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&socket).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "others may ask");
    }
    let before = running.seen.lock().expect("lock").drains;
    let (ended, seen) = running.stop().await;
    ended.expect("a clean end");
    let seen = seen.lock().expect("lock");
    assert!(seen.drains > before, "drains once more at the end");
    assert_eq!(seen.finished, Some(OnExit::Detach));
    assert!(!socket.exists(), "the control socket is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_the_last_drain_is_delivered_before_the_end_and_a_hanging_hook_does_not_hold_it_up() {
    let directory = tempfile::tempdir().expect("directory");
    let out = directory.path().join("event.json");
    let more = format!(
        "[[policies]]\nname = \"heavy\"\nthreshold = 500\nwindow = \"1h\"\nhooks = [\"hang\", \"save\"]\n\
         [[hooks]]\nname = \"hang\"\nexec = [\"/bin/sh\", \"-c\", \"sleep 1000\"]\ntimeout = \"1h\"\n\
         [[hooks]]\nname = \"save\"\nexec = [\"/bin/sh\", \"-c\", \"cat > {}\"]\n",
        out.display()
    );
    let running = start(configuration(directory.path(), &more), Seen::default()).await;
    running.wait_for("/readyz", "ok").await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    running.seen.lock().expect("lock").bytes = 1000;
    let begun = Instant::now();
    let (ended, _) = running.stop().await;
    ended.expect("a clean end");
    assert!(out.exists(), "the last event was lost");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_applies_all_of_a_configuration_or_nothing() {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("p.toml");
    let policy = |name: &str| format!("[[policies]]\nname = \"{name}\"\nthreshold = 500\nwindow = \"1m\"\n");
    let write = |keys: &str, more: &str| {
        let text = format!("{keys}\n{}{more}", configuration_text(directory.path()));
        std::fs::write(&file, text).expect("written");
    };
    write("", &policy("first"));
    let resolved = crate::config::load(Some(&file), &Overrides::default()).expect("valid");
    let socket = resolved.control_socket.clone();
    let running = start(resolved, Seen { bytes: 300, ..Seen::default() }).await;
    running.wait_for("/metrics", "peertally_policy_events_total{policy=\"first\",kind=\"fired\"} 1").await;
    let reload = |check| {
        let socket = socket.clone();
        async move {
            let asked = tokio::task::spawn_blocking(move || reload::ask(&socket, check)).await.expect("asked");
            asked.expect("answered")
        }
    };
    assert_eq!(reload(false).await.result, ReloadResult::Unchanged);

    write("", &(policy("first") + &policy("second")));
    let report = reload(true).await;
    assert_eq!(
        (report.result, reload::show(&report).lines().next()),
        (ReloadResult::Checked, Some("+ policies second"))
    );
    assert_eq!(running.seen.lock().expect("lock").applied, 0, "a check applied something");
    let before = report.digest;
    let report = reload(false).await;
    assert_eq!(report.result, ReloadResult::Applied);
    assert_ne!(report.digest, before);
    running.wait_for("/metrics", "peertally_policy_events_total{policy=\"second\",kind=\"fired\"} 1").await;
    running.wait_for("/metrics", "peertally_policy_events_total{policy=\"first\",kind=\"fired\"} 1").await;

    for (keys, result, part) in [
        ("drain_intervall = \"1s\"", ReloadResult::Invalid, "drain_intervall"),
        ("one_way = true\ntop = 1", ReloadResult::Invalid, "top"),
        ("one_way = true", ReloadResult::NeedsRestart, "one_way cannot be changed"),
    ] {
        write(keys, "");
        let refused = reload(false).await;
        let message = refused.message.clone().expect("a reason");
        assert!(refused.result == result && message.contains(part), "{refused:?}");
        assert_eq!((reload::exit(&refused), &refused.digest), (Exit::Usage, &report.digest));
    }
    // What the kernel refuses changes nothing, either.
    write("", "");
    running.seen.lock().expect("lock").refuse = true;
    let failed = reload(false).await;
    assert_eq!((failed.result, reload::exit(&failed)), (ReloadResult::Failed, Exit::Unavailable));
    assert!(failed.message.is_some_and(|message| message.contains("the fake kernel said no")));
    let metrics = running.wait_for("/metrics", "peertally_policy_events_total{policy=\"second\",kind=\"fired\"}").await;
    for line in [
        "peertally_reloads_total{result=\"applied\"} 1",
        "peertally_reloads_total{result=\"invalid\"} 2",
        "peertally_reloads_total{result=\"needs_restart\"} 1",
        "peertally_reloads_total{result=\"failed\"} 1",
        &format!("peertally_configuration_info{{digest=\"{}\"}} 1", report.digest),
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let status = tokio::task::spawn_blocking(move || status::query(&socket)).await.expect("asked").expect("answered");
    assert_eq!(status.config_digest, report.digest);
    running.stop().await.0.expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_drains_are_told_and_the_agent_goes_on() {
    let directory = tempfile::tempdir().expect("directory");
    let running = start(configuration(directory.path(), ""), Seen { fail_drains: true, ..Seen::default() }).await;
    running.wait_for("/readyz", "the fake kernel said no").await;
    assert_eq!(running.get("/readyz").await.0, 503);
    running.wait_for("/metrics", "peertally_drain_failures_total 2").await;
    running.seen.lock().expect("lock").fail_drains = false;
    running.wait_for("/readyz", "ok").await;
    running.stop().await.0.expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_was_taken_off_is_told() {
    let directory = tempfile::tempdir().expect("directory");
    let running = start(configuration(directory.path(), ""), Seen::default()).await;
    running.wait_for("/readyz", "ok").await;
    running.seen.lock().expect("lock").taken_off = true;
    running.wait_for("/readyz", "not attached").await;
    running.wait_for("/metrics", "peertally_xdp_attached{interface=\"eth0\",role=\"access\",mode=\"none\"} 0").await;
    running.stop().await.0.expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bug_in_the_drain_ends_the_agent_with_its_own_code() {
    let directory = tempfile::tempdir().expect("directory");
    let running = start(configuration(directory.path(), ""), Seen { panic: true, ..Seen::default() }).await;
    let ended = running.task.await.expect("no panic here").expect_err("a bug");
    assert_eq!(ended.exit(), Exit::Bug);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_refused_is_refused_before_anything_is_attached() {
    let directory = tempfile::tempdir().expect("directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let mut port = configuration(directory.path(), "");
    port.listen = taken.local_addr().expect("address");
    let mut file = configuration(directory.path(), "");
    std::fs::write(directory.path().join("file"), "x").expect("written");
    file.control_socket = directory.path().join("file");
    let mut key = configuration(directory.path(), "");
    std::fs::write(directory.path().join("key"), "short").expect("written");
    std::fs::set_permissions(directory.path().join("key"), std::fs::Permissions::from_mode(0o600)).expect("own");
    key.pseudonym_key_file = directory.path().join("key");
    let ca = "[[hooks]]\nname = \"h\"\n[hooks.webhook]\nurl = \"https://127.0.0.1/\"\nca_file = \"/nonexistent.pem\"\n";
    let ca = configuration(directory.path(), ca);
    for (resolved, exit, part) in [
        (port, Exit::Unavailable, "--listen"),
        (file, Exit::Usage, "not a socket"),
        (key, Exit::Usage, "not 32"),
        (ca, Exit::Usage, "ca_file"),
    ] {
        let start = |_: &Resolved| -> Result<Fake, No> { panic!("attached although the start was to be refused") };
        let error = serve(resolved, start, std::future::pending(), None).await.expect_err(part);
        assert_eq!(error.exit(), exit, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(directory.path().join("file").exists(), "removed what was not its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_do_not_share_a_control_socket_but_a_dead_one_is_replaced() {
    let directory = tempfile::tempdir().expect("directory");
    let resolved = configuration(directory.path(), "");
    std::fs::create_dir_all(directory.path().join("run")).expect("made");
    drop(std::os::unix::net::UnixListener::bind(&resolved.control_socket).expect("bound"));
    let running = start(resolved.clone(), Seen::default()).await;
    let start = |_: &Resolved| -> Result<Fake, No> { panic!("attached") };
    let error = serve(resolved, start, std::future::pending(), None).await.expect_err("running");
    assert!(error.to_string().contains("another agent listens"), "{error}");
    running.stop().await.0.expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_says_no_ends_the_start_with_its_code() {
    let directory = tempfile::tempdir().expect("directory");
    let resolved = configuration(directory.path(), "");
    let socket = resolved.control_socket.clone();
    let start = |_: &Resolved| -> Result<Fake, No> { Err(No(Exit::Rights)) };
    let error = serve(resolved, start, std::future::pending(), None).await.expect_err("refused");
    assert_eq!(error.exit(), Exit::Rights);
    assert!(!socket.exists());
}

#[test]
fn missing_rights_end_with_their_own_code() {
    let path = || Path::new("/var/lib/peertally/x").to_owned();
    let errors = |kind: std::io::ErrorKind| -> [RunError; 3] {
        [
            PseudonymKeyError::Io { action: "read", path: path(), source: kind.into() }.into(),
            AuditError::Write { path: path(), source: kind.into() }.into(),
            OwnedError::Io { action: "open", path: path(), source: kind.into() }.into(),
        ]
    };
    for error in errors(std::io::ErrorKind::PermissionDenied) {
        assert_eq!(error.exit(), Exit::Rights, "{error}");
    }
    for error in errors(std::io::ErrorKind::StorageFull) {
        assert_eq!(error.exit(), Exit::Unavailable, "{error}");
    }
    let broken = RunError::from(AuditError::from(ChainError::Broken { path: path(), line: 1 }));
    assert_eq!(broken.exit(), Exit::Unavailable, "{broken}");
}

#[test]
fn asking_an_absent_agent_says_what_to_do() {
    let error = status::query(Path::new("/nonexistent/control.sock")).expect_err("absent");
    assert_eq!(error.exit(), Exit::Unavailable);
    assert!(error.to_string().contains("peertally run"), "{error}");
}

/// A Prometheus server of its own, ended with the test.
struct Prometheus {
    child: std::process::Child,
    address: std::net::SocketAddr,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Prometheus {
    /// Scrapes `target` twice a second; `None` if there is no such program here.
    fn start(directory: &Path, target: std::net::SocketAddr) -> Option<Self> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = free.local_addr().expect("address");
        drop(free);
        let file = directory.join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: 500ms, scrape_timeout: 500ms }}\nscrape_configs:\n- job_name: peertally\n  sample_limit: 5000\n  static_configs:\n  - targets: [\"{target}\"]\n"
        );
        std::fs::write(&file, text).expect("written");
        let log = std::fs::File::create(directory.join("prometheus.log")).expect("made");
        let child = std::process::Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(std::process::Stdio::null())
            .stderr(log)
            .spawn();
        match child {
            Ok(child) => Some(Self { child, address }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => panic!("prometheus: {error}"),
        }
    }

    /// The `data` of an API answer, once `good` likes it.
    async fn wait_for(&self, path: &str, good: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let mut last = serde_json::Value::Null;
        for _ in 0..300 {
            if tokio::net::TcpStream::connect(self.address).await.is_ok() {
                let (_, body) = crate::listen::http::tests::get(self.address, path).await;
                last = serde_json::from_str::<serde_json::Value>(&body)
                    .map(|mut answer| answer["data"].take())
                    .unwrap_or_default();
                if good(&last) {
                    return last;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("prometheus never answered {path} as wanted: {last:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_stores_every_documented_metric_under_its_type() {
    let directory = tempfile::tempdir().expect("directory");
    let more = "[[policies]]\nname = \"heavy\"\nthreshold = 500\nwindow = \"1m\"\nhooks = [\"none\"]\n\
                [[hooks]]\nname = \"none\"\nexec = [\"/bin/true\"]\n";
    let running = start(configuration(directory.path(), more), Seen { bytes: 300, ..Seen::default() }).await;
    let Some(prometheus) = Prometheus::start(directory.path(), running.address) else {
        crate::skip::skip("prometheus", "prometheus");
        return running.stop().await.0.expect("a clean end");
    };
    let known = |data: &serde_json::Value| {
        data.as_array()
            .is_some_and(|all| all.iter().any(|each| each["metric"] == "peertally_top_subscriber_bytes_total"))
    };
    let metadata = prometheus.wait_for("/api/v1/targets/metadata", known).await;
    let metadata = metadata.as_array().expect("a list");
    for definition in crate::export::definitions::ALL.iter().filter(|definition| definition.endpoint == "/metrics") {
        let row = metadata.iter().find(|each| each["metric"] == definition.name);
        let row = row.unwrap_or_else(|| panic!("prometheus has no {}", definition.name));
        assert_eq!(row["type"], definition.kind.label(), "{}", definition.name);
        assert_eq!(row["help"], definition.help, "{}", definition.name);
    }
    let moved = |data: &serde_json::Value| {
        data["result"][0]["value"][1]
            .as_str()
            .and_then(|value| value.parse().ok())
            .is_some_and(|value: f64| value > 0.0)
    };
    prometheus
        .wait_for("/api/v1/query?query=sum(increase(peertally_top_subscriber_bytes_total%5B30s%5D))", moved)
        .await;
    prometheus.wait_for("/api/v1/query?query=sum(peertally_hook_deliveries_total)", moved).await;
    drop(prometheus);
    running.stop().await.0.expect("a clean end");
}
