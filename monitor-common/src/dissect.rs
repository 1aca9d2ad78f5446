//! Rules that recognise P2P protocols in payloads, and the order in which they are tried.
//!
//! One protocol has one file, or a file beside its folder, of one shape: what is matched with its source, the guard
//! against look-alikes, tests. A rule runs in the kernel on every inspected packet. So it rejects on the first few
//! bytes or the length before anything else, reads through the wrapping accessors of [`Payload`] only, and loops to
//! constants only.
//!
//! A rule function takes the payload and the flow's [`RuleState`] and returns the [`Rule`] that matches, or `None`. The
//! first match is final for the flow, so functions go from unmistakable and cheap to structural.
//!
//! With the feature `first-protocols`, only BitTorrent and eDonkey are tried: the bench measures how much all others
//! cost the packets that show none of them.

// Protocols.
pub mod acestream;
pub mod applejuice;
pub mod ares;
pub mod bittorrent;
pub mod btsync;
pub mod delivery_optimization;
pub mod directconnect;
pub mod edonkey;
pub mod fasttrack;
pub mod gnutella;
pub mod gnutella2;
pub mod hyperdht;
pub mod ipv8;
pub mod kademlia;
pub mod libp2p;
pub mod mute;
pub mod openft;
pub mod opennap;
pub mod soulseek;
pub mod waste;
pub mod webtorrent;
pub mod winmx;

// What they share.
mod byte_set;
pub mod content;
mod dissector;
pub mod early_exit;
pub mod entropy;
pub(crate) mod hold_rules;
pub(crate) mod http;
pub mod listen_port;
pub mod outer_header;
pub mod peer_list;
pub mod rule_state;
mod text;
mod websocket;

#[cfg(test)]
mod lookalikes;
#[cfg(test)]
mod testing;

use crate::{
    abi::{
        protocol::{Protocol, Verdict},
        rule::Rule,
    },
    parse::payload::{Payload, Transport},
};
use byte_set::ByteSet;
use dissector::{Dissector, Prefix};
use rule_state::RuleState;

pub use hold_rules::{held_len, skip_segment};

/// Every protocol that has rules. Its first bytes and prefixes are taken from here.
const DISSECTORS: &[Dissector] = &[
    acestream::DISSECTOR,
    applejuice::DISSECTOR,
    ares::DISSECTOR,
    bittorrent::DISSECTOR,
    btsync::DISSECTOR,
    delivery_optimization::DISSECTOR,
    directconnect::DISSECTOR,
    edonkey::DISSECTOR,
    fasttrack::DISSECTOR,
    gnutella::DISSECTOR,
    gnutella2::DISSECTOR,
    hyperdht::DISSECTOR,
    ipv8::DISSECTOR,
    kademlia::DISSECTOR,
    libp2p::DISSECTOR,
    mute::DISSECTOR,
    openft::DISSECTOR,
    opennap::DISSECTOR,
    soulseek::DISSECTOR,
    waste::DISSECTOR,
    webtorrent::DISSECTOR,
    winmx::DISSECTOR,
];

/// Tries each rule in turn; expands to straight-line code, since the verifier and LLVM like no function tables.
///
/// Rows share no loaded value. Otherwise the verifier checks all later rows once per outcome of each earlier row, and
/// the cost is the product of the rows, not their sum.
macro_rules! first_match {
    ($payload:expr, $state:expr; $($protocol:ident::$rule:ident,)*) => {
        $(if const { tried($protocol::DISSECTOR.protocol) }
            && let Some(rule) = $protocol::$rule($payload.barrier_ref(), $state)
        {
            $payload.set_rule(rule as u32);
            return Some(Verdict { protocol: const { $protocol::DISSECTOR.protocol }, confidence: rule.confidence() });
        })*
    };
}

/// Whether the rules of a protocol are tried in this build.
const fn tried(protocol: Protocol) -> bool {
    ALL || matches!(protocol, Protocol::BitTorrent | Protocol::EDonkey)
}

/// Whether all protocols are tried in this build.
const ALL: bool = !cfg!(feature = "first-protocols");

