//! Windows Delivery Optimization (MS-DO): update downloads between Windows machines.
//!
//! Source: public dissectors of the protocol. Matched: the handshake, 0x0e "Swarm protocol", at the start of a stream,
//! whole or (in `hold_rules.rs`) split across segments; also without its first byte. 8 reserved bytes, a swarm hash of
//! 32 bytes and a peer id of 20 follow.
//!
//! The frames after the handshake are laid out like those of BEP 3. So BitTorrent's rule for streams joined midway
//! skips port 7680, flows that began with a part of the handshake, and flows to an endpoint that is known for this
//! protocol. On another port, a stream joined midway to an unknown endpoint cannot be told from BitTorrent.
//!
//! Guard: 15 fixed bytes, or 14 and the length.

use super::dissector::{Dissector, prefix};
use crate::{
    abi::{protocol::Protocol, rule::Rule},
    dissect::rule_state::RuleState,
    parse::payload::Payload,
};

/// First bytes, and prefixes that may be held.
pub(super) const DISSECTOR: Dissector = Dissector {
    prefixes: &[prefix(HANDSHAKE, HANDSHAKE.len())],
    unsplit: b"S",
    ..Dissector::new(Protocol::DeliveryOptimization)
};

/// Start of the handshake: a length byte and the protocol's name.
const HANDSHAKE: &[u8; 15] = b"\x0eSwarm protocol";
/// First byte of the handshake: the length of the name.
pub(super) const FIRST_BYTE: u8 = HANDSHAKE[0];
/// The name without its length, of a handshake with a lost first segment of one byte.
const NAME: &[u8; 14] = b"Swarm protocol";
/// Bytes of a handshake.
const HANDSHAKE_LEN: u32 = 75;
/// Port on which Windows listens.
const PORT: u16 = 7680;

/// Handshakes between peers.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    if payload.has(0, HANDSHAKE) {
        return Some(Rule::DoHandshake);
    }
    (payload.has(0, NAME) && payload.captured >= HANDSHAKE_LEN - 1).then_some(Rule::DoHandshakeTail)
}

/// Whether either port is the protocol's own.
#[inline(always)]
pub(super) fn has_port(payload: &Payload) -> bool {
    (payload.source_port == PORT) || (payload.destination_port == PORT)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Flow, Label, every_bit_counts, every_byte_counts, tcp};
    use super::{HANDSHAKE, NAME};
    use crate::abi::protocol::{Confidence, Protocol};

    const SIGNATURE: Label = Some((Protocol::DeliveryOptimization, Confidence::Signature));

    /// A whole handshake.
    fn handshake() -> Vec<u8> {
        [HANDSHAKE.as_slice(), &[0; 8], &[0xab; 32], b"peer-identifier-0123"].concat()
    }

    /// A `piece` as BEP 3 lays it out.
    fn piece() -> Vec<u8> {
        [&0x4009_u32.to_be_bytes()[..], &[7], &3_u32.to_be_bytes(), &0_u32.to_be_bytes(), &[0x5a; 1400]].concat()
    }

    #[test]
    fn handshakes_match_on_any_port() {
        assert_eq!(handshake().len(), 75);
        assert_eq!(tcp(handshake()), SIGNATURE);
        every_bit_counts(&handshake(), 0..HANDSHAKE.len(), |bytes| tcp(bytes));
        every_byte_counts(HANDSHAKE, |bytes| tcp(bytes));
        for port in [7680, 40_000, 443] {
            assert_eq!(Flow::tcp().ports(50_000, port).ask(handshake()), SIGNATURE, "{port}");
            assert_eq!(Flow::tcp().ports(50_000, port).answer(handshake()), SIGNATURE, "{port}");
        }
    }

    #[test]
    fn handshakes_cut_over_segments_match() {
        for first in 1..HANDSHAKE.len() {
            let mut flow = Flow::tcp();
            assert_eq!(flow.ask(&handshake()[..first]), None, "{first}");
            assert_eq!(flow.ask(&handshake()[first..]), SIGNATURE, "{first}");
            let mut flow = Flow::tcp();
            assert_eq!(flow.ask(&handshake()[..first]), None, "{first}");
            assert_eq!(flow.answer(handshake()), SIGNATURE, "the other side's, {first}");
        }
    }

    #[test]
    fn frames_around_a_cut_handshake_are_not_bittorrents() {
        for port in [7680, 40_000, 443] {
            for first in 1..HANDSHAKE.len() {
                let mut flow = Flow::tcp().ports(50_000, port);
                assert_eq!(flow.ask(&handshake()[..first]), None, "{port}, {first}");
                assert_eq!(flow.answer(piece()), None, "the other side's, {port}, {first}");
                assert_eq!(flow.ask(&handshake()[first..]), SIGNATURE, "{port}, {first}");
                let mut flow = Flow::tcp().ports(50_000, port);
                assert_eq!(flow.ask(&handshake()[..first]), None, "{port}, {first}");
                assert_eq!(flow.ask(piece()), None, "in place of the rest, {port}, {first}");
                assert_eq!(flow.ask(piece()), None, "after that, {port}, {first}");
            }
        }
    }

    #[test]
    fn handshakes_without_the_first_byte_match() {
        assert_eq!(tcp(&handshake()[1..]), SIGNATURE);
        every_bit_counts(&handshake()[1..], 0..NAME.len(), |bytes| tcp(bytes));
        assert_eq!(tcp(&handshake()[1..74]), None, "shorter than a handshake");
    }

    #[test]
    fn pieces_on_the_port_are_not_bittorrents() {
        assert_eq!(Flow::tcp().ports(50_000, 7680).ask(piece()), None);
        assert_eq!(Flow::tcp().ports(50_000, 7680).answer(piece()), None);
        let elsewhere = Flow::tcp().ports(50_000, 40_000).ask(piece());
        assert_eq!(elsewhere, Some((Protocol::BitTorrent, Confidence::Structural)), "without a handshake");
    }

    #[test]
    fn near_misses_do_not_match() {
        for other in [
            "\u{e}Swarm Protocol",
            "\u{f}Swarm protocol",
            "Swarm protocol",
            "\u{13}Swarm protocol",
            "GET /Swarm protocol",
        ] {
            assert_eq!(tcp(other), None, "{other:?}");
        }
    }
}
