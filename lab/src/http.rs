//! The part of HTTP/1.1 that the lab needs: one request per connection, to scrape the agent and to receive webhooks.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use super::netns::Namespace;

const TIMEOUT: Duration = Duration::from_secs(10);

/// A request that a server received.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method and target, such as `POST /hook`.
    pub target: String,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: String,
}

/// Fetches `http://address/path` from inside `namespace`: status and body.
///
/// # Errors
/// No connection, or no HTTP.
pub fn http_get(namespace: &Namespace, address: SocketAddr, path: &str) -> Result<(u16, String)> {
    namespace.inside(|| {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT).with_context(|| format!("connect to {address}"))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        ask(stream, path).with_context(|| format!("ask {address}"))
    })
}

/// Asks for `path` over an open connection: status and body.
pub(super) fn ask(mut stream: impl Read + Write, path: &str) -> Result<(u16, String)> {
    // HTTP/1.0: the body ends with the connection, never in chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: laboratory\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("an HTTP status")?;
    Ok((status, body.to_owned()))
}

/// A server that stores its requests. It runs until its namespace and process end.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl HttpServer {
    /// Listens inside `namespace`; request `n` (from 0) is answered with status `answer(n)`, or never if that is
    /// `None`.
    ///
    /// # Errors
    /// The address is in use.
    pub fn start(
        namespace: &Namespace,
        address: SocketAddr,
        answer: impl Fn(usize) -> Option<u16> + Send + 'static,
    ) -> Result<Self> {
        let listener =
            namespace.inside(|| TcpListener::bind(address).with_context(|| format!("listen on {address}")))?;
        let address = listener.local_addr()?;
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        thread::spawn(move || {
            // Connections that are never answered stay open here.
            let mut open = Vec::new();
            for stream in listener.incoming().flatten() {
                let Ok((mut stream, request)) = receive(stream) else { continue };
                let mut requests = kept.lock().unwrap_or_else(PoisonError::into_inner);
                requests.push(request);
                match answer(requests.len() - 1) {
                    // A client that hangs up early has all it wanted.
                    Some(status) => {
                        write!(stream, "HTTP/1.1 {status} -\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok();
                    }
                    None => open.push(stream),
                }
            }
        });
        Ok(Self { address, requests })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes received so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn receive(stream: TcpStream) -> Result<(TcpStream, Request)> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let target = line.rsplit_once(' ').map_or("", |(target, _version)| target).to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok((reader.into_inner(), Request { target, headers, body }))
}
