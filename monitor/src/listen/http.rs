//! The agent's HTTP face: metrics, health, and on the control socket its status.
//!
//! Every answer comes from the last drain; no request reads the kernel. The control socket alone takes decisions about
//! events, and requests to reload.

mod events;
#[cfg(test)]
pub(crate) mod tests;

use std::{io, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use futures_util::stream;
use peertally_core::{snapshot::TableUse, subscriber::Pseudonyms};
use serde::Deserialize;
use tokio::sync::{Semaphore, mpsc};

use super::encoding::Encoding;
use crate::{
    agent::{
        AgentInfo, AgentState, Heartbeat,
        connection_counts::{GivenUp, ListenerName},
        reload::ReloadHandle,
        shedding::Shed,
        table_fill,
    },
    export::{
        collector::Exposition,
        status::Status,
        subscribers::{self, Shard},
        tally_stream,
    },
};

/// Content type of the text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Streams of every subscriber at a time, for each listener: readers of one cannot take the places of the other.
const STREAMS: usize = 2;
/// Answers of `/metrics` that are written at a time, each on a thread of its own.
const EXPOSITIONS: usize = 4;
/// Pieces of a stream that may wait for a slow reader.
const PIECES_AHEAD: usize = 4;

/// Everything that the handlers read.
#[derive(Clone, Debug)]
pub struct HttpContext {
    /// State of the agent.
    pub state: Arc<AgentState>,
    /// Text exposition of the state.
    pub exposition: Exposition,
    /// For `/metrics/subscribers`.
    pub pseudonyms: Pseudonyms,
    /// Liveness of the drain loop.
    pub heartbeat: Arc<Heartbeat>,
    /// Static facts of the agent.
    pub info: Arc<AgentInfo>,
    reload: Option<ReloadHandle>,
    streams: [Arc<Semaphore>; ListenerName::ALL.len()],
    expositions: Arc<Semaphore>,
}

impl HttpContext {
    /// State for the handlers.
    #[must_use]
    pub fn new(state: Arc<AgentState>, pseudonyms: Pseudonyms, heartbeat: Arc<Heartbeat>, info: AgentInfo) -> Self {
        Self {
            exposition: Exposition::new(Arc::clone(&state)),
            state,
            pseudonyms,
            heartbeat,
            info: Arc::new(info),
            reload: None,
            streams: ListenerName::ALL.map(|_| Arc::new(Semaphore::new(STREAMS))),
            expositions: Arc::new(Semaphore::new(EXPOSITIONS)),
        }
    }

    /// The context with reloads on the control socket.
    #[must_use]
    pub fn with_reload(self, handle: ReloadHandle) -> Self {
        Self { reload: Some(handle), ..self }
    }
}

/// Routes on the network.
pub fn public(context: &HttpContext) -> Router {
    let mut router = Router::new()
        .route("/", get(landing))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz));
    if context.info.subscriber_metrics {
        router = router.route("/metrics/subscribers", get(all_subscribers));
    }
    router.with_state(context.clone())
}

/// Routes on the control socket.
pub fn control(context: &HttpContext) -> Router {
    Router::new()
        .route("/status", get(show_status))
        .route("/subscribers", get(tallies))
        .route("/events/{id}/{decision}", post(events::decide))
        .route("/reload", post(reload))
        .with_state(context.clone())
}

async fn landing(State(context): State<HttpContext>) -> Html<String> {
    let more = if context.info.subscriber_metrics {
        "<li><a href=\"/metrics/subscribers\">/metrics/subscribers</a></li>"
    } else {
        ""
    };
    Html(format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Peertally</title></head><body><h1>Peertally {}</h1>\
         <p>Counts P2P protocol traffic per subscriber. Nothing happens to the traffic.</p><ul>\
         <li><a href=\"/metrics\">/metrics</a></li>{more}<li><a href=\"/livez\">/livez</a></li><li><a href=\"/readyz\">/readyz</a></li>\
         </ul></body></html>\n",
        env!("CARGO_PKG_VERSION")
    ))
}

async fn metrics(State(context): State<HttpContext>, headers: HeaderMap) -> Response {
    let encoding = Encoding::of(&headers);
    let place = Arc::clone(&context.expositions).acquire_owned().await;
    match tokio::task::spawn_blocking(move || {
        let _place = place;
        encoding.writer().whole(context.exposition.text())
    })
    .await
    {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], encoding.headers(), text).into_response(),
        Ok(Err(error)) => unwritten(&error),
        Err(error) => unwritten(&error),
    }
}

fn unwritten(error: &dyn std::error::Error) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be written: {error}\n")).into_response()
}

