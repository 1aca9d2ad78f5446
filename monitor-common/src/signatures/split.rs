//! Signatures that the sender cut over its first TCP segments.
//!
//! Any: a first segment of up to eight bytes that may be the start of a known one is kept, and put in front of the direction's
//! next segment before that is looked into ([`join`], [`keep`]). Writers that send a length or a command word alone do so.
//!
//! Literals: two protocols greet with the byte 0x13 and 19 characters, BitTorrent (BEP 3) and multistream-select (libp2p), and real
//! peers write that length byte, or any other part, in a segment of its own. How far each direction came is kept in
//! [`FlowState::marks`]. Only a stream's first bytes count: a literal never starts mid-segment.
//!
//! Both are tried last: each way out leaves another state, and the verifier walks what follows once for each.

use crate::{
    payload::{FlowState, Payload, marks},
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
    let places = state.marks >> marks::PLACE_SHIFT & PLACES;
    if places == 0 && payload.byte(0) != FIRST {
        return None;
    }
    let shift = if payload.from_lower != 0 { marks::PLACE_BITS } else { 0 };
    let place = advance(payload, (places >> shift & PLACE) as usize);
    let places = (places & !(PLACE << shift)) | (place as u32 & PLACE) << shift;
    state.marks = (state.marks & !(PLACES << marks::PLACE_SHIFT)) | places << marks::PLACE_SHIFT;
    match place {
        LEN => Some(Protocol::BitTorrent),
        LITERALS_END => Some(Protocol::LibP2p),
        _ => None,
    }
}

/// One direction's place, and both.
const PLACE: u32 = (1 << marks::PLACE_BITS) - 1;
const PLACES: u32 = (1 << (2 * marks::PLACE_BITS)) - 1;
const _: () = assert!(2 * SECOND as u32 <= PLACE + 1);

/// Bytes of a segment that are kept at most.
const KEPT: u32 = 8;

/// Puts what was kept of this direction's last segment in front of this one.
#[inline(always)]
pub(crate) fn join(payload: &mut Payload, state: &mut FlowState) {
    let count = (state.marks & marks::HELD) >> marks::HELD_SHIFT;
    let mine = (state.marks & marks::HELD_FROM_LOWER != 0) == (payload.from_lower != 0);
    if count == 0 || count > KEPT || !mine {
        return;
    }
    // The same segment again is a retransmission.
    if payload.len == count && payload.le64(0) == state.memo {
        return;
    }
    state.marks &= !marks::HELD;
    payload.prepend(state.memo, count);
}

/// Keeps a segment that may be the start of a signature, until its direction's next one.
#[inline(always)]
pub(crate) fn keep(payload: &Payload, state: &mut FlowState, starts: bool) {
    // Soulseek and OpenNap: a small length of 16 or 32 bits, a type up to 7.
    let length = payload.len == 4 && payload.le32(0) & 0xfff8_ff00 == 0;
    let wanted = payload.len.wrapping_sub(1) < KEPT && payload.captured == payload.len && (starts || length);
    if !wanted || state.marks & marks::HELD == marks::HELD_OWED {
        return;
    }
    state.memo = payload.le64(0);
    state.hold(payload, payload.len << marks::HELD_SHIFT);
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

    /// Segments of one direction; the label of the last, when those before it have none.
    fn cut(message: &[u8], first: usize) -> Option<Protocol> {
        let mut flow = Flow::tcp();
        assert_eq!(flow.ask(&message[..first]), None);
        assert_eq!(flow.answer(b"220 something else\r\n"), None);
        flow.ask(&message[first..]).map(|label| label.0)
    }

    #[test]
    fn signatures_cut_within_eight_bytes_are_found() {
        let login = [&[27, 0, 2, 0], b"user pass 6699 \"nap v0.8\" 8".as_slice()].concat();
        for (message, protocol) in [
            (b"GNUTELLA CONNECT/0.6\r\nUser-Agent: a\r\n".as_slice(), Protocol::Gnutella),
            (b"GET /uri-res/N2R?urn:sha1:PLSTHIPQGSSZTS5FJUPAKUZWUGYQYPFB HTTP/1.1\r\n", Protocol::Gnutella),
            (b"$MyNick someone|$Lock EXTENDED Pk=a|", Protocol::DirectConnect),
            (b"CSUP ADBASE ADTIGR\n", Protocol::DirectConnect),
            (b"ajprot\r\n", Protocol::AppleJuice),
            (b"GET /announce?info_hash=%124Vx HTTP/1.1\r\n", Protocol::BitTorrent),
        ] {
            for first in 1..=8.min(message.len() - 1) {
                assert_eq!(cut(message, first), Some(protocol), "cut at {first}: {message:?}");
            }
        }
        assert_eq!(cut(&login, 4), Some(Protocol::OpenNap));
        assert_eq!(cut(b"\x05\0\0\0\0abcd", 4), Some(Protocol::Soulseek));
    }

    #[test]
    fn what_was_kept_is_of_one_direction_and_once() {
        let message = b"GNUTELLA CONNECT/0.6\r\n";
        let mut flow = Flow::tcp();
        assert_eq!(flow.ask(&message[..4]), None);
        assert_eq!(flow.answer(&message[4..]), None);
        assert_eq!(flow.ask(&message[..4]), None, "again: a retransmission");
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
