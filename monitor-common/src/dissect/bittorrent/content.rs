//! Info hashes (v1, or the start of v2): in handshakes, also over uTP, in announces and scrapes of HTTP and UDP
//! trackers, and in the DHT's `get_peers` and `announce_peer`.

use super::super::content::{character, raw, set};
use crate::{abi::watch::ContentHash, bpf::branchless::neg, parse::payload::Payload};

/// End of the name of a parameter that holds a hash (`info_hash=`): no more bytes of a stream are held after it.
pub(in crate::dissect) const HASH_PARAMETER: &[u8; 4] = b"ash=";
/// End of the name of a JSON member that holds a hash.
pub(in crate::dissect) const HASH_MEMBER: &[u8; 4] = b"ash\"";
/// Parameter of a BitComet web seed request that holds a hash.
pub(in crate::dissect) const BITCOMET_PARAMETER: &[u8; 4] = b"fid=";
/// Bytes of an HTTP request that are searched.
const SCANNED: usize = 400;

/// The info hash of a handshake or of a tracker request.
#[inline(always)]
pub(in crate::dissect) fn tcp(payload: &Payload, found: &mut ContentHash) {
    match payload.byte(0) {
        0x13 => raw(payload, 28, 20, found),
        b'B' => raw(payload, 27, 20, found),
        b'G' => http(payload, found),
        _ => {}
    }
}

/// DHT queries, UDP trackers, and the handshake over uTP.
#[inline(never)]
pub(in crate::dissect) fn udp(payload: &Payload, found: &mut ContentHash) {
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

/// The first `info_hash=` of an HTTP request, percent-encoded (BEP 3).
#[inline(never)]
fn http(payload: &Payload, found: &mut ContentHash) {
    find_parameter(payload, found);
    // Through memory: the verifier forgets the place, and walks the rest once for all places.
    let start = found.0[0];
    found.0 = [0; 3];
    if start != 0 {
        decode(payload, start as usize, found);
    }
}

/// The place after `info_hash=`, into the first word of `found`.
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

#[cfg(test)]
mod tests {
    use crate::{
        abi::{protocol::Protocol, watch::ContentHash},
        dissect::content::{HASH, named},
        parse::payload::Transport,
    };

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
}
