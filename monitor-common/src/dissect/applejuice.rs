//! appleJuice, a German file sharing network of the 2000s: the greeting between client core and server or peer.
//!
//! Source: libprotoident and nDPI. Matched: a stream that starts with "ajprot\r\n". Guard: eight fixed bytes.

use super::dissector::{Dissector, prefix};
use crate::{
    abi::{protocol::Protocol, rule::Rule},
    dissect::rule_state::RuleState,
    parse::payload::Payload,
};

/// First bytes, and prefixes that may be held.
pub(super) const DISSECTOR: Dissector =
    Dissector { prefixes: &[prefix(b"ajprot\r\n", 7)], ..Dissector::new(Protocol::AppleJuice) };

/// Connections to servers and peers.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    payload.has(0, b"ajprot\r\n").then_some(Rule::ApplejuiceGreeting)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{every_bit_counts, every_byte_counts, tcp};
    use crate::abi::protocol::{Confidence, Protocol};

    #[test]
    fn the_greeting_matches_and_every_bit_of_it_counts() {
        let greeting = b"ajprot\r\n";
        assert_eq!(tcp(greeting), Some((Protocol::AppleJuice, Confidence::Signature)));
        every_bit_counts(greeting, 0..8, |bytes| tcp(bytes));
        every_byte_counts(greeting, |bytes| tcp(bytes));
        assert_eq!(tcp(b"hello ajprot\r\n"), None);
    }
}