/// The first bytes of all rules that start with a fixed one: one lookup spares these rules most payloads of a network.
struct Gate {
    /// TCP: messages of which a short segment may be the start.
    split_tcp: ByteSet,
    /// TCP: all messages.
    tcp: ByteSet,
    /// UDP. Trackers and Gnutella start with any byte.
    udp: ByteSet,
}

static GATE: Gate = gate();

const fn gate() -> Gate {
    let http = if ALL { dissector::first_bytes(http::PREFIXES) } else { ByteSet::EMPTY };
    let (mut gate, mut index) = (Gate { split_tcp: http, tcp: http, udp: ByteSet::EMPTY }, 0);
    while index < DISSECTORS.len() {
        let dissector = &DISSECTORS[index];
        if tried(dissector.protocol) {
            gate.split_tcp = gate.split_tcp.union(dissector.split_tcp_bytes());
            gate.tcp = gate.tcp.union(dissector.tcp_bytes());
            gate.udp = gate.udp.union(ByteSet::of(dissector.udp));
        }
        index += 1;
    }
    gate
}

/// Number of prefixes of all protocols.
const PREFIX_COUNT: usize = {
    let (mut count, mut index) = (http::PREFIXES.len(), 0);
    while index < DISSECTORS.len() {
        count += DISSECTORS[index].prefixes.len();
        index += 1;
    }
    count
};

/// Prefixes of all protocols.
static PREFIXES: [Prefix; PREFIX_COUNT] = {
    let mut all = [http::PREFIXES[0]; PREFIX_COUNT];
    let (mut count, mut index) = (http::PREFIXES.len(), 0);
    while index < DISSECTORS.len() {
        let own = DISSECTORS[index].prefixes;
        let mut number = 0;
        while number < own.len() {
            all[count] = own[number];
            count += 1;
            number += 1;
        }
        index += 1;
    }
    all
};
const _: () = assert!(http::PREFIXES.len() == 1);

/// Whether no rule starts with this byte, so that only the rules for any first byte apply.
///
/// These read [`crate::abi::limits::SHALLOW`] bytes at most.
#[inline(always)]
#[must_use]
pub fn is_shallow(transport: Transport, first: u8) -> bool {
    !(if transport == Transport::Tcp { &GATE.tcp } else { &GATE.udp }).contains(first)
}

/// The verdict of a payload, if a rule matches it. Held bytes of earlier segments are in front of it.
///
/// [`Payload::rule`] is then the rule's number. It is no part of the returned value: the verifier walks what follows
/// once for each value that it knows. If no rule matches, a TCP payload may have to be held for the next segment
/// ([`rule_state::rule_flags::HELD`]).
#[inline(always)]
pub fn classify(transport: Transport, payload: &mut Payload, state: &mut RuleState) -> Option<Verdict> {
    payload.set_rule(0);
    match transport {
        Transport::Tcp => {
            verifier_barrier(payload, state);
            tcp(payload, state)
        }
        Transport::Udp => udp(payload, state),
    }
}

/// Merges all paths that lead here into one for the verifier ([`Payload::verifier_barrier`]).
#[inline(always)]
fn verifier_barrier(payload: &mut Payload, state: &mut RuleState) {
    state.rule_value = payload.verifier_barrier(state.rule_value);
    state.rule_flags = payload.verifier_barrier(u64::from(state.rule_flags)) as u32;
}

#[inline(always)]
fn tcp(payload: &mut Payload, state: &mut RuleState) -> Option<Verdict> {
    if GATE.tcp.contains(payload.byte(0)) {
        first_match!(payload, state;
            bittorrent::tcp,
            libp2p::tcp,
            edonkey::tcp,
            gnutella::tcp,
            directconnect::tcp,
            fasttrack::tcp,
            webtorrent::tcp,
            ares::tcp,
            applejuice::tcp,
            mute::tcp,
            waste::tcp,
            btsync::tcp,
            delivery_optimization::tcp,
            acestream::tcp,
        );
        if ALL && let Some(rule) = http::tcp(payload) {
            payload.set_rule(rule as u32);
            return Some(Verdict { protocol: rule.protocol(), confidence: rule.confidence() });
        }
        first_match!(payload, state;
            winmx::tcp,
        );
        verifier_barrier(payload, state);
    }
    first_match!(payload, state;
        soulseek::tcp,
        opennap::tcp,
    );
    if edonkey::continued(payload.barrier_ref(), state) {
        payload.set_rule(Rule::EdonkeySplit as u32);
        return Some(Verdict { protocol: Protocol::EDonkey, confidence: Rule::EdonkeySplit.confidence() });
    }
    verifier_barrier(payload, state);
    hold_rules::decide_hold(payload.barrier_ref(), state, GATE.split_tcp.contains(payload.barrier_ref().byte(0)));
    verifier_barrier(payload, state);
    None
}

