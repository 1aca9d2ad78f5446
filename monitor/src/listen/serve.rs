//! Serves a router on an address that was taken before, until the agent ends.

use std::fmt;

use axum::{Router, serve::Listener};
use tokio::{sync::watch, task::JoinHandle};

/// Serves a router on a listener until `end` closes. `name` is how messages call the server.
pub fn spawn<L>(name: &'static str, listener: L, router: Router, mut end: watch::Receiver<()>) -> JoinHandle<()>
where
    L: Listener,
    L::Addr: fmt::Debug,
{
    tokio::spawn(async move {
        let graceful =
            axum::serve(listener, router).with_graceful_shutdown(async move { while end.changed().await.is_ok() {} });
        if let Err(error) = graceful.await {
            tracing::error!(%error, "the {name} ended");
        }
    })
}
