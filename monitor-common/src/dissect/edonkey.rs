//! eDonkey 2000 and eMule: client-server and client-client TCP, server and client UDP.
//!
//! Source: "The eMule Protocol Specification" (Kulbak, Bickson, 2005) and the opcode names of eMule's `opcodes.h`.
//! TCP messages are a header byte (0xe3 eDonkey, 0xc5 eMule extension, 0xd4 zlib-packed), a little-endian length that
//! counts from the opcode, and an opcode. Matched, on any port:
//! - a message that ends exactly with its segment and has an opcode of its header byte;
//! - a message that is followed by a second header of this form;
//! - the head of a longer message: a file part with offsets that agree with its length, or a packed message with zlib's
//!   magic;
//! - a longer message of another kind, if the next segments of its direction end it exactly, or continue with a second
//!   header.
//!
//! UDP messages have no length field, so `edonkey/udp.rs` checks the layout of each opcode.
//! Guard: a header byte and a length alone also occur elsewhere; the opcode sets and the agreeing lengths do not.

use super::{
    byte_set::ByteSet,
    dissector::{Dissector, prefix},
};
use crate::{
    abi::{protocol::Protocol, rule::Rule},
    dissect::rule_state::{RuleState, rule_flags},
    parse::payload::Payload,
};
pub(super) mod content;
mod listen_port;
pub(super) mod opcode;
pub(super) mod peer_list;
mod udp;

pub(super) use listen_port::listen_port;
pub use udp::udp;

/// First bytes, and prefixes that may be held.
pub(super) const DISSECTOR: Dissector = Dissector {
    prefixes: &[
        prefix(&[EDONKEY], HEADER as usize),
        prefix(&[EMULE], HEADER as usize),
        prefix(&[PACKED], HEADER as usize),
    ],
    udp: &[EDONKEY, EMULE],
    ..Dissector::new(Protocol::EDonkey)
};

/// Header byte of eDonkey messages.
pub(super) const EDONKEY: u8 = 0xe3;
/// Header byte of eMule's extension messages.
const EMULE: u8 = 0xc5;
/// Header byte of zlib-packed messages, with opcodes of both.
const PACKED: u8 = 0xd4;
/// Bytes before the opcode, which the length does not count.
const HEADER: u32 = 5;
/// No message is longer: a part request covers at most three blocks of 184,320 bytes and clients send at most 10,240 a
/// message.
const MAX_MESSAGE: u32 = 200_000;

/// Opcodes after 0xe3: server messages 01 to 44, client messages 01 and 46 to 61.
const EDONKEY_OPCODES: ByteSet = ByteSet::of_ranges(&[
    (0x01, 0x01),
    (0x05, 0x05),
    (0x14, 0x16),
    (0x18, 0x1f),
    (0x21, 0x21),
    (0x23, 0x23),
    (0x32, 0x36),
    (0x38, 0x3d),
    (0x40, 0x44),
    (0x46, 0x52),
    (0x54, 0x61),
]);
/// Opcodes after 0xc5: information 01 and 02, file messages 40 and 60 to 62, sources, identification and the rest 81
/// to ac.
const EMULE_OPCODES: ByteSet =
    ByteSet::of_ranges(&[(0x01, 0x02), (0x40, 0x40), (0x60, 0x62), (0x81, 0x87), (0x90, 0xac)]);

/// Header bytes by their bits 4 and 5, which differ in all three.
static HEADERS: [u8; 4] = [EMULE, PACKED, EDONKEY, 0];
/// Opcodes by these bits.
static OPCODES: [ByteSet; 4] = [EMULE_OPCODES, EDONKEY_OPCODES.union(EMULE_OPCODES), EDONKEY_OPCODES, ByteSet::EMPTY];

/// Whether these are a header byte and an opcode that belong together. Tables in place of branches: one path to verify.
#[inline(always)]
fn known(header: u8, opcode: u8) -> bool {
    let row = (header >> 4 & 3) as usize;
    HEADERS[row] == header && OPCODES[row].contains(opcode)
}

/// Whether zlib data starts at `offset`: method 8 with a 32 KiB window, and one of the four standard levels (RFC 1950).
#[inline(always)]
pub(super) fn zlib(payload: &Payload, offset: usize) -> bool {
    let level = payload.byte(offset + 1);
    (payload.byte(offset) == 0x78) && ((level == 0x01) || (level == 0x5e) || (level == 0x9c) || (level == 0xda))
}

