//! Signatures that the sender cut over its first TCP segments, and segments that only look as if they began a stream.
//!
//! **Kept**: a short segment without a verdict that may be the start of a signature ([`BEGINNINGS`], [`frame`], [`length`]). The
//! engine puts it in front of the next segment of its direction (`beginning.rs`), and the rules see both as one; what is still short
//! and undecided then is kept again. Real peers write a length byte, a command word or a header line in a segment of its own.
//! Not found when cut: rules for streams that began earlier (BitTorrent's messages, NMDC's commands other than `$Lock` and `$MyNick`
//! once their argument has begun), those that start with any byte (Soulseek but behind its length field, Ares), MUTE's key beyond
//! [`KEPT_BYTES`], and BitComet's `/data?fid=` inside of the hash.
//!
//! What may be kept is what names no content: no request but by the paths that rules know, so that nobody's file names, search words
//! and pages are among it (such a request, cut within its first [`KEPT_BYTES`], is not found by its later lines or its query), nothing once an info hash, a `urn:`, a `fid=` or a link of eDonkey has begun to be
//! spelled, no nick of Direct Connect, five bytes of eDonkey, and nothing of a request or an answer whose header has ended
//! ([`says_enough`]).
//!
//! **Passed over**: once a direction began with text that is no P2P protocol's, what follows belongs to that text. So a mail, a chat or
//! the body of a POST, of which a web page chooses every byte, is no handshake because a segment happens to begin with one. Streams
//! that begin otherwise go on being looked into: SOCKS and obfuscation are binary, CONNECT (RFC 9110 section 9.3.6) opens a tunnel,
//! NMDC has commands that are no signatures, and HTTP may be upgraded to frames of WebSocket, which a page cannot write into a GET.
//! Behind a few binary bytes that are no greeting of SOCKS, such as a length, text is what somebody wrote, too; binary messages are not.
//!
//! Tried last: each way out leaves another state, and the verifier walks what follows once for each.

use super::{
    text::{equal, printable, unequal},
    websocket,
};
use crate::{
    limits::KEPT_BYTES,
    payload::{Payload, RuleState, rule_flags},
};

/// How a stream may begin: its first bytes, at most eight of which are compared, and the most bytes that are kept of it while it is
/// undecided.
struct Start {
    head: u64,
    mask: u64,
    most: u32,
}

const fn start(text: &[u8], most: usize) -> Start {
    let (mut head, mut mask, mut index) = (0, 0, 0);
    while index < text.len() {
        head |= (text[index] as u64) << (8 * index);
        mask |= 0xff << (8 * index);
        index += 1;
    }
    Start { head, mask, most: most as u32 }
}

/// Every one. The most that is kept is what a rule can be short of, or ends in front of what names a person or content.
static BEGINNINGS: [Start; 38] = [
    start(b"\x13BitTorr", 19),
    start(b"\x13/multis", 19),
    start(b"GET /ann", KEPT_BYTES),
    start(b"GET /scr", KEPT_BYTES),
    start(b"GET /web", KEPT_BYTES),
    start(b"GET /dat", KEPT_BYTES),
    start(b"GET /uri", KEPT_BYTES),
    start(b"GET /gnu", KEPT_BYTES),
    start(b"GET /gne", KEPT_BYTES),
    start(b"GET /get", 9),
    start(b"GET /.ha", KEPT_BYTES),
    start(b"HEAD /ur", KEPT_BYTES),
    start(b"HEAD /gn", KEPT_BYTES),
    start(b"HTTP/1.", KEPT_BYTES),
    start(b"GNUTELLA", 16),
    start(b"GIV ", 50),
    start(b"PUSH gui", 45),
    start(b"GIVE ", 18),
    start(b"GET.sha1", 8),
    start(b"$Lock ", KEPT_BYTES),
    start(b"$MyNick ", KEPT_BYTES),
    start(b"$ADCGET ", 21),
    start(b"$ADCSND ", 21),
    start(b"$MyINFO ", 13),
    start(b"$Validat", 14),
    start(b"$Connect", 13),
    start(b"$RevConn", 16),
    start(b"$Directi", 20),
    start(b"HSUP AD", KEPT_BYTES),
    start(b"ISUP AD", KEPT_BYTES),
    start(b"CSUP AD", KEPT_BYTES),
    start(b"CGET ", 18),
    start(b"CSND ", 18),
    start(b"SEND", 3),
    start(b"PublicKe", KEPT_BYTES),
    start(b"ajprot\r\n", 7),
    start(b"BSYNC\0", 5),
    start(b"\xfa\x00\xb6\x2b", 11),
];

