//! BitTorrent Sync (Resilio Sync): connections and datagrams between its peers.
//!
//! Source: Arkime's classifier and captures of the program. Matched: "BSYNC" and a zero byte at the start. The rest is
//! length-prefixed bencoding, then encrypted. The program synchronises folders and is not counted as BitTorrent.
//!
//! Guard: six fixed bytes; no text contains the last one.

use super::dissector::{Dissector, prefix};
use crate::{
    abi::{protocol::Protocol, rule::Rule},
    dissect::rule_state::RuleState,
    parse::payload::Payload,
};

/// First bytes, and prefixes that may be held.
pub(super) const DISSECTOR: Dissector =
    Dissector { prefixes: &[prefix(b"BSYNC\0", 5)], udp: b"B", ..Dissector::new(Protocol::BtSync) };

/// Connections between peers.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    payload.has(0, b"BSYNC\0").then_some(Rule::BtsyncTcp)
}

/// Datagrams between peers and trackers.
#[inline(always)]
pub fn udp(payload: &Payload, state: &mut RuleState) -> Option<Rule> {
    tcp(payload, state).map(|_| Rule::BtsyncUdp)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{every_bit_counts, every_byte_counts, hex, tcp, udp};
    use crate::abi::protocol::{Confidence, Protocol};

    #[test]
    fn the_head_matches_and_every_bit_of_it_counts() {
        let head = [b"BSYNC\0\0\0\0:".to_vec(), hex("64353a6e6f6e6365")].concat();
        assert_eq!(tcp(&head), Some((Protocol::BtSync, Confidence::Signature)));
        assert_eq!(udp(&head), Some((Protocol::BtSync, Confidence::Signature)));
        every_bit_counts(&head, 0..6, |bytes| tcp(bytes));
        every_byte_counts(&head[..6], |bytes| tcp(bytes));
        assert_eq!(tcp(b"BSYNCHRONOUS"), None);
    }
}