/// Client-server and client-client messages.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    let header = payload.byte(0);
    if (header != EDONKEY) && (header != EMULE) && (header != PACKED) {
        return None;
    }
    message(payload).then_some(Rule::EdonkeyMessage)
}

/// Whether this segment ends a message that earlier segments of its direction started, or continues with another
/// message. Records a message that it starts.
///
/// Tried last: its change of the flow's state would make the verifier walk the rest once more.
#[inline(always)]
pub(crate) fn continued(payload: &Payload, state: &mut RuleState) -> bool {
    let mine = (state.rule_flags & rule_flags::OWED_FROM_LOWER != 0) == (payload.from_lower != 0);
    if state.rule_flags & rule_flags::OWED != 0 && mine {
        let owed = state.rule_value as u32;
        if payload.len < owed {
            state.rule_value = u64::from(owed - payload.len);
            return false;
        }
        state.rule_flags &= !rule_flags::OWED;
        if payload.len == owed || followed(payload, owed) {
            return true;
        }
    }
    let length = payload.le32(1);
    let held = payload.len.wrapping_sub(HEADER);
    if payload.len > HEADER && plausible(length) && known(payload.byte(0), payload.byte(5)) && length > held {
        state.owe(payload, length - held);
    }
    false
}

/// Whether the segment starts with a message: the part of [`tcp`] after its gate.
#[inline(never)]
fn message(payload: &Payload) -> bool {
    let (header, number) = (payload.byte(0), payload.byte(5));
    let length = payload.le32(1);
    if payload.len <= HEADER || !plausible(length) || !known(header, number) {
        return false;
    }
    if header == PACKED && !zlib(payload, 6) {
        return false;
    }
    let held = payload.len - HEADER;
    if length == held {
        return true;
    }
    if length < held {
        return followed(payload, HEADER + length);
    }
    match (header, number) {
        (PACKED, _) => true,
        (EDONKEY, opcode::SENDING_PART) => part(payload, length),
        (EMULE, 0xa2) => part_64(payload, length),
        // A compressed part has the packed size of the whole block; this message is a piece of it.
        (EMULE, 0x40) => piece(payload.le32(26), length.wrapping_sub(25)),
        (EMULE, 0xa1) => piece(payload.le32(30), length.wrapping_sub(29)),
        _ => false,
    }
}

/// Whether a message may have this length.
#[inline(always)]
fn plausible(length: u32) -> bool {
    length.wrapping_sub(1) < MAX_MESSAGE
}

/// Whether a second header starts at `next`.
#[inline(always)]
fn followed(payload: &Payload, next: u32) -> bool {
    next + HEADER < payload.captured
        && plausible(payload.le32(next as usize + 1))
        && known(payload.byte(next as usize), payload.byte((next + HEADER) as usize))
}

/// Whether a file part's offsets, after the file's hash, agree with its length.
#[inline(always)]
fn part(payload: &Payload, length: u32) -> bool {
    payload.captured >= 30 && payload.le32(26).wrapping_sub(payload.le32(22)) == length.wrapping_sub(25)
}

/// Whether a file part's 64-bit offsets agree with its length.
#[inline(always)]
fn part_64(payload: &Payload, length: u32) -> bool {
    payload.captured >= 38 && payload.le64(30).wrapping_sub(payload.le64(22)) == u64::from(length.wrapping_sub(33))
}

