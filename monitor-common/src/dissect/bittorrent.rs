//! BitTorrent: peer wire (BEP 3), plain forms of the extension protocol, local service discovery (BEP 14). Further
//! files have uTP (BEP 29), DHT (BEP 5), the DHT of Azureus, UDP trackers (BEP 15) and HTTP trackers (BEP 3, BEP 48).
//!
//! Matched here, on any port:
//! - the handshake 0x13 "BitTorrent protocol" (BEP 3, also with BEP 52 torrents), whole or split across the first
//!   segments (`hold_rules.rs`). Also without its first byte, which some clients send alone and which may be lost, if
//!   reserved bits (BEP 4) follow;
//! - mid-stream, for flows that started before the program: a `request`, `cancel` or `reject` (BEP 6) that fills its
//!   segment or is followed by another; the head of a `piece`; messages of the extension protocol that start with a
//!   known key (BEP 9, BEP 10, BEP 11). Each may follow up to four short messages;
//! - UDP: "BT-SEARCH * HTTP/1.1".
//!
//! Guard for mid-stream messages: lengths, identifiers and block offsets must agree with each other, which excludes
//! other length-prefixed protocols. Port 7680 is excluded: Windows Delivery Optimization has frames of that form.

use super::{
    delivery_optimization,
    dissector::{Dissector, prefix},
};
use crate::{
    abi::{limits::HELD_BYTES, protocol::Protocol, rule::Rule},
    bpf::branchless::{bound, nonzero_top_bit},
    dissect::rule_state::{RuleState, rule_flags},
    parse::payload::Payload,
};
mod azureus_dht;
pub(super) mod content;
mod dht;
mod http;
pub(super) mod listen_port;
pub(super) mod peer_list;
mod tracker;
mod utp;

/// First bytes, and prefixes that may be held.
pub(super) const DISSECTOR: Dissector = Dissector {
    prefixes: &[
        prefix(HANDSHAKE, HANDSHAKE.len() - 1),
        prefix(b"GET /ann", HELD_BYTES),
        prefix(b"GET /scr", HELD_BYTES),
        prefix(b"GET /web", HELD_BYTES),
        prefix(b"GET /dat", HELD_BYTES),
    ],
    unsplit: b"\x00B",
    udp: &[b'd', b'B', utp::DATA, utp::STATE, utp::SYN],
    ..Dissector::new(Protocol::BitTorrent)
};

/// Start of the peer wire handshake: a length byte and the protocol's name (BEP 3).
const HANDSHAKE: &[u8; 20] = b"\x13BitTorrent protocol";
/// Length and identifier of a `request` message (BEP 3: `<len=0013><id=6><index><begin><length>`).
const REQUEST: u64 = 0x0000_000d_0600_0000;
/// Identifiers of the messages that have the layout of a `request`: `cancel` (BEP 3), `reject` (BEP 6).
const CANCEL: u64 = 8;
const REJECT: u64 = 16;
/// Short messages that are stepped over, and a bound of their bytes: a power of two.
const LEADING: usize = 4;
const LEADING_BYTES: usize = 64;
const _: () = assert!(LEADING * 9 < LEADING_BYTES);
/// Identifier of the extension protocol's messages (BEP 10), and a bound of their length.
const EXTENDED: u64 = 20;
const MAX_DICTIONARY: u64 = 1 << 20;
/// Bytes of a `request` message.
const REQUEST_LEN: u64 = 17;
/// Smallest unit of a block that clients ask for, in bytes (BEP 3: 2^14).
const BLOCK: u64 = 1 << 14;
/// Largest block that clients ask for, in bytes (BEP 3: 2^17).
const MAX_BLOCK: u64 = 1 << 17;

/// Peer wire and HTTP trackers.
#[inline(always)]
pub fn tcp(payload: &Payload, state: &mut RuleState) -> Option<Rule> {
    if payload.has(0, HANDSHAKE) {
        return Some(Rule::BtHandshake);
    }
    // The top bit of the first reserved byte is Azureus', the others are unused but for BitComet's "ex"; info hash and
    // more follow.
    if payload.has(0, b"BitTorrent protocol") && payload.captured >= 39 {
        let reserved = payload.byte(19) & 0x7f == 0 || payload.has(19, b"ex\0");
        return reserved.then_some(Rule::BtHandshakeTail);
    }
    if let Some(rule) = http::tracker(payload) {
        return Some(rule);
    }
    let head = payload.be64(0);
    // Delivery Optimization frames blocks as BEP 3 does.
    let other = delivery_optimization::has_port(payload) | (state.rule_flags & rule_flags::SWARM != 0);
    // All messages are shorter than 16 MiB: a zero byte gates the rest.
    (head >> 56 == 0 && !other && mid_stream(payload)).then_some(Rule::BtMidstream)
}

