//! Captures built byte by byte, and the same captures damaged in every way.

use std::io::{Cursor, Write};

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;

use super::*;

/// Everything read from a capture: frames as (timestamp, bytes, wire length), unsupported link types, and the error at
/// its end.
#[derive(Debug, Default)]
struct Outcomes {
    frames: Vec<(u64, Vec<u8>, usize)>,
    unsupported: Vec<u32>,
    error: Option<CaptureError>,
}

fn drain(reader: impl Read + 'static) -> Outcomes {
    let mut outcome = Outcomes::default();
    let mut capture = match Capture::from_reader(Box::new(reader)) {
        Ok(capture) => capture,
        Err(error) => return Outcomes { error: Some(error), ..outcome },
    };
    loop {
        match capture.next_item() {
            Ok(Some(Item::Frame(frame))) => {
                outcome.frames.push((frame.timestamp_ns, frame.bytes.to_vec(), frame.wire_len));
            }
            Ok(Some(Item::UnsupportedLinkType(link_type))) => outcome.unsupported.push(link_type),
            Ok(None) => break,
            Err(error) => outcome.error = Some(error),
        }
    }
    assert_eq!(capture.packets(), (outcome.frames.len() + outcome.unsupported.len()) as u64);
    outcome
}

fn drain_bytes(bytes: &[u8]) -> Outcomes {
    drain(Cursor::new(bytes.to_vec()))
}

/// A reader that hands out one byte at a time, like a slow pipe.
struct Trickle(Cursor<Vec<u8>>);

impl Read for Trickle {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(1);
        self.0.read(&mut buffer[..length])
    }
}

#[derive(Clone, Copy)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16(self, value: u16) -> [u8; 2] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    fn u32(self, value: u32) -> [u8; 4] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }
}

/// A pcap with one record per packet, at 5 s and 7 units, each 10 bytes longer on the wire than captured.
fn pcap(order: Order, magic: u32, minor: u16, link_type: u32, packets: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(order.u32(magic));
    out.extend(order.u16(2));
    out.extend(order.u16(minor));
    for field in [0, 0, 65_535, link_type] {
        out.extend(order.u32(field));
    }
    for packet in packets {
        let (captured, original) = (packet.len() as u32, packet.len() as u32 + 10);
        let lengths = if minor < 3 { [original, captured] } else { [captured, original] };
        for field in [5, 7, lengths[0], lengths[1]] {
            out.extend(order.u32(field));
        }
        if magic == 0xa1b2_cd34 {
            out.extend([0xee; 8]);
        }
        out.extend(*packet);
    }
    out
}

fn ng_block(order: Order, block_type: u32, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let length = padded as u32 + 12;
    let mut out = Vec::new();
    out.extend(order.u32(block_type));
    out.extend(order.u32(length));
    out.extend(body);
    out.resize(8 + padded, 0);
    out.extend(order.u32(length));
    out
}

fn ng_section(order: Order) -> Vec<u8> {
    let body = [&order.u32(0x1a2b_3c4d)[..], &order.u16(1), &order.u16(0), &[0xff; 8]].concat();
    ng_block(order, 0x0a0d_0d0a, &body)
}

fn ng_interface(order: Order, link_type: u16, snapshot_len: u32, options: &[u8]) -> Vec<u8> {
    let body = [&order.u16(link_type)[..], &[0, 0], &order.u32(snapshot_len), options].concat();
    ng_block(order, 1, &body)
}