/// Bytes of an eDonkey message that are kept at most: from its opcode on, `edonkey.rs` counts what the message is owed.
const EDONKEY_HEADER: u32 = 5;

/// A shorter text may be ciphertext that is printable by chance, as one in 47 of this length is: the next payload tells.
const SHORTEST_TEXT: u32 = 4;

/// An opening that looks random has at least as many bytes ([`crate::opaque`]). Fewer are a greeting or the length of what follows.
const SHORTEST_OPENING: u32 = 16;

/// Notes how a payload without a verdict leaves its direction: with its bytes kept, or behind its beginning. `starts` tells whether
/// its first byte is one that a rule starts with.
#[inline(never)]
pub(crate) fn leave(payload: &Payload, state: &mut RuleState, starts: bool) {
    let owed_from_lower = state.rule_flags & rule_flags::OWED_FROM_LOWER != 0;
    if state.rule_flags & rule_flags::OWED != 0 && owed_from_lower == (payload.from_lower != 0) {
        // The direction is in the middle of a message.
        return;
    }
    let of = |mark| rule_flags::of(mark, payload.from_lower);
    // The end of a header, which most requests come with, is seen without looking through it.
    let ended = u64::from_be_bytes(payload.tail) as u32 == u32::from_be_bytes(*b"\r\n\r\n");
    if payload.captured == payload.len
        && payload.len.wrapping_sub(1) < KEPT_BYTES as u32
        && !ended
        && ((starts && (starts_known(payload) || frame(payload))) || length(payload))
        && !says_enough(payload)
    {
        state.rule_flags |= of(rule_flags::KEPT);
        return;
    }
    if state.rule_flags & of(rule_flags::BEGUN) == 0 {
        let text = state.rule_flags & of(rule_flags::TEXT) != 0;
        state.rule_flags |= of(begins(payload, text));
    }
}

/// Bytes of a payload that are kept: none of the nick in "$MyNick nick|".
#[inline(always)]
#[must_use]
pub fn kept(payload: &Payload) -> u32 {
    if payload.has(0, b"$MyNick ") { 8 } else { payload.captured }
}

/// Whether a payload of a direction with these flags is passed over, by its first byte.
#[inline(always)]
#[must_use]
pub fn passes_over(all: u32, from_lower: u32, first: u8) -> bool {
    let frames = (first & 0x7e == 0) & (first & 0x7f != 0) | (first == websocket::BINARY);
    let may_frame = frames & (all & rule_flags::of(rule_flags::FRAMES, from_lower) != 0);
    let text = (first.wrapping_sub(b' ') < 0x5f) | (first == 0x13);
    let framed = text & (all & rule_flags::of(rule_flags::FRAMING, from_lower) != 0);
    (all & rule_flags::of(rule_flags::OTHER, from_lower) != 0) & !may_frame | framed
}

/// All ones in the bytes of a payload's first word that the payload has.
#[inline(always)]
fn held(payload: &Payload) -> u64 {
    if payload.captured >= 8 { u64::MAX } else { !(u64::MAX << (8 * payload.captured)) }
}

/// Whether the payload, which has at most [`KEPT_BYTES`], is the start of what a signature starts with.
#[inline(never)]
fn starts_known(payload: &Payload) -> bool {
    let (head, held, len) = (payload.word(0), held(payload), u64::from(payload.captured));
    let edonkey = matches!(head as u8, 0xc5 | 0xd4 | 0xe3) && payload.captured <= EDONKEY_HEADER;
    // The top bit is clear once one of them fits. Without a branch: the verifier walks the loop once.
    let (mut none, mut index) = (u64::MAX, 0);
    while index < BEGINNINGS.len() {
        let start = &BEGINNINGS[index];
        let long = u64::from(start.most).wrapping_sub(len);
        none &= unequal((head ^ start.head) & start.mask & held) | long;
        index += 1;
    }
    edonkey || none >> 63 == 0
}