/// Whether the segment starts with a message that proves the peer wire, short ones in front of it stepped over.
///
/// No branch: top bits mark what the message is not, so the verifier walks this once.
#[inline(never)]
fn mid_stream(payload: &Payload) -> bool {
    let (mut at, mut step) = (0, 0);
    while step < LEADING {
        at += short(payload.be64(at & (LEADING_BYTES - 1)));
        step += 1;
    }
    let at = at & (LEADING_BYTES - 1);
    let head = payload.be64(at);
    (no_request(payload, at, head) & no_piece(payload, at, head) & no_extension(payload, at, head)) >> 63 == 0
}

/// Identifiers of the short messages of each length, as bits: keep-alive, which has none (the next byte is a
/// zero); choke, unchoke, interested and its opposite, have all, have none; port; have, suggest piece, allowed fast
/// (BEP 3, BEP 5, BEP 6).
static SHORT: [u32; 8] = [1, 0xc00f, 0, 1 << 9, 0, 1 << 4 | 1 << 13 | 1 << 17, 0, 0];

/// Bytes of a message that has nothing of its own to show, by its first eight bytes, else 0.
#[inline(always)]
fn short(head: u64) -> usize {
    let (length, kind) = (head >> 32, head >> 24 & 0xff);
    let fits = (length >> 3 | kind >> 5).wrapping_sub(1) >> 63;
    let listed = u64::from(SHORT[bound::<{ SHORT.len() - 1 }>(length as usize)]) >> (kind & 31) & 1;
    ((length & 7) + 4) as usize * (listed & fits) as usize
}

/// The top bit is clear for one `request` or message like it that is the rest of the segment, or the first of several.
#[inline(always)]
fn no_request(payload: &Payload, at: usize, head: u64) -> u64 {
    let (kind, wanted) = (head >> 24 & 0xff, u64::from(payload.be32(at + 13)));
    let size = nonzero_top_bit(wanted ^ (BLOCK / 2))
        & nonzero_top_bit(wanted ^ BLOCK)
        & nonzero_top_bit(wanted ^ (BLOCK * 2))
        & nonzero_top_bit(wanted ^ (BLOCK * 4))
        & nonzero_top_bit(wanted ^ MAX_BLOCK);
    let behind = u64::from(payload.len).wrapping_sub(at as u64);
    let more = behind.wrapping_sub(2 * REQUEST_LEN)
        | nonzero_top_bit((payload.be64(at + 17) ^ head) >> 24)
        | nonzero_top_bit(u64::from(payload.be32(at + 9)) & (BLOCK / 2 - 1));
    nonzero_top_bit((head ^ REQUEST) >> 32)
        | nonzero_top_bit(kind ^ 6) & nonzero_top_bit(kind ^ CANCEL) & nonzero_top_bit(kind ^ REJECT)
        | size
        | nonzero_top_bit(behind ^ REQUEST_LEN) & more
}

/// The top bit is clear for the head of a `piece` that holds an aligned block.
#[inline(always)]
fn no_piece(payload: &Payload, at: usize, head: u64) -> u64 {
    let block = (head >> 32).wrapping_sub(9);
    nonzero_top_bit(head >> 24 & 0xff ^ 7)
        | nonzero_top_bit(block & (BLOCK - 1))
        | (MAX_BLOCK - 1).wrapping_sub(block.wrapping_sub(1))
        | block.wrapping_sub(1)
        | nonzero_top_bit(u64::from(payload.be32(at + 9)) & (BLOCK - 1))
        | u64::from(payload.captured).wrapping_sub(at as u64 + 13)
}