async fn livez(State(context): State<HttpContext>) -> Response {
    match context.heartbeat.missed() {
        None => "ok\n".into_response(),
        Some(since) => {
            let text = format!("the drain loop has not run for {} s; restart the agent\n", since.as_secs());
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn readyz(State(context): State<HttpContext>) -> Response {
    match context.state.ready() {
        Ok(()) => {
            let mut text = ready_text(context.state.shed(), events::held(&context.state));
            for problem in context.state.record_problems() {
                text += &format!("records: {problem}\n");
            }
            text += &fill_text(&context.state);
            text.into_response()
        }
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}

/// The answer of a ready agent. Shedding and held events make it no less ready: all packets are counted.
fn ready_text(shed: Shed, held: u64) -> String {
    let mut text = "ok\n".to_owned();
    if shed != Shed::default() {
        let Shed { packets, inspections, .. } = shed;
        text += &format!("shedding: {packets} packets and {inspections} inspections since the drain before\n");
    }
    if held > 0 {
        text += &format!("held: {held} events wait for a person (`peertally events --held`)\n");
    }
    text
}

/// A line for each table that is nearly full. That makes the agent no less ready.
fn fill_text(state: &AgentState) -> String {
    let published = state.published();
    let tables = published.iter().flat_map(|published| table_fill::nearly_full(&published.snapshot));
    let line = |table: &TableUse| {
        format!("table {}: {:.0} % of {} in use\n", table.name, table.ratio() * 100.0, table.capacity)
    };
    tables.map(line).collect()
}

async fn show_status(State(context): State<HttpContext>) -> Response {
    let status = Status::of(&context.state, &context.info);
    match serde_json::to_vec(&status) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// The query of `/reload`.
#[derive(Deserialize)]
struct ReloadQuery {
    #[serde(default)]
    check: bool,
}

async fn reload(State(context): State<HttpContext>, Query(query): Query<ReloadQuery>) -> Response {
    let report = match &context.reload {
        Some(handle) => handle.reload(query.check).await,
        None => None,
    };
    let Some(report) = report else {
        let text = "no reload: others wait, or the agent is ending; ask again\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    match serde_json::to_vec(&report) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// The query of `/metrics/subscribers`.
#[derive(Deserialize)]
struct ShardQuery {
    shard: Option<String>,
}

async fn all_subscribers(
    State(context): State<HttpContext>,
    headers: HeaderMap,
    Query(query): Query<ShardQuery>,
) -> Response {
    let shard = match query.shard.as_deref().map_or(Ok(Shard::ALL), str::parse) {
        Ok(shard) => shard,
        Err(message) => return (StatusCode::BAD_REQUEST, format!("{message}\n")).into_response(),
    };
    let Some(published) = context.state.published() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "no drain yet\n").into_response();
    };
    let pseudonyms = context.pseudonyms.clone();
    let encoding = Encoding::of(&headers);
    streamed(&context, ListenerName::Metrics, TEXT_FORMAT, encoding, move |send| {
        subscribers::write(&published.snapshot, &pseudonyms, shard, send);
    })
}

async fn tallies(State(context): State<HttpContext>) -> Response {
    let Some(published) = context.state.published() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "no drain yet\n").into_response();
    };
    streamed(&context, ListenerName::Control, "application/x-ndjson", Encoding::Identity, move |send| {
        tally_stream::write(&published.snapshot, send)
    })
}

/// Answers with what `write` hands on, piece by piece, so that memory does not grow with the number of subscribers.
fn streamed(
    context: &HttpContext,
    listener: ListenerName,
    content_type: &'static str,
    encoding: Encoding,
    write: impl FnOnce(&mut dyn FnMut(String) -> bool) + Send + 'static,
) -> Response {
    let Ok(place) = Arc::clone(&context.streams[listener as usize]).try_acquire_owned() else {
        context.state.connections.count(listener, GivenUp::TooManyStreams);
        let text = "too many scrapes of every subscriber at once; scrape one shard after another\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let (sender, receiver) = mpsc::channel::<io::Result<Vec<u8>>>(PIECES_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut writer = encoding.writer();
        let mut reader_is_there = true;
        write(&mut |piece| {
            reader_is_there = match writer.piece(piece).transpose() {
                None => true,
                // An error breaks the connection off: the reader must not take half an answer for a whole one.
                Some(bytes) => bytes.is_ok() & sender.blocking_send(bytes).is_ok(),
            };
            reader_is_there
        });
        if reader_is_there {
            // The reader may go away at the very end.
            let _gone = sender.blocking_send(writer.finish());
        }
        drop(place);
    });
    let pieces =
        stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|piece| (piece, receiver)) });
    ([(header::CONTENT_TYPE, content_type)], encoding.headers(), Body::from_stream(pieces)).into_response()
}
