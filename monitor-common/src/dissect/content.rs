//! Content hashes in payloads, compared with the operator's watchlist (inspection depth `watchlist`).
//!
//! A hash that is not on the list is compared and cleared: it is never stored, counted or exported. In the inspection
//! depths `headers` and `framing` nothing here runs.
//!
//! The first 20 bytes of a hash are read. Each protocol's folder knows where its messages name one.

use super::{acestream, bittorrent, directconnect, edonkey, gnutella, kademlia};
use crate::{
    abi::{protocol::Protocol, watch::ContentHash},
    parse::payload::{Payload, Transport},
};

/// Reads the content hash that a payload of a flow of this protocol names into `found`; zero if it names none.
#[inline(never)]
pub fn find(transport: Transport, protocol: u8, payload: &Payload, found: &mut ContentHash) {
    found.clear();
    let bittorrent = protocol == Protocol::BitTorrent as u8;
    let edonkey = protocol == Protocol::EDonkey as u8;
    match transport {
        Transport::Tcp if bittorrent => bittorrent::content::tcp(payload, found),
        Transport::Tcp if protocol == Protocol::AceStream as u8 => acestream::content(payload, found),
        Transport::Tcp if edonkey => edonkey::content::tcp(payload, found),
        Transport::Tcp if protocol == Protocol::Gnutella as u8 => gnutella::content(payload, found),
        Transport::Tcp if protocol == Protocol::DirectConnect as u8 => directconnect::content(payload, found),
        Transport::Udp if bittorrent => bittorrent::content::udp(payload, found),
        Transport::Udp if edonkey => edonkey::content::udp(payload, found),
        Transport::Udp if protocol == Protocol::Kademlia as u8 => kademlia::content(payload, found),
        _ => {}
    }
}

/// `len` bytes at `offset`, 16 or 20, if the frame held them.
#[inline(never)]
pub(super) fn raw(payload: &Payload, offset: usize, len: usize, found: &mut ContentHash) {
    if payload.captured as usize >= offset + len {
        let rest = if len == 20 { u64::from(payload.le32(offset + 16)) } else { 0 };
        found.0 = [payload.le64(offset), payload.le64(offset + 8), rest];
    }
}

/// Value of a character: its value in base 16 in bits 0..4, and in base 32 in bits 8..13; [`INVALID`] where it is none
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

/// Value of the character at `offset`.
#[inline(always)]
pub(super) fn character(payload: &Payload, offset: usize) -> u64 {
    u64::from(CHARACTERS[payload.byte(offset) as usize])
}

/// Sets a hash from its big-endian words.
#[inline(always)]
pub(super) fn set(found: &mut ContentHash, first: u64, second: u64, rest: u32) {
    found.0 = [first.swap_bytes(), second.swap_bytes(), u64::from(rest.swap_bytes())];
}

/// 32 characters of base 32 at `offset` (RFC 4648 section 6): 20 bytes.
#[inline(never)]
pub(super) fn base32(payload: &Payload, offset: usize, found: &mut ContentHash) {
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

/// The content hash that a payload of a flow names, for tests.
#[cfg(test)]
pub(super) fn named(transport: Transport, protocol: Protocol, bytes: &[u8]) -> ContentHash {
    let mut found = ContentHash([1; 3]);
    find(transport, protocol as u8, &Payload::from_bytes(bytes, 50_000, 51_000, true), &mut found);
    found
}

/// A hash of 20 bytes, for tests.
#[cfg(test)]
pub(super) const HASH: [u8; 20] = *b"\x01\x23\x45\x67\x89\xab\xcd\xef\x00\xff abcdefghi";
