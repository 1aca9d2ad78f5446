//! WinMX (WPNP): the opening of a transfer.
//!
//! Source: published descriptions of the WinMX peer protocol, which follows Napster's. The side that accepted sends the
//! character "1". The other side answers "GET" or "SEND" in a segment of its own, then the request:
//! `nick "name" number`. Both may be in one segment. Matched: the verb after the lone "1".
//!
//! Guard: the verb alone may open any text protocol, so it counts only after the lone "1" of the other side.

use super::{
    dissector::{Dissector, prefix},
    text,
};
use crate::{
    abi::{protocol::Protocol, rule::Rule},
    dissect::rule_state::{RuleState, rule_flags},
    parse::payload::Payload,
};

/// First bytes, and prefixes that may be held.
pub(super) const DISSECTOR: Dissector =
    Dissector { prefixes: &[prefix(b"SEND", 3)], unsplit: b"1G", ..Dissector::new(Protocol::WinMx) };

/// Transfers between peers.
#[inline(always)]
pub fn tcp(payload: &Payload, state: &mut RuleState) -> Option<Rule> {
    let head = payload.le32(0);
    let lower = payload.from_lower != 0;
    if payload.len == 1 && head == u32::from_le_bytes(*b"1\0\0\0") {
        state.rule_flags |= if lower { rule_flags::LONE_1_FROM_LOWER } else { rule_flags::LONE_1_FROM_HIGHER };
        return None;
    }
    let get = head & 0xff_ffff == u32::from_le_bytes(*b"GET\0");
    let verb = if get { 3 } else { 4 };
    if !(get || head == u32::from_le_bytes(*b"SEND")) || !(payload.len == verb || file(payload, verb as usize)) {
        return None;
    }
    let wanted = if lower { rule_flags::LONE_1_FROM_HIGHER } else { rule_flags::LONE_1_FROM_LOWER };
    (state.rule_flags & wanted != 0).then_some(Rule::WinmxTransfer)
}

/// Whether a nick follows at `offset`, then a name in quotation marks and a number.
#[inline(never)]
fn file(payload: &Payload, offset: usize) -> bool {
    let first = payload.byte(offset);
    first > b' ' && first != b'"' && payload.last().is_ascii_digit() && text::near(payload, b'"')
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Flow, Label, tcp};
    use crate::abi::protocol::{Confidence, Protocol};

    const STRUCTURAL: Label = Some((Protocol::WinMx, Confidence::Structural));

    #[test]
    fn a_verb_after_the_other_sides_one_matches() {
        for verb in ["GET", "SEND"] {
            let mut flow = Flow::tcp();
            assert_eq!(flow.answer("1"), None);
            assert_eq!(flow.ask(verb), STRUCTURAL);
            let mut flow = Flow::tcp();
            assert_eq!(flow.ask("1"), None);
            assert_eq!(flow.answer(verb), STRUCTURAL);
        }
    }

    #[test]
    fn a_verb_may_have_what_is_wanted_behind_it() {
        for verb in ["GETnick \"C:\\music\\a.mp3\" 0", "SENDnick \"C:\\music\\a.mp3\" 3456789"] {
            let mut flow = Flow::tcp();
            assert_eq!(flow.answer("1"), None);
            assert_eq!(flow.ask(verb), STRUCTURAL);
            assert_eq!(tcp(verb), None, "alone");
        }
        for text in ["GETnick without a name", "GET \"a\" HTTP/1.0", "GET\"a\"", "SENDING \"a\"", "SENDS \"a"] {
            let mut flow = Flow::tcp();
            assert_eq!(flow.answer("1"), None);
            assert_eq!(flow.ask(text), None, "{text}");
        }
    }

    #[test]
    fn near_misses_do_not_match() {
        assert_eq!(tcp("GET"), None, "alone");
        assert_eq!(tcp("SEND"), None, "alone");
        for (first, second) in [("1", "GET / HTTP/1.1\r\n"), ("1", "PUT"), ("2", "GET"), ("11", "GET")] {
            let mut flow = Flow::tcp();
            assert_eq!(flow.answer(first), None);
            assert_eq!(flow.ask(second), None, "{first} {second}");
        }
        let mut flow = Flow::tcp();
        assert_eq!(flow.ask("1"), None);
        assert_eq!(flow.ask("GET"), None, "from the same side");
    }
}
