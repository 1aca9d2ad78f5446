//! Serves a router on an address that was taken before, until the agent ends.
//!
//! Each connection gets one answer and ends: nobody keeps one open, and nobody queues requests on it. All waits have a
//! bound, and each connection that is refused or given up is counted by its reason.

use std::{future::Future, io, sync::Arc, time::Duration};

use axum::Router;
use hyper::{
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::{
    connections::{Connection, Limits, Places},
    patience::Patient,
};
use crate::agent::{
    AgentState,
    connection_counts::{GivenUp, ListenerName},
};

/// Wait after the process had no descriptor for a connection.
const NO_DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);

/// A listener of connections.
pub trait Accept: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Whether the user at the other end may ask.
    fn is_allowed(stream: &Self::Stream) -> bool;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }

    fn is_allowed(_: &TcpStream) -> bool {
        true
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }

    fn is_allowed(stream: &UnixStream) -> bool {
        // The mode of the socket is set after it exists: the kernel's word on the peer leaves no gap.
        let own = rustix::process::geteuid().as_raw();
        stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
    }
}

/// A listener with its bounds and counts.
#[derive(Debug)]
struct Server {
    name: ListenerName,
    limits: Limits,
    places: Places,
    state: Arc<AgentState>,
}

impl Server {
    fn count(&self, reason: GivenUp) {
        if self.state.connections.count(self.name, reason) == 0 {
            let listener = self.name.label();
            tracing::warn!(
                listener,
                reason = reason.label(),
                "a connection was refused or given up; further ones are only counted in peertally_connections_given_up_total"
            );
        }
    }

    fn show_open(&self) {
        self.state.connections.set_open(self.name, self.places.taken());
    }

    /// Takes a place for a new connection.
    fn admit(&self) -> Option<Arc<Connection>> {
        let admission = self.places.admit(self.limits.connections);
        if admission.has_displaced {
            self.count(GivenUp::Displaced);
        }
        if admission.connection.is_none() {
            self.count(GivenUp::Full);
        }
        self.show_open();
        admission.connection
    }

    /// Answers one request, within the bounds.
    async fn answer<S>(&self, stream: S, connection: &Arc<Connection>, router: Router, mut end: watch::Receiver<()>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(Patient::new(stream, self.limits.write, Arc::clone(connection)));
        let service = TowerToHyperService::new(router);
        let service = service_fn(|request| {
            connection.answering();
            service.call(request)
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header)
            .keep_alive(false)
            .serve_connection(io, service);
        let mut serving = std::pin::pin!(serving);
        let mut total = std::pin::pin!(tokio::time::sleep(self.limits.total));
        let mut is_ending = false;
        let ended = loop {
            tokio::select! {
                ended = &mut serving => break ended,
                () = connection.displaced() => return,
                () = &mut total => return self.count(GivenUp::AnswerTimeout),
                _ = end.changed(), if !is_ending => {
                    is_ending = true;
                    serving.as_mut().graceful_shutdown();
                }
            }
        };
        match ended {
            Err(error) if is_of_writing(&error) => self.count(GivenUp::WriteTimeout),
            Err(error) if error.is_timeout() => self.count(GivenUp::HeaderTimeout),
            // The client went away, or spoke no HTTP and was told so.
            _ => {}
        }
    }
}

/// Whether an error is the one of [`Patient`].
fn is_of_writing(error: &hyper::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return true;
        }
        cause = inner.source();
    }
    false
}

/// Serves a router on a listener until `end` closes, then lets answers in progress end.
pub fn spawn<L: Accept>(
    name: ListenerName,
    limits: Limits,
    listener: L,
    router: Router,
    state: Arc<AgentState>,
    mut end: watch::Receiver<()>,
) -> JoinHandle<()> {
    let server = Arc::new(Server { name, limits, places: Places::default(), state });
    tokio::spawn(async move {
        let mut answers = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = end.changed() => break,
            };
            while answers.try_join_next().is_some() {}
            let stream = match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    if is_of_the_process(&error) {
                        server.count(GivenUp::NoDescriptor);
                        tokio::time::sleep(NO_DESCRIPTOR_PAUSE).await;
                    }
                    continue;
                }
            };
            if !L::is_allowed(&stream) {
                server.count(GivenUp::ForeignUser);
                continue;
            }
            let Some(connection) = server.admit() else { continue };
            let (server, router, end) = (Arc::clone(&server), router.clone(), end.clone());
            answers.spawn(async move {
                server.answer(stream, &connection, router, end).await;
                server.places.leave(&connection);
                server.show_open();
            });
        }
        drop(listener);
        while answers.join_next().await.is_some() {}
    })
}

/// Whether an error of `accept` is for want of something in this process, and not of the connection (accept(2)).
fn is_of_the_process(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests;
