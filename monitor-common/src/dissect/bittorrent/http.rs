//! HTTP trackers (BEP 3, BEP 7, BEP 23, BEP 48) and web seeds (BEP 17): GET requests with an info hash in the query.
//!
//! Matched:
//! - a request target with "announce" or "scrape" in its path, ended by one of `?./;`, and the parameter `info_hash` in
//!   its query;
//! - a request target with `info_hash` and `peer_id` in its query, whatever its path;
//! - the fixed "/webseed?info_hash=", and BitComet's "/data?fid=", 40 hexadecimal digits, "&size=".
//!
//! Guard: two whole words at their places within the request target. A page about announces, or a body or header that
//! mentions an info hash, has at most one of them.

use super::super::text;
use crate::{
    abi::rule::Rule,
    bpf::branchless::{EACH_BYTE, bytes_below, nonzero_top_bit, zero_bytes},
    parse::payload::Payload,
};

/// Inspected bytes of the request: clients put `info_hash` first or after a passkey.
const SCANNED: usize = 320;

/// The rule of a tracker or web seed request.
#[inline(always)]
pub(super) fn tracker(payload: &Payload) -> Option<Rule> {
    if payload.le32(0) != u32::from_le_bytes(*b"GET ") {
        return None;
    }
    if payload.has(4, b"/webseed?info_hash=") | (payload.has(4, b"/data?fid=") & payload.has(54, b"&size=")) {
        return Some(Rule::BtWebSeed);
    }
    // A target in absolute form (RFC 9112 section 3.2.2) is a request to a proxy.
    let request = payload.byte(4) == b'/' || payload.has(4, b"http://");
    let found =
        request && underlined(payload) && text::holds(payload, u64::from_le_bytes(*b"info_has")) && scan(payload);
    found.then_some(Rule::BtHttpTracker)
}

/// Whether the request target has an underline, as `info_hash` has: a look at some words that spares most requests the
/// search.
#[inline(never)]
fn underlined(payload: &Payload) -> bool {
    // "GET " in front of the target has the blank that would end it.
    let mut word = payload.word(0) | 0x7f7f_7f7f;
    let (mut seen, mut index) = (0, 1);
    while index < SCANNED / 8 {
        seen |= zero_bytes(word ^ (EACH_BYTE * u64::from(b'_')));
        if bytes_below(word, 0x21) != 0 {
            break;
        }
        word = payload.counted_word(index);
        index += 1;
    }
    seen | zero_bytes(word ^ (EACH_BYTE * u64::from(b'_'))) != 0
}

/// One pass over the request target, which few requests need, with the 16 bytes ahead in two words. Everything that was
/// seen is kept in top bits, so that the loop has no branch but its own.
#[inline(never)]
fn scan(payload: &Payload) -> bool {
    // The top bit of each is clear once its word was seen, the question mark was seen, or a blank ended the target.
    let (mut path, mut hash, mut query, mut target) = (u64::MAX, u64::MAX, u64::MAX, u64::MAX);
    let (mut recent, mut older) = (0u64, 0u64);
    let mut index = 5;
    while index < SCANNED {
        let byte = u64::from(payload.counted(index));
        target &= !byte.wrapping_sub(0x21);
        let question = nonzero_top_bit(byte ^ u64::from(b'?'));
        let end = question
            & nonzero_top_bit(byte ^ u64::from(b'.'))
            & nonzero_top_bit(byte ^ u64::from(b'/'))
            & nonzero_top_bit(byte ^ u64::from(b';'));
        let announce = nonzero_top_bit(recent ^ u64::from_be_bytes(*b"announce"));
        let scrape = nonzero_top_bit((recent ^ u64::from_be_bytes(*b"\0\0scrape")) & 0xffff_ffff_ffff);
        let parameter =
            nonzero_top_bit((older ^ u64::from(b'?')) & 0xff) & nonzero_top_bit((older ^ u64::from(b'&')) & 0xff);
        let peer = nonzero_top_bit(recent ^ u64::from_be_bytes(*b"peer_id=")) | parameter;
        path &= (((announce & scrape) | end | !query) & peer) | !target;
        query &= question;
        older = older << 8 | recent >> 56;
        recent = recent << 8 | byte;
        let first = (older ^ u64::from_be_bytes(*b"\0\0\0\0\0?in")) & 0xff_ffff;
        let later = (older ^ u64::from_be_bytes(*b"\0\0\0\0\0&in")) & 0xff_ffff;
        let rest = nonzero_top_bit(recent ^ u64::from_be_bytes(*b"fo_hash="));
        hash &= rest | (nonzero_top_bit(first) & nonzero_top_bit(later)) | query | !target;
        index += 1;
    }
    (path | hash) >> 63 == 0
}

