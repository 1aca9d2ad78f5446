//! BitTorrent DHT (BEP 5, BEP 32, BEP 33, BEP 42, BEP 43, BEP 51): bencoded dictionaries over UDP.
//!
//! Matched:
//! - sorted dictionaries that start with the sender's id, `d1:ad2:id20:` and `d1:rd2:id20:`, the latter also after the
//!   `ip` key of BEP 42;
//! - answers that start with the filters of a scrape (BEP 33), `d1:rd4:BFpe256:`;
//! - other dictionaries that start with a one-letter key of BEP 5 and end in `1:y1:` and a known message type. Clients
//!   that do not sort their keys may start with the type or with the name of a query.
//!
//! Guard: the literals; bencoded data that is not DHT has none of these.

use crate::{
    abi::rule::Rule,
    bpf::branchless::nonzero_top_bit,
    dissect::rule_state::{RuleState, rule_flags},
    parse::payload::Payload,
};

/// The rule of a DHT message.
#[inline(always)]
pub(super) fn message(payload: &Payload) -> Option<Rule> {
    let head = payload.le32(0);
    let one_letter = head & 0x00ff_ffff == u32::from_le_bytes(*b"d1:\0");
    let address = head == u32::from_le_bytes(*b"d2:i");
    if !(one_letter | address) {
        return None;
    }
    if one_letter && (payload.has(4, b"d2:id20:") || payload.has(4, b"d4:BFpe256:")) {
        let kind = (head >> 24) as u8;
        return ((kind == b'a') || (kind == b'r')).then_some(by_kind(kind));
    }
    if address {
        let ipv4 = payload.has(4, b"p6:") && payload.has(13, b"1:rd2:id20:");
        let ipv6 = payload.has(4, b"p18:") && payload.has(26, b"1:rd2:id20:");
        if ipv4 | ipv6 {
            return Some(Rule::DhtReply);
        }
    }
    let framed = address & payload.has(4, b"p") | known_key((head >> 24) as u8);
    if framed && tail(payload) {
        return Some(by_kind(payload.tail[6]));
    }
    (framed && unsorted(payload)).then_some(Rule::DhtUnsorted)
}

/// The rule of a message by its type, or by the key of its first dictionary: the lowest three bits tell them apart.
#[inline(always)]
fn by_kind(kind: u8) -> Rule {
    static RULES: [Rule; 8] = {
        let mut rules = [Rule::DhtQuery; 8];
        rules[(b'r' & 7) as usize] = Rule::DhtReply;
        rules[(b'e' & 7) as usize] = Rule::DhtError;
        rules
    };
    RULES[usize::from(kind & 7)]
}

/// Whether a dictionary with unsorted keys starts like a message: with a query's name, with the type, or
/// with a transaction id of up to nine bytes and the type.
///
/// Without a branch: the verifier walks the rest once.
#[inline(never)]
fn unsorted(payload: &Payload) -> bool {
    let word = payload.le64(3);
    let query = nonzero_top_bit(word ^ u64::from_le_bytes(*b"q4:ping1"))
        & nonzero_top_bit(word ^ u64::from_le_bytes(*b"q9:find_"))
        & nonzero_top_bit(word ^ u64::from_le_bytes(*b"q9:get_p"))
        & nonzero_top_bit(word ^ u64::from_le_bytes(*b"q13:anno"));
    let id = payload.byte(4).wrapping_sub(b'0') as usize & 15;
    let length = nonzero_top_bit((payload.le64(0) >> 16 & 0xff00_ffff) ^ u64::from(u32::from_le_bytes(*b":t\0:")));
    let behind_id = length | other_type(payload.le64(6 + id));
    (query & other_type(payload.le64(1)) & behind_id) >> 63 == 0
}

/// The top bit is clear when these are the key `y`, a message type and the length of another key.
#[inline(always)]
const fn other_type(word: u64) -> u64 {
    nonzero_top_bit(word ^ u64::from_le_bytes(*b"1:y1:q1:"))
        & nonzero_top_bit(word ^ u64::from_le_bytes(*b"1:y1:r1:"))
        & nonzero_top_bit(word ^ u64::from_le_bytes(*b"1:y1:e1:"))
}