/// Whether it may be the head of a WebSocket frame with an announce or a greeting of libp2p in it.
#[inline(never)]
fn frame(payload: &Payload) -> bool {
    let first = payload.byte(0);
    if first & 0x7f != websocket::TEXT & 0x7f && first != websocket::BINARY {
        return false;
    }
    let Some((start, key)) = websocket::content(payload, 0) else { return true };
    let content = payload.le16(start) ^ key as u16;
    match (first, payload.captured as usize - start) {
        (websocket::BINARY, _) => matches!(content as u8, 0x13 | b'/'),
        (_, 1) => content as u8 == b'{',
        _ => content == u16::from_le_bytes(*b"{\""),
    }
}

/// Whether it may be the length and type of a message of Soulseek or OpenNap: a small length of 16 or 32 bits, a type up to 7.
#[inline(always)]
fn length(payload: &Payload) -> bool {
    payload.len == 4 && payload.le32(0) & 0xfff8_ff00 == 0
}

/// Whether no rule needs more of this payload, which is at most [`KEPT_BYTES`] long, or its content has begun to be named: the header
/// of HTTP has ended, or bytes follow what is written in front of a hash.
#[inline(never)]
fn says_enough(payload: &Payload) -> bool {
    // Whether each of the latest bytes ended a "urn:", the latest one lowest.
    let (mut recent, mut urns, mut says, mut index) = (0u64, 0u64, 0u64, 0);
    while index < KEPT_BYTES {
        if index >= payload.captured as usize {
            break;
        }
        let half = recent & 0xffff_ffff;
        let named = unequal(half ^ u64::from(u32::from_be_bytes(*b"ash=")))
            & unequal(half ^ u64::from(u32::from_be_bytes(*b"ash\"")))
            & unequal(half ^ u64::from(u32::from_be_bytes(*b"fid=")))
            & unequal(half ^ u64::from(u32::from_be_bytes(*b"ed2k")));
        recent = recent << 8 | u64::from(payload.counted(index));
        let half = recent & 0xffff_ffff;
        let ended = unequal(half ^ u64::from(u32::from_be_bytes(*b"\r\n\r\n")));
        says |= !(named & ended) >> 63;
        urns = urns << 1 | !unequal(half ^ u64::from(u32::from_be_bytes(*b"urn:"))) >> 63;
        index += 1;
    }
    // The longest name of a kind of hash is "bitprint:".
    says | urns >> 10 != 0
}

