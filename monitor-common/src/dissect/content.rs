//! Content hashes in payloads, compared with the operator's watchlist (inspection depth `watchlist`).
//!
//! A hash that is not on the list is compared and cleared: it is never stored, counted or exported. In the inspection depths
//! `headers` and `framing` nothing here runs.
//!
//! Read are the first 20 bytes of: BitTorrent info hashes (v1, or the start of v2) in handshakes, also over uTP, in announces
//! and scrapes of HTTP and UDP trackers, and in the DHT's `get_peers` and `announce_peer`; Gnutella's SHA-1 and Direct
//! Connect's Tiger tree root, both in base 32; and eDonkey's MD4 of 16 bytes, in TCP, UDP and Kad (there as four
//! little-endian words).

use crate::{
    bpf::branchless::neg,
    parse::payload::{Payload, Transport},
    protocol::Protocol,
    watch::ContentHash,
};

/// Bytes of an HTTP request that are looked into.
const SCANNED: usize = 400;

/// The content that a payload of a flow of this protocol names, into `found`; zero when it names none.
#[inline(never)]
pub fn find(transport: Transport, protocol: u8, payload: &Payload, found: &mut ContentHash) {
    found.0 = [0; 3];
    let bittorrent = protocol == Protocol::BitTorrent as u8;
    let edonkey = protocol == Protocol::EDonkey as u8;
    match transport {
        Transport::Tcp if bittorrent => match payload.byte(0) {
            0x13 => raw(payload, 28, 20, found),
            b'B' => raw(payload, 27, 20, found),
            b'G' => http(payload, found),
            _ => {}
        },
        Transport::Tcp if edonkey => {
            if matches!(payload.byte(5), 0x19 | 0x42 | 0x46 | 0x47 | 0x4f | 0x50 | 0x51 | 0x54 | 0x58 | 0x59) {
                raw(payload, 6, 16, found);
            }
        }
        Transport::Tcp if protocol == Protocol::Gnutella as u8 && payload.has(0, b"GET /uri-res/N2R?urn:sha1:") => {
            base32(payload, 26, found);
        }
        Transport::Tcp if protocol == Protocol::DirectConnect as u8 => {
            if payload.has(0, b"$ADCGET file TTH/") {
                base32(payload, 17, found);
            } else if payload.has(0, b"CGET file TTH/") | payload.has(0, b"CSND file TTH/") {
                base32(payload, 14, found);
            }
        }
        Transport::Udp if bittorrent => udp(payload, found),
        Transport::Udp if edonkey => {
            if matches!(payload.le16(0), 0x9ae3 | 0x94e3 | 0x90c5) {
                raw(payload, 2, 16, found);
            }
        }
        Transport::Udp if protocol == Protocol::Kademlia as u8 => {
            if matches!(payload.le16(0), 0x34e4 | 0x44e4) {
                raw(payload, 2, 16, found);
                found.0[0] = found.0[0].swap_bytes().rotate_left(32);
                found.0[1] = found.0[1].swap_bytes().rotate_left(32);
            }
        }
        _ => {}
    }
}

/// `len` bytes at `offset`, 16 or 20, if the frame held them.
#[inline(never)]
fn raw(payload: &Payload, offset: usize, len: usize, found: &mut ContentHash) {
    if payload.captured as usize >= offset + len {
        let rest = if len == 20 { u64::from(payload.le32(offset + 16)) } else { 0 };
        found.0 = [payload.le64(offset), payload.le64(offset + 8), rest];
    }
}

/// DHT queries, UDP trackers, and the handshake over uTP.
#[inline(never)]
fn udp(payload: &Payload, found: &mut ContentHash) {
    let action = payload.be32(8);
    let announce = (action == 1) & (payload.len >= 98);
    let scrape = (action == 2) & payload.len.wrapping_sub(36).is_multiple_of(20);
    if payload.byte(0) == b'd' {
        if payload.has(32, b"9:info_hash20:") {
            raw(payload, 46, 20, found);
        } else if payload.has(32, b"12:implied_porti1e9:info_hash20:") {
            raw(payload, 64, 20, found);
        }
    } else if payload.has(20, b"\x13BitTorrent protocol") {
        raw(payload, 48, 20, found);
    } else if payload.has(30, b"\x13BitTorrent protocol") {
        raw(payload, 58, 20, found);
    } else if announce | scrape {
        raw(payload, 16, 20, found);
    }
}

