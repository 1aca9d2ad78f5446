//! Peer lists of trackers: HTTP (BEP 23: `5:peers`, BEP 7: `6:peers6`) and UDP (BEP 15: offset 20).

use super::super::peer_list::{PeerListReader, layout};
use crate::{abi::limits::WINDOW, parse::payload::Payload};

/// Bytes of a tracker's entry.
#[inline(always)]
const fn entry_len(layout: u32) -> u32 {
    if layout == layout::V6 { 18 } else { 6 }
}

/// The answer to an announce: action, transaction, interval and two counts go before the list.
#[inline(always)]
pub(in crate::dissect) fn udp_tracker(payload: &Payload, reader: &mut PeerListReader) {
    let (size, held) = (entry_len(reader.layout), payload.len.wrapping_sub(20));
    if (payload.be32(0) == 1) & (held < 0x1_0000) && held.is_multiple_of(size) {
        reader.at = 20;
        reader.left = held / size;
    } else {
        reader.layout = layout::NONE;
    }
}

/// The answer of an HTTP tracker.
#[inline(always)]
pub(in crate::dissect) fn http(payload: &Payload, reader: &mut PeerListReader) {
    find_list(payload, reader);
    // Through memory, as in the search for a listen port.
    let start = reader.at as usize;
    if start == 0 {
        reader.layout = layout::NONE;
    } else {
        string(payload, start, reader);
        reader.left /= entry_len(reader.layout);
    }
}

/// Keys of the lists of HTTP trackers by form, and their bits: tables, so that the verifier walks the search for them
/// once.
static KEYS: [u64; 4] = [0, u64::from_be_bytes(*b"\x005:peers"), u64::from_be_bytes(*b"6:peers6"), 0];
static KEY_MASKS: [u64; 4] = [0, u64::MAX >> 8, u64::MAX, 0];

/// The place after the list's key, into `reader.at`; 0 when it is not seen.
#[inline(never)]
fn find_list(payload: &Payload, reader: &mut PeerListReader) {
    let layout = reader.layout as usize & 3;
    let (wanted, mask) = (KEYS[layout], KEY_MASKS[layout]);
    let (mut recent, mut index) = (0u64, 0);
    reader.at = 0;
    while index < WINDOW - 16 {
        recent = recent << 8 | u64::from(payload.counted(index));
        index += 1;
        if (recent ^ wanted) & mask == 0 {
            reader.at = index as u32;
            return;
        }
    }
}

/// Length and place of the bencoded string at `start` (BEP 3), into `reader.left` and `reader.at`; of length 0 if there
/// is none.
#[inline(never)]
fn string(payload: &Payload, start: usize, reader: &mut PeerListReader) {
    let (mut number, mut end) = (0, 0);
    let mut index = 0;
    while index < 5 {
        let byte = payload.byte(start + index);
        let digit = u32::from(byte.wrapping_sub(b'0'));
        index += 1;
        if digit < 10 && end == 0 {
            number = number * 10 + digit;
        } else if byte == b':' && end == 0 {
            end = index as u32;
        } else if end == 0 {
            break;
        }
    }
    reader.left = if end == 0 { 0 } else { number & 0xffff };
    reader.at += end;
}

#[cfg(test)]
mod tests {
    use crate::{
        abi::{key::Address, protocol::Protocol},
        dissect::peer_list::testing::{context, read, v4},
    };

    #[test]
    fn trackers_list_peers() {
        let http = |ipv6, bytes: &[u8]| read(&context(true, Protocol::BitTorrent, ipv6), bytes).0;
        let body = b"d8:intervali1800e5:peers12:\xc0\0\x02\x07\x1a\xe1\xc0\0\x02\x08\x1a\xe26:peers618:\
              \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x1a\xe3e";
        let whole = [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), body].concat();
        for answer in [whole.as_slice(), body] {
            assert_eq!(http(false, answer), [(v4(192, 0, 2, 7), 6881), (v4(192, 0, 2, 8), 6882)]);
            assert_eq!(http(true, answer), [(Address { high: 0x2001_0db8_0000_0000, low: 1 }, 6883)]);
        }
        for other in [
            b"d8:intervali1800e5:peersld2:ip9:192.0.2.74:porti6881eeee".as_slice(),
            b"d8:intervali1800e5:peers0:e",
            b"d8:intervali1800e5:peers",
            b"d8:intervali1800e5:peers999999:\xc0\0\x02\x07\x1a\xe1",
            b"d14:failure reason11:not allowede",
        ] {
            assert_eq!(http(false, other), [], "{}", String::from_utf8_lossy(other));
        }
        let mut requested = context(true, Protocol::BitTorrent, false);
        requested.requested = false;
        assert_eq!(read(&requested, body).0, [], "nobody asked");
        let udp = |ipv6, bytes: &[u8]| read(&context(false, Protocol::BitTorrent, ipv6), bytes).0;
        let head = [0, 0, 0, 1, 5, 6, 7, 8, 0, 0, 7, 8, 0, 0, 0, 1, 0, 0, 0, 1];
        let answer = [&head[..], &[192, 0, 2, 7, 0x1a, 0xe1]].concat();
        assert_eq!(udp(false, &answer), [(v4(192, 0, 2, 7), 6881)]);
        assert_eq!(udp(true, &answer), [], "half an address");
        assert_eq!(udp(false, &[&[0, 0, 0, 2], &answer[4..]].concat()), [], "a scrape's answer");
    }
}
