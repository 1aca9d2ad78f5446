//! Which signatures are tried on a payload, and in which order. One row per signature function.
//!
//! Each function takes the payload and the flow's state and answers how sure it is, or `None`. The first answer is final for
//! the flow, so rows go from unmistakable and cheap to structural.
//!
//! With the feature `first-protocols` only the protocols that were there first are tried: the bench measures what all others cost
//! the packets that show none of them.

use crate::{
    payload::{FlowState, Payload, Transport},
    protocol::{Confidence, Protocol, Verdict},
    signatures::{
        applejuice, ares, bittorrent, btsync, directconnect, edonkey, fasttrack, gnutella, gnutella2, headers,
        kademlia, libp2p, mute, opennap, soulseek, split, waste, webtorrent, winmx,
    },
};

/// Tries each signature in turn; expands to straight-line code, since the verifier and LLVM like no function tables.
///
/// Rows share no loaded value: what one row's comparisons taught the verifier about a value would make it walk all later
/// rows once more for each outcome, so that the cost is the product of the rows and not their sum.
macro_rules! first_match {
    ($payload:expr, $state:expr; $($function:path => $protocol:expr,)*) => {
        $(if const { tried($protocol) } && let Some(confidence) = $function($payload.isolated(), $state) {
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
    let first = payload.byte(0);
    set[(first >> 6) as usize] >> (first & 63) & 1 != 0
}

/// First bytes of the TCP signatures that are text, length-prefixed with a fixed header byte, or WebSocket frames: those of which a
/// short segment may be the start.
const WORDS: &[u8] = if ALL { b"\x01\x13$BCGHIPSa\xc5\xd4\xe3\xfa\x81\x82" } else { b"\x13G\xc5\xd4\xe3" };
/// The same with those of the signatures that are found whole or mid-stream only.
static TCP: [u64; 4] = union(set(WORDS), set(if ALL { b"\x00\x03/1\x87" } else { b"\x00B" }));
/// [`WORDS`].
static CUT: [u64; 4] = set(WORDS);
/// First bytes of the UDP signatures that start with a fixed one; trackers and Gnutella start with numbers of any value.
static UDP: [u64; 4] = set(if ALL { b"\x01\x21\x27\x28\x41$BGUd\xc5\xe3\xe4\xe5" } else { b"Bd\xc5\xe3" });

/// Bytes that are in either set.
const fn union(a: [u64; 4], b: [u64; 4]) -> [u64; 4] {
    [a[0] | b[0], a[1] | b[1], a[2] | b[2], a[3] | b[3]]
}

/// The verdict that this payload gives its flow, if it shows one. What earlier segments of its stream began is in front of it; that of
/// a TCP flow without a verdict may have to be kept for the next one ([`crate::payload::marks::KEPT`]).
#[inline(always)]
pub fn classify(transport: Transport, payload: &mut Payload, state: &mut FlowState) -> Option<Verdict> {
    match transport {
        Transport::Tcp => {
            forget(payload, state);
            tcp(payload, state)
        }
        Transport::Udp => udp(payload, state),
    }
}

/// Makes all ways that led here one for the verifier ([`Payload::forget`]).
#[inline(always)]
fn forget(payload: &mut Payload, state: &mut FlowState) {
    state.memo = payload.forget(state.memo);
    state.marks = payload.forget(u64::from(state.marks)) as u32;
}

#[inline(always)]
fn tcp(payload: &mut Payload, state: &mut FlowState) -> Option<Verdict> {
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
        if ALL && let Some(verdict) = headers::tcp(payload) {
            return Some(verdict);
        }
        first_match!(payload, state;
            winmx::tcp => Protocol::WinMx,
        );
        forget(payload, state);
    }
    first_match!(payload, state;
        soulseek::tcp => Protocol::Soulseek,
        opennap::tcp => Protocol::OpenNap,
    );
    if edonkey::continued(payload.isolated(), state) {
        return Some(Verdict { protocol: Protocol::EDonkey, confidence: Confidence::Structural });
    }
    forget(payload, state);
    split::leave(payload.isolated(), state, begins(payload.isolated(), &CUT));
    forget(payload, state);
    None
}

#[inline(always)]
fn udp(payload: &mut Payload, state: &mut FlowState) -> Option<Verdict> {
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
    forget(payload, state);
    first_match!(payload, state;
        gnutella::udp => Protocol::Gnutella,
        libp2p::udp => Protocol::LibP2p,
        bittorrent::exchanges => Protocol::BitTorrent,
    );
    None
}
