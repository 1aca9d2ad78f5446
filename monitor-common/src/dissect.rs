//! Rules that recognise P2P protocols in payloads, and the order in which they are tried.
//!
//! One protocol has one file, or a file beside its folder, of one shape: what is matched with its source, the guard against
//! look-alikes, tests. A rule runs in the kernel on every inspected packet. So it rejects on the first few bytes or the
//! length before anything else, reads through the wrapping accessors of [`Payload`] only, and loops to constants only.
//!
//! Each rule takes the payload and the flow's [`RuleState`] and returns how sure it is, or `None`. The first match is final
//! for the flow, so rules go from unmistakable and cheap to structural.
//!
//! With the feature `first-protocols` only the protocols that were there first are tried: the bench measures what all others
//! cost the packets that show none of them.

pub mod applejuice;
pub mod ares;
pub mod bittorrent;
pub mod btsync;
pub mod content;
pub mod directconnect;
pub mod early_exit;
pub mod edonkey;
pub mod entropy;
pub mod fasttrack;
pub mod gnutella;
pub mod gnutella2;
pub mod kademlia;
pub mod libp2p;
pub mod listen_port;
pub mod mute;
pub mod opennap;
pub mod peer_list;
pub mod rule_state;
pub mod soulseek;
pub mod waste;
pub mod webtorrent;
pub mod winmx;

pub(crate) mod hold_rules;
pub(crate) mod http_headers;
#[cfg(test)]
mod lookalikes;
mod openft;
#[cfg(test)]
mod testing;
pub(crate) mod text;
mod websocket;

use crate::{
    dissect::rule_state::RuleState,
    parse::payload::{Payload, Transport},
    protocol::{Confidence, Protocol, Verdict},
};

pub use hold_rules::{held_len, skip_segment};

/// Tries each signature in turn; expands to straight-line code, since the verifier and LLVM like no function tables.
///
/// Rows share no loaded value: what one row's comparisons taught the verifier about a value would make it walk all later
/// rows once more for each outcome, so that the cost is the product of the rows and not their sum.
macro_rules! first_match {
    ($payload:expr, $state:expr; $($function:path => $protocol:expr,)*) => {
        $(if const { tried($protocol) } && let Some(confidence) = $function($payload.barrier_ref(), $state) {
            return Some(Verdict { protocol: $protocol, confidence });
        })*
    };
}

/// Whether the signatures of a protocol are tried in this build.
const fn tried(protocol: Protocol) -> bool {
    ALL || matches!(protocol, Protocol::BitTorrent | Protocol::EDonkey)
}

/// Whether all protocols are tried in this build.
const ALL: bool = !cfg!(feature = "first-protocols");

/// A set of bytes, as bits.
const fn set(bytes: &[u8]) -> [u64; 4] {
    let (mut set, mut index) = ([0; 4], 0);
    while index < bytes.len() {
        set[(bytes[index] >> 6) as usize] |= 1 << (bytes[index] & 63);
        index += 1;
    }
    set
}

/// Whether the payload's first byte is in a set. One look spares all rules that start with a fixed byte the payloads that the
/// others are for, which is nearly all of what a network carries.
#[inline(always)]
fn begins(payload: &Payload, set: &[u64; 4]) -> bool {
    holds(set, payload.byte(0))
}

/// Whether a byte is in a set.
#[inline(always)]
const fn holds(set: &[u64; 4], byte: u8) -> bool {
    set[(byte >> 6) as usize] >> (byte & 63) & 1 != 0
}