/// What a character stands for: its value in base 16 in bits 0..4, and in base 32 in bits 8..13; [`INVALID`] where it is none
/// of base 32. A table, since each branch in a loop would double what the verifier walks.
static CHARACTERS: [u16; 256] = characters();

/// Set for characters that are no base 32.
const INVALID: u16 = 1 << 15;

const fn characters() -> [u16; 256] {
    let mut table = [INVALID; 256];
    let mut index = 0u8;
    while index < 32 {
        let upper = if index < 26 { b'A' + index } else { b'2' + index - 26 };
        table[upper as usize] = (index as u16) << 8;
        table[(upper | 0x20) as usize] = (index as u16) << 8;
        index += 1;
    }
    index = 0;
    while index < 16 {
        let upper = if index < 10 { b'0' + index } else { b'A' + index - 10 };
        table[upper as usize] |= index as u16;
        table[(upper | 0x20) as usize] |= index as u16;
        index += 1;
    }
    table
}

/// What the byte at `offset` stands for.
#[inline(always)]
fn character(payload: &Payload, offset: usize) -> u64 {
    u64::from(CHARACTERS[payload.byte(offset) as usize])
}

/// The first `info_hash=` of an HTTP request, percent-encoded (BEP 3).
#[inline(never)]
fn http(payload: &Payload, found: &mut ContentHash) {
    find_parameter(payload, found);
    // Through memory: the verifier forgets the place, and walks what follows once for all places.
    let start = found.0[0];
    found.0 = [0; 3];
    if start != 0 {
        decode(payload, start as usize, found);
    }
}

/// The place behind `info_hash=`, into the first word of `found`.
#[inline(never)]
fn find_parameter(payload: &Payload, found: &mut ContentHash) {
    let (mut recent, mut older) = (0u64, 0u64);
    let mut index = 4;
    while index < SCANNED {
        older = older << 8 | recent >> 56;
        recent = recent << 8 | u64::from(payload.counted(index));
        let name = (recent ^ u64::from_be_bytes(*b"fo_hash=")) | ((older ^ 0x696e) & 0xffff);
        index += 1;
        if name == 0 {
            found.0[0] = index as u64;
            return;
        }
    }
}

/// Twenty percent-encoded bytes at `start`.
#[inline(never)]
fn decode(payload: &Payload, start: usize, found: &mut ContentHash) {
    // The decoded bytes so far, in a shift register of three words.
    let (mut high, mut middle, mut low) = (0u64, 0u64, 0u64);
    let mut offset = start;
    let mut index = 0;
    while index < 20 {
        let byte = u64::from(payload.byte(offset));
        // All ones for a byte that is written as it is, zero for an escape.
        let difference = byte ^ u64::from(b'%');
        let plain = neg((difference | neg(difference)) >> 63);
        let (first, second) = (character(payload, offset + 1) & 15, character(payload, offset + 2) & 15);
        let value = (byte & plain) | ((first << 4 | second) & !plain);
        offset += 3 - (plain & 2) as usize;
        high = high << 8 | middle >> 56;
        middle = middle << 8 | low >> 56;
        low = low << 8 | value;
        index += 1;
    }
    if offset <= payload.captured as usize {
        set(found, high << 32 | middle >> 32, middle << 32 | low >> 32, low as u32);
    }
}

/// Sets a hash from its big-endian words.
#[inline(always)]
fn set(found: &mut ContentHash, first: u64, second: u64, rest: u32) {
    found.0 = [first.swap_bytes(), second.swap_bytes(), u64::from(rest.swap_bytes())];
}

/// 32 characters of base 32 at `offset` (RFC 4648 section 6): 20 bytes.
#[inline(never)]
fn base32(payload: &Payload, offset: usize, found: &mut ContentHash) {
    let (a, b) = (quantum(payload, offset), quantum(payload, offset + 8));
    let (c, d) = (quantum(payload, offset + 16), quantum(payload, offset + 24));
    if (a | b | c | d) >> 63 == 0 {
        set(found, a << 24 | b >> 16, b << 48 | c << 8 | d >> 32, d as u32);
    }
}

