//! Serves a router on an address that was taken before, until the agent ends.

use std::io;

use axum::Router;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
    task::JoinHandle,
};

/// Serves a router on a TCP address until `end` closes.
///
/// # Errors
/// When the runtime refuses the socket.
pub fn tcp(
    listener: std::net::TcpListener,
    router: Router,
    mut end: watch::Receiver<()>,
) -> io::Result<JoinHandle<()>> {
    let listener = TcpListener::from_std(listener)?;
    Ok(tokio::spawn(async move {
        let graceful =
            axum::serve(listener, router).with_graceful_shutdown(async move { while end.changed().await.is_ok() {} });
        if let Err(error) = graceful.await {
            tracing::error!(%error, "the metrics server ended");
        }
    }))
}

/// Serves a router on a Unix socket until `end` closes.
///
/// # Errors
/// When the runtime refuses the socket.
pub fn unix(
    listener: Option<std::os::unix::net::UnixListener>,
    router: Router,
    mut end: watch::Receiver<()>,
) -> io::Result<JoinHandle<()>> {
    let listener = listener.map(UnixListener::from_std).transpose()?;
    Ok(tokio::spawn(async move {
        let Some(listener) = listener else { return };
        let graceful =
            axum::serve(listener, router).with_graceful_shutdown(async move { while end.changed().await.is_ok() {} });
        if let Err(error) = graceful.await {
            tracing::error!(%error, "the control socket ended");
        }
    }))
}