fn ng_enhanced(order: Order, interface: u32, units: u64, packet: &[u8], original: u32) -> Vec<u8> {
    let mut body = Vec::new();
    for field in [interface, (units >> 32) as u32, units as u32, packet.len() as u32, original] {
        body.extend(order.u32(field));
    }
    body.extend(packet);
    ng_block(order, 6, &body)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

const ETHERNET: [u8; 20] = [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x08, 0x06, 9, 8, 7, 6, 5, 4];

/// A pcapng with every kind of block that is read and some that are not.
fn sample_pcapng() -> Vec<u8> {
    let little = Order::Little;
    let mut out = ng_section(little);
    out.extend(ng_interface(little, 1, 0, &[]));
    out.extend(ng_block(little, 4, &[0; 16]));
    out.extend(ng_enhanced(little, 0, 2_000_003, &ETHERNET, 30));
    let mut obsolete = vec![0, 0, 0xff, 0xff];
    for field in [0, 9_u32, 20, 20] {
        obsolete.extend(little.u32(field));
    }
    obsolete.extend(ETHERNET);
    out.extend(ng_block(little, 2, &obsolete));
    out.extend(ng_block(little, 3, &[&little.u32(20)[..], &ETHERNET].concat()));
    out.extend(ng_block(little, 0x4000_0bad, &[1, 2, 3, 4, 5]));
    out
}

#[test]
fn reads_every_pcap_variant() {
    let expected = ETHERNET.to_vec();
    for order in [Order::Little, Order::Big] {
        for (magic, minor, nanoseconds) in [
            (0xa1b2_c3d4, 4, 5_000_007_000),
            (0xa1b2_3c4d, 4, 5_000_000_007),
            (0xa1b2_cd34, 4, 5_000_007_000),
            (0xa1b2_c3d4, 2, 5_000_007_000),
            (0xa1b2_c3d4, 3, 5_000_007_000),
        ] {
            let bytes = pcap(order, magic, minor, 1, &[&ETHERNET, &ETHERNET]);
            let outcome = drain_bytes(&bytes);
            assert_eq!(outcome.frames, [(nanoseconds, expected.clone(), 30), (nanoseconds, expected.clone(), 30)]);
            assert!(outcome.error.is_none(), "{:?}", outcome.error);
        }
    }
}

#[test]
fn reads_every_pcapng_packet_block() {
    let outcome = drain_bytes(&sample_pcapng());
    assert_eq!(
        outcome.frames,
        [(2_000_003_000, ETHERNET.to_vec(), 30), (9_000, ETHERNET.to_vec(), 20), (0, ETHERNET.to_vec(), 20)]
    );
    assert!(outcome.error.is_none(), "{:?}", outcome.error);
}

#[test]
fn sections_interfaces_and_time_options_are_kept_apart() {
    let mut bytes = Vec::new();
    for order in [Order::Little, Order::Big] {
        let resolution = |value: u8| [&order.u16(9)[..], &order.u16(1), &[value, 0, 0, 0]].concat();
        let offset = |seconds: i64| {
            let value = match order {
                Order::Little => seconds.to_le_bytes(),
                Order::Big => seconds.to_be_bytes(),
            };
            [&order.u16(14)[..], &order.u16(8), &value].concat()
        };
        bytes.extend(ng_section(order));
        bytes.extend(ng_interface(order, 1, 0, &resolution(9)));
        bytes.extend(ng_interface(order, 101, 0, &resolution(0x80 | 10)));
        bytes.extend(ng_interface(order, 1, 0, &resolution(12)));
        bytes.extend(ng_interface(order, 1, 0, &[resolution(0), offset(-1)].concat()));
        bytes.extend(ng_interface(order, 1, 0, &resolution(127)));
        // An option that claims more than there is.
        bytes.extend(ng_interface(order, 1, 0, &[&order.u16(9)[..], &order.u16(99)].concat()));
        bytes.extend(ng_enhanced(order, 0, 1_234_567_890, &ETHERNET, 20));
        bytes.extend(ng_enhanced(order, 1, 1536, &[0x45; 20], 20));
        bytes.extend(ng_enhanced(order, 2, 5_000, &ETHERNET, 20));
        bytes.extend(ng_enhanced(order, 3, 4, &ETHERNET, 20));
        bytes.extend(ng_enhanced(order, 4, 4, &ETHERNET, 20));
        bytes.extend(ng_enhanced(order, 5, 4, &ETHERNET, 20));
        bytes.extend(ng_enhanced(order, 3, u64::MAX, &ETHERNET, 20));
    }
    let outcome = drain_bytes(&bytes);
    let times: Vec<u64> = outcome.frames.iter().map(|frame| frame.0).collect();
    let one = [1_234_567_890, 1_500_000_000, 5, 3_000_000_000, 0, 4_000, u64::MAX];
    assert_eq!(times, [one, one].concat());
    assert_eq!(outcome.frames[1].1.len(), 34, "raw IP gained an Ethernet header");
    assert!(outcome.error.is_none(), "{:?}", outcome.error);
}

#[test]
fn a_simple_packet_ends_at_the_snapshot_length() {
    let little = Order::Little;
    let bytes = [
        ng_section(little),
        ng_interface(little, 1, 18, &[]),
        ng_block(little, 3, &[&little.u32(60)[..], &ETHERNET[..18]].concat()),
    ]
    .concat();
    let outcome = drain_bytes(&bytes);
    assert_eq!(outcome.frames.len(), 1);
    assert_eq!((outcome.frames[0].1.len(), outcome.frames[0].2), (18, 60));
}

#[test]
fn other_link_types_become_ethernet() {
    let ip4 = [0x45, 0, 0, 20];
    let ip6 = [0x60, 0, 0, 0];
    let cases: &[(u32, &[u8], &[u8], u16)] = &[
        (101, &[], &ip4, 0x0800),
        (101, &[], &ip6, 0x86dd),
        (101, &[], &[0x15], 0x0800),
        (12, &[], &ip6, 0x86dd),
        (14, &[], &ip4, 0x0800),
        (228, &[], &ip4, 0x0800),
        (229, &[], &ip6, 0x86dd),
        (0, &[2, 0, 0, 0], &ip4, 0x0800),
        (0, &[0, 0, 0, 2], &ip4, 0x0800),
        (0, &[30, 0, 0, 0], &ip6, 0x86dd),
        (0, &[0, 0, 0, 24], &ip6, 0x86dd),
        (0, &[7, 0, 0, 0], &ip4, 0),
        (108, &[0, 0, 0, 28], &ip6, 0x86dd),
        (113, &[0, 4, 0, 1, 0, 6, 1, 2, 3, 4, 5, 6, 0, 0, 0x08, 0x00], &ip4, 0x0800),
        (113, &[0, 4, 0, 1, 0, 6, 1, 2, 3, 4, 5, 6, 0, 0, 0x81, 0x00], &[0, 5, 0x08, 0], 0x8100),
        (276, &[0x86, 0xdd, 0, 0, 0, 0, 0, 3, 0, 1, 4, 6, 1, 2, 3, 4, 5, 6, 0, 0], &ip6, 0x86dd),
        (104, &[0x0f, 0, 0x08, 0x00], &ip4, 0x0800),
        (9, &[0xff, 0x03, 0x00, 0x21], &ip4, 0x0800),
        (9, &[0x00, 0x57], &ip6, 0x86dd),
        (9, &[0x21], &ip4, 0x0800),
        (9, &[0xff, 0x03, 0xc0, 0x21], &[1, 1], 0),
        (50, &[0xff, 0x03, 0x02, 0x81], &ip4, 0x8847),
        (51, &[], &[0x11, 0, 0, 1], 0x8864),
    ];
    for (link_type, header, payload, ethertype) in cases {
        let packet = [*header, *payload].concat();
        let outcome = drain_bytes(&pcap(Order::Little, 0xa1b2_c3d4, 4, *link_type, &[&packet]));
        let mut expected = vec![0; 12];
        expected.extend(ethertype.to_be_bytes());
        expected.extend(*payload);
        let wire_len = expected.len() + 10;
        assert_eq!(outcome.frames, [(5_000_007_000, expected, wire_len)], "link type {link_type}, {packet:02x?}");
    }
}

#[test]
fn a_packet_shorter_than_its_link_header_is_an_empty_frame() {
    for (link_type, needed) in [(0, 4), (108, 4), (113, 16), (276, 20), (104, 4), (9, 1)] {
        for length in 0..needed {
            let outcome = drain_bytes(&pcap(Order::Little, 0xa1b2_c3d4, 4, link_type, &[&vec![0; length]]));
            assert_eq!(outcome.frames, [(5_000_007_000, Vec::new(), 0)], "link type {link_type}, {length} bytes");
        }
    }
}

#[test]
fn a_bare_ip_packet_without_bytes_is_an_ethernet_header() {
    for link_type in [101, 12, 14, 228, 229, 51] {
        let outcome = drain_bytes(&pcap(Order::Little, 0xa1b2_c3d4, 4, link_type, &[&[]]));
        assert_eq!((outcome.frames[0].1.len(), outcome.frames[0].2), (14, 24), "link type {link_type}");
    }
}

#[test]
fn an_unknown_link_type_is_told_and_reading_goes_on() {
    let little = Order::Little;
    let bytes = [
        ng_section(little),
        ng_interface(little, 105, 0, &[]),
        ng_interface(little, 1, 0, &[]),
        ng_enhanced(little, 0, 1, &ETHERNET, 20),
        ng_enhanced(little, 1, 1, &ETHERNET, 20),
    ]
    .concat();
    let outcome = drain_bytes(&bytes);
    assert_eq!((outcome.frames.len(), outcome.unsupported), (1, vec![105]));
}

#[test]
fn gzip_members_follow_each_other_and_pipes_may_trickle() {
    let bytes = sample_pcapng();
    let members = [gzip(&bytes[..100]), gzip(&bytes[100..])].concat();
    assert_eq!(drain_bytes(&members).frames, drain_bytes(&bytes).frames);
    assert_eq!(drain(Trickle(Cursor::new(members.clone()))).frames.len(), 3);
    assert_eq!(drain(Trickle(Cursor::new(bytes))).frames.len(), 3);
    let outcome = drain_bytes(&members[..members.len() - 9]);
    assert_eq!(outcome.frames.len(), 3, "what was unpacked before the damage is read");
    assert!(matches!(outcome.error, Some(CaptureError::Read { packet: 4, .. })), "{:?}", outcome.error);
}

#[test]
fn every_truncation_gives_the_whole_packets_and_names_the_next() {
    let bytes = pcap(Order::Little, 0xa1b2_c3d4, 4, 1, &[&ETHERNET, &ETHERNET, &ETHERNET]);
    for length in 0..=bytes.len() {
        let outcome = drain_bytes(&bytes[..length]);
        let whole = length.saturating_sub(24) / 36;
        assert_eq!(outcome.frames.len(), whole, "{length} bytes");
        match outcome.error {
            Some(CaptureError::Empty) => assert_eq!(length, 0),
            Some(CaptureError::NotACapture { .. }) => assert!((1..4).contains(&length)),
            Some(CaptureError::Truncated { packet, offset }) => {
                assert_eq!(offset, length as u64);
                assert_eq!(packet, if length < 24 { 0 } else { whole as u64 + 1 });
            }
            None => assert!(length >= 24 && (length - 24) % 36 == 0, "{length} bytes"),
            other => panic!("{length} bytes: {other:?}"),
        }
    }
    let bytes = sample_pcapng();
    let mut clean_ends = 0;
    for length in 0..=bytes.len() {
        match drain_bytes(&bytes[..length]).error {
            Some(CaptureError::Empty) => assert_eq!(length, 0),
            Some(CaptureError::NotACapture { .. }) => assert!((1..4).contains(&length)),
            Some(CaptureError::Truncated { .. }) => {}
            None => clean_ends += 1,
            other => panic!("{length} bytes: {other:?}"),
        }
    }
    assert_eq!(clean_ends, 7, "one after each block");
}

#[test]
fn lies_are_told_apart_and_cost_no_memory() {
    let little = Order::Little;
    let start = [ng_section(little), ng_interface(little, 1, 0, &[])].concat();
    let damage = |block: &[u8]| match drain_bytes(&[&start, block].concat()).error {
        Some(CaptureError::Damaged { packet: 1, damage, .. }) => damage,
        other => panic!("{other:?}"),
    };
    let block_type = 6;
    let mut long = ng_enhanced(little, 0, 0, &ETHERNET, 20);
    long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(damage(&long), Damage::BlockLength { block_type, length: u32::MAX });
    long[4..8].copy_from_slice(&0xffff_fffc_u32.to_le_bytes());
    assert_eq!(damage(&long), Damage::BlockLength { block_type, length: 0xffff_fffc });
    long[4..8].copy_from_slice(&8_u32.to_le_bytes());
    assert_eq!(damage(&long), Damage::BlockLength { block_type, length: 8 });
    let mut captured = ng_enhanced(little, 0, 0, &ETHERNET, 20);
    captured[20..24].copy_from_slice(&21_u32.to_le_bytes());
    assert_eq!(damage(&captured), Damage::BlockLength { block_type, length: 52 });
    captured[20..24].copy_from_slice(&300_000_u32.to_le_bytes());
    assert_eq!(damage(&captured), Damage::PacketLength(300_000));
    let mut trailer = ng_enhanced(little, 0, 0, &ETHERNET, 20);
    trailer[48..52].copy_from_slice(&56_u32.to_le_bytes());
    assert_eq!(damage(&trailer), Damage::BlockTrailer { first: 52, last: 56 });
    assert_eq!(damage(&ng_enhanced(little, 1, 0, &ETHERNET, 20)), Damage::Interface(1));

    let mut capture = pcap(little, 0xa1b2_c3d4, 4, 1, &[&ETHERNET]);
    capture[32..36].copy_from_slice(&(MAX_PACKET_BYTES as u32).to_le_bytes());
    let mut reader = Capture::from_reader(Box::new(Cursor::new(capture))).expect("the header is whole");
    assert!(matches!(reader.next_item(), Err(CaptureError::Truncated { packet: 1, .. })));
    assert!(reader.buffer.len() <= 1 << 17, "memory grows with what arrives, not with what is claimed");
    assert!(matches!(reader.next_item(), Ok(None)), "nothing follows an error");
}

#[test]
fn other_files_are_named() {
    for bytes in [&b""[..], b"abc", b"PK\x03\x04 zip", b"\x1f\x8b"] {
        assert!(drain_bytes(bytes).error.is_some(), "{bytes:?}");
    }
    let message = drain_bytes(b"#!/bin/sh").error.map(|error| error.to_string()).unwrap_or_default();
    assert!(message.contains("not a pcap or pcapng capture"), "{message}");
    assert!(matches!(Capture::open(Path::new("/nonexistent/x.pcap")), Err(CaptureError::Open(_))));
}

proptest! {
    #[test]
    fn mutated_captures_never_panic(
        which in 0..4_usize,
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = match which {
            0 => sample_pcapng(),
            1 => gzip(&sample_pcapng()),
            2 => pcap(Order::Big, 0xa1b2_cd34, 4, 113, &[&ETHERNET, &ETHERNET]),
            _ => pcap(Order::Little, 0xa1b2_3c4d, 4, 9, &[&ETHERNET, &ETHERNET]),
        };
        for (index, byte) in mutations {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        for (_, frame, wire_len) in drain_bytes(&bytes).frames {
            prop_assert!(frame.len() <= wire_len && wire_len <= u32::MAX as usize + HEADROOM);
        }
    }

    #[test]
    fn any_bytes_behind_a_magic_never_panic(
        magic in prop::sample::select(vec![[0xd4, 0xc3, 0xb2, 0xa1], [0x0a, 0x0d, 0x0d, 0x0a], [0xa1, 0xb2, 0xcd, 0x34]]),
        rest in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        drain_bytes(&[&magic[..], &rest].concat());
    }
}