/// Stores a query's transaction id; returns whether a response repeats that of the other side's latest query. Both
/// sides' ids are stored, because a node sends a query of its own before it answers.
///
/// Ids of one, two and four bytes are read, which clients use, where sorted dictionaries have them: before the type,
/// and before the version of four bytes if there is one. One byte is guessed too easily: it takes the answers to two
/// queries with different ids.
#[inline(never)]
pub(super) fn transaction(payload: &Payload, state: &mut RuleState) {
    if !tail(payload) {
        return;
    }
    let mut end = (payload.len as usize).wrapping_sub(7);
    if payload.le32(end.wrapping_sub(9)) == u32::from_le_bytes(*b"1:v4") {
        end = end.wrapping_sub(9);
    }
    let short = payload.le64(end.wrapping_sub(7)) << 8 >> 8;
    let long = payload.le32(end.wrapping_sub(4));
    let id = if short & 0xff_ffff_ffff == u64::from_le_bytes(*b"1:t2:\0\0\0") {
        (short >> 40) as u32 | 1 << 16
    } else if payload.le64(end.wrapping_sub(9)) & 0xff_ffff_ffff == u64::from_le_bytes(*b"1:t4:\0\0\0") {
        long
    } else if payload.le64(end.wrapping_sub(6)) & 0xff_ffff_ffff == u64::from_le_bytes(*b"1:t1:\0\0\0") {
        (payload.le64(end.wrapping_sub(6)) >> 40) as u32 & 0xff | ONE_BYTE
    } else {
        return;
    };
    let one_byte = id & !0xff == ONE_BYTE;
    if payload.tail[6] == b'q' {
        let before = state.pending_request_per_side(payload.from_lower, rule_flags::PENDING_DHT);
        let answered = if one_byte && before & ONE_BYTE != 0 { before & ANSWERED } else { 0 };
        state.remember_request_per_side(payload, rule_flags::PENDING_DHT, id | answered);
        return;
    }
    let asked = state.pending_request_per_side(1 - (payload.from_lower & 1), rule_flags::PENDING_DHT);
    if !one_byte {
        state.set_echoed((id != 0) & (asked == id));
        return;
    }
    let repeats = asked & !ANSWERED == id;
    let another = asked & ONCE != 0 && asked >> 24 != id & 0xff;
    if repeats && asked & ONCE == 0 {
        state.mark_request_of_other_side(payload, ONCE | id << 24);
    }
    state.set_echoed(repeats & another);
}

/// Bits stored for a query with an id of one byte: the id is the lowest byte.
const ONE_BYTE: u32 = 1 << 17;
/// An earlier query of that side was answered; its id is in the topmost byte.
const ONCE: u32 = 1 << 18;
const ANSWERED: u32 = ONCE | 0xff << 24;

/// Whether the datagram ends in the key `y` with a message type of BEP 5, as sorted dictionaries do.
#[inline(always)]
fn tail(payload: &Payload) -> bool {
    let tail = u64::from_be_bytes(payload.tail);
    let kind = (tail >> 8) as u8;
    let framed = (tail ^ u64::from_be_bytes(*b"\x001:y1:\0e")) & 0x00ff_ffff_ffff_00ff == 0;
    framed && ((kind == b'q') || (kind == b'r') || (kind == b'e'))
}

/// Whether a dictionary of BEP 5 may begin with this key: arguments, response, error, query, transaction, version,
/// type.
#[inline(always)]
fn known_key(key: u8) -> bool {
    (key == b'a') || (key == b'r') || (key == b'e') || (key == b'q') || (key == b't') || (key == b'v') || (key == b'y')
}

#[cfg(test)]
mod tests {
    use crate::{
        abi::protocol::{Confidence, Protocol},
        dissect::{
            rule_state::{RuleState, rule_flags},
            testing::{Label, every_bit_counts, every_byte_counts, udp},
        },
        parse::payload::Payload,
    };

    const SIGNATURE: Label = Some((Protocol::BitTorrent, Confidence::Signature));

