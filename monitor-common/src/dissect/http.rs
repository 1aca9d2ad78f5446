//! HTTP header lines that name a P2P program, for requests and answers with a first line that proves too little.
//!
//! One pass over the segment serves all protocols, because most requests have no such line and every pass costs each of
//! them. Sources: "RFC Gnutella 0.6" and the HUGE proposal (`X-Gnutella-..`, `X-Queue:`), giFT-FastTrack
//! (`X-Kazaa-..`), giFT-OpenFT's `ft_transfer.c` (`X-OpenftAlias`), nDPI for the names of clients.
//!
//! Matched: requests (`GET /`, `HEAD /`) and answers (`HTTP/1.`) with a line that no other program has. `X-Queue:` and
//! the names of clients count only for `/get/` and a decimal index, Gnutella's form of a file request. BearShare also
//! counts for the bare path, as nDPI saw it.
//!
//! Guard: whole names at the start of a header line, with their exact spelling. OpenFaaS has `X-Openfaas-..`, others
//! `X-Queue-Id:`. A request in the name of a browser never counts: a page may make a visitor's browser send any header,
//! but not under another program's name. Lines count before the empty line only, because a page may write anything
//! after it.
//!
//! Of a request that a rule matched, `is_of_program` tells whether a browser may have sent it. Then it has its label,
//! and charges nobody.

use super::{
    dissector::{Prefix, prefix},
    fasttrack, gnutella, openft,
};
use crate::{
    abi::{
        limits::{HELD_BYTES, WINDOW},
        rule::Rule,
    },
    bpf::branchless::{EACH_BYTE, bytes_below, first_byte_index, neg, nonzero_top_bit, zero_bytes},
    parse::payload::Payload,
};

/// Answers with matched header lines may be split across segments.
pub(super) const PREFIXES: &[Prefix] = &[prefix(b"HTTP/1.", HELD_BYTES)];
/// Start of the header line that names the program.
const USER_AGENT: u64 = u64::from_le_bytes(*b"User-Age");
/// Bytes from the start of that line to its value ("User-Agent: ").
const AGENT_VALUE: usize = 12;
/// Start of the name of every browser.
const BROWSER: u64 = u64::from_le_bytes(*b"Mozilla/");

/// The rule of a request or an answer with a header line that names a protocol.
#[inline(always)]
pub(crate) fn tcp(payload: &mut Payload) -> Option<Rule> {
    let head = payload.le64(0);
    let answer = head & 0xff_ffff_ffff_ffff == u64::from_le_bytes(*b"HTTP/1.\0");
    let get = head & 0xff_ffff_ffff == u64::from_le_bytes(*b"GET /\0\0\0");
    let ask = get || head & 0xffff_ffff_ffff == u64::from_le_bytes(*b"HEAD /\0\0");
    if !(answer || ask) {
        return None;
    }
    lines(payload)
}

/// Scans each header line after the first: records the places of telling values, then checks those.
#[inline(never)]
fn lines(payload: &mut Payload) -> Option<Rule> {
    let nothing = payload.verifier_barrier(0);
    let (mut name, mut queue, mut agent, mut accept, mut index) = (nothing, nothing, nothing, nothing, 0);
    while index < WINDOW / 8 {
        if index * 8 >= payload.captured as usize {
            break;
        }
        let (feeds, start) = line_start(payload, index);
        if feeds != 0 {
            let word = payload.le64(start);
            if word == USER_AGENT {
                if payload.le64(start + AGENT_VALUE) == BROWSER {
                    return None;
                }
                agent = payload.verifier_barrier(start as u64);
            } else if word == u64::from_le_bytes(*b"Accept: ") {
                accept = payload.verifier_barrier(start as u64);
            } else if word as u16 == u16::from_le_bytes(*b"X-") {
                // Without a branch: each one more has the verifier walk the loop once more.
                let queued = nonzero_top_bit(word ^ u64::from_le_bytes(*gnutella::QUEUE));
                queue |= !queued >> 63;
                name ^= (name ^ word) & neg(!not_named(word) >> 63);
            } else if word as u8 == b'\r' {
                break;
            }
        }
        index += 1;
    }
    if name == u64::from_le_bytes(*gnutella::HTTP_HEADER) {
        return Some(Rule::GnutellaHeader);
    }
    if name == u64::from_le_bytes(*fasttrack::HTTP_HEADER) {
        return Some(Rule::FasttrackHeader);
    }
    if name == u64::from_le_bytes(*openft::HTTP_HEADER) {
        return Some(Rule::OpenftHeader);
    }
    if queue != 0 && gnutella::is_file_request(payload) {
        return Some(Rule::GnutellaHeader);
    }
    if accept != 0 && payload.has(accept as usize + 8, b"application/x-gnutella") {
        return Some(Rule::GnutellaHeader);
    }
    if agent == 0 {
        return None;
    }
    client(payload, payload.le64(agent as usize + AGENT_VALUE))
}

