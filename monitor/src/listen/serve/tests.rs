//! Clients that wait, stop reading or come in crowds, over real sockets.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::{GivenUp, Limits, ListenerName, spawn};
use crate::{
    agent::AgentState,
    listen::http::{
        self,
        tests::{context, get},
    },
};

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(200);
/// Longest wait for a condition.
const PATIENCE: Duration = Duration::from_secs(60);

struct Served {
    address: SocketAddr,
    state: Arc<AgentState>,
    server: JoinHandle<()>,
    end: watch::Sender<()>,
}

async fn serve(limits: Limits) -> Served {
    let context = context("[metrics]\nsubscribers = true\n", true, LONG);
    let socket = TcpSocket::new_v4().expect("a socket");
    // Connections inherit it: an answer must not fit into the kernel's buffers.
    socket.set_send_buffer_size(8192).expect("a small buffer");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("bound");
    let listener = socket.listen(1024).expect("listens");
    let address = listener.local_addr().expect("address");
    let (end, ends) = watch::channel(());
    let state = Arc::clone(&context.state);
    let server = spawn(ListenerName::Metrics, limits, listener, http::public(&context), Arc::clone(&state), ends);
    Served { address, state, server, end }
}

impl Served {
    fn count(&self, reason: GivenUp) -> u64 {
        self.state.connections.given_up(ListenerName::Metrics).find(|each| each.0 == reason).map_or(0, |each| each.1)
    }

    async fn wait_for(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("no {what}"));
    }

    fn open(&self) -> u64 {
        self.state.connections.open(ListenerName::Metrics)
    }
}

/// Whether the other side closes the connection.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn a_request_that_never_ends_is_given_up() {
    let served = serve(Limits { header: SHORT, total: LONG, write: LONG, connections: 9 }).await;
    let mut silent = TcpStream::connect(served.address).await.expect("connected");
    let mut half = TcpStream::connect(served.address).await.expect("connected");
    half.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n").await.expect("sent");
    assert!(is_closed(&mut silent).await && is_closed(&mut half).await, "an idle connection stays open");
    served.wait_for("count of both", |served| served.count(GivenUp::HeaderTimeout) == 2).await;
    served.wait_for("free places", |served| served.open() == 0).await;
}

/// A connection that asks for every subscriber and reads nothing of the answer.
async fn stopped_reader(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(2048).expect("a small buffer");
    let mut stream = socket.connect(address).await.expect("connected");
    stream.write_all(b"GET /metrics/subscribers HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_stop_are_given_up_and_their_streams_are_free_again() {
    let served = serve(Limits { write: SHORT, header: LONG, total: LONG, connections: 9 }).await;
    let mut readers = Vec::new();
    for _ in 0..2 {
        readers.push(stopped_reader(served.address).await);
    }
    served.wait_for("both given up", |served| served.count(GivenUp::WriteTimeout) == 2).await;
    // Their answers end unfinished, so the threads that wrote them give the places back.
    let again = async {
        while get(served.address, "/metrics/subscribers").await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("a stream for the next reader");
}

#[tokio::test]
async fn a_slow_reader_that_goes_on_reading_gets_all() {
    let served = serve(Limits { write: LONG, header: LONG, total: LONG, connections: 9 }).await;
    let mut reader = stopped_reader(served.address).await;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        tokio::task::yield_now().await;
        match reader.read(&mut piece).await.expect("read") {
            0 => break,
            length => answer.extend_from_slice(&piece[..length]),
        }
    }
    assert!(answer.ends_with(b"0\r\n\r\n"), "the last chunk is missing");
    assert!(GivenUp::ALL.into_iter().all(|reason| served.count(reason) == 0));
}

#[tokio::test]
async fn idle_connections_make_room_for_a_scrape() {
    let served = serve(Limits { header: LONG, write: LONG, total: LONG, connections: 4 }).await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(TcpStream::connect(served.address).await.expect("connected"));
    }
    for _ in 0..5 {
        assert_eq!(get(served.address, "/metrics").await.0, 200);
    }
    served.wait_for("closed connections", |served| served.count(GivenUp::Displaced) >= 17).await;
    assert!(is_closed(&mut idle[0]).await, "the oldest goes first");
    assert_eq!(served.count(GivenUp::Full), 0);
}

#[tokio::test]
async fn one_connection_gets_one_answer_whatever_it_has_queued() {
    let served = serve(Limits::of(4)).await;
    let mut stream = TcpStream::connect(served.address).await.expect("connected");
    stream.write_all("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20).as_bytes()).await.expect("sent");
    let mut answers = Vec::new();
    // The rest of the requests may be answered with a reset.
    let _reset = stream.read_to_end(&mut answers).await;
    let answers = String::from_utf8(answers).expect("text");
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 1, "{answers}");
    assert!(answers.to_lowercase().contains("connection: close"), "{answers}");
}

#[tokio::test]
async fn the_end_waits_for_nobody_who_is_idle() {
    let served = serve(Limits { header: LONG, write: LONG, total: LONG, connections: 4 }).await;
    let mut idle = TcpStream::connect(served.address).await.expect("connected");
    served.wait_for("the connection", |served| served.open() == 1).await;
    drop(served.end);
    tokio::time::timeout(PATIENCE, served.server).await.expect("an end").expect("no panic");
    assert!(is_closed(&mut idle).await);
}