/// First bytes of the TCP signatures that are text, length-prefixed with a fixed header byte, or WebSocket frames: those of which a
/// short segment may be the start.
const WORDS: &[u8] = if ALL { b"\x01\x13$BCGHIPSa\xc5\xd4\xe3\xfa\x81\x82" } else { b"\x13G\xc5\xd4\xe3" };
/// The same with those of the signatures that are found whole or mid-stream only.
static TCP: [u64; 4] = union(set(WORDS), set(if ALL { b"\x00\x03/1" } else { b"\x00B" }));
/// [`WORDS`].
static CUT: [u64; 4] = set(WORDS);
/// First bytes of the UDP signatures that start with a fixed one; trackers and Gnutella start with numbers of any value.
static UDP: [u64; 4] = set(if ALL { b"\x01\x21\x27\x28\x41$BGUd\xc5\xe3\xe4\xe5" } else { b"Bd\xc5\xe3" });

/// Bytes that are in either set.
const fn union(a: [u64; 4], b: [u64; 4]) -> [u64; 4] {
    [a[0] | b[0], a[1] | b[1], a[2] | b[2], a[3] | b[3]]
}

/// Whether no rule starts with this byte, so that those for any first byte decide: they look at [`crate::limits::SHALLOW`] bytes.
#[inline(always)]
#[must_use]
pub fn is_shallow(transport: Transport, first: u8) -> bool {
    !holds(if transport == Transport::Tcp { &TCP } else { &UDP }, first)
}

/// The verdict that this payload gives its flow, if it shows one. What earlier segments of its stream began is in front of it; that of
/// a TCP flow without a verdict may have to be kept for the next one ([`crate::dissect::rule_state::rule_flags::HELD`]).
#[inline(always)]
pub fn classify(transport: Transport, payload: &mut Payload, state: &mut RuleState) -> Option<Verdict> {
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
    if begins(payload, &TCP) {
        first_match!(payload, state;
            bittorrent::tcp => Protocol::BitTorrent,
            libp2p::tcp => Protocol::LibP2p,
            edonkey::tcp => Protocol::EDonkey,
            gnutella::tcp => Protocol::Gnutella,
            directconnect::tcp => Protocol::DirectConnect,
            fasttrack::tcp => Protocol::FastTrack,
            webtorrent::tcp => Protocol::WebTorrent,
            ares::tcp => Protocol::Ares,
            applejuice::tcp => Protocol::AppleJuice,
            mute::tcp => Protocol::Mute,
            waste::tcp => Protocol::Waste,
            btsync::tcp => Protocol::BtSync,
        );
        if ALL && let Some(verdict) = http_headers::tcp(payload) {
            return Some(verdict);
        }
        first_match!(payload, state;
            winmx::tcp => Protocol::WinMx,
        );
        verifier_barrier(payload, state);
    }
    first_match!(payload, state;
        soulseek::tcp => Protocol::Soulseek,
        opennap::tcp => Protocol::OpenNap,
    );
    if edonkey::continued(payload.barrier_ref(), state) {
        return Some(Verdict { protocol: Protocol::EDonkey, confidence: Confidence::Structural });
    }
    verifier_barrier(payload, state);
    hold_rules::decide_hold(payload.barrier_ref(), state, begins(payload.barrier_ref(), &CUT));
    verifier_barrier(payload, state);
    None
}

#[inline(always)]
fn udp(payload: &mut Payload, state: &mut RuleState) -> Option<Verdict> {
    if begins(payload, &UDP) {
        first_match!(payload, state;
            bittorrent::udp => Protocol::BitTorrent,
            gnutella2::udp => Protocol::Gnutella2,
            directconnect::udp => Protocol::DirectConnect,
            fasttrack::udp => Protocol::FastTrack,
            btsync::udp => Protocol::BtSync,
            edonkey::udp => Protocol::EDonkey,
            kademlia::udp => Protocol::Kademlia,
        );
    }
    verifier_barrier(payload, state);
    first_match!(payload, state;
        gnutella::udp => Protocol::Gnutella,
        libp2p::udp => Protocol::LibP2p,
        bittorrent::exchanges => Protocol::BitTorrent,
    );
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::{SHALLOW, WINDOW};

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
                let state = RuleState { rule_value, rule_flags: rule_flags & !owed, reserved: 0 };
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
