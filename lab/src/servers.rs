//! Servers through which clients find each other: real ones where Debian has one, stand-ins of a few lines elsewhere.

pub(super) mod announce;
pub(super) mod direct_connect;
pub(super) mod edonkey;
pub(super) mod soulseek;
pub(super) mod tracker;

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context, Result};

use super::netns::Namespace;

/// Has `serve` answer each client of `address` inside `namespace`, on a thread of its own and with what all of them
/// share, until the namespace and this process end.
///
/// # Errors
/// The port is in use.
fn listen<S: Clone + Send + 'static>(
    namespace: &Namespace,
    address: SocketAddr,
    shared: &S,
    serve: fn(TcpStream, &S) -> Result<()>,
) -> Result<()> {
    let listener = namespace.inside(|| TcpListener::bind(address).with_context(|| format!("listen on {address}")))?;
    let shared = shared.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shared = shared.clone();
            // A client that hangs up ends its thread with an error: nothing is owed to it.
            thread::spawn(move || serve(stream, &shared).ok());
        }
    });
    Ok(())
}