/// The 40 bits of eight characters; the top bit is set when one is no base 32.
#[inline(never)]
fn quantum(payload: &Payload, offset: usize) -> u64 {
    let (mut bits, mut seen) = (0u64, 0u64);
    let mut index = 0;
    while index < 8 {
        let character = character(payload, offset + index);
        bits = bits << 5 | (character >> 8 & 31);
        seen |= character;
        index += 1;
    }
    bits | (seen & u64::from(INVALID)) << 48
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: [u8; 20] = *b"\x01\x23\x45\x67\x89\xab\xcd\xef\x00\xff abcdefghi";

    fn named(transport: Transport, protocol: Protocol, bytes: &[u8]) -> ContentHash {
        let mut found = ContentHash([1; 3]);
        find(transport, protocol as u8, &Payload::from_bytes(bytes, 50_000, 51_000, true), &mut found);
        found
    }

    #[test]
    fn bittorrent_names_the_info_hash() {
        let expected = ContentHash::from_bytes(&HASH);
        let handshake = [b"\x13BitTorrent protocol".as_slice(), &[0; 8], &HASH, &[b'p'; 20]].concat();
        assert_eq!(named(Transport::Tcp, Protocol::BitTorrent, &handshake), expected);
        assert_eq!(named(Transport::Tcp, Protocol::BitTorrent, &handshake[1..]), expected, "behind a lone length byte");
        assert!(!named(Transport::Tcp, Protocol::BitTorrent, &handshake[..47]).is_some(), "cut");
        for header in [20, 30] {
            let data = [&vec![1; header][..], &handshake].concat();
            assert_eq!(named(Transport::Udp, Protocol::BitTorrent, &data), expected);
        }
        let mut announce = vec![9; 100];
        announce[8..12].copy_from_slice(&[0, 0, 0, 1]);
        announce[16..36].copy_from_slice(&HASH);
        assert_eq!(named(Transport::Udp, Protocol::BitTorrent, &announce), expected);
        for query in ["9:info_hash20:", "12:implied_porti1e9:info_hash20:"] {
            let message = [b"d1:ad2:id20:abcdefghij0123456789".as_slice(), query.as_bytes(), &HASH, b"e1:q"].concat();
            assert_eq!(named(Transport::Udp, Protocol::BitTorrent, &message), expected);
        }
        assert!(!named(Transport::Udp, Protocol::BitTorrent, b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping").is_some());
    }

    #[test]
    fn http_announces_are_decoded() {
        let escaped: String = HASH.iter().map(|byte| format!("%{byte:02X}")).collect();
        let mixed: String = HASH
            .iter()
            .map(|byte| if byte.is_ascii_lowercase() { char::from(*byte).to_string() } else { format!("%{byte:02x}") })
            .collect();
        for hash in [escaped, mixed] {
            let request = format!("GET /announce?peer_id=x&info_hash={hash}&port=6881 HTTP/1.1\r\n");
            assert_eq!(named(Transport::Tcp, Protocol::BitTorrent, request.as_bytes()), ContentHash::from_bytes(&HASH));
        }
        assert!(!named(Transport::Tcp, Protocol::BitTorrent, b"GET /announce?port=1 HTTP/1.1\r\n").is_some());
    }

    #[test]
    fn base32_is_decoded() {
        // RFC 4648 section 10 has short vectors only; this is coreutils' `base32` of the 20 bytes 0 to 19.
        let text = "AAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQT";
        let expected = ContentHash::from_bytes(&(0..20).collect::<Vec<u8>>());
        for head in ["$ADCGET file TTH/", "CGET file TTH/", "CSND file TTH/"] {
            assert_eq!(
                named(Transport::Tcp, Protocol::DirectConnect, format!("{head}{text}ABCDEFG 0").as_bytes()),
                expected
            );
        }
        let request = format!("GET /uri-res/N2R?urn:sha1:{text} HTTP/1.1");
        assert_eq!(named(Transport::Tcp, Protocol::Gnutella, request.as_bytes()), expected);
        let request = format!("GET /uri-res/N2R?urn:sha1:{} HTTP/1.1", text.replace('A', "1"));
        assert!(!named(Transport::Tcp, Protocol::Gnutella, request.as_bytes()).is_some());
    }

    #[test]
    fn edonkey_names_16_bytes() {
        let expected = ContentHash::from_bytes(&HASH[..16]);
        let request = [&[0xe3, 17, 0, 0, 0, 0x58], &HASH[..16], &[0; 8]].concat();
        assert_eq!(named(Transport::Tcp, Protocol::EDonkey, &request), expected);
        assert_eq!(named(Transport::Udp, Protocol::EDonkey, &[&[0xe3, 0x9a], &HASH[..16]].concat()), expected);
        let swapped: Vec<u8> = HASH[..16].chunks(4).flat_map(|word| word.iter().rev().copied()).collect();
        assert_eq!(
            named(Transport::Udp, Protocol::Kademlia, &[&[0xe4, 0x34], &swapped[..], &[0; 10]].concat()),
            expected
        );
    }
}
