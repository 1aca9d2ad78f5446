//! WASTE, a friend-to-friend network of the 2000s: unencrypted downloads.
//!
//! Source: libprotoident. Matched: a stream that starts with "GET.sha1:". Guard: nine fixed bytes that no HTTP request
//! has.

use super::dissector::{Dissector, prefix};
use crate::{
    abi::{protocol::Protocol, rule::Rule},
    dissect::rule_state::RuleState,
    parse::payload::Payload,
};

/// First bytes, and prefixes that may be held.
pub(super) const DISSECTOR: Dissector =
    Dissector { prefixes: &[prefix(b"GET.sha1", 8)], ..Dissector::new(Protocol::Waste) };

/// Downloads from peers.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    payload.has(0, b"GET.sha1:").then_some(Rule::WasteDownload)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{every_bit_counts, every_byte_counts, tcp};
    use crate::abi::protocol::{Confidence, Protocol};

    #[test]
    fn the_request_matches_and_every_bit_of_it_counts() {
        let request = b"GET.sha1:";
        assert_eq!(tcp(request), Some((Protocol::Waste, Confidence::Signature)));
        every_bit_counts(request, 0..9, |bytes| tcp(bytes));
        every_byte_counts(request, |bytes| tcp(bytes));
        assert_eq!(tcp(b"GET /sha1:"), None);
    }
}