/// Line feeds in word number `index` of the window (0 for none), and where the next line starts.
///
/// Only the first line feed of a word counts. A header line is never so short that a word has two, except at the empty
/// line at the end of the header. Without a line feed, the place is one byte after the start of the word.
#[inline(always)]
fn line_start(payload: &Payload, index: usize) -> (u64, usize) {
    let feeds = zero_bytes(payload.counted_word(index) ^ (EACH_BYTE * u64::from(b'\n')));
    (feeds, index * 8 + first_byte_index(feeds) + 1)
}

/// Words in which the method of a request ends. A page may choose any token for it (RFC 9110 section 9.1), a command of
/// Direct Connect among them.
const METHOD_WORDS: usize = 3;

/// Whether a payload is an HTTP request: a method, a blank, and a path or, to a proxy, a whole address (RFC 9112
/// section 3): 1 or 0.
#[inline(always)]
pub(crate) fn is_request(payload: &Payload) -> u64 {
    // Most payloads are binary, and a call costs as much as several rules.
    if payload.byte(0) > b' ' { has_request_line(payload) } else { 0 }
}

/// [`is_request`], for a payload that may start with a method.
///
/// Without a branch: the verifier walks each word, and what follows, once.
#[inline(never)]
fn has_request_line(payload: &Payload) -> u64 {
    let (mut end, mut open, mut index) = (0, u64::MAX, 0);
    while index < METHOD_WORDS {
        let low = bytes_below(payload.counted_word(index), b'!');
        let ends = neg(nonzero_top_bit(low) >> 63);
        end |= (index * 8 + first_byte_index(low)) as u64 & ends & open;
        open &= !ends;
        index += 1;
    }
    let behind = payload.le64(end as usize);
    let path = nonzero_top_bit((behind ^ u64::from(u16::from_le_bytes(*b" /"))) & 0xffff);
    let proxied = nonzero_top_bit(behind ^ u64::from_le_bytes(*b" http://"));
    (nonzero_top_bit(end) & !(path & proxied)) >> 63
}

/// Whether a payload is an answer to an HTTP request.
#[inline(always)]
pub(crate) fn is_answer(payload: &Payload) -> bool {
    payload.has(0, b"HTTP/1.")
}

/// Whether a request comes from a program that is no browser.
///
/// A web page may make a visitor's browser send any request with headers of the page's choice. But the browser adds its
/// own name, and lines that only browsers send: place of the page, language of its reader, origin of the request,
/// cookies (RFC 6265, RFC 6454, RFC 9110 sections 10.1.3 and 12.5.4, Fetch Metadata, Client Hints). So a program's
/// request names the program, and its whole header is in the window and has none of these lines: a page may fill the
/// window ahead of them.
///
/// Without a branch: the verifier walks each word once.
#[inline(never)]
pub(super) fn is_of_program(payload: &Payload) -> bool {
    // The top bit is clear once such a line, or the end of the header, was seen.
    let (mut program, mut browser, mut end, mut index) = (u64::MAX, u64::MAX, u64::MAX, 0);
    while index < WINDOW / 8 - 1 {
        let (feeds, start) = line_start(payload, index);
        let word = payload.le64(start);
        // No line starts here, or it is one of the body.
        let none = !nonzero_top_bit(feeds) | !end;
        let ends = nonzero_top_bit((word ^ u64::from(u16::from_le_bytes(*b"\r\n"))) & 0xffff);
        let agent = nonzero_top_bit((word | LOWER_CASE) ^ lower(b"User-Age"));
        let is_browser = nonzero_top_bit((payload.le64(start + AGENT_VALUE) | LOWER_CASE) ^ lower(b"Mozilla/"));
        // A line that is short enough hides the start of the next one.
        let two = nonzero_top_bit(feeds & feeds.wrapping_sub(1));
        program &= none | (agent & not_of_programs(word));
        browser &= none | ((agent | is_browser) & not_of_browsers(payload, start, word) & !(two & ends));
        end &= none | ends;
        index += 1;
    }
    (program | !browser | end) >> 63 == 0
}