#[inline(always)]
fn udp(payload: &mut Payload, state: &mut RuleState) -> Option<Verdict> {
    if GATE.udp.contains(payload.byte(0)) {
        first_match!(payload, state;
            bittorrent::udp,
            gnutella2::udp,
            directconnect::udp,
            fasttrack::udp,
            btsync::udp,
            edonkey::udp,
            kademlia::udp,
            ipv8::udp,
            hyperdht::udp,
        );
    }
    verifier_barrier(payload, state);
    first_match!(payload, state;
        gnutella::udp,
        libp2p::udp,
        bittorrent::exchanges,
    );
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::abi::limits::{SHALLOW, WINDOW};

    /// What a payload's rules say and leave, of which so many bytes are copied.
    fn classified(transport: Transport, bytes: &[u8], state: RuleState, depth: usize) -> (Option<Verdict>, RuleState) {
        let mut payload = Payload::from_bytes(bytes, 50_000, 51_000, true);
        if bytes.len() > depth {
            payload.window[depth..].fill(0);
            payload.captured = depth as u32;
            if depth < WINDOW {
                payload.tail = [0; 8];
            }
        }
        let mut state = state;
        (classify(transport, &mut payload, &mut state), state)
    }

    /// The longest messages that the rules for any first byte accept, and others.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let text = |len: usize| proptest::collection::vec(b'a'..=b'z', len);
        let login = (text(30), text(64)).prop_map(|(name, password)| {
            let digest = [32_u32.to_le_bytes().as_slice(), &[b'0'; 32], &1_u32.to_le_bytes()].concat();
            let parts =
                [&1_u32.to_le_bytes(), &30_u32.to_le_bytes(), name.as_slice(), &64_u32.to_le_bytes(), &password];
            let body = [parts.concat(), 160_u32.to_le_bytes().to_vec(), digest].concat();
            [(body.len() as u32).to_le_bytes().to_vec(), body].concat()
        });
        let napster = text(149).prop_map(|name| {
            let text = [name.as_slice(), b" a 1 \"nap\" 8"].concat();
            [&(text.len() as u16).to_le_bytes(), &2_u16.to_le_bytes(), text.as_slice()].concat()
        });
        let announce = proptest::collection::vec(any::<u8>(), 98..300).prop_map(|mut bytes| {
            bytes[8..12].copy_from_slice(&1_u32.to_be_bytes());
            bytes[80..84].fill(0);
            bytes
        });
        prop_oneof![login, napster, announce, proptest::collection::vec(any::<u8>(), 0..600)]
    }

    proptest! {
        #[test]
        fn what_a_shallow_payload_shows_is_near_its_start(
            bytes in message(), more in proptest::collection::vec(any::<u8>(), 0..600), tcp: bool, rule_value: u64, rule_flags: u32,
        ) {
            let transport = if tcp { Transport::Tcp } else { Transport::Udp };
            let bytes = [bytes, more].concat();
            if is_shallow(transport, bytes.first().copied().unwrap_or(0)) {
                let owed = if tcp { crate::dissect::rule_state::rule_flags::OWED } else { 0 };
                let state = RuleState { rule_value, rule_flags: rule_flags & !owed };
                prop_assert_eq!(
                    classified(transport, &bytes, state, SHALLOW),
                    classified(transport, &bytes, state, WINDOW)
                );
            }
        }
    }

    #[test]
    fn handshakes_are_not_shallow() {
        for first in [0x13, b'G', b'H', b'$', 0xe3, 0xc5] {
            assert!(!is_shallow(Transport::Tcp, first), "{first:#x}");
        }
        assert!(is_shallow(Transport::Tcp, 0x17), "TLS");
        assert!(!is_shallow(Transport::Udp, b'd'), "the DHT");
    }
}
