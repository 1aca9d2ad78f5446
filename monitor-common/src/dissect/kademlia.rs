//! Kad, the Kademlia network of eMule and aMule, over UDP.
//!
//! Source: eMule's `kademlia/net/KademliaUDPListener.cpp` and `Opcodes.h` (Kad version 2). Messages are the header byte
//! 0xe4 and an opcode, or 0xe5 and an opcode before zlib data. Neither has a length field, so the layout of each opcode
//! is checked.
//!
//! Guard: lengths are exact and counts agree with them. Messages of up to six bytes, and those that show little more
//! than opcode and length, count on the default port or if the flow shows two different opcodes. Ports below 1024 are
//! excluded (DNS). The weakest messages that count alone are a lookup, 22 bits in a datagram of 35 bytes, and a packed
//! message, 25 bits. They count because most contacts of a client get one lookup and do not answer it.
//!
//! The answer to a request also makes the request certain ([`rule_flags::ANSWERED`]), because clients choose their
//! ports at random.

use super::{byte_set::ByteSet, content::raw, dissector::Dissector, edonkey::zlib, listen_port::valid, text};
use crate::{
    abi::{protocol::Protocol, rule::Rule, watch::ContentHash},
    dissect::rule_state::{RuleState, rule_flags},
    parse::payload::Payload,
};

/// First bytes, and prefixes that may be held.
pub(super) const DISSECTOR: Dissector = Dissector { udp: &[PLAIN, PACKED], ..Dissector::new(Protocol::Kademlia) };

/// Header byte of plain messages.
const PLAIN: u8 = 0xe4;
/// Header byte of packed messages.
const PACKED: u8 = 0xe5;
/// Default UDP port of clients.
const PORT: u16 = 4672;
/// Highest Kad version so far is 10; four bits are left to it.
const MAX_VERSION: u8 = 15;
/// A load is in percent.
const MAX_LOAD: u8 = 100;
/// No file is larger: eMule's limit is 2^38 bytes.
const MAX_FILE_BITS: u32 = 40;

/// Opcodes of Kad 2.
static OPCODES: ByteSet = ByteSet::of(&[
    0x01, 0x09, 0x11, 0x19, 0x21, 0x22, 0x29, 0x33, 0x34, 0x35, 0x3b, 0x43, 0x44, 0x45, 0x4b, 0x50, 0x51, 0x52, 0x53,
    0x58, 0x59, 0x5a, 0x60, 0x61, 0x62,
]);

/// Rules by opcode.
static RULES: [Rule; 128] = {
    let (mut rules, mut opcode) = ([Rule::KadPing; 128], 0);
    while opcode < 0x60 {
        rules[opcode] = match opcode {
            0x00..=0x0f => Rule::KadBootstrap,
            0x10..=0x1f | 0x22 => Rule::KadHello,
            0x20..=0x2f => Rule::KadLookup,
            0x30..=0x3f => Rule::KadSearch,
            0x40..=0x4f => Rule::KadPublish,
            _ => Rule::KadFirewall,
        };
        opcode += 1;
    }
    rules
};

/// Kad messages.
#[inline(always)]
pub fn udp(payload: &Payload, state: &mut RuleState) -> Option<Rule> {
    let header = payload.byte(0);
    if ((header != PLAIN) && (header != PACKED)) | !payload.has_peer_ports() | text::reads_as_dns(payload) {
        return None;
    }
    let opcode = payload.byte(1);
    if header == PACKED {
        let known = OPCODES.contains(opcode);
        let message = known && zlib(payload, 2);
        exchange(payload, state, opcode, message, message);
        return message.then_some(Rule::KadPacked);
    }
    let (weak, strong) = message(payload, opcode);
    let port = (payload.source_port == PORT) || (payload.destination_port == PORT);
    let enough = strong || weak && (port || state.confirms(opcode));
    exchange(payload, state, opcode, weak | strong, enough);
    enough.then_some(RULES[usize::from(opcode & 0x7f)])
}

