//! Rules for TCP segments that wait for the rest of a message, and for segments that are not inspected.
//!
//! **Held**: the first bytes of a stream that may be the start of a message which some rule matches (`Prefix`,
//! [`frame`], [`length`]). A segment is held only if it is short and has no verdict. The engine puts the held bytes in
//! front of the next segment of that direction (`engine/reassembly.rs`), and the rules see both as one payload. If that
//! is still too short, it is held again. Real clients send a length byte, a command word or a header line in a segment
//! of its own.
//!
//! These messages are not found when they are split across segments: BitTorrent messages in the middle of a stream,
//! NMDC commands other than `$Lock` and `$MyNick` once their argument has started, messages that start with any byte
//! (Ares, and Soulseek except after its length field), a MUTE key beyond [`HELD_BYTES`], and a BitComet `/data?fid=`
//! cut inside the hash.
//!
//! Held bytes never name content. A request is held only if its path is one that a rule knows, so no file name, search
//! word or web page is held. Such a request, cut within its first [`HELD_BYTES`], is not found by its later lines or
//! its query. Nothing is held once an info hash, a `urn:`, a `fid=` or an eDonkey link has started ([`hold_is_over`]).
//! Of Direct Connect no nick is held, of eDonkey five bytes, and of HTTP nothing after the end of the header.
//!
//! **Skipped**: if a direction started with text that no P2P protocol sends, later segments belong to that text. So a
//! mail, a chat or the body of a POST is not mistaken for a handshake because one segment starts like one, although a
//! web page chooses every byte of such a body. Other streams stay under inspection: SOCKS and obfuscation are binary,
//! CONNECT (RFC 9110 section 9.3.6) opens a tunnel, NMDC has commands that no rule matches, and HTTP may be upgraded to
//! WebSocket, whose frames a web page cannot write into a GET. Text after a few binary bytes (such as a length) is
//! skipped too, unless those bytes are a SOCKS greeting. Binary messages after them are not skipped.

// These rules run last: each of their results leaves another state, and the verifier checks later code once per state.

use super::{
    PREFIXES, acestream, bittorrent, delivery_optimization, directconnect, edonkey, entropy, gnutella, libp2p, opennap,
    soulseek, websocket, webtorrent,
};
use crate::{
    abi::limits::HELD_BYTES,
    bpf::branchless::{TOP_BITS, bytes_equal, nonzero_top_bit, printable_bytes},
    dissect::rule_state::{RuleState, rule_flags},
    parse::payload::Payload,
};

/// Shorter text may be ciphertext that is printable by chance (one in 47 at this length): the next payload decides.
const SHORTEST_TEXT: u32 = 4;

/// Decides, for a payload without a verdict, whether its bytes are held; if not, records how its direction started.
/// `starts`: some rule starts with the payload's first byte.
#[inline(always)]
pub(crate) fn decide_hold(payload: &Payload, state: &mut RuleState, starts: bool) {
    let owed_from_lower = state.rule_flags & rule_flags::OWED_FROM_LOWER != 0;
    if state.rule_flags & rule_flags::OWED != 0 && owed_from_lower == (payload.from_lower != 0) {
        // The direction is in the middle of a message.
        return;
    }
    let of = |flag| rule_flags::of(flag, payload.from_lower);
    // The end of a header, which most requests come with, is seen without looking through it.
    let ended = u64::from_be_bytes(payload.tail) as u32 == u32::from_be_bytes(*b"\r\n\r\n");
    if payload.captured == payload.len
        && payload.len.wrapping_sub(1) < HELD_BYTES as u32
        && !ended
        && ((starts && (matches_prefix(payload) || frame(payload))) || length(payload))
        && !hold_is_over(payload)
    {
        let first = payload.byte(0);
        let other = (first == delivery_optimization::FIRST_BYTE) | (first == acestream::FIRST_BYTE);
        let swarm = u32::from(other) * rule_flags::SWARM;
        state.rule_flags |= of(rule_flags::HELD) | swarm;
        return;
    }
    if state.rule_flags & of(rule_flags::PAST_START) == 0 {
        let text = state.rule_flags & of(rule_flags::TEXT) != 0;
        state.rule_flags |= of(stream_flags(payload, text));
    }
}

/// Number of bytes of a payload that are held: none of the nick in "$MyNick nick|".
#[inline(always)]
#[must_use]
pub fn held_len(payload: &Payload) -> u32 {
    if payload.has(0, directconnect::MY_NICK) { directconnect::MY_NICK.len() as u32 } else { payload.captured }
}

/// Whether a segment is not inspected, by its first byte and its direction's flags (`all`).
#[inline(always)]
#[must_use]
pub fn skip_segment(all: u32, from_lower: u32, first: u8) -> bool {
    let frames = (first & 0x7e == 0) & (first & 0x7f != 0) | (first == websocket::BINARY);
    let may_frame = frames & (all & rule_flags::of(rule_flags::FRAMES, from_lower) != 0);
    let text = (first.wrapping_sub(b' ') < 0x5f) | (first == 0x13);
    let framed = text & (all & rule_flags::of(rule_flags::FRAMING, from_lower) != 0);
    (all & rule_flags::of(rule_flags::OTHER, from_lower) != 0) & !may_frame | framed
}

/// Mask of the bytes that were captured, for the payload's first eight.
#[inline(always)]
fn captured_mask(payload: &Payload) -> u64 {
    if payload.captured >= 8 { u64::MAX } else { !(u64::MAX << (8 * payload.captured)) }
}