#[cfg(test)]
mod tests {
    use crate::{
        abi::protocol::{Confidence, Protocol},
        dissect::testing::{Label, every_bit_counts, tcp},
    };

    const SIGNATURE: Label = Some((Protocol::BitTorrent, Confidence::Signature));

    #[test]
    fn tracker_and_web_seed_requests_match() {
        let bitcomet =
            format!("GET /data?fid={}&size=1048576 HTTP/1.1\r\n", "0123456789abcdef0123456789abcdef01234567");
        let late = format!(
            "GET /announce.php?passkey={}&peer_id=-TR3000-abcdefghijkl&info_hash=%12 HTTP/1.1\r\n",
            "a".repeat(120)
        );
        for request in [
            "GET /announce?info_hash=%124Vx%9A%BC&peer_id=-TR3000-abcdefghijkl&port=51413 HTTP/1.1\r\n",
            "GET /0123456789abcdef/announce?compact=1&info_hash=%124Vx HTTP/1.0\r\n",
            "GET /scrape?info_hash=aaaaaaaaaaaaaaaaaaaa&info_hash=bbbbbbbbbbbbbbbbbbbb HTTP/1.1\r\n",
            "GET /scrape.php?passkey=1&info_hash=aaaaaaaaaaaaaaaaaaaa HTTP/1.1\r\n",
            "GET http://tracker.example.org:6969/announce?info_hash=%124Vx HTTP/1.1\r\n",
            "GET /webseed?info_hash=%124Vx&piece=3 HTTP/1.1\r\n",
            "GET /announce/0123456789abcdef?info_hash=%124Vx HTTP/1.1\r\n",
            "GET /tracker.php?info_hash=%124Vx&peer_id=-TR3000-abcdefghijkl&port=51413 HTTP/1.1\r\n",
            "GET /?peer_id=-TR3000-abcdefghijkl&info_hash=%124Vx HTTP/1.1\r\n",
            &bitcomet,
            &late,
        ] {
            assert_eq!(tcp(request), SIGNATURE, "{request}");
        }
        every_bit_counts(b"GET /announce?info_hash=%12", 0..24, |bytes| tcp(bytes));
    }

    #[test]
    fn pages_about_trackers_do_not_match() {
        for request in [
            "GET /announce HTTP/1.1\r\nHost: example.org\r\n\r\n",
            "GET /announce?id=3 HTTP/1.1\r\nReferer: http://example.org/?info_hash=1\r\n\r\n",
            "GET /search?q=announce&info_hash=1 HTTP/1.1\r\n",
            "GET /wiki/info_hash=announce HTTP/1.1\r\n",
            "GET /torrents?info_hash=%12 HTTP/1.1\r\n",
            "GET /data?fid=17&size=3 HTTP/1.1\r\n",
            "POST /announce?info_hash=%12 HTTP/1.1\r\n",
            "GET /announce?info-hash=%12 HTTP/1.1\r\n",
            "GET /announcements/list?sort=asc&info_hash=abc HTTP/1.1\r\n",
            "GET /scraper/result?info_hash=0123456789abcdef0123456789abcdef01234567 HTTP/1.1\r\n",
            "GET /announce?xinfo_hash=%12 HTTP/1.1\r\n",
            "GET /torrents?info_hash=%12&peer-id=1 HTTP/1.1\r\n",
            "GET /search?q=peer_id=&info_hash=abc HTTP/1.1\r\n",
            "GET /torrents?xinfo_hash=%12&peer_id=1 HTTP/1.1\r\n",
        ] {
            assert_eq!(tcp(request), None, "{request}");
        }
    }
}
