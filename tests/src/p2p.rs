//! Conversations of P2P protocols, built from their specifications, which the data path must label.
//!
//! Captures of real clients are not in the repository. Tests and fuzzers use these conversations instead. They prove
//! that rules and specifications agree, not that real programs follow the specifications.

mod bittorrent;
mod captures;
mod others;

use std::net::SocketAddr;

use monitor_common::{abi::protocol::Protocol, parse::payload::Transport};

pub use captures::{captures, framings, pcap};

use crate::wire::{Connection, udp};

/// One conversation of two peers, or of a client and a server.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Description; also the name of files made from it.
    pub name: &'static str,
    /// The label that it must get.
    pub protocol: Protocol,
    /// TCP or UDP.
    pub transport: Transport,
    /// Opener's port, the other's port.
    pub ports: (u16, u16),
    /// Whether the opener sends it, and the payload.
    pub messages: Vec<(bool, Vec<u8>)>,
}

impl Exchange {
    fn new(name: &'static str, protocol: Protocol, transport: Transport, ports: (u16, u16)) -> Self {
        Self { name, protocol, transport, ports, messages: Vec::new() }
    }

    fn tcp(name: &'static str, protocol: Protocol, ports: (u16, u16)) -> Self {
        Self::new(name, protocol, Transport::Tcp, ports)
    }

    fn udp(name: &'static str, protocol: Protocol, ports: (u16, u16)) -> Self {
        Self::new(name, protocol, Transport::Udp, ports)
    }

    fn is_tcp(&self) -> bool {
        self.transport == Transport::Tcp
    }

    fn request(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.messages.push((true, payload.into()));
        self
    }

    fn answer(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.messages.push((false, payload.into()));
        self
    }

    /// This conversation with one message split into segments that end before each of these offsets.
    #[must_use]
    pub fn cut(&self, message: usize, places: &[usize]) -> Self {
        let (forth, whole) = &self.messages[message];
        let mut bounds = vec![0];
        bounds.extend(places);
        bounds.push(whole.len());
        let parts = bounds.windows(2).map(|bounds| (*forth, whole[bounds[0]..bounds[1]].to_vec()));
        let messages = [&self.messages[..message], &parts.collect::<Vec<_>>(), &self.messages[message + 1..]].concat();
        Self { messages, ..self.clone() }
    }

    /// Frames in order, the connection's opening first; `opener` and `other` are addresses of one IP version.
    ///
    /// # Panics
    /// When the addresses are of different versions.
    #[must_use]
    pub fn frames(&self, opener: std::net::IpAddr, other: std::net::IpAddr) -> Vec<Vec<u8>> {
        let (opener, other) = (SocketAddr::new(opener, self.ports.0), SocketAddr::new(other, self.ports.1));
        if self.is_tcp() {
            let (mut connection, opening) = Connection::open(opener, other);
            let segments = self.messages.iter().map(|(forth, payload)| connection.says(*forth, payload));
            return opening.into_iter().chain(segments).collect();
        }
        let ends = |forth: bool| if forth { (opener, other) } else { (other, opener) };
        let datagram = |(forth, payload): &(bool, Vec<u8>)| udp(ends(*forth).0, ends(*forth).1, payload);
        self.messages.iter().map(datagram).collect()
    }

    /// Payloads in the form that the fuzz target `classify` reads: direction and transport, length, bytes.
    #[must_use]
    pub fn payloads(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (forth, payload) in &self.messages {
            bytes.push(u8::from(*forth) | if self.is_tcp() { 0 } else { 2 });
            bytes.extend((payload.len() as u16).to_be_bytes());
            bytes.extend(payload);
        }
        bytes
    }
}

/// Every conversation.
#[must_use]
pub fn exchanges() -> Vec<Exchange> {
    [bittorrent::exchanges(), others::exchanges()].concat()
}

/// The bytes of a string of hexadecimal digits; blanks are skipped.
fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let value = |byte: u8| char::from(byte).to_digit(16).expect("a hexadecimal digit") as u8;
    digits.chunks(2).map(|pair| value(pair[0]) << 4 | value(pair[1])).collect()
}

/// A message after its little-endian length.
fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_le_bytes(), body].concat()
}
