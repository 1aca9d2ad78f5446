//! Listen ports: the port on which a peer says that it accepts connections.
//!
//! Called for payloads of flows with a certain verdict only; the port belongs to the sender of the payload. Each
//! protocol's folder knows where its messages name the port.

use super::{bittorrent, edonkey, http, kademlia, websocket};
use crate::{
    abi::{limits::FIRST_PEER_PORT, protocol::Protocol},
    bpf::branchless::neg,
    parse::payload::{Payload, Transport},
};

/// In place of a port: any web page can make a browser send this payload, so nothing is learned from it.
pub const UNTRUSTED: u32 = u32::MAX;

/// Digits of the longest port.
const DIGITS: usize = 5;

/// Reads the port on which the payload's sender listens into `port`; 0 if the payload names none.
#[inline(never)]
pub fn find_port(transport: Transport, protocol: u8, payload: &Payload, port: &mut u32) {
    let bittorrent = protocol == Protocol::BitTorrent as u8;
    *port = 0;
    if transport == Transport::Tcp && is_of_browser(protocol, payload) {
        *port = UNTRUSTED;
        return;
    }
    match transport {
        Transport::Tcp if bittorrent => bittorrent::listen_port::http(payload, port),
        Transport::Tcp if protocol == Protocol::EDonkey as u8 => *port = edonkey::listen_port(payload),
        Transport::Udp if bittorrent && payload.byte(0) == b'd' => *port = bittorrent::listen_port::dht(payload),
        Transport::Udp if bittorrent => *port = bittorrent::listen_port::udp_tracker(payload),
        Transport::Udp if protocol == Protocol::Kademlia as u8 => *port = kademlia::listen_port(payload),
        _ => {}
    }
}

/// Whether a payload over TCP with a certain message may be a browser's: a request that is of no program, or a frame of
/// a WebSocket, which any page can open.
#[inline(always)]
fn is_of_browser(protocol: u8, payload: &Payload) -> bool {
    let frame = protocol == Protocol::WebTorrent as u8
        || protocol == Protocol::LibP2p as u8 && payload.byte(0) == websocket::BINARY;
    frame || http::is_request(payload) != 0 && !http::is_of_program(payload)
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

#[cfg(test)]
mod tests {
    use super::{UNTRUSTED, named};
    use crate::{abi::protocol::Protocol, parse::payload::Transport};

    #[test]
    fn what_a_page_can_send_is_untrusted_whatever_the_protocol() {
        let port = |protocol, bytes: &[u8]| named(Transport::Tcp, protocol, bytes);
        for (protocol, line) in [
            (Protocol::FastTrack, "GET /.hash=ea97adc32b795a9ab45937c5e151dfda397a5d0f HTTP/1.1"),
            (Protocol::Gnutella, "GET /uri-res/N2R?urn:sha1:PLSTHIPQGSSZTS5FJUPAKUZWUGYQYPFB HTTP/1.1"),
            (Protocol::DirectConnect, "$MyNick /a| HTTP/1.1"),
            (Protocol::BitTorrent, "GET /webseed?info_hash=a HTTP/1.1"),
        ] {
            let ask =
                |agent: &str| port(protocol, format!("{line}\r\nHost: a\r\nUser-Agent: {agent}\r\n\r\n").as_bytes());
            assert_eq!(ask("Mozilla/5.0"), UNTRUSTED, "{line}");
            assert_eq!(ask("LimeWire/5.5"), 0, "{line}");
        }
        assert_eq!(port(Protocol::WebTorrent, b"\x81\x05{\"a\""), UNTRUSTED);
        assert_eq!(port(Protocol::LibP2p, b"\x82\x14\x13/multistream/1.0.0\n"), UNTRUSTED);
        assert_eq!(port(Protocol::LibP2p, b"\x13/multistream/1.0.0\n"), 0);
        assert_eq!(port(Protocol::DirectConnect, b"$MyNick me|$Lock a Pk=b|"), 0);
    }
}
