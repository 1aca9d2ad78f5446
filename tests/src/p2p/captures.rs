//! Frames as captures: formats and link types that the reader knows, and the encapsulations that the header parser
//! enters.

/// Bytes of two Ethernet addresses, and of the header that they begin.
const ADDRESSES: usize = 12;
const ETHERNET_HEADER: usize = 14;
/// Link types (<https://www.tcpdump.org/linktypes.html>).
const NULL: u32 = 0;
const ETHERNET: u32 = 1;
const RAW: u32 = 101;
const LINUX_SLL: u32 = 113;
const LINUX_SLL2: u32 = 276;
/// Of a classic capture's magic, which also tells the byte order: microseconds, nanoseconds.
const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;

/// A classic capture (pcap-savefile(5)): little-endian, Ethernet, a millisecond between packets.
#[must_use]
pub fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    classic(u32::to_le_bytes, MICROSECONDS, ETHERNET, frames)
}

fn classic(order: fn(u32) -> [u8; 4], magic: u32, link_type: u32, packets: &[Vec<u8>]) -> Vec<u8> {
    // Versions 2 and 4, each of 16 bits.
    let version = if order(1) == 1u32.to_le_bytes() { 0x0004_0002 } else { 0x0002_0004 };
    let mut bytes: Vec<u8> = [magic, version, 0, 0, 65_535, link_type].into_iter().flat_map(order).collect();
    let per_millisecond = if magic == NANOSECONDS { 1_000_000 } else { 1000 };
    for (number, packet) in packets.iter().enumerate() {
        let (seconds, part) = (1_700_000_000 + number as u32 / 1000, number as u32 % 1000 * per_millisecond);
        let length = packet.len() as u32;
        bytes.extend([seconds, part, length, length].into_iter().flat_map(order));
        bytes.extend(packet);
    }
    bytes
}

/// A pcapng capture (draft-ietf-opsawg-pcapng): section, interface, enhanced packets.
fn pcapng(frames: &[Vec<u8>]) -> Vec<u8> {
    let block = |kind: u32, content: &[u8]| {
        let padded = content.len().next_multiple_of(4);
        let length = (12 + padded as u32).to_le_bytes();
        [&kind.to_le_bytes(), &length, content, &vec![0; padded - content.len()], &length].concat()
    };
    let mut bytes = block(0x0a0d_0d0a, &[&0x1a2b_3c4du32.to_le_bytes(), &[1, 0, 0, 0], &[0xff; 8][..]].concat());
    bytes.extend(block(1, &[&[ETHERNET as u8, 0, 0, 0], &65_535u32.to_le_bytes()[..]].concat()));
    for (number, frame) in frames.iter().enumerate() {
        let time = 1_700_000_000_000_000u64 + 1000 * number as u64;
        let length = (frame.len() as u32).to_le_bytes();
        let (high, low) = (((time >> 32) as u32).to_le_bytes(), (time as u32).to_le_bytes());
        bytes.extend(block(6, &[&[0; 4], &high, &low, &length, &length, frame.as_slice()].concat()));
    }
    bytes
}

/// Ethernet frames as captures of every format and link type, by name.
#[must_use]
pub fn captures(frames: &[Vec<u8>]) -> Vec<(&'static str, Vec<u8>)> {
    // The EtherType tells the version; other link types have it in places of their own.
    let with = |header: fn([u8; 2]) -> Vec<u8>| -> Vec<Vec<u8>> {
        let split = |frame: &Vec<u8>| {
            [header([frame[ADDRESSES], frame[ADDRESSES + 1]]), frame[ETHERNET_HEADER..].into()].concat()
        };
        frames.iter().map(split).collect()
    };
    let family = |ethertype: [u8; 2]| if ethertype == [0x86, 0xdd] { vec![30, 0, 0, 0] } else { vec![2, 0, 0, 0] };
    let sll = |ethertype: [u8; 2]| [&[0; 14][..], &ethertype].concat();
    let sll2 = |ethertype: [u8; 2]| [&ethertype, &[0; 18][..]].concat();
    vec![
        ("pcap", pcap(frames)),
        ("pcap-big-endian", classic(u32::to_be_bytes, MICROSECONDS, ETHERNET, frames)),
        ("pcap-nanoseconds", classic(u32::to_le_bytes, NANOSECONDS, ETHERNET, frames)),
        ("pcap-raw-ip", classic(u32::to_le_bytes, MICROSECONDS, RAW, &with(|_| Vec::new()))),
        ("pcap-null", classic(u32::to_le_bytes, MICROSECONDS, NULL, &with(family))),
        ("pcap-linux-cooked", classic(u32::to_le_bytes, MICROSECONDS, LINUX_SLL, &with(sll))),
        ("pcap-linux-cooked-2", classic(u32::to_le_bytes, MICROSECONDS, LINUX_SLL2, &with(sll2))),
        ("pcapng", pcapng(frames)),
    ]
}

/// An IP packet in other encapsulations, by name: tags, sessions and labels between Ethernet and IP.
#[must_use]
pub fn framings(frame: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let (addresses, ethertype, packet) =
        (&frame[..ADDRESSES], &frame[ADDRESSES..ETHERNET_HEADER], &frame[ETHERNET_HEADER..]);
    let ppp: &[u8] = if ethertype == [0x86, 0xdd] { &[0, 0x57] } else { &[0, 0x21] };
    let length = (packet.len() as u16 + 2).to_be_bytes();
    let pppoe = [&[0x88, 0x64, 0x11, 0, 0x12, 0x34], &length[..], ppp].concat();
    let vlan = |protocol: [u8; 2]| [&protocol[..], &[0, 0x64]].concat();
    let mpls = [0x88, 0x47, 0, 1, 0, 0x40, 0, 2, 1, 0x40];
    let framed = |parts: &[&[u8]]| [addresses, &parts.concat(), packet].concat();
    vec![
        ("plain", frame.into()),
        ("vlan", framed(&[&vlan([0x81, 0]), ethertype])),
        ("qinq", framed(&[&vlan([0x88, 0xa8]), &vlan([0x81, 0]), ethertype])),
        ("pppoe", framed(&[&pppoe])),
        ("qinq-pppoe", framed(&[&vlan([0x88, 0xa8]), &vlan([0x81, 0]), &pppoe])),
        ("mpls", framed(&[&mpls])),
    ]
}
