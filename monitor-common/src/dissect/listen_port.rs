//! Listen ports: the port on which a peer says that it accepts connections.
//!
//! Called for payloads of flows with a certain verdict only; the port belongs to the sender of the payload. Each
//! protocol's folder knows where its messages name the port.

use super::{bittorrent, edonkey, kademlia};
use crate::{
    abi::{limits::FIRST_PEER_PORT, protocol::Protocol},
    bpf::branchless::neg,
    parse::payload::{Payload, Transport},
};

/// In place of a port: the request may come from any web page in a browser, so nothing is learned from it.
pub const UNTRUSTED: u32 = u32::MAX;

/// Digits of the longest port.
const DIGITS: usize = 5;

/// Reads the port on which the payload's sender listens into `port`; 0 if the payload names none.
#[inline(never)]
pub fn find_port(transport: Transport, protocol: u8, payload: &Payload, port: &mut u32) {
    let bittorrent = protocol == Protocol::BitTorrent as u8;
    *port = 0;
    match transport {
        Transport::Tcp if bittorrent => bittorrent::listen_port::http(payload, port),
        Transport::Tcp if protocol == Protocol::EDonkey as u8 => *port = edonkey::listen_port(payload),
        Transport::Udp if bittorrent && payload.byte(0) == b'd' => *port = bittorrent::listen_port::dht(payload),
        Transport::Udp if bittorrent => *port = bittorrent::listen_port::udp_tracker(payload),
        Transport::Udp if protocol == Protocol::Kademlia as u8 => *port = kademlia::listen_port(payload),
        _ => {}
    }
}

/// The number of up to five digits at `start`, as a port.
#[inline(never)]
pub(super) fn digits(payload: &Payload, start: usize) -> u32 {
    // All ones while every character was a digit: no branch, or the verifier would walk each length apart.
    let (mut number, mut open) = (0u64, u64::MAX);
    let mut index = 0;
    while index <= DIGITS {
        let digit = u64::from(payload.byte(start + index).wrapping_sub(b'0'));
        open &= neg(digit.wrapping_sub(10) >> 63);
        number = (number * (1 + (open & 9)) + (digit & open)) & 0xf_ffff;
        index += 1;
    }
    valid(number as u32)
}

/// The port if it is one that peers choose, else 0.
#[inline(always)]
pub(super) const fn valid(port: u32) -> u32 {
    const FIRST: u32 = FIRST_PEER_PORT as u32;
    if port.wrapping_sub(FIRST) < 0x1_0000 - FIRST { port } else { 0 }
}

/// The port that a payload of a flow names, for tests.
#[cfg(test)]
pub(super) fn named(transport: Transport, protocol: Protocol, bytes: &[u8]) -> u32 {
    let mut port = 1;
    find_port(transport, protocol as u8, &Payload::from_bytes(bytes, 50_000, 51_000, true), &mut port);
    port
}