/// Stores the expected answer of a request; returns whether a certain message is the answer that the other side
/// expects.
#[inline(always)]
fn exchange(payload: &Payload, state: &mut RuleState, opcode: u8, message: bool, certain: bool) {
    let answer = ANSWERS[usize::from(opcode & 0x7f)];
    let pending = state.pending_request(payload, rule_flags::PENDING_KAD);
    state.set_answered(certain & pending & (state.rule_value == u64::from(opcode)));
    // The answer to a lookup repeats the target that the request chose, behind the opcode.
    let target = u64::from(payload.be32(2)) << 32;
    state.set_echoed(pending & (opcode == LOOKUP_ANSWER) & (state.rule_value == target | u64::from(opcode)));
    let chosen = if opcode == LOOKUP { u64::from(payload.be32(3)) << 32 } else { 0 };
    if message & (answer != 0) {
        state.remember_request(payload, rule_flags::PENDING_KAD, chosen | u64::from(answer));
    }
}

/// `KADEMLIA2_REQ`: kind, target of 16 bytes, own id.
const LOOKUP: u8 = 0x21;
/// `KADEMLIA2_RES`: target, contacts.
const LOOKUP_ANSWER: u8 = 0x29;

/// Opcodes of the answers to requests that need not be certain by themselves, by the opcode of the request; 0 for other
/// messages. A table, because the verifier would walk the rest once for each path through a comparison.
static ANSWERS: [u8; 128] = {
    let mut answers = [0; 128];
    // Bootstrap, keyword search, firewall check, buddy search, ping.
    answers[0x01] = 0x09;
    answers[LOOKUP as usize] = LOOKUP_ANSWER;
    answers[0x33] = 0x3b;
    answers[0x50] = 0x58;
    answers[0x51] = 0x5a;
    answers[0x60] = 0x61;
    answers
};

/// Whether the datagram has the opcode's length, and whether its fields prove it beyond that.
#[inline(never)]
fn message(payload: &Payload, opcode: u8) -> (bool, bool) {
    let len = payload.len;
    match opcode {
        // Bootstrap request; its answer: id, port, version, count, contacts of 25 bytes.
        0x01 => (len == 2, false),
        0x09 => {
            let contacts = payload.le16(21) as u32;
            let sane = (contacts <= 20) & (contacts == 0 || version(payload, 47));
            (false, version(payload, 20) && sane && len == 23 + 25 * contacts)
        }
        // Hello and its answer: id, port, version, number of tags.
        0x11 | 0x19 => {
            let tags = payload.byte(21);
            let follow = if tags == 0 { len == 22 } else { tags < 16 && tag(payload, 22) };
            let hello = len >= 22 && version(payload, 20);
            (hello, hello && follow)
        }
        0x22 => (len >= 19, false),
        // Lookup: kind (2, 4 or 11 contacts wanted), target, receiver; its answer: target, count, contacts.
        0x21 => {
            let kind = payload.byte(2);
            let wanted = kind & 0x1f;
            let fits = (len == 35) && ((wanted == 2) || (wanted == 4) || (wanted == 11));
            // The three bits above are free to receivers, but no sender sets them.
            (fits, fits && kind == wanted)
        }
        // Each contact ends in its version; one of them, or none, leaves too much to chance.
        0x29 => {
            let fits = len == 19 + 25 * payload.byte(18) as u32;
            (fits, fits && len >= 19 + 2 * 25 && version(payload, 43) && version(payload, 68))
        }
        // Search for a keyword: target, start position 0; its top bit announces an expression of kind 0 to 3.
        0x33 => (
            len >= 20,
            (len == 20 && payload.le16(18) == 0) || (len > 20 && payload.le16(18) == 0x8000 && payload.byte(20) <= 3),
        ),
        // Search for sources: target, start position, file size; for notes: target, file size.
        0x34 => (false, (len == 28) && (payload.le64(20) >> MAX_FILE_BITS == 0)),
        0x35 => (false, (len == 26) && (payload.le64(18) >> MAX_FILE_BITS == 0)),
        // Search answer: sender, target, number of results; publishing a keyword: target, number of files.
        0x3b => (false, payload.le16(34).wrapping_sub(1) < 300 && tag(payload, 53)),
        0x43 => (false, (len >= 40) && (payload.le16(18) < 256) && tag(payload, 37)),
        // Publishing a source or a note: file, source, tags; its answer: file, load.
        0x44 | 0x45 => (false, (len >= 40) && (payload.byte(34) < 32) && tag(payload, 35)),
        0x4b => (len == 19 && payload.byte(18) <= MAX_LOAD, false),
        // Firewall check, its answers, buddy search and callback.
        0x50 => (len == 4, false),
        // Port, user hash, connect options.
        0x53 => (len == 21, false),
        0x58 => (len == 6, false),
        0x59 => (len == 2, false),
        0x51 | 0x52 | 0x5a => (len == 36, false),
        // Ping, pong, firewalled UDP.
        0x60 => (len == 2, false),
        0x61 => (len == 4, false),
        0x62 => (len == 5, false),
        _ => (false, false),
    }
}

