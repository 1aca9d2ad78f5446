//! Ace Stream: live and recorded video between peers, with BitTorrent's framing under a name of its own.
//!
//! Sources: published analyses, and libprotoident for the lengths. Matched: the handshake, 0x11 "AceStreamProtocol", at
//! the start of a stream, whole or (in `hold_rules.rs`) split across segments; also without its first byte. 8 reserved
//! bytes, an info hash and a peer id of 20 bytes each follow.
//!
//! The frames after the handshake are those of BEP 3, and BitTorrent's rule finds them in a stream joined midway.
//! `engine/stages/verdict.rs` gives such a stream this protocol's label if a port is Ace Stream's own, or an endpoint
//! is known for Ace Stream. Else it cannot be told from BitTorrent. Its trackers and its DHT are BitTorrent's, too, and
//! count as such.
//!
//! Guard: 18 fixed bytes (144 bits), or 17 and four zeros (168 bits) and the length. Frames: the 51 bits of
//! BitTorrent's rule; the port or the endpoint only chooses between two protocols.

use super::{
    content::raw,
    dissector::{Dissector, prefix},
};
use crate::{
    abi::{protocol::Protocol, rule::Rule, watch::ContentHash},
    dissect::rule_state::RuleState,
    parse::payload::Payload,
};

/// First bytes, and prefixes that may be held.
pub(super) const DISSECTOR: Dissector =
    Dissector { prefixes: &[prefix(HANDSHAKE, HANDSHAKE.len())], unsplit: b"A", ..Dissector::new(Protocol::AceStream) };

/// Start of the handshake: a length byte and the protocol's name.
const HANDSHAKE: &[u8; 18] = b"\x11AceStreamProtocol";
/// First byte of the handshake: the length of the name.
pub(super) const FIRST_BYTE: u8 = HANDSHAKE[0];
/// The name without its length, of a handshake with a lost first segment of one byte.
const NAME: &[u8; 17] = b"AceStreamProtocol";
/// Bytes of a handshake.
const HANDSHAKE_LEN: u32 = 66;
/// Place of the info hash in a handshake.
const INFO_HASH: usize = 26;
/// Port on which the program listens unless it is set up otherwise.
const PORT: u16 = 8621;

/// Handshakes between peers.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    if payload.has(0, HANDSHAKE) {
        return Some(Rule::AcestreamHandshake);
    }
    // The first reserved bytes are zero, which excludes text.
    let tail = payload.has(0, NAME) && payload.be32(NAME.len()) == 0 && payload.captured >= HANDSHAKE_LEN - 1;
    tail.then_some(Rule::AcestreamHandshakeTail)
}

/// Whether either port is the program's own.
#[inline(always)]
pub(crate) const fn is_port(source: u16, destination: u16) -> bool {
    (source == PORT) | (destination == PORT)
}

/// The info hash of a handshake.
#[inline(always)]
pub(super) fn content(payload: &Payload, found: &mut ContentHash) {
    match payload.byte(0) {
        FIRST_BYTE => raw(payload, INFO_HASH, 20, found),
        b'A' => raw(payload, INFO_HASH - 1, 20, found),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            content::{HASH, named},
            testing::{Flow, Label, every_bit_counts, every_byte_counts, tcp},
        },
        HANDSHAKE, NAME,
    };
    use crate::{
        abi::{
            protocol::{Confidence, Protocol},
            watch::ContentHash,
        },
        parse::payload::Transport,
    };

    const SIGNATURE: Label = Some((Protocol::AceStream, Confidence::Signature));

    /// A whole handshake.
    fn handshake() -> Vec<u8> {
        [HANDSHAKE.as_slice(), &[0; 8], &HASH, b"R30------0123456789a"].concat()
    }

    /// A `piece` as BEP 3 lays it out.
    fn piece() -> Vec<u8> {
        [&0x4009_u32.to_be_bytes()[..], &[7], &3_u32.to_be_bytes(), &0_u32.to_be_bytes(), &[0x5a; 1400]].concat()
    }

    #[test]
    fn handshakes_match_on_any_port() {
        assert_eq!(handshake().len(), 66);
        every_bit_counts(&handshake(), 0..HANDSHAKE.len(), |bytes| tcp(bytes));
        every_byte_counts(HANDSHAKE, |bytes| tcp(bytes));
        for port in [8621, 40_000, 443] {
            assert_eq!(Flow::tcp().ports(50_000, port).ask(handshake()), SIGNATURE, "{port}");
            assert_eq!(Flow::tcp().ports(50_000, port).answer(handshake()), SIGNATURE, "{port}");
        }
    }

    #[test]
    fn handshakes_cut_over_segments_match() {
        for first in 1..HANDSHAKE.len() {
            let mut flow = Flow::tcp();
            assert_eq!(flow.ask(&handshake()[..first]), None, "{first}");
            assert_eq!(flow.answer(piece()), None, "the other side's frames are not BitTorrent's, {first}");
            assert_eq!(flow.ask(&handshake()[first..]), SIGNATURE, "{first}");
            let mut flow = Flow::tcp();
            assert_eq!(flow.ask(&handshake()[..first]), None, "{first}");
            assert_eq!(flow.answer(handshake()), SIGNATURE, "the other side's, {first}");
        }
    }

    #[test]
    fn handshakes_without_the_first_byte_match() {
        assert_eq!(tcp(&handshake()[1..]), SIGNATURE);
        every_bit_counts(&handshake()[1..], 0..NAME.len() + 4, |bytes| tcp(bytes));
        assert_eq!(tcp(&handshake()[1..65]), None, "shorter than a handshake");
    }

    #[test]
    fn handshakes_name_the_info_hash() {
        let named = |bytes: &[u8]| named(Transport::Tcp, Protocol::AceStream, bytes);
        assert_eq!(named(&handshake()), ContentHash::from_bytes(&HASH));
        assert_eq!(named(&handshake()[1..]), ContentHash::from_bytes(&HASH), "behind a lone length byte");
        assert!(!named(&handshake()[..45]).is_some(), "cut");
    }

    #[test]
    fn near_misses_do_not_match() {
        for other in [
            "\u{11}AceStreamProtocoI",
            "\u{12}AceStreamProtocol",
            "\u{11}acestreamprotocol",
            "AceStreamProtocol",
            "AceStreamProtocol is what this page is about, and its name alone is no handshake",
            "GET /AceStreamProtocol",
        ] {
            assert_eq!(tcp(other), None, "{other:?}");
        }
    }
}