/// Whether a message with this much packed data may be a piece of a block of that packed size.
#[inline(always)]
fn piece(size: u32, data: u32) -> bool {
    plausible(size) && data <= size
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Flow, Label, every_bit_counts, every_byte_counts, hex, tcp};
    use crate::abi::protocol::{Confidence, Protocol};
    use proptest::prelude::*;

    const STRUCTURAL: Label = Some((Protocol::EDonkey, Confidence::Structural));

    fn message(header: u8, opcode: u8, body: &[u8]) -> Vec<u8> {
        let mut message = vec![header];
        message.extend((body.len() as u32 + 1).to_le_bytes());
        message.push(opcode);
        message.extend(body);
        message
    }

    #[test]
    fn whole_messages_match() {
        for (header, opcode) in [(0xe3, 0x01), (0xe3, 0x4c), (0xe3, 0x58), (0xe3, 0x38), (0xc5, 0x01), (0xc5, 0x92)] {
            let frame = message(header, opcode, &[0x10; 40]);
            assert_eq!(tcp(&frame), STRUCTURAL, "{header:02x} {opcode:02x}");
            every_byte_counts(&frame, |bytes| tcp(bytes));
            every_bit_counts(&frame, 1..5, |bytes| tcp(bytes));
        }
        assert_eq!(tcp(message(0xd4, 0x15, &hex("789c 0102030405"))), STRUCTURAL);
    }

    #[test]
    fn near_misses_do_not_match() {
        assert_eq!(tcp(message(0xe3, 0x00, &[0; 16])), None);
        assert_eq!(tcp(message(0xe3, 0xf0, &[0; 16])), None);
        assert_eq!(tcp(message(0xc5, 0x58, &[0; 16])), None);
        assert_eq!(tcp(message(0xe4, 0x01, &[0; 16])), None);
        assert_eq!(tcp(message(0xd4, 0x15, &hex("799c 0102030405"))), None);
        assert_eq!(tcp([message(0xe3, 0x01, &[0; 16]), vec![0]].concat()), None);
        assert_eq!(tcp(hex("e300000000")), None);
    }

    #[test]
    fn chained_messages_match() {
        let frame = [message(0xe3, 0x58, &[1; 16]), message(0xe3, 0x4f, &[1; 16])].concat();
        assert_eq!(tcp(&frame), STRUCTURAL);
        assert_eq!(tcp(&frame[..frame.len() - 3]), STRUCTURAL, "the second may go on in the next segment");
        assert_eq!(tcp([message(0xe3, 0x58, &[1; 16]), vec![0x4f; 22]].concat()), None);
    }

    #[test]
    fn messages_cut_over_segments_match() {
        let hello = message(0xe3, 0x01, &[0x10; 40]);
        for first in 1..hello.len() {
            let mut flow = Flow::tcp();
            assert_eq!(flow.ask(&hello[..first]), None, "{first}");
            assert_eq!(flow.answer(b"something else"), None, "{first}");
            assert_eq!(flow.ask(&hello[first..]), STRUCTURAL, "{first}");
            let mut flow = Flow::tcp();
            assert_eq!(flow.ask(&hello[..first]), None);
            assert_eq!(flow.answer(&hello[first..]), None, "the other side does not go on, {first}");
        }
        let mut flow = Flow::tcp();
        let long = message(0xe3, 0x15, &[7; 3000]);
        assert_eq!(flow.ask(&long[..1460]), None);
        assert_eq!(flow.ask(&long[1460..2920]), None);
        assert_eq!(flow.ask([&long[2920..], &message(0xe3, 0x16, &[7; 30])].concat()), STRUCTURAL);
        let mut flow = Flow::tcp();
        assert_eq!(flow.ask(&hello[..20]), None);
        assert_eq!(flow.ask([&hello[20..], &[7; 9]].concat()), None, "something else goes on");
        assert_eq!(flow.ask(&hello[20..]), None, "too late");
    }

    #[test]
    fn parts_that_go_on_match() {
        let plain = [message(0xe3, 0x46, &[]), vec![9; 16], hex("00500000 00780000"), vec![7; 1400]].concat();
        let mut head = plain.clone();
        head[1..5].copy_from_slice(&(25 + 0x2800u32).to_le_bytes());
        assert_eq!(tcp(&head), STRUCTURAL);
        head[1] ^= 1;
        assert_eq!(tcp(&head), None, "offsets and length disagree");
        let packed = [hex("c5 19280000 40"), vec![9; 16], hex("00500000 00500000"), vec![7; 1400]].concat();
        assert_eq!(tcp(&packed), STRUCTURAL);
        let large =
            [hex("c5 21280000 a2"), vec![9; 16], hex("0050000001000000 0078000001000000"), vec![7; 1400]].concat();
        assert_eq!(tcp(&large), STRUCTURAL);
        assert_eq!(tcp([hex("e3 19280000 47"), vec![9; 1400]].concat()), None);
    }

    proptest! {
        #[test]
        fn random_payloads_never_match(bytes in proptest::collection::vec(any::<u8>(), 0..600), header in 0usize..3) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = [0xe3, 0xc5, 0xd4][header];
            }
            prop_assert_eq!(tcp(&bytes), None);
        }
    }
}
