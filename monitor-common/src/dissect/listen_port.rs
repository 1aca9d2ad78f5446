//! Listen ports: the port on which a peer says that it accepts connections.
//!
//! Called for payloads of flows with a certain verdict only; the port belongs to the sender of the payload.
//!
//! Read here: HTTP tracker announces (BEP 3: `port=`), UDP tracker announces (BEP 15: offset 96), DHT `announce_peer`
//! (BEP 5: `4:porti..e` behind the info hash), eDonkey hello, its answer and the server login (user hash, client id, port),
//! Kad hello (TCP port behind the contact's id).

use crate::{
    bpf::branchless::{EACH_BYTE, first_byte_index, neg, nonzero_top_bit, zero_bytes},
    limits::WINDOW,
    parse::payload::{Payload, Transport},
    protocol::Protocol,
};

/// In place of a port: the request may come from any web page in a browser, so nothing is learned from it.
pub const UNTRUSTED: u32 = u32::MAX;

/// Bytes of an HTTP request that are looked into for the port.
const SCANNED: usize = 400;
/// Digits of the longest port.
const DIGITS: usize = 5;

/// Reads the port on which the payload's sender listens into `port`; 0 if the payload names none.
#[inline(never)]
pub fn find_port(transport: Transport, protocol: u8, payload: &Payload, port: &mut u32) {
    let bittorrent = protocol == Protocol::BitTorrent as u8;
    *port = 0;
    match transport {
        Transport::Tcp if bittorrent => http(payload, port),
        Transport::Tcp if protocol == Protocol::EDonkey as u8 => *port = edonkey(payload),
        Transport::Udp if bittorrent && payload.byte(0) == b'd' => *port = dht(payload),
        Transport::Udp if bittorrent => *port = udp_tracker(payload),
        Transport::Udp if protocol == Protocol::Kademlia as u8 => *port = kad(payload),
        _ => {}
    }
}

/// `port=` with its digits, as a parameter of an HTTP request.
#[inline(never)]
fn http(payload: &Payload, port: &mut u32) {
    if payload.le32(0) == u32::from_le_bytes(*b"GET ") {
        // A page may make a visitor's browser ask for anything, but not in another program's name.
        find_agent(payload, port);
        let agent = *port as usize;
        *port = UNTRUSTED;
        if agent == 0 || payload.le64(agent) == u64::from_le_bytes(*b"Mozilla/") || is_of_browser(payload) {
            return;
        }
        *port = 0;
        find_parameter(payload, port);
        // Through memory: the verifier forgets the place, and walks what follows once for all places.
        let start = *port as usize;
        *port = if start == 0 { 0 } else { digits(payload, start) };
    }
}

/// The place of the value of `User-Agent:`, into `place`; 0 when it is not seen.
#[inline(never)]
fn find_agent(payload: &Payload, place: &mut u32) {
    let mut recent = 0u64;
    let mut index = 4;
    *place = 0;
    while index < WINDOW - 16 {
        recent = recent << 8 | u64::from(payload.counted(index));
        index += 1;
        // A line feed is in front of it, which no request target holds.
        if recent == u64::from_be_bytes(*b"\nUser-Ag") {
            *place = index as u32 + 5;
            return;
        }
    }
}

/// Whether the request has a header that browsers send by themselves and no P2P client does: where the page is, what its reader
/// speaks, how the request came about (RFC 6454, RFC 9110 sections 10.1.3 and 12.5.4, Fetch Metadata).
///
/// Without a branch: the verifier walks each word once.
#[inline(never)]
fn is_of_browser(payload: &Payload) -> bool {
    let (mut none, mut index) = (u64::MAX, 0);
    while index < WINDOW / 8 - 2 {
        // The first line feed of this word; a header line is never so short that a word has two. Without one, where the word begins.
        let feeds = zero_bytes(payload.counted_word(index) ^ (EACH_BYTE * u64::from(b'\n')));
        let name = payload.le64(index * 8 + first_byte_index(feeds) + 1);
        none &= nonzero_top_bit(name ^ u64::from_le_bytes(*b"Origin: "))
            & nonzero_top_bit(name ^ u64::from_le_bytes(*b"Referer:"))
            & nonzero_top_bit(name ^ u64::from_le_bytes(*b"Accept-L"))
            & nonzero_top_bit(name ^ u64::from_le_bytes(*b"Sec-Fetc"));
        index += 1;
    }
    none >> 63 == 0
}