/// The marks of a direction that begins with this payload: [`rule_flags::BEGUN`], and [`rule_flags::OTHER`] if it is text that shows no
/// signature and opens no tunnel, [`rule_flags::FRAMING`] if it is short and binary, but no greeting of SOCKS (RFC 1928 section 3: 5; version 4 has
/// its number there, too). `text` tells whether a short text was in front of it.
#[inline(never)]
fn begins(payload: &Payload, text: bool) -> u32 {
    let (head, held) = (payload.word(0), held(payload));
    let is_text = printable(head) | equal(head, b'\r') | equal(head, b'\n') | equal(head, b'\t');
    let tunnel = head == u64::from_le_bytes(*b"CONNECT ");
    // Redis has numbers there.
    let command = head as u8 == b'$' && (head >> 8) as u8 & 0xe0 == 0x40;
    if !is_text & held & 0x8080_8080_8080_8080 != 0 || tunnel || command {
        let framing = (payload.len < SHORTEST_OPENING) & (head & 0xfe != 0x04) & !tunnel & !command;
        return rule_flags::BEGUN | if framing { rule_flags::FRAMING } else { 0 };
    }
    if payload.captured < SHORTEST_TEXT && !text {
        return rule_flags::TEXT;
    }
    let half = head as u32;
    let http = half == u32::from_le_bytes(*b"GET ") || half == u32::from_le_bytes(*b"HTTP");
    rule_flags::BEGUN | rule_flags::OTHER | if http { rule_flags::FRAMES } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Flow;
    use crate::{
        limits::KEPT_BYTES,
        payload::{Payload, RuleState, rule_flags},
        protocol::Protocol,
    };

    const HANDSHAKE: &[u8; 20] = b"\x13BitTorrent protocol";

    #[test]
    fn any_cut_in_two_or_three_is_found() {
        for first in 1..20 {
            for second in first..20 {
                let mut flow = Flow::tcp();
                assert_eq!(flow.ask(&HANDSHAKE[..first]), None);
                if second > first {
                    assert_eq!(flow.ask(&HANDSHAKE[first..second]), None);
                }
                let label = flow.ask([&HANDSHAKE[second..], &[0; 48]].concat());
                assert_eq!(label.map(|label| label.0), Some(Protocol::BitTorrent), "cut at {first} and {second}");
            }
        }
    }

    /// Segments of one direction; the label of the last, when those before it have none.
    fn cut(message: &[u8], first: usize) -> Option<Protocol> {
        let mut flow = Flow::tcp();
        assert_eq!(flow.ask(&message[..first]), None);
        assert_eq!(flow.answer(b"220 something else\r\n"), None);
        flow.ask(&message[first..]).map(|label| label.0)
    }

    #[test]
    fn lengths_alone_in_a_segment_are_found() {
        let login = [&[27, 0, 2, 0], b"user pass 6699 \"nap v0.8\" 8".as_slice()].concat();
        assert_eq!(cut(&login, 4), Some(Protocol::OpenNap));
        let mut flow = Flow::tcp();
        assert_eq!(flow.ask(b"\x05\0\0\0"), None);
        assert_eq!(flow.ask(b"\0abcd").map(|label| label.0), Some(Protocol::Soulseek));
    }

    #[test]
    fn what_was_kept_is_of_one_direction_and_once() {
        let message = b"GNUTELLA CONNECT/0.6\r\n";
        let mut flow = Flow::tcp();
        assert_eq!(flow.ask(&message[..4]), None);
        assert_eq!(flow.answer(&message[4..]), None);
        assert!(flow.ask(&message[4..]).is_some());
        let mut flow = Flow::tcp();
        assert_eq!(flow.ask(&message[..4]), None);
        assert_eq!(flow.ask(b"something else"), None);
        assert_eq!(flow.ask(&message[4..]), None);
        let mut flow = Flow::tcp();
        for byte in &message[..8] {
            assert_eq!(flow.ask([*byte]), None);
        }
        assert!(flow.ask(&message[8..]).is_some());
    }

    /// Whether a first payload is kept, and how much of it.
    fn kept(bytes: &[u8]) -> Option<u32> {
        let payload = Payload::from_bytes(bytes, 50_000, 80, true);
        let mut state = RuleState::default();
        super::leave(&payload, &mut state, true);
        (state.rule_flags & rule_flags::KEPT != 0).then(|| super::kept(&payload))
    }

    #[test]
    fn what_names_content_or_nothing_more_is_not_kept() {
        for undecided in [
            "GET /announce?info_hash",
            "GET /announce.php?passkey=0123456789abcdef0123456789abcdef&peer_id=-TR3000-",
            "GET /uri-res/N2R?urn:sha1",
            "GET /data?fid=",
            "GET /get/",
            "GET /",
            "HEAD /uri",
            "HTTP/1.1 200 OK\r\n",
            "$Lock EXTENDEDPROTOCOL",
            "\u{1}{",
        ] {
            assert_eq!(kept(undecided.as_bytes()), Some(undecided.len() as u32), "{undecided}");
        }
        assert_eq!(kept(b"$MyNick someone"), Some(8), "not the nick");
        for enough in [
            "GET /x?info_hash=%12",
            "GET /data?fid=0",
            "GET /get/1/a.mp3 HTTP/1.1\r\nHost: a\r\n",
            "GET /search?q=a",
            "GET http://a/",
            "HEAD /a",
            "GET /x?xt=urn:btih:0123456789",
            "GET /?q=ed2k://|file|",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nd8:interval",
            "{\"info_hash\":\"a",
            "POST / HTTP/1.1\r\n",
            "SSH-2.0-a\r\n",
            "$Search Hub:a F?T?0?1?a",
            "$ValidateNick a",
            "CGET file files.xm ",
        ] {
            assert_eq!(kept(enough.as_bytes()), None, "{enough}");
        }
        assert_eq!(kept(b"\xe3\x20\0\0\0"), Some(5));
        assert_eq!(kept(b"\xe3\x20\0\0\0\x01"), None, "counted by what it is owed");
        assert_eq!(kept(b"\x81\x09{\"info_hash\":\"a"), None, "not masked");
        let long = [b"GET /announce".as_slice(), &[b'a'; 200]].concat();
        assert_eq!(kept(&long[..KEPT_BYTES]), Some(KEPT_BYTES as u32));
        assert_eq!(kept(&long[..KEPT_BYTES + 1]), None);
    }

    #[test]
    fn what_follows_other_text_is_that_texts() {
        let handshake = [HANDSHAKE.as_slice(), &[0; 48]].concat();
        for head in [
            "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 68\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
            "EHLO a\r\n",
            "ab\r\n",
            "GET /a?q=",
        ] {
            let mut flow = Flow::tcp();
            assert_eq!(flow.ask(head), None);
            assert_eq!(flow.ask(&handshake), None, "{head:?}");
            assert_eq!(flow.answer(&handshake).map(|label| label.0), Some(Protocol::BitTorrent), "the other side's");
        }
        for head in [b"\0\0\0\x44".as_slice(), b"\x01\x02\x03\x04\x05\x06", b"\x80"] {
            let mut flow = Flow::tcp();
            assert_eq!(flow.ask(head), None);
            assert_eq!(flow.ask(&handshake), None, "the length of a message is in front: {head:02x?}");
            assert_eq!(flow.ask(b"GNUTELLA CONNECT/0.6\r\n"), None, "{head:02x?}");
            assert_eq!(
                flow.ask(b"\xe3\x06\0\0\0\x15\x01\x02\x03\x04\x05").map(|label| label.0),
                Some(Protocol::EDonkey)
            );
        }
        for head in [
            b"CONNECT 192.0.2.1:51413 HTTP/1.1\r\n\r\n".as_slice(),
            b"\x05\x01\0",
            b"\x04\x01\x1a\xe1\xc0\0\x02\x07\0",
            &[0x9d; 96],
            b"$Key a|",
            b"x",
        ] {
            let mut flow = Flow::tcp();
            assert_eq!(flow.ask(head), None);
            assert_eq!(flow.ask(&handshake).map(|label| label.0), Some(Protocol::BitTorrent), "{head:02x?}");
        }
    }

    #[test]
    fn frames_follow_a_get_but_no_post() {
        let frame = b"\x81\x2f{\"action\":\"announce\",\"info_hash\":\"abcdefgh\"}";
        for (method, expected) in [("GET", Some(Protocol::WebTorrent)), ("POST", None)] {
            let mut flow = Flow::tcp();
            assert_eq!(flow.ask(format!("{method} / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n")), None);
            assert_eq!(flow.ask(frame).map(|label| label.0), expected, "{method}");
        }
    }

    #[test]
    fn the_other_side_and_a_gap_do_not_continue_a_literal() {
        let mut flow = Flow::tcp();
        assert_eq!(flow.ask(&HANDSHAKE[..1]), None);
        assert_eq!(flow.answer(&HANDSHAKE[1..]), None);
        assert_eq!(flow.ask(b"something else"), None);
        assert_eq!(flow.ask(&HANDSHAKE[1..]), None);
    }

    #[test]
    fn both_sides_may_be_cut_at_once() {
        let mut flow = Flow::tcp();
        assert_eq!(flow.ask(&HANDSHAKE[..1]), None);
        assert_eq!(flow.answer(&HANDSHAKE[..7]), None);
        assert!(flow.ask(&HANDSHAKE[1..]).is_some());
    }
}