/// The bit that distinguishes a letter from its capital, in each byte. Names of headers have no case.
const LOWER_CASE: u64 = EACH_BYTE * 0x20;

/// The start of a name in lower case.
const fn lower(name: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*name) | LOWER_CASE
}

/// The top bit is clear when a header starts as one of those in which programs name themselves: Kazaa's spelling, and
/// names of protocols.
#[inline(always)]
fn not_of_programs(word: u64) -> u64 {
    let word = word | LOWER_CASE;
    nonzero_top_bit(word ^ lower(b"UserAgen"))
        & nonzero_top_bit(word ^ lower(gnutella::HTTP_HEADER))
        & nonzero_top_bit(word ^ lower(fasttrack::HTTP_HEADER))
        & nonzero_top_bit(word ^ lower(openft::HTTP_HEADER))
}

/// The top bit is clear when the header at `start` is one that only browsers send.
#[inline(always)]
fn not_of_browsers(payload: &Payload, start: usize, word: u64) -> u64 {
    let (word, value) = (word | LOWER_CASE, payload.le64(start + 8) | LOWER_CASE);
    let picture =
        nonzero_top_bit(word ^ lower(b"Accept: ")) | nonzero_top_bit((value ^ lower(b"image/\0\0")) & 0xffff_ffff_ffff);
    picture
        & nonzero_top_bit(word ^ lower(b"Origin: "))
        & nonzero_top_bit(word ^ lower(b"Referer:"))
        & nonzero_top_bit(word ^ lower(b"Accept-L"))
        & nonzero_top_bit(word ^ lower(b"Cookie: "))
        & nonzero_top_bit(word ^ lower(b"Upgrade-"))
        & nonzero_top_bit((word ^ lower(b"DNT: \0\0\0")) & 0xff_ffff_ffff)
        & nonzero_top_bit((word ^ lower(b"Sec-\0\0\0\0")) & 0xffff_ffff)
}

/// The top bit is clear when a header starts as one of those that name a protocol.
#[inline(always)]
fn not_named(word: u64) -> u64 {
    nonzero_top_bit(word ^ u64::from_le_bytes(*gnutella::HTTP_HEADER))
        & nonzero_top_bit(word ^ u64::from_le_bytes(*fasttrack::HTTP_HEADER))
        & nonzero_top_bit(word ^ u64::from_le_bytes(*openft::HTTP_HEADER))
}