/// The top bit is clear for a message of the extension protocol (BEP 10) with a dictionary that starts like that of a
/// handshake, or of a message of peer exchange (BEP 11) or metadata (BEP 9).
#[inline(always)]
fn no_extension(payload: &Payload, at: usize, head: u64) -> u64 {
    let (length, kind, number) = (head >> 32, head >> 24 & 0xff, head >> 16 & 0xff);
    let dictionary = payload.le64(at + 6);
    let handshake = nonzero_top_bit(dictionary & 0xffff_ffff ^ u64::from(u32::from_le_bytes(*b"d1:m")))
        & nonzero_top_bit(dictionary & 0xff_ffff_ffff ^ u64::from_le_bytes(*b"d1:ei\0\0\0"))
        & nonzero_top_bit(dictionary & 0xffff_ffff_ffff ^ u64::from_le_bytes(*b"d4:ipv\0\0"))
        & nonzero_top_bit(dictionary ^ u64::from_le_bytes(*b"d12:comp"));
    let message = nonzero_top_bit(dictionary ^ u64::from_le_bytes(*b"d5:added"))
        & nonzero_top_bit(dictionary ^ u64::from_le_bytes(*b"d8:msg_t"));
    nonzero_top_bit(kind ^ EXTENDED)
        | MAX_DICTIONARY.wrapping_sub(length)
        | (handshake | nonzero_top_bit(number)) & (message | 31u64.wrapping_sub(number))
}

/// DHT and local service discovery.
#[inline(always)]
pub fn udp(payload: &Payload, state: &mut RuleState) -> Option<Rule> {
    if let Some(rule) = dht::message(payload) {
        dht::transaction(payload, state);
        return Some(rule);
    }
    if payload.has(0, b"BT-SEARCH * HTTP/1.1\r\n") {
        return Some(Rule::LsdAnnounce);
    }
    None
}

