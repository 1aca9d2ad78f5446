//! A minimal BitTorrent peer, for tests that need certain BitTorrent traffic at once.
//!
//! Real clients are in [`super::Transmission`] and its neighbours; this one only shakes hands (BEP 3) and sends bytes.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};

use super::{INTERNET_V4, netns::Namespace};

/// Bytes sent with one call.
const CHUNK: usize = 1 << 14;

/// Ports used so far: a port is never used twice, so that no old connection is in the way.
static PORT: AtomicU16 = AtomicU16::new(20_000);

/// The handshake of BEP 3: length, name, reserved bytes, info hash, peer id.
fn handshake() -> Vec<u8> {
    [&b"\x13BitTorrent protocol"[..], &[0; 8], &[0xa5; 20], b"-PT0001-abcdefghijkl"].concat()
}

/// `subscriber` connects to a peer on `internet`, both shake hands, and the subscriber receives `bytes` bytes.
///
/// # Errors
/// The connection fails.
pub fn bittorrent_exchange(subscriber: &Namespace, internet: &Namespace, bytes: usize) -> Result<()> {
    let address = SocketAddr::from((INTERNET_V4, PORT.fetch_add(1, Ordering::Relaxed)));
    exchange(subscriber, internet, address, &handshake(), bytes)
}

/// As [`bittorrent_exchange`], with an opening that no protocol has.
///
/// # Errors
/// The connection fails.
pub fn plain_exchange(subscriber: &Namespace, internet: &Namespace, bytes: usize) -> Result<()> {
    let address = SocketAddr::from((INTERNET_V4, PORT.fetch_add(1, Ordering::Relaxed)));
    exchange(subscriber, internet, address, b"an opening that no protocol has, of 61 bytes in all, of text.", bytes)
}

fn exchange(
    subscriber: &Namespace,
    internet: &Namespace,
    address: SocketAddr,
    opening: &[u8],
    bytes: usize,
) -> Result<()> {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    let listener = internet.inside(|| TcpListener::bind(any).with_context(|| format!("listen on {any}")))?;
    let greeting = opening.to_vec();
    let server = thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        greet(&mut stream, &greeting)?;
        let chunk = vec![0xc3; CHUNK];
        let mut left = bytes;
        while left > 0 {
            let now = left.min(CHUNK);
            stream.write_all(&chunk[..now])?;
            left -= now;
        }
        Ok(())
    });
    let received = subscriber.inside(|| {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(20))
            .with_context(|| format!("connect to {address}"))?;
        // The subscriber speaks first, as the side that connects does.
        stream.write_all(opening)?;
        greet_back(&mut stream, opening.len())?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest)?;
        Ok(rest.len())
    })?;
    server.join().map_err(|_| anyhow!("the peer panicked"))??;
    anyhow::ensure!(received == bytes, "{received} of {bytes} bytes arrived");
    Ok(())
}

fn greet(stream: &mut TcpStream, greeting: &[u8]) -> Result<()> {
    greet_back(stream, greeting.len())?;
    Ok(stream.write_all(greeting)?)
}

fn greet_back(stream: &mut TcpStream, length: usize) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream.read_exact(&mut vec![0; length])?)
}