/// Whether the payload, of at most [`HELD_BYTES`], may be the start of a message that a rule matches.
#[inline(never)]
fn matches_prefix(payload: &Payload) -> bool {
    let (head, captured, len) = (payload.word(0), captured_mask(payload), u64::from(payload.captured));
    // The top bit is clear once one of them fits. Without a branch: the verifier walks the loop once.
    let (mut none, mut index) = (u64::MAX, 0);
    while index < PREFIXES.len() {
        let prefix = &PREFIXES[index];
        let long = u64::from(prefix.most).wrapping_sub(len);
        none &= nonzero_top_bit((head ^ prefix.head) & prefix.mask & captured) | long;
        index += 1;
    }
    none >> 63 == 0
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
    if first == websocket::BINARY {
        libp2p::may_start_frame(content)
    } else {
        webtorrent::may_start_frame(content, payload.captured as usize - start)
    }
}

/// Whether the payload may be the length, and the type, of a Soulseek or OpenNap message, sent in a segment of its own.
#[inline(always)]
fn length(payload: &Payload) -> bool {
    const CLEAR: u32 = soulseek::LENGTH_CLEAR & opennap::HEAD_CLEAR;
    payload.len == 4 && payload.le32(0) & CLEAR == 0
}

/// Whether a payload of at most [`HELD_BYTES`] must not be held (any more): its HTTP header has ended, or a content
/// hash has started.
#[inline(never)]
fn hold_is_over(payload: &Payload) -> bool {
    // Whether each of the latest bytes ended a "urn:", the latest one lowest.
    let (mut recent, mut urns, mut says, mut index) = (0u64, 0u64, 0u64, 0);
    while index < HELD_BYTES {
        if index >= payload.captured as usize {
            break;
        }
        let half = recent & 0xffff_ffff;
        let named = nonzero_top_bit(half ^ word(bittorrent::content::HASH_PARAMETER))
            & nonzero_top_bit(half ^ word(bittorrent::content::HASH_MEMBER))
            & nonzero_top_bit(half ^ word(bittorrent::content::BITCOMET_PARAMETER))
            & nonzero_top_bit(half ^ word(edonkey::content::LINK));
        recent = recent << 8 | u64::from(payload.counted(index));
        let half = recent & 0xffff_ffff;
        let ended = nonzero_top_bit(half ^ word(b"\r\n\r\n"));
        says |= !(named & ended) >> 63;
        urns = urns << 1 | !nonzero_top_bit(half ^ word(gnutella::URN)) >> 63;
        index += 1;
    }
    // The longest name of a kind of hash is "bitprint:".
    says | urns >> 10 != 0
}

/// Four characters as the big-endian word that a loop over bytes collects.
#[inline(always)]
const fn word(text: &[u8; 4]) -> u64 {
    u32::from_be_bytes(*text) as u64
}

/// Flags of a direction that starts with this payload: [`rule_flags::PAST_START`]; [`rule_flags::OTHER`] for text that
/// no rule matches and that opens no tunnel; [`rule_flags::FRAMING`] for a few binary bytes that are no SOCKS greeting
/// (RFC 1928 section 3: first byte 5; SOCKS 4: first byte 4). `text`: a short text preceded it.
#[inline(always)]
fn stream_flags(payload: &Payload, text: bool) -> u32 {
    let (head, captured) = (payload.word(0), captured_mask(payload));
    let is_text =
        printable_bytes(head) | bytes_equal(head, b'\r') | bytes_equal(head, b'\n') | bytes_equal(head, b'\t');
    let tunnel = head == u64::from_le_bytes(*b"CONNECT ");
    let command = directconnect::may_be_command(head);
    if !is_text & captured & TOP_BITS != 0 || tunnel || command {
        // A high-entropy first payload is no shorter than `entropy::SHORTEST`: fewer bytes are a greeting or a length.
        let framing = (payload.len < entropy::SHORTEST) & (head & 0xfe != 0x04) & !tunnel & !command;
        return rule_flags::PAST_START | if framing { rule_flags::FRAMING } else { 0 };
    }
    if payload.captured < SHORTEST_TEXT && !text {
        return rule_flags::TEXT;
    }
    let half = head as u32;
    let http = half == u32::from_le_bytes(*b"GET ") || half == u32::from_le_bytes(*b"HTTP");
    rule_flags::PAST_START | rule_flags::OTHER | if http { rule_flags::FRAMES } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Flow;
    use crate::{
        abi::{limits::HELD_BYTES, protocol::Protocol},
        dissect::rule_state::{RuleState, rule_flags},
        parse::payload::Payload,
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
    fn held_bytes_belong_to_one_direction_and_are_used_once() {
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
    fn held_len(bytes: &[u8]) -> Option<u32> {
        let payload = Payload::from_bytes(bytes, 50_000, 80, true);
        let mut state = RuleState::default();
        super::decide_hold(&payload, &mut state, true);
        (state.rule_flags & rule_flags::HELD != 0).then(|| super::held_len(&payload))
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
            assert_eq!(held_len(undecided.as_bytes()), Some(undecided.len() as u32), "{undecided}");
        }
        assert_eq!(held_len(b"$MyNick someone"), Some(8), "not the nick");
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
            assert_eq!(held_len(enough.as_bytes()), None, "{enough}");
        }
        assert_eq!(held_len(b"\xe3\x20\0\0\0"), Some(5));
        assert_eq!(held_len(b"\xe3\x20\0\0\0\x01"), None, "counted by what it is owed");
        assert_eq!(held_len(b"\x81\x09{\"info_hash\":\"a"), None, "not masked");
        let long = [b"GET /announce".as_slice(), &[b'a'; 200]].concat();
        assert_eq!(held_len(&long[..HELD_BYTES]), Some(HELD_BYTES as u32));
        assert_eq!(held_len(&long[..HELD_BYTES + 1]), None);
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
        let frame = b"\x81\x48{\"numwant\":5,\"action\":\"announce\",\"info_hash\":\"abcdefgh\",\"peer_id\":\"a\"}  ";
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
