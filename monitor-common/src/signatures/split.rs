//! Literals of 20 bytes at the start of a TCP stream that the sender cut over its first segments.
//!
//! Two protocols greet with the byte 0x13 and 19 characters, BitTorrent (BEP 3) and multistream-select (libp2p), and real
//! peers write that length byte, or any other part, in a segment of its own. How far each direction came is kept in
//! [`FlowState::memo`], one byte each. Only a stream's first bytes count: a literal never starts mid-segment.
//!
//! It is tried last: each way out leaves another value in the memo, and the verifier walks what follows once for each.

use crate::{
    payload::{FlowState, Payload},
    protocol::Protocol,
};

/// Length of both literals, in bytes.
const LEN: usize = 20;
/// The first byte of both: the length of what follows.
const FIRST: u8 = 0x13;
/// The place of the second literal, and of its second character, which tells the two apart.
const SECOND: usize = 32;
/// Both literals. A place in here says how far a direction came, and in which.
static LITERALS: [u8; 2 * SECOND] =
    *b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0\0\0\0\0\x13/multistream/1.0.0\n\0\0\0\0\0\0\0\0\0\0\0\0";

/// The protocol whose literal this payload completes, after earlier payloads of the same direction.
#[inline(always)]
pub(crate) fn completes(payload: &Payload, state: &mut FlowState) -> Option<Protocol> {
    if state.memo == 0 && payload.byte(0) != FIRST {
        return None;
    }
    let shift = if payload.from_lower != 0 { 8 } else { 0 };
    let place = advance(payload, (state.memo >> shift) as usize & 0xff);
    state.memo = (state.memo & !(0xff << shift)) | (place as u64) << shift;
    match place {
        LEN => Some(Protocol::BitTorrent),
        LITERALS_END => Some(Protocol::LibP2p),
        _ => None,
    }
}

/// The place behind the second literal.
const LITERALS_END: usize = SECOND + LEN;

/// The place after this payload, `before` the one ahead of it; 0 when it holds something else.
#[inline(never)]
fn advance(payload: &Payload, before: usize) -> usize {
    let mut place = before;
    let mut index = 0;
    while index < LEN {
        if index >= payload.captured as usize || place & (SECOND - 1) == LEN {
            break;
        }
        let byte = payload.counted(index);
        if place == 1 && byte == b'/' {
            place += SECOND;
        }
        if byte != LITERALS[place & (2 * SECOND - 1)] {
            // The length byte alone may come again: a retransmission.
            return (index == 0 && byte == FIRST && payload.captured == 1) as usize;
        }
        place += 1;
        index += 1;
    }
    place
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
