//! Literals of 20 bytes at the start of a TCP stream that the sender cut over its first segments.
//!
//! Two protocols greet with the byte 0x13 and 19 characters, BitTorrent (BEP 3) and multistream-select (libp2p), and real
//! peers write that length byte, or any other part, in a segment of its own. Progress is kept in [`FlowState::memo`], one
//! byte per literal and direction, and only a stream's first bytes count: a literal never starts mid-segment.

use crate::payload::{FlowState, Payload};

/// Length of both literals, in bytes.
const LEN: usize = 20;
/// The first byte of both: the length of what follows.
const FIRST: u8 = 0x13;
/// Both literals, 32 bytes apart, so that a masked index stays inside.
static LITERALS: [u8; 64] =
    *b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0\0\0\0\0\x13/multistream/1.0.0\n\0\0\0\0\0\0\0\0\0\0\0\0";

/// A literal, by its place in `LITERALS` and in the memo.
#[derive(Clone, Copy)]
#[repr(usize)]
pub(super) enum Literal {
    /// `\x13BitTorrent protocol`.
    BitTorrent = 0,
    /// `\x13/multistream/1.0.0\n`.
    #[allow(dead_code, reason = "the libp2p signature will use it")]
    Multistream = 1,
}

/// Whether this payload completes the literal, alone or after earlier payloads of the same direction.
#[inline(always)]
pub(super) fn completes(payload: &Payload, state: &mut FlowState, literal: Literal) -> bool {
    if (state.memo == 0) & (payload.byte(0) != FIRST) {
        return false;
    }
    let whole = match literal {
        Literal::BitTorrent => payload.has(0, b"\x13BitTorrent protocol"),
        Literal::Multistream => payload.has(0, b"\x13/multistream/1.0.0\n"),
    };
    whole || continues(payload, state, literal as usize)
}

/// The rare part of [`completes`]: a payload that is a part of the literal only.
#[inline(never)]
fn continues(payload: &Payload, state: &mut FlowState, literal: usize) -> bool {
    let shift = literal * 16 + if payload.from_lower != 0 { 8 } else { 0 };
    let before = (state.memo >> shift) as usize & 0xff;
    let mut progress = advance(payload, literal, before);
    if (progress == 0) & (before != 0) {
        progress = advance(payload, literal, 0);
    }
    state.memo = (state.memo & !(0xff << shift)) | (progress as u64) << shift;
    progress >= LEN
}

/// How many bytes of the literal are known to have come after this payload, `before` of them earlier; 0 when it differs.
#[inline(always)]
fn advance(payload: &Payload, literal: usize, before: usize) -> usize {
    let mut progress = before;
    let mut index = 0;
    while index < LEN {
        if (index >= payload.captured as usize) | (progress >= LEN) {
            break;
        }
        if payload.byte(index) != LITERALS[(literal & 1) * 32 + (progress & 31)] {
            return 0;
        }
        progress += 1;
        index += 1;
    }
    progress
}

#[cfg(test)]
mod tests {
    use super::super::testing::Flow;
    use crate::protocol::Protocol;

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

    #[test]
    fn the_other_side_and_a_gap_do_not_continue_a_literal() {
        let mut flow = Flow::tcp();
        assert_eq!(flow.ask(&HANDSHAKE[..1]), None);
        assert_eq!(flow.answer(&HANDSHAKE[1..]), None);
        assert_eq!(flow.ask(b"something else"), None);
        assert_eq!(flow.ask(&HANDSHAKE[1..]), None);
    }

    #[test]
    fn a_retransmitted_first_byte_starts_again() {
        let mut flow = Flow::tcp();
        assert_eq!(flow.ask(&HANDSHAKE[..1]), None);
        assert_eq!(flow.ask(&HANDSHAKE[..1]), None);
        assert!(flow.ask(&HANDSHAKE[1..]).is_some());
    }

    #[test]
    fn both_sides_may_be_cut_at_once() {
        let mut flow = Flow::tcp();
        assert_eq!(flow.ask(&HANDSHAKE[..1]), None);
        assert_eq!(flow.answer(&HANDSHAKE[..7]), None);
        assert!(flow.ask(&HANDSHAKE[1..]).is_some());
    }
}