/// The protocol of the client with this name, if the request is one that a client sends.
#[inline(always)]
fn client(payload: &Payload, name: u64) -> Option<Rule> {
    if name == u64::from_le_bytes(*fasttrack::AGENT) {
        return Some(Rule::FasttrackHeader);
    }
    gnutella::is_client_request(payload, name).then_some(Rule::GnutellaHeader)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Label, tcp};
    use crate::{
        abi::{
            limits::WINDOW,
            protocol::{Confidence, Protocol},
        },
        parse::payload::Payload,
    };

    fn named(protocol: Protocol) -> Label {
        Some((protocol, Confidence::Signature))
    }

    #[test]
    fn lines_are_found_at_every_place_of_the_window() {
        for pad in 0..430 {
            let before = format!("GET /{} HTTP/1.1\r\n", "a".repeat(pad));
            assert_eq!(tcp(format!("{before}X-Kazaa-Username: a\r\n")), named(Protocol::FastTrack), "{pad}");
            assert_eq!(tcp(format!("{before}Host: a\r\nX-OpenftAlias: a\r\n")), named(Protocol::OpenFt), "{pad}");
            assert_eq!(tcp(format!("{before}X-KazaaUsername: a\r\n")), None, "{pad}");
            assert_eq!(tcp(format!("{before}Y: X-Kazaa-Username: a\r\n")), None, "{pad}");
        }
    }

    #[test]
    fn what_a_browser_sends_names_no_program() {
        let ask = |lines: &str| tcp(format!("GET /a HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n"));
        assert_eq!(ask("X-Kazaa-Username: a\r\nUser-Agent: KazaaClient"), named(Protocol::FastTrack));
        for browser in [
            "User-Agent: Mozilla/5.0 (X11)\r\nX-Kazaa-Username: a",
            "X-Kazaa-Username: a\r\nUser-Agent: Mozilla/5.0 (X11)",
            "Accept: application/x-gnutella-packets\r\nUser-Agent: Mozilla/5.0 (X11)",
        ] {
            assert_eq!(ask(browser), None, "{browser}");
        }
    }

    fn payload(bytes: impl AsRef<[u8]>) -> Payload {
        Payload::from_bytes(bytes.as_ref(), 50_000, 80, true)
    }

    #[test]
    fn a_browser_is_no_program_wherever_its_line_is() {
        let (start, end) = ("GET /announce?info_hash=a&port=1&x=", " HTTP/1.1\r\nHost: a\r\n");
        for len in 100..WINDOW + 16 {
            let pad = "a".repeat(len - start.len() - end.len());
            let is_of_program = |lines: &str| super::is_of_program(&payload(format!("{start}{pad}{end}{lines}")));
            assert_eq!(is_of_program("User-Agent: a/1\r\n\r\n"), len + 17 <= WINDOW - 8, "{len}");
            assert_eq!(is_of_program("UserAgent: a\r\n\r\n"), len + 14 <= WINDOW - 8, "{len}");
            assert!(!is_of_program("User-Agent: a/1\r\n"), "the rest is not seen: {len}");
            for lines in [
                "User-Agent: Mozilla/5.0 (X11)",
                "user-agent: mozilla/5.0 (X11)",
                "UserAgent: a\r\nUser-Agent: Mozilla/5.0",
                "User-Agent: a\r\nX: \r\nReferer: a",
                "UserAgent: a\r\nX:\r\nUser-Agent: Mozilla/5.0",
                "User-Agent: a\r\nAccept-Language: a",
                "aCCEPT-lANGUAGE: a\r\nUser-Agent: a",
                "User-Agent: a\r\nAccept: image/avif,*/*",
                "User-Agent: a\r\nCookie: a=b",
                "User-Agent: a\r\nSec-GPC: 1",
                "User-Agent: a\r\nDNT: 1",
                "User-Agent: a\r\nUpgrade-Insecure-Requests: 1",
                "Accept: */*\r\n\r\nUser-Agent: a/1",
            ] {
                assert!(!is_of_program(&format!("{lines}\r\n\r\n")), "{len}: {lines}");
            }
        }
    }

    #[test]
    fn headers_of_real_clients_are_of_programs() {
        for lines in [
            "Host: a:6969\r\nUser-Agent: qBittorrent/4.5.2\r\nAccept-Encoding: gzip\r\nConnection: close",
            "User-Agent: Azureus 5.7\r\nHost: a\r\nAccept: text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2",
            "Host: a\r\nUserAgent: KazaaClient Nov  3 2002 20:29:03\r\nX-Kazaa-Username: me",
            "Host: a\r\nUser-Agent: LimeWire/5.5.16\r\nAccept: */*\r\nX-Queue: 0.1",
            "X-OpenftAlias: someone",
        ] {
            assert!(super::is_of_program(&payload(format!("GET /a HTTP/1.1\r\n{lines}\r\n\r\n"))), "{lines}");
            let body = "\r\n\r\nReferer: a\r\nUser-Agent: Mozilla/5.0";
            assert!(super::is_of_program(&payload(format!("POST /a HTTP/1.1\r\n{lines}{body}"))), "{lines}");
        }
    }

    #[test]
    fn requests_are_told_by_their_first_words() {
        for text in
            ["GET /", "HEAD /a", "$MyNick /a|", "$RevConnectToMe /", "GET http://a", &format!("{} /", "A".repeat(23))]
        {
            assert_eq!(super::is_request(&payload(text)), 1, "{text}");
        }
        for text in ["", " /", "GET", "GET a /", "GNUTELLA CONNECT/0.6", "$MyNick me|", "GET https", "\x13BitTorrent /"]
        {
            assert_eq!(super::is_request(&payload(text)), 0, "{text}");
        }
        assert_eq!(super::is_request(&payload([&[0xa0; 3], b"\0 /".as_slice()].concat())), 0);
        assert_eq!(
            super::is_request(&payload([&[b'A'; 24], b" /".as_slice()].concat())),
            0,
            "no rule has so long a word"
        );
    }

    #[test]
    fn a_body_has_no_header_lines() {
        for pad in 0..16 {
            let head = format!("HTTP/1.1 200 OK\r\nServer: {}", "a".repeat(pad));
            assert_eq!(tcp(format!("{head}\r\nX-Kazaa-Username: a\r\n\r\n")), named(Protocol::FastTrack), "{pad}");
            assert_eq!(tcp(format!("{head}\r\n\r\nX-Kazaa-Username: a\r\n\r\n")), None, "{pad}");
        }
    }
}
