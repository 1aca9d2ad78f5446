//! MUTE, anonymous file sharing of the 2000s: the key that each side of a link sends first.
//!
//! Source: mute-net's `ChannelManager` and libprotoident. Matched: "PublicKey: " in a segment of one of five lengths,
//! those of hexadecimal keys of the sizes in use. Guard: the literal and the exact length.

use super::dissector::{Dissector, prefix};
use crate::{
    abi::{limits::HELD_BYTES, protocol::Protocol, rule::Rule},
    dissect::rule_state::RuleState,
    parse::payload::Payload,
};

/// First bytes, and prefixes that may be held.
pub(super) const DISSECTOR: Dissector =
    Dissector { prefixes: &[prefix(b"PublicKe", HELD_BYTES)], ..Dissector::new(Protocol::Mute) };

/// Links between nodes.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    if !payload.has(0, b"PublicKey: ") {
        return None;
    }
    matches!(payload.len, 209 | 345 | 473 | 609 | 1121).then_some(Rule::MuteKey)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{every_bit_counts, every_byte_counts, tcp};
    use crate::abi::protocol::{Confidence, Protocol};

    #[test]
    fn keys_of_the_five_sizes_match() {
        for len in [209, 345, 473, 609, 1121] {
            let mut key = b"PublicKey: ".to_vec();
            key.resize(len, b'A');
            assert_eq!(tcp(&key), Some((Protocol::Mute, Confidence::Signature)));
            every_bit_counts(&key, 0..11, |bytes| tcp(bytes));
            if len == 209 {
                every_byte_counts(&key, |bytes| tcp(bytes));
            }
            key.push(b'A');
            assert_eq!(tcp(&key), None);
        }
    }
}
