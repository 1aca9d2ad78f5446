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

use super::{
    dissector::{Prefix, prefix},
    fasttrack, gnutella, openft,
};
use crate::{
    abi::{
        limits::{HELD_BYTES, WINDOW},
        rule::Rule,
    },
    bpf::branchless::{EACH_BYTE, first_byte_index, neg, nonzero_top_bit, zero_bytes},
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

/// Whether a request comes from a program that is no browser.
///
/// Such a request has a `User-Agent` line that does not start with "Mozilla/", and none of the headers that only
/// browsers send: place of the page, language of its reader, origin of the request (RFC 6454, RFC 9110 sections 10.1.3
/// and 12.5.4, Fetch Metadata). A web page may make a visitor's browser send any request, but not in another program's
/// name.
///
/// Without a branch: the verifier walks each word once.
#[inline(never)]
pub(super) fn is_of_program(payload: &Payload) -> bool {
    // The top bit is clear once such a line was seen.
    let (mut agent, mut browser, mut index) = (u64::MAX, u64::MAX, 0);
    while index < WINDOW / 8 - 2 {
        let (feeds, start) = line_start(payload, index);
        let name = payload.le64(start);
        let named = nonzero_top_bit(name ^ USER_AGENT);
        // A line that runs past the window proves nothing: its value may be a browser's.
        let fits = ((WINDOW - 8 - AGENT_VALUE) as u64).wrapping_sub(start as u64);
        agent &= named | !nonzero_top_bit(feeds) | fits;
        browser &= (named | nonzero_top_bit(payload.le64(start + AGENT_VALUE) ^ BROWSER))
            & nonzero_top_bit(name ^ u64::from_le_bytes(*b"Origin: "))
            & nonzero_top_bit(name ^ u64::from_le_bytes(*b"Referer:"))
            & nonzero_top_bit(name ^ u64::from_le_bytes(*b"Accept-L"))
            & nonzero_top_bit(name ^ u64::from_le_bytes(*b"Sec-Fetc"));
        index += 1;
    }
    (agent | !browser) >> 63 == 0
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

    #[test]
    fn a_browser_is_no_program_wherever_its_line_is() {
        let (start, end) = ("GET /announce?info_hash=a&port=1&x=", " HTTP/1.1\r\nHost: a\r");
        for feed in 100..WINDOW + 16 {
            let pad = "a".repeat(feed - start.len() - end.len());
            let is_of_program = |name: &str, rest: usize| {
                let request = format!("{start}{pad}{end}\nUser-Agent: {name}{}\r\n\r\n", "a".repeat(rest));
                super::is_of_program(&Payload::from_bytes(request.as_bytes(), 50_000, 80, true))
            };
            for rest in 0..40 {
                assert!(!is_of_program("Mozilla/5.0 (X11)", rest), "{feed}, {rest}");
            }
            // Up to here, the first eight bytes of the name are in the window.
            assert_eq!(is_of_program("Transmission/3.00", 0), feed + 1 + 12 + 8 <= WINDOW, "{feed}");
        }
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
