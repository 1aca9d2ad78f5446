//! An agent that is killed again and again between a slow receiver's requests and answers. Each subscriber reaches the
//! threshold in every life of the agent, and gets one event with one id.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, body::Bytes, routing::post};
use peertally_store::{
    events::{self, DeliveryState, EventState},
    store::open_reader,
};

use super::{Seen, configuration, start};

/// Names the folder of the agent to its process; absent in a run of the tests.
const FOLDER: &str = "PEERTALLY_KILLED_AGENT";
/// The receiver's address, for that process.
const RECEIVER: &str = "PEERTALLY_KILLED_AGENT_RECEIVER";
/// Makes tests repeat more (`peertally_lab::SOAK_VARIABLE`).
const SOAK: &str = "PEERTALLY_SOAK";
/// Subscribers at each point.
const SUBSCRIBERS_PER_POINT: u32 = 3;
/// Time that the receiver takes for an answer.
const ANSWER: Duration = Duration::from_millis(10);

fn points() -> u32 {
    if std::env::var(SOAK).is_ok_and(|value| value == "1") { 200 } else { 20 }
}

/// The agent's process: runs until it is killed.
#[tokio::test(flavor = "multi_thread")]
async fn agent_process() {
    let (Ok(folder), Ok(receiver)) = (std::env::var(FOLDER), std::env::var(RECEIVER)) else { return };
    let more = format!(
        "[events]\nceiling = 100000\n[[policies]]\nname = \"heavy\"\nthreshold = 500\nwindow = \"1m\"\n\
         cool_down = \"1day\"\nhooks = [\"post\"]\n[[hooks]]\nname = \"post\"\nconcurrency = 2\nqueue = 100000\n\
         subscriber = \"block\"\nretry_delay = \"10ms\"\nwebhook = \"http://{receiver}/\"\n"
    );
    let subscribers = points() * SUBSCRIBERS_PER_POINT;
    let _running =
        start(configuration(Path::new(&folder), &more), Seen { bytes: 600, subscribers, ..Seen::default() }).await;
    std::future::pending::<()>().await;
}

fn spawn(folder: &Path, receiver: &str) -> Child {
    let own = std::env::current_exe().expect("this program");
    Command::new(own)
        .args(["--exact", "verbs::run::tests::kill_points::agent_process", "--nocapture", "--quiet"])
        .env(FOLDER, folder)
        .env(RECEIVER, receiver)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_at_many_points_loses_no_event_and_makes_none_twice() {
    let directory = tempfile::tempdir().expect("directory");
    // Ids by subscriber, as the receiver acknowledged them.
    let got: Arc<Mutex<BTreeMap<String, BTreeSet<String>>>> = Arc::default();
    let requests = Arc::new(AtomicUsize::new(0));
    let (kept, counted) = (Arc::clone(&got), Arc::clone(&requests));
    let answer = move |body: Bytes| async move {
        let event: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        counted.fetch_add(1, SeqCst);
        tokio::time::sleep(ANSWER).await;
        let word = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
        let ids = &mut *kept.lock().expect("lock");
        ids.entry(word(&event["subscriber"]["block"])).or_default().insert(word(&event["id"]));
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let receiver = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", post(answer))).await });

    let (points, subscribers) = (points(), (points() * SUBSCRIBERS_PER_POINT) as usize);
    let reader = || open_reader(&directory.path().join("state"));
    let delivered = || {
        let rows = reader().ok().and_then(|reader| events::list(&reader, Some(EventState::Delivered), 100_000).ok());
        rows.map_or(0, |rows| rows.len())
    };
    for point in 0..points {
        let mut child = spawn(directory.path(), &receiver);
        let before = requests.load(SeqCst);
        // Different points: before the answer, between it and its commit, or after some deliveries.
        let more = point as usize % 4;
        until("the next request", || requests.load(SeqCst) > before + more || delivered() == subscribers).await;
        if point % 3 == 1 {
            let acknowledged = got.lock().expect("lock").len();
            let is_next = || got.lock().expect("lock").len() > acknowledged;
            until("the next answer", || is_next() || delivered() == subscribers).await;
        }
        child.kill().expect("killed");
        child.wait().expect("ended");
    }
    let mut child = spawn(directory.path(), &receiver);
    until("every delivery", || delivered() == subscribers).await;
    child.kill().expect("killed");
    child.wait().expect("ended");

    let got = got.lock().expect("lock");
    assert_eq!(got.len(), subscribers, "a subscriber's event is lost");
    let twice: Vec<_> = got.iter().filter(|(_, ids)| ids.len() != 1).collect();
    assert!(twice.is_empty(), "two ids for one firing: {twice:?}");
    let rows = events::list(&reader().expect("opens after all"), None, 100_000).expect("reads");
    assert_eq!(rows.len(), subscribers);
    for row in &rows {
        assert_eq!(row.state, EventState::Delivered);
        assert!(row.deliveries.iter().all(|each| each.state == DeliveryState::Delivered));
        assert!(got[&row.subject.subscriber.block().to_string()].contains(&row.id), "not what the receiver has");
    }
    println!("{points} points, {} requests for {subscribers} events", requests.load(SeqCst));
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what} never came");
}
