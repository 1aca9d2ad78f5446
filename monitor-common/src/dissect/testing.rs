//! What the tests of all signatures share: a flow that payloads are fed into, and properties over frames.

use super::{hold_rules, outer_header};
use crate::{
    abi::{
        protocol::{Confidence, Protocol, Verdict},
        rule::Rule,
    },
    dissect::{
        classify,
        rule_state::{RuleState, rule_flags},
    },
    parse::payload::{Payload, Transport},
};

/// A verdict as a pair, short enough for test tables.
pub(super) type Label = Option<(Protocol, Confidence)>;

/// One flow under inspection: payloads go in until there is a verdict.
pub(super) struct Flow {
    transport: Transport,
    ports: (u16, u16),
    state: RuleState,
    /// Held bytes of each direction, the lower endpoint's first.
    held: [Vec<u8>; 2],
}

impl Flow {
    /// A TCP flow between unprivileged ports.
    pub(super) fn tcp() -> Self {
        Self {
            transport: Transport::Tcp,
            ports: (50_123, 40_321),
            state: RuleState::default(),
            held: Default::default(),
        }
    }

    /// A UDP flow between unprivileged ports.
    pub(super) fn udp() -> Self {
        Self { transport: Transport::Udp, ..Self::tcp() }
    }

    /// This flow between these ports.
    pub(super) fn ports(mut self, lower: u16, higher: u16) -> Self {
        self.ports = (lower, higher);
        self
    }

    /// A payload from the lower endpoint.
    pub(super) fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Label {
        self.feed(bytes.as_ref(), true)
    }

    /// A payload from the higher endpoint.
    pub(super) fn answer(&mut self, bytes: impl AsRef<[u8]>) -> Label {
        self.feed(bytes.as_ref(), false)
    }

    fn feed(&mut self, bytes: &[u8], from_lower: bool) -> Label {
        let (source, destination) = if from_lower { self.ports } else { (self.ports.1, self.ports.0) };
        let (held, tcp) = (&mut self.held[usize::from(!from_lower)], self.transport == Transport::Tcp);
        let first = bytes.first().copied().unwrap_or_default();
        if tcp && held.is_empty() && hold_rules::skip_segment(self.state.rule_flags, from_lower.into(), first) {
            return None;
        }
        let bytes = [&core::mem::take(held)[..], bytes].concat();
        self.state.rule_flags &= !rule_flags::of(rule_flags::HELD, from_lower.into());
        let outer = match bytes.first_chunk() {
            Some(head) if !tcp => outer_header::len(*head, bytes.len() as u32, &self.state, from_lower.into()),
            _ => 0,
        };
        let mut payload = Payload::from_bytes(&bytes[outer as usize..], source, destination, from_lower);
        let found = classify(self.transport, &mut payload, &mut self.state);
        let found = outer_header::resolve(outer, found, &mut payload);
        if tcp && found.is_none() && self.state.rule_flags & rule_flags::of(rule_flags::HELD, from_lower.into()) != 0 {
            *held = bytes[..hold_rules::held_len(&payload) as usize].to_vec();
        }
        let rule = Rule::from_number(payload.rule() as u8);
        let named = rule.map(|rule| (rule.protocol(), rule.confidence()));
        let label = found.map(|Verdict { protocol, confidence }| (protocol, confidence));
        assert_eq!(named, label, "the rule is the verdict's: {rule:?}");
        label
    }
}

/// The verdict of a TCP flow with `bytes` as its only payload.
pub(super) fn tcp(bytes: impl AsRef<[u8]>) -> Label {
    Flow::tcp().ask(bytes)
}

/// The verdict of a UDP flow with `bytes` as its only payload.
pub(super) fn udp(bytes: impl AsRef<[u8]>) -> Label {
    Flow::udp().ask(bytes)
}

/// The bytes of a string of hexadecimal digits; blanks are skipped.
pub(super) fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let value = |byte: u8| char::from(byte).to_digit(16).expect("a hexadecimal digit") as u8;
    digits.chunks(2).map(|pair| value(pair[0]) << 4 | value(pair[1])).collect()
}

/// Checks that `frame` matches, and does not match with any bit of `guarded` flipped.
pub(super) fn every_bit_counts(frame: &[u8], guarded: core::ops::Range<usize>, classify: impl Fn(&[u8]) -> Label) {
    let label = classify(frame);
    assert!(label.is_some(), "the unchanged frame matches");
    for bit in guarded.start * 8..guarded.end * 8 {
        let mut changed = frame.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(classify(&changed), label, "bit {bit} is not looked at");
    }
}

/// Checks that `frame` matches, and that no shorter prefix of it does.
pub(super) fn every_byte_counts(frame: &[u8], classify: impl Fn(&[u8]) -> Label) {
    assert!(classify(frame).is_some(), "the unchanged frame matches");
    for len in 0..frame.len() {
        assert_eq!(classify(&frame[..len]), None, "{len} bytes are not enough");
    }
}