/// The place behind `port=`, into `place`.
#[inline(never)]
fn find_parameter(payload: &Payload, place: &mut u32) {
    let mut recent = 0u64;
    let mut index = 4;
    while index < SCANNED {
        let byte = u64::from(payload.counted(index));
        recent = recent << 8 | byte;
        index += 1;
        if byte == u64::from(b' ') {
            return;
        }
        let named = (recent ^ u64::from_be_bytes(*b"\0\0\0port=")) & 0xff_ffff_ffff == 0;
        let before = (recent >> 40) as u8;
        if named && (before == b'&' || before == b'?') {
            *place = index as u32;
            return;
        }
    }
}

/// The number of up to five digits at `start`, as a port.
#[inline(never)]
fn digits(payload: &Payload, start: usize) -> u32 {
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
const fn valid(port: u32) -> u32 {
    if port.wrapping_sub(1024) < 0x1_0000 - 1024 { port } else { 0 }
}

#[inline(always)]
fn udp_tracker(payload: &Payload) -> u32 {
    let announce = (payload.be32(8) == 1) & (payload.len >= 98) & (payload.be32(80) <= 3);
    if announce { valid(u32::from(payload.be16(96))) } else { 0 }
}

/// `announce_peer` without `implied_port`, whose keys come in order: id, info_hash, port.
#[inline(always)]
fn dht(payload: &Payload) -> u32 {
    if !(payload.has(0, b"d1:ad2:id20:") & payload.has(32, b"9:info_hash20:") & payload.has(66, b"4:porti")) {
        return 0;
    }
    digits(payload, 73)
}

/// OP_HELLO of clients (its hash has a length byte), OP_HELLO of the login to a server, OP_HELLOANSWER.
#[inline(always)]
fn edonkey(payload: &Payload) -> u32 {
    let (header, opcode) = (payload.byte(0), payload.byte(5));
    if ((header != 0xe3) & (header != 0xc5)) | (payload.captured < 29) {
        return 0;
    }
    match opcode {
        0x01 if payload.byte(6) == 16 => valid(u32::from(payload.le16(27))),
        0x01 | 0x4c => valid(u32::from(payload.le16(26))),
        _ => 0,
    }
}

/// Kad 2 hello and its answer.
#[inline(always)]
fn kad(payload: &Payload) -> u32 {
    let hello = (payload.byte(0) == 0xe4) & (payload.byte(1) & 0xf7 == 0x11) & (payload.len >= 22);
    if hello { valid(u32::from(payload.le16(18))) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(transport: Transport, protocol: Protocol, bytes: &[u8]) -> u32 {
        let mut port = 1;
        find_port(transport, protocol as u8, &Payload::from_bytes(bytes, 50_000, 51_000, true), &mut port);
        port
    }

    #[test]
    fn http_announces_name_the_port() {
        let ask = |request: &str, agent: &str| {
            let request = format!("{request}\r\nHost: a\r\nUser-Agent: {agent}\r\n\r\n");
            named(Transport::Tcp, Protocol::BitTorrent, request.as_bytes())
        };
        let port = |request: &str| ask(request, "Transmission/3.00");
        let hash = "%12".repeat(20);
        let whole = format!("GET /announce?info_hash={hash}&peer_id=-TR3000-abcdefghijkl&port=51413&left=0 HTTP/1.1");
        assert_eq!(port(&whole), 51_413);
        assert_eq!(port("GET /announce?port=6881&info_hash=x HTTP/1.1"), 6881);
        assert_eq!(port("GET /announce?xport=6881&info_hash=x HTTP/1.1"), 0);
        assert_eq!(port("GET /announce?port=80&info_hash=x HTTP/1.1"), 0, "no port of a service");
        assert_eq!(port("GET /announce?port=99999999&info_hash=x HTTP/1.1"), 0);
        assert_eq!(port("GET /announce?info_hash=x HTTP/1.1\r\nX-Link: /?a&port=6881 "), 0, "behind the target");
        assert_eq!(port("POST /announce?port=6881&info_hash=x HTTP/1.1"), 0);
        assert_eq!(ask("GET /announce?port=6881&info_hash=x HTTP/1.1", "Mozilla/5.0 (X11)"), UNTRUSTED);
        assert_eq!(named(Transport::Tcp, Protocol::BitTorrent, b"GET /announce?port=6881 HTTP/1.1\r\n\r\n"), UNTRUSTED);
        for line in ["Origin: http://a", "Referer: http://a/", "Accept-Language: en", "Sec-Fetch-Mode: cors"] {
            assert_eq!(port(&format!("GET /announce?port=6881&info_hash=x HTTP/1.1\r\n{line}")), UNTRUSTED, "{line}");
            assert_eq!(
                ask("GET /announce?port=6881&info_hash=x HTTP/1.1", &format!("a\r\n{line}")),
                UNTRUSTED,
                "{line}"
            );
        }
        assert_eq!(port("GET /announce?port=6881&info_hash=x HTTP/1.1\r\nAccept-Encoding: gzip\r\nAccept: */*"), 6881);
    }

    #[test]
    fn udp_announces_name_the_port() {
        let mut announce = vec![0; 100];
        announce[11] = 1;
        announce[96..98].copy_from_slice(&6881u16.to_be_bytes());
        assert_eq!(named(Transport::Udp, Protocol::BitTorrent, &announce), 6881);
        assert_eq!(named(Transport::Udp, Protocol::BitTorrent, &announce[..97]), 0);
        announce[11] = 2;
        assert_eq!(named(Transport::Udp, Protocol::BitTorrent, &announce), 0);
    }

    #[test]
    fn announce_peer_names_the_port_unless_it_is_implied() {
        let id = "abcdefghij0123456789";
        let query = |before: &str, port: &str| {
            format!(
                "d1:ad2:id20:{id}{before}9:info_hash20:{id}4:porti{port}e5:token4:abcde1:q13:announce_peer1:t2:aa1:y1:qe"
            )
        };
        let port = |query: String| named(Transport::Udp, Protocol::BitTorrent, query.as_bytes());
        assert_eq!(port(query("", "6881")), 6881);
        assert_eq!(port(query("", "51413")), 51_413);
        assert_eq!(port(query("", "80")), 0);
        assert_eq!(port(query("12:implied_porti1e", "6881")), 0);
    }

    #[test]
    fn hellos_name_the_port() {
        let client = |opcode: u8, with_len: bool| {
            let mut bytes = vec![0xe3, 60, 0, 0, 0, opcode];
            if with_len {
                bytes.push(16);
            }
            bytes.extend([0xab; 16]);
            bytes.extend([1, 2, 3, 4]);
            bytes.extend(4662u16.to_le_bytes());
            bytes.extend([0; 30]);
            bytes
        };
        for bytes in [client(0x01, true), client(0x01, false), client(0x4c, false)] {
            assert_eq!(named(Transport::Tcp, Protocol::EDonkey, &bytes), 4662);
        }
        assert_eq!(named(Transport::Tcp, Protocol::EDonkey, &client(0x46, false)), 0);
        let mut hello = vec![0xe4, 0x11];
        hello.extend([0xab; 16]);
        hello.extend(4662u16.to_le_bytes());
        hello.extend([8, 0]);
        assert_eq!(named(Transport::Udp, Protocol::Kademlia, &hello), 4662);
    }
}