/// Whether the byte at `offset` is a plausible Kad version.
#[inline(always)]
fn version(payload: &Payload, offset: usize) -> bool {
    (payload.byte(offset).wrapping_sub(1) < MAX_VERSION) && (payload.len as usize > offset)
}

/// Whether a tag starts at `offset`: a type, a name of one byte, a value.
#[inline(always)]
fn tag(payload: &Payload, offset: usize) -> bool {
    payload.byte(offset).wrapping_sub(1) < 0x24 && payload.le16(offset + 1) == 1 && payload.len as usize > offset + 4
}

/// The file hash in a search for sources or a publication: four little-endian words.
#[inline(always)]
pub(super) fn content(payload: &Payload, found: &mut ContentHash) {
    if matches!(payload.le16(0), 0x34e4 | 0x44e4) {
        raw(payload, 2, 16, found);
        found.0[0] = found.0[0].swap_bytes().rotate_left(32);
        found.0[1] = found.0[1].swap_bytes().rotate_left(32);
    }
}

/// The TCP port in a hello or its answer, after the contact's id.
#[inline(always)]
pub(super) fn listen_port(payload: &Payload) -> u32 {
    let hello = (payload.byte(0) == PLAIN) & (payload.byte(1) & 0xf7 == 0x11) & (payload.len >= 22);
    if hello { valid(u32::from(payload.le16(18))) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Flow, Label, every_byte_counts, hex, udp};
    use crate::{
        abi::{
            protocol::{Confidence, Protocol},
            watch::ContentHash,
        },
        dissect::{
            content::{self, HASH},
            listen_port,
            rule_state::{RuleState, rule_flags},
        },
        parse::payload::{Payload, Transport},
    };
    use proptest::prelude::*;

    const STRUCTURAL: Label = Some((Protocol::Kademlia, Confidence::Structural));

    #[test]
    fn messages_whose_fields_agree_match_on_any_port() {
        for frame in [
            [hex("e411"), vec![7; 16], hex("3612 08 00")].concat(),
            [hex("e421 0b"), vec![7; 32]].concat(),
            [hex("e429"), vec![7; 16], hex("02"), vec![7; 50]].concat(),
            [hex("e409"), vec![7; 16], hex("3612 08 0100"), vec![7; 25]].concat(),
            [hex("e433"), vec![7; 16], hex("0000")].concat(),
            [hex("e434"), vec![7; 16], hex("0000 0000a00000000000")].concat(),
            [hex("e435"), vec![7; 16], hex("0000a00000000000")].concat(),
            [hex("e444"), vec![7; 32], hex("01 0b 0100 d3 00a0000000000000")].concat(),
        ] {
            assert_eq!(udp(&frame), STRUCTURAL, "{frame:02x?}");
            assert_eq!(Flow::udp().ports(53, 40_000).ask(&frame), None, "ports below 1024 are left out");
            every_byte_counts(&frame[..frame.len().min(35)], |bytes| {
                if bytes.len() == frame.len().min(35) { udp(&frame) } else { udp(bytes) }
            });
        }
        assert_eq!(udp([hex("e433"), vec![7; 16], hex("0080 01 0300 6d7033")].concat()), STRUCTURAL);
        assert_eq!(udp([hex("e419"), vec![7; 16], hex("3612 08 01 09 0100 f2 04")].concat()), STRUCTURAL);
        assert_eq!(udp([hex("e419"), vec![7; 16], hex("3612 08 01 09 0200 f2 04")].concat()), None);
        assert_eq!(udp(hex("e529 789c 63600000")), STRUCTURAL);
        assert_eq!(udp(hex("e529 799c 63600000")), None);
        assert_eq!(udp(hex("e5ff 789c 63600000")), None);
    }

    #[test]
    fn any_opcode_may_be_packed() {
        assert_eq!(udp(hex("e533 789c 63600000")), STRUCTURAL);
        assert_eq!(udp(hex("e561 7801 63600000")), STRUCTURAL);
        assert_eq!(udp(hex("e502 789c 63600000")), None);
        assert_eq!(udp(hex("e5e1 789c 63600000")), None);
    }

    #[test]
    fn short_messages_need_the_default_port_or_another_one() {
        for (request, answer) in [
            ("e460", "e461 3612"),
            ("e401", "e461 3612"),
            ("e450 3612", "e458 c0000201"),
            ("e460", "e462 00 3612"),
            ("e460", "e450 3612"),
        ] {
            for frame in [hex(request), hex(answer)] {
                assert_eq!(udp(&frame), None, "{frame:02x?}");
                assert_eq!(Flow::udp().ports(40_000, 4672).answer(&frame), STRUCTURAL);
                let mut flow = Flow::udp();
                assert_eq!(flow.ask(&frame), None);
                assert_eq!(flow.answer(&frame), None, "the same again proves nothing: {frame:02x?}");
            }
            let mut flow = Flow::udp();
            assert_eq!(flow.ask(hex(request)), None);
            assert_eq!(flow.answer(hex(answer)), STRUCTURAL, "{answer}");
        }
    }

    #[test]
    fn the_answer_makes_the_request_certain() {
        let answered = |request: &[u8], answer: &[u8], from_lower: bool| {
            let mut state = RuleState::default();
            super::udp(&Payload::from_bytes(request, 40_000, 50_000, true), &mut state);
            let asked = state.rule_flags & rule_flags::ANSWERED;
            let label = super::udp(&Payload::from_bytes(answer, 50_000, 40_000, from_lower), &mut state);
            assert!(label.is_some() || state.rule_flags & rule_flags::ANSWERED == 0, "certain");
            asked == 0 && state.rule_flags & rule_flags::ANSWERED != 0
        };
        let contacts = [hex("e409"), vec![7; 16], hex("3612 08 0100"), vec![7; 25]].concat();
        let found = [hex("e43b"), vec![7; 32], hex("0100"), vec![7; 17], hex("09 0100 f2 04")].concat();
        let keyword = [hex("e433"), vec![7; 16], hex("0000")].concat();
        for (request, answer) in [
            (hex("e401"), contacts.clone()),
            (hex("e401"), hex("e509 789c 63600000")),
            (hex("e460"), hex("e461 3612")),
            (hex("e450 3612"), hex("e458 c0000201")),
            (keyword, found),
        ] {
            assert!(answered(&request, &answer, false), "{request:02x?}");
            assert!(!answered(&request, &answer, true), "by the same side: {request:02x?}");
            assert!(!answered(&answer, &answer, false), "no request: {request:02x?}");
            assert!(!answered(&request, &request, false), "no answer: {request:02x?}");
        }
        assert!(!answered(&hex("e460"), &contacts, false), "another request's");
        assert!(!answered(&hex("e401"), &contacts[..47], false), "cut short");
        assert!(!answered(&hex("e401"), &hex("e509 779c 63600000"), false), "not packed");
        // The flag of one payload does not apply to the next.
        let mut state = RuleState::default();
        for (bytes, from_lower, expected) in
            [(hex("e401"), true, false), (contacts.clone(), false, true), (hex("e460"), false, false)]
        {
            super::udp(&Payload::from_bytes(&bytes, 40_000, 50_000, from_lower), &mut state);
            assert_eq!(state.rule_flags & rule_flags::ANSWERED != 0, expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn what_shows_little_beyond_its_length_needs_the_default_port() {
        for frame in [
            [hex("e422"), vec![7; 16], hex("00")].concat(),
            [hex("e44b"), vec![7; 16], hex("05")].concat(),
            [hex("e453 3612"), vec![7; 16], hex("07")].concat(),
            [hex("e429"), vec![7; 16], hex("00")].concat(),
            [hex("e429"), vec![7; 16], hex("01"), vec![7; 25]].concat(),
            [hex("e429"), vec![7; 16], hex("02"), vec![7; 49], vec![0x10]].concat(),
            [hex("e411"), vec![7; 16], hex("3612 08 7f 7f7f7f")].concat(),
        ] {
            assert_eq!(udp(&frame), None, "{frame:02x?}");
            assert_eq!(Flow::udp().ports(40_000, 4672).ask(&frame), STRUCTURAL, "{frame:02x?}");
        }
        let mut flow = Flow::udp();
        assert_eq!(flow.ask(hex("e450 3612")), None);
        assert_eq!(flow.answer([hex("e429"), vec![7; 16], hex("00")].concat()), STRUCTURAL);
        let mut flow = Flow::udp();
        assert_eq!(flow.ask([hex("e453 3612"), vec![7; 16], hex("07")].concat()), None);
        assert_eq!(flow.answer(hex("e458 c0000201")), STRUCTURAL);
    }

    #[test]
    fn wrong_lengths_and_counts_do_not_match() {
        for frame in [
            hex("e4"),
            hex("e460 00"),
            [hex("e421 0b"), vec![7; 31]].concat(),
            [hex("e421 07"), vec![7; 32]].concat(),
            [hex("e44b"), vec![7; 18]].concat(),
            [hex("e429"), vec![7; 16], hex("02"), vec![7; 25]].concat(),
            [hex("e411"), vec![7; 16], hex("3612 10 00")].concat(),
            [hex("e434"), vec![7; 26]].concat(),
            [hex("e4ff"), vec![7; 20]].concat(),
        ] {
            assert_eq!(Flow::udp().ports(40_000, 4672).ask(&frame), None, "{frame:02x?}");
        }
    }

    proptest! {
        #[test]
        fn random_messages_of_unknown_opcodes_never_match(bytes in proptest::collection::vec(any::<u8>(), 1..600)) {
            let mut bytes = bytes;
            bytes[0] = 0xe4;
            if let Some(opcode) = bytes.get_mut(1) {
                *opcode |= 0x80;
            }
            prop_assert_eq!(Flow::udp().ports(40_000, 4672).ask(&bytes), None);
        }
    }

    #[test]
    fn hellos_name_the_port() {
        let mut hello = vec![0xe4, 0x11];
        hello.extend([0xab; 16]);
        hello.extend(4662u16.to_le_bytes());
        hello.extend([8, 0]);
        assert_eq!(listen_port::named(Transport::Udp, Protocol::Kademlia, &hello), 4662);
    }

    #[test]
    fn searches_name_16_bytes() {
        let expected = ContentHash::from_bytes(&HASH[..16]);
        let swapped: Vec<u8> = HASH[..16].chunks(4).flat_map(|word| word.iter().rev().copied()).collect();
        assert_eq!(
            content::named(Transport::Udp, Protocol::Kademlia, &[&[0xe4, 0x34], &swapped[..], &[0; 10]].concat()),
            expected
        );
    }
}
