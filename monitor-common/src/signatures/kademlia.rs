//! Kad, the Kademlia network of eMule and aMule, over UDP.
//!
//! Source: eMule's `kademlia/net/KademliaUDPListener.cpp` and `Opcodes.h` (Kad version 2). Messages are the header byte 0xe4
//! and an opcode, or 0xe5 and an opcode over zlib data. Neither has a length field, so each opcode's own layout is checked.
//!
//! Guard: lengths are exact and counts agree with them. Messages of up to six bytes, and those that show nothing but opcode
//! and length, count on the default port or when the flow shows a request and an answer. Ports below 1024 are left out (DNS).

use super::edonkey::zlib;
use crate::{
    payload::{FlowState, Payload, marks},
    protocol::Confidence,
};

/// Header byte of plain messages.
const PLAIN: u8 = 0xe4;
/// Header byte of packed messages.
const PACKED: u8 = 0xe5;
/// Default UDP port of clients.
const PORT: u16 = 4672;
/// Highest Kad version so far is 10; four bits are left to it.
const MAX_VERSION: u8 = 15;
/// No file is larger: eMule's limit is 2^38 bytes.
const MAX_FILE_BITS: u32 = 40;

/// Kad messages.
#[inline(always)]
pub fn udp(payload: &Payload, state: &mut FlowState) -> Option<Confidence> {
    let header = payload.byte(0);
    if ((header != PLAIN) && (header != PACKED)) | !payload.high_ports() {
        return None;
    }
    let opcode = payload.byte(1);
    if header == PACKED {
        let known = (opcode == 0x09)
            || (opcode & 0xf7 == 0x11)
            || (opcode == 0x29)
            || (opcode == 0x3b)
            || (opcode & 0xf8 == 0x40);
        return (known && zlib(payload, 2)).then_some(Confidence::Structural);
    }
    let (weak, strong) = message(payload, opcode);
    let port = (payload.source_port == PORT) || (payload.destination_port == PORT);
    let enough = strong
        || weak
            && (port || {
                let answer = matches!(opcode, 0x22 | 0x4b | 0x58 | 0x59 | 0x5a | 0x61 | 0x62);
                let (mark, counterpart) = if answer {
                    (marks::KAD_ANSWER, marks::KAD_REQUEST)
                } else {
                    (marks::KAD_REQUEST, marks::KAD_ANSWER)
                };
                state.completes(mark, counterpart)
            });
    enough.then_some(Confidence::Structural)
}

/// Whether the datagram has the opcode's length, and whether its fields prove it beyond that.
#[inline(never)]
fn message(payload: &Payload, opcode: u8) -> (bool, bool) {
    let len = payload.len;
    match opcode {
        // Bootstrap request; its answer: id, port, version, count, contacts of 25 bytes.
        0x01 => (len == 2, false),
        0x09 => (false, (version(payload, 20)) && (len == 23 + 25 * payload.le16(21) as u32)),
        // Hello and its answer: id, port, version, number of tags.
        0x11 | 0x19 => {
            let tags = payload.byte(21);
            let follow = if tags == 0 { len == 22 } else { tags < 16 && tag(payload, 22) };
            (false, len >= 22 && version(payload, 20) && follow)
        }
        0x22 => (len >= 19, (len == 19) && (payload.byte(18) == 0)),
        // Lookup: kind (2, 4 or 11 contacts wanted), target, receiver; its answer: target, count, contacts.
        0x21 => {
            let wanted = payload.byte(2) & 0x1f;
            (false, (len == 35) && ((wanted == 2) || (wanted == 4) || (wanted == 11)))
        }
        0x29 => (false, len == 19 + 25 * payload.byte(18) as u32),
        // Search for a keyword: target, start position 0; its top bit says that an expression of kind 0 to 3 follows.
        0x33 => (
            false,
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
        0x4b => (len == 19, false),
        // Firewall check, its answers, buddy search and callback.
        0x50 => (len == 4, false),
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

#[cfg(test)]
mod tests {
    use super::super::testing::{Flow, Label, every_byte_counts, hex, udp};
    use crate::protocol::{Confidence, Protocol};
    use proptest::prelude::*;

    const STRUCTURAL: Label = Some((Protocol::Kademlia, Confidence::Structural));

    #[test]
    fn messages_whose_fields_agree_match_on_any_port() {
        for frame in [
            [hex("e411"), vec![7; 16], hex("3612 08 00")].concat(),
            [hex("e421 0b"), vec![7; 32]].concat(),
            [hex("e429"), vec![7; 16], hex("01"), vec![7; 25]].concat(),
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
    fn short_messages_need_the_default_port_or_their_counterpart() {
        for (request, answer) in
            [("e460", "e461 3612"), ("e401", "e461 3612"), ("e450 3612", "e458 c0000201"), ("e460", "e462 00 3612")]
        {
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
    fn wrong_lengths_and_counts_do_not_match() {
        for frame in [
            hex("e4"),
            hex("e460 00"),
            [hex("e421 0b"), vec![7; 31]].concat(),
            [hex("e421 07"), vec![7; 32]].concat(),
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
}