/// UDP trackers, uTP and the DHT of Azureus, which need data of earlier datagrams. Tried after all other rules: each
/// exit leaves another state, and the verifier walks the rest once for each.
#[inline(always)]
pub fn exchanges(payload: &Payload, state: &mut RuleState) -> Option<Rule> {
    if let Some(rule) = tracker::udp(payload, state) {
        return Some(rule);
    }
    match utp::udp(payload, state) {
        None => azureus_dht::udp(payload, state),
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Flow, every_bit_counts, every_byte_counts, hex, tcp, udp};
    use crate::abi::protocol::{Confidence, Protocol};
    use proptest::prelude::*;

    const SIGNATURE: super::super::testing::Label = Some((Protocol::BitTorrent, Confidence::Signature));
    const STRUCTURAL: super::super::testing::Label = Some((Protocol::BitTorrent, Confidence::Structural));

    fn request(index: u32, begin: u32, length: u32) -> Vec<u8> {
        let mut message = hex("0000000d 06");
        for field in [index, begin, length] {
            message.extend(field.to_be_bytes());
        }
        message
    }

    fn piece(begin: u32, length: u32) -> Vec<u8> {
        let mut message = (length + 9).to_be_bytes().to_vec();
        message.push(7);
        message.extend(5u32.to_be_bytes());
        message.extend(begin.to_be_bytes());
        message.resize(1448, 0xaa);
        message
    }

    #[test]
    fn handshake_is_a_signature_and_every_bit_of_it_counts() {
        let frame = [b"\x13BitTorrent protocol".as_slice(), &[7; 48]].concat();
        assert_eq!(tcp(&frame), SIGNATURE);
        assert_eq!(tcp(&frame[..20]), SIGNATURE);
        every_bit_counts(&frame, 0..20, |bytes| tcp(bytes));
        every_byte_counts(&frame[..20], |bytes| tcp(bytes));
        assert_eq!(tcp(&frame[1..]), None, "reserved bits that nobody sets");
        let late = [b"BitTorrent protocol\x80".as_slice(), &[0; 47]].concat();
        assert_eq!(tcp(&late), SIGNATURE);
        every_bit_counts(&late, 0..19, |bytes| tcp(bytes));
        every_byte_counts(&late[..39], |bytes| tcp(bytes));
        let bitcomet = [b"BitTorrent protocolex".as_slice(), &[0; 46]].concat();
        assert_eq!(tcp(&bitcomet), SIGNATURE);
        assert_eq!(tcp(b"BitTorrent protocol alone, without its length byte"), None);
        assert_eq!(tcp(b"POST / HTTP/1.1\r\n\r\n\x13BitTorrent protocol"), None);
    }

    #[test]
    fn mid_stream_requests_and_pieces_are_structural() {
        assert_eq!(tcp(request(9, 0x4000, 0x4000)), STRUCTURAL);
        assert_eq!(tcp(request(9, 0x1000, 0x4000)), STRUCTURAL, "alone its begin may be any");
        for kind in [0x08, 0x10] {
            let mut like = request(9, 0x4000, 0x4000);
            like[4] = kind;
            assert_eq!(tcp(&like), STRUCTURAL, "{kind}");
            assert_eq!(tcp([like.clone(), like].concat()), STRUCTURAL, "{kind}");
        }
        assert_eq!(tcp([request(9, 0, 0x4000), request(9, 0x4000, 0x4000)].concat()), STRUCTURAL);
        assert_eq!(tcp(piece(0x8000, 0x4000)), STRUCTURAL);
        for near_miss in [
            request(9, 0x4000, 0x4001),
            [request(9, 0x4001, 0x4000), request(9, 0x4000, 0x4000)].concat(),
            [hex("0000000d 09"), request(9, 0, 0x4000)[5..].to_vec()].concat(),
            [request(9, 0, 0x4000), vec![0; 3]].concat(),
            request(9, 0, 0x4000)[..16].to_vec(),
            piece(0x8001, 0x4000),
            piece(0, 0),
            piece(0, 0x4004),
            piece(0, 0x40_0000),
        ] {
            assert_eq!(tcp(&near_miss), None, "{near_miss:02x?}");
        }
    }

    #[test]
    fn short_messages_may_be_in_front() {
        let request = request(9, 0x4000, 0x4000);
        for short in [
            "00000000",
            "00000001 02",
            "00000001 0e",
            "00000003 09 1ae1",
            "00000005 04 00000007",
            "00000005 0d 00000007",
        ] {
            let leading = [hex(short), hex("00000001 01")].concat();
            assert_eq!(tcp([leading.clone(), request.clone()].concat()), STRUCTURAL, "{short}");
            assert_eq!(tcp([leading.repeat(2), piece(0x8000, 0x4000)].concat()), STRUCTURAL, "{short}");
            assert_eq!(tcp([leading.repeat(2), request[..16].to_vec()].concat()), None, "{short}");
            assert_eq!(tcp(leading.repeat(9)), None, "{short}");
        }
        for other in ["00000001 04", "00000005 02 00000007", "00000001 42", "00000002 02 00", "00000005 84 00000000"] {
            assert_eq!(tcp([hex(other), request.clone()].concat()), None, "{other}");
        }
        for zero_bytes in 0..64 {
            assert_eq!(tcp([vec![0; zero_bytes], vec![7; 40]].concat()), None);
        }
    }

    #[test]
    fn messages_of_extensions_match() {
        for (number, dictionary) in [
            (0, "d1:ei0e1:md11:ut_metadatai3e6:ut_pexi1ee1:pi51413ee"),
            (0, "d1:md11:ut_metadatai3eee"),
            (0, "d12:complete_agoi5e1:md11:upload_onlyi3eee"),
            (1, "d5:added6:abcdef7:added.f1:ae"),
            (3, "d8:msg_typei0e5:piecei0ee"),
        ] {
            let message = |number, dictionary: &str| {
                let mut message = (dictionary.len() as u32 + 2).to_be_bytes().to_vec();
                message.extend([20, number]);
                message.extend(dictionary.bytes());
                message
            };
            assert_eq!(tcp(message(number, dictionary)), STRUCTURAL, "{dictionary}");
            assert_eq!(tcp([hex("00000001 0e"), message(number, dictionary)].concat()), STRUCTURAL, "{dictionary}");
            assert_eq!(tcp(message(32, dictionary)), None, "{dictionary}");
            assert_eq!(tcp(message(number, &dictionary.replacen('d', "l", 1))), None, "{dictionary}");
        }
        assert_eq!(tcp(b"\0\0\0\x10\x14\0d2:op5:hello1:xe"), None);
    }

    #[test]
    fn delivery_optimization_is_not_bittorrent() {
        assert_eq!(Flow::tcp().ports(50_000, 7680).ask(request(9, 0, 0x4000)), None);
        assert_eq!(Flow::tcp().ports(50_000, 7680).answer(piece(0, 0x4000)), None);
    }

    #[test]
    fn local_service_discovery_is_a_signature() {
        let frame = b"BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 6881\r\n";
        assert_eq!(udp(frame), SIGNATURE);
        every_bit_counts(frame, 0..22, |bytes| udp(bytes));
        assert_eq!(udp(b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n"), None);
    }

    proptest! {
        #[test]
        fn random_payloads_never_match(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(tcp(&bytes), None);
            prop_assert_eq!(udp(&bytes), None);
        }

        #[test]
        fn handshakes_match_whatever_follows(rest in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(tcp([b"\x13BitTorrent protocol".as_slice(), &rest].concat()), SIGNATURE);
        }
    }
}
