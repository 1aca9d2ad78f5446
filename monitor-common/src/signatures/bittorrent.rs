//! BitTorrent: peer wire (BEP 3), extension protocol's plain forms, local service discovery (BEP 14), and in the folder
//! beside this file uTP (BEP 29), DHT (BEP 5), UDP trackers (BEP 15) and HTTP trackers (BEP 3, BEP 48).
//!
//! Matched here, on any port:
//! - the handshake, whole or (in `split.rs`) cut over the first segments: 0x13 "BitTorrent protocol" (BEP 3, also with BEP 52 torrents),
//!   and without its first byte, which some clients send alone and which may be lost, when reserved bits (BEP 4) follow;
//! - mid-stream, for flows that began before the program: a `request`, `cancel` or `reject` (BEP 6), which are built alike, that fills
//!   its segment or is followed by another, and the head of a `piece`. Their lengths, identifiers and block offsets must agree with each other, which guards against
//!   other length-prefixed protocols. Port 7680 is left out there: Windows Update Delivery Optimization has the same frames;
//! - UDP: "BT-SEARCH * HTTP/1.1".

mod dht;
mod http;
mod tracker;
mod utp;

use crate::{
    payload::{FlowState, Payload},
    protocol::Confidence,
};

/// Windows Update Delivery Optimization (MS-DO) listens here and frames blocks as BEP 3 does.
const DELIVERY_OPTIMIZATION_PORT: u16 = 7680;
/// Length and identifier of a `request` message (BEP 3: `<len=0013><id=6><index><begin><length>`).
const REQUEST: u64 = 0x0000_000d_0600_0000;
/// Identifiers of the messages that have the layout of a `request`: `cancel` (BEP 3), `reject` (BEP 6).
const CANCEL: u32 = 8;
const REJECT: u32 = 16;
/// Bytes of a `request` message.
const REQUEST_LEN: u32 = 17;
/// Smallest unit of a block that clients ask for, in bytes (BEP 3: 2^14).
const BLOCK: u32 = 1 << 14;
/// Largest block that clients ask for, in bytes (BEP 3: 2^17).
const MAX_BLOCK: u32 = 1 << 17;

/// Peer wire and HTTP trackers.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut FlowState) -> Option<Confidence> {
    if payload.has(0, b"\x13BitTorrent protocol") {
        return Some(Confidence::Signature);
    }
    // The top bit of the first reserved byte is Azureus', the others are unused; info hash and more follow.
    if payload.has(0, b"BitTorrent protocol") && payload.byte(19) & 0x7f == 0 && payload.captured >= 39 {
        return Some(Confidence::Signature);
    }
    if http::tracker(payload) {
        return Some(Confidence::Signature);
    }
    let head = payload.be64(0);
    let other =
        (payload.source_port == DELIVERY_OPTIMIZATION_PORT) || (payload.destination_port == DELIVERY_OPTIMIZATION_PORT);
    // Both messages are shorter than 16 MiB, and their piece index is below 2^24: two zero bytes gate the rest.
    let known = matches!(head as u32 >> 24, CANCEL | REJECT | 6 | 7);
    if (head >> 56 == 0) && known && !other {
        return (request(payload, head) || piece(payload, head)).then_some(Confidence::Structural);
    }
    None
}

/// One `request` or message like it that is the whole segment, or the first of several.
#[inline(always)]
fn request(payload: &Payload, head: u64) -> bool {
    let wanted = payload.be32(13);
    let size = (wanted == BLOCK / 2)
        | (wanted == BLOCK)
        | (wanted == BLOCK * 2)
        | (wanted == MAX_BLOCK)
        | (wanted == BLOCK * 4);
    let alone = payload.len == REQUEST_LEN;
    let repeated = (payload.len >= 2 * REQUEST_LEN) && ((payload.be64(17) ^ head) & 0xffff_ffff_ff00_0000 == 0);
    let kind = head as u32 >> 24;
    ((head ^ REQUEST) >> 32 == 0)
        && ((kind == 6) | (kind == CANCEL) | (kind == REJECT))
        && size
        && (alone || repeated && payload.be32(9).is_multiple_of(BLOCK / 2))
}

/// The head of a `piece` that holds an aligned block.
#[inline(always)]
fn piece(payload: &Payload, head: u64) -> bool {
    let block = ((head >> 32) as u32).wrapping_sub(9);
    (head & 0xff00_0000 == 0x0700_0000)
        && block.is_multiple_of(BLOCK)
        && (block.wrapping_sub(1) < MAX_BLOCK)
        && payload.be32(9).is_multiple_of(BLOCK)
        && (payload.captured >= 13)
}

/// DHT and local service discovery.
#[inline(always)]
pub fn udp(payload: &Payload, state: &mut FlowState) -> Option<Confidence> {
    if dht::message(payload) {
        dht::transaction(payload, state);
        return Some(Confidence::Signature);
    }
    if payload.has(0, b"BT-SEARCH * HTTP/1.1\r\n") {
        return Some(Confidence::Signature);
    }
    None
}

/// UDP trackers and uTP, which need what earlier datagrams said. Tried after all other rules: each way out leaves another state,
/// and the verifier walks what follows once for each.
#[inline(always)]
pub fn exchanges(payload: &Payload, state: &mut FlowState) -> Option<Confidence> {
    match tracker::udp(payload, state) {
        None => utp::udp(payload, state),
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Flow, every_bit_counts, every_byte_counts, hex, tcp, udp};
    use crate::protocol::{Confidence, Protocol};
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