    #[test]
    fn an_answer_proves_itself_by_the_transaction_id() {
        let query = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe".as_slice();
        let versioned = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t4:aabb1:v4:LT\x01\x021:y1:qe".as_slice();
        let echoes = |query: &[u8], answer: &[u8], from_lower: bool| {
            let mut state = RuleState::default();
            super::transaction(&Payload::from_bytes(query, 6881, 6882, true), &mut state);
            super::transaction(&Payload::from_bytes(answer, 6882, 6881, from_lower), &mut state);
            state.rule_flags & rule_flags::ECHOED != 0
        };
        let short = b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re".as_slice();
        let long = b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t4:aabb1:v4:UT\x01\x021:y1:re".as_slice();
        assert!(echoes(query, short, false));
        assert!(echoes(versioned, long, false));
        assert!(!echoes(query, short, true), "from the same side");
        assert!(!echoes(query, long, false));
        assert!(!echoes(query, b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:ab1:y1:re", false));
        assert!(!echoes(query, query, false), "a query is no answer");
        let one = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t1:\x001:y1:qe".as_slice();
        assert!(!echoes(one, b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t1:\x001:y1:re", false), "one byte, once");
        assert!(!echoes(one, b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:\x00\x001:y1:re", false));
    }

    #[test]
    fn a_node_may_ask_back_before_it_answers() {
        let mut state = RuleState::default();
        let mut says = |from_lower, bytes: &[u8]| {
            super::transaction(&Payload::from_bytes(bytes, 6881, 6882, from_lower), &mut state);
            state.rule_flags & rule_flags::ECHOED != 0
        };
        says(true, b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t1:a1:y1:qe");
        says(false, b"d1:ad2:id20:mnopqrstuvwxyz123456e1:q4:ping1:t4:pn\x00\x001:y1:qe");
        assert!(!says(false, b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t1:a1:y1:re"), "one of 256, once");
        assert!(!says(false, b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t1:a1:y1:re"), "the same again");
        says(true, b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t1:b1:y1:qe");
        assert!(!says(false, b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t1:c1:y1:re"), "never asked");
        assert!(says(false, b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t1:b1:y1:re"));
        assert!(says(true, b"d1:rd2:id20:abcdefghij0123456789e1:t4:pn\x00\x001:y1:re"));
        assert!(!says(true, b"d1:rd2:id20:abcdefghij0123456789e1:t1:a1:y1:re"), "its own");
    }

    #[test]
    fn the_messages_of_the_beps_match() {
        for message in [
            b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe".as_slice(),
            b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re",
            b"d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee",
            b"d2:ip6:\x01\x02\x03\x04\x1a\xe11:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re",
            b"d2:ip18:0123456789abcdef\x1a\xe11:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re",
            b"d1:t2:aa1:y1:q1:q4:ping1:ad2:id20:abcdefghij0123456789e1:y1:qe",
            b"d1:t2:aa1:y1:q1:q4:ping1:ad2:id20:abcdefghij0123456789ee",
            b"d1:y1:r1:t2:aa1:rd2:id20:mnopqrstuvwxyz123456ee",
            b"d1:q9:get_peers1:ad2:id20:abcdefghij0123456789e1:t2:aae",
            b"d1:t8:aaaabbbb1:y1:r1:rd2:id20:mnopqrstuvwxyz123456ee",
        ] {
            assert_eq!(udp(message), SIGNATURE, "{}", String::from_utf8_lossy(message));
        }
    }

    #[test]
    fn every_byte_of_the_literal_counts() {
        let cut = b"d1:ad2:id20:abcdefghij0123456789e1:q9:get_peers";
        every_bit_counts(cut, 0..12, |bytes| udp(bytes));
        every_byte_counts(&cut[..12], |bytes| udp(bytes));
    }

    #[test]
    fn a_scrape_answer_needs_no_tail() {
        let cut = [b"d1:rd4:BFpe256:".as_slice(), &[7; 400]].concat();
        assert_eq!(udp(&cut), SIGNATURE);
        every_bit_counts(&cut, 0..3, |bytes| udp(bytes));
        every_bit_counts(&cut, 4..15, |bytes| udp(bytes));
    }

    #[test]
    fn other_bencoded_data_does_not_match() {
        for message in [
            b"d8:announce40:http://tracker.example.org/announce".as_slice(),
            b"d1:xd2:id20:abcdefghij0123456789e1:t2:aa1:y1:qe",
            b"d1:t2:aa1:y1:xe",
            b"d1:t2:aa1:y1:x1:q4:pinge",
            b"d1:t2aa1:y1:q1:q4:pinge",
            b"d1:q9:get-peersi5e",
            b"d1:y1:z1:t2:aae",
            b"d3:fooi1ee",
            b"xx d1:ad2:id20:abcdefghij0123456789e1:q4:ping",
        ] {
            assert_eq!(udp(message), None, "{}", String::from_utf8_lossy(message));
        }
    }
}
