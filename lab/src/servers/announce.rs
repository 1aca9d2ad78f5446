//! A stand-in BitTorrent tracker (BEP 3, BEP 7, BEP 23), where Debian's opentracker will not do: it was built without
//! IPv6, and serves only hashes that it was given.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{super::netns::Namespace, listen, tracker::TRACKER_PORT};

/// Seconds until a client asks again.
const INTERVAL_SECONDS: u32 = 60;

/// A client that announced itself, and whether it has the whole file.
type Peers = BTreeMap<SocketAddr, bool>;
/// Peers by info hash.
type Swarms = Arc<Mutex<BTreeMap<Vec<u8>, Peers>>>;

/// The stand-in tracker.
#[derive(Debug)]
pub struct AnnounceServer {
    swarms: Swarms,
}

impl AnnounceServer {
    /// Listens on port [`TRACKER_PORT`] of `address` inside `namespace`, until that and this process end.
    ///
    /// # Errors
    /// The port is in use.
    pub fn start(namespace: &Namespace, address: IpAddr) -> Result<Self> {
        let address = SocketAddr::new(address, TRACKER_PORT);
        let swarms = Swarms::default();
        listen(namespace, address, &swarms, serve)?;
        Ok(Self { swarms })
    }

    /// Swarms in which somebody has the whole file.
    #[must_use]
    pub fn seeded(&self) -> usize {
        let swarms = self.swarms.lock().unwrap_or_else(PoisonError::into_inner);
        swarms.values().filter(|peers| peers.values().any(|complete| *complete)).count()
    }
}

fn serve(mut stream: TcpStream, swarms: &Swarms) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let address = stream.peer_addr()?.ip();
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().context("a request line")??;
    // The header is read to its end: closing a socket with unread bytes resets the connection.
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let body = answer(&request, address, swarms).unwrap_or_else(|_| b"d14:failure reason11:not allowede".to_vec());
    write!(
        stream,
        "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    Ok(stream.write_all(&body)?)
}

/// Notes who asks and gives the others, by the line `GET /announce?info_hash=..&port=..&left=.. HTTP/1.1`.
fn answer(request: &str, address: IpAddr, swarms: &Swarms) -> Result<Vec<u8>> {
    let target = request.split(' ').nth(1).context("a target")?;
    let (path, query) = target.split_once('?').context("a query")?;
    ensure!(path == "/announce", "not an announce");
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let own = SocketAddr::new(address, value("port").context("a port")?.parse()?);
    let mut swarms = swarms.lock().unwrap_or_else(PoisonError::into_inner);
    let peers = swarms.entry(decode(value("info_hash").context("a hash")?)?).or_default();
    if value("event") == Some("stopped") {
        peers.remove(&own);
    } else {
        peers.insert(own, value("left") == Some("0"));
    }
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for peer in peers.keys().filter(|peer| **peer != own) {
        match peer.ip() {
            IpAddr::V4(ip) => v4.extend([&ip.octets()[..], &peer.port().to_be_bytes()].concat()),
            IpAddr::V6(ip) => v6.extend([&ip.octets()[..], &peer.port().to_be_bytes()].concat()),
        }
    }
    let mut body = format!("d8:intervali{INTERVAL_SECONDS}e5:peers{}:", v4.len()).into_bytes();
    body.extend(&v4);
    body.extend(format!("6:peers6{}:", v6.len()).into_bytes());
    body.extend(&v6);
    body.push(b'e');
    Ok(body)
}

/// Percent-decoding (RFC 3986 section 2.1).
fn decode(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let (digits, tail) = rest.split_at_checked(2).context("two digits")?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits)?, 16)?);
            rest = tail;
        } else {
            bytes.push(*first);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_find_each_other() {
        let swarms = Swarms::default();
        let ask = |address: &str, query: &str| {
            let line = format!("GET /announce?info_hash=%aB1&{query} HTTP/1.1");
            answer(&line, address.parse().expect("an address"), &swarms).expect("an answer")
        };
        assert_eq!(ask("2001:db8::2", "port=6881&left=0"), b"d8:intervali60e5:peers0:6:peers60:e");
        let second = ask("100.64.1.2", "port=6882&left=5");
        assert!(second.starts_with(b"d8:intervali60e5:peers0:6:peers618:\x20\x01\x0d\xb8"));
        assert!(second.ends_with(b"\x1a\xe1e"));
        let third = ask("2001:db8::2", "port=6881&left=0");
        assert_eq!(third, b"d8:intervali60e5:peers6:\x64\x40\x01\x02\x1a\xe26:peers60:e");
        ask("2001:db8::2", "port=6881&event=stopped&left=0");
        assert_eq!(ask("100.64.1.2", "port=6882&left=5"), b"d8:intervali60e5:peers0:6:peers60:e");
        assert!(answer("GET /scrape?info_hash=a", IpAddr::from([1, 2, 3, 4]), &swarms).is_err());
    }
}
