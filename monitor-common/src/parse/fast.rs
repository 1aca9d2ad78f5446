//! Headers for the fast path: the tag, direction and length by which a packet of a settled flow is counted.
//!
//! Nearly every packet on a line is TCP or UDP over plain IPv4 or IPv6 and belongs to a settled flow. For such a frame
//! the tag is computed from a few word loads, without building [`Headers`]. Every other frame gives `None` and is
//! parsed in full. Where both parsers have an answer, they must agree; the tests below try that.

use super::{
    Headers, ip_protocol, link,
    network::{IPV4_LEN, IPV6_LEN},
    tcp_flag,
    transport::TCP_LEN,
    tunnel,
};
use crate::{
    abi::{
        key::{self, Address, Seed},
        limits::FIRST_PEER_PORT,
    },
    bpf::branchless::{is_less, neg, sign_mask},
    parse::packet::Packet,
};

/// The headers by which a packet of a settled flow is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastHeaders {
    /// The flow's tag ([`crate::abi::key::FlowKey::tag`]).
    pub tag: u64,
    /// 0 if the packet comes from the flow's lower endpoint, else 16: the shift to the field of that direction in the
    /// flow's state ([`crate::tables::flow_table::FlowState::unsettled_bits`]).
    pub direction_shift: u64,
    /// IP bytes of the outermost packet.
    pub ip_bytes: u32,
    /// Source port in the upper half, destination port in the lower.
    pub ports: u32,
    /// 0 when the packet opens a TCP connection, else not 0. A number, since a `bool` takes a branch on the BPF target.
    continues: u32,
}

/// Bytes of a TCP header without options. Shorter datagrams are rare: one bounds test serves both.
const TRANSPORT_LEN: usize = TCP_LEN;
/// Version 4, five words of header.
const IPV4_PLAIN: u8 = 0x45;
/// More fragments, and the fragment offset (RFC 791 section 3.1).
const FRAGMENTED: u16 = 0x3fff;

impl FastHeaders {
    /// The fast headers of a frame that was parsed in full.
    #[inline(always)]
    #[must_use]
    pub fn of(headers: &Headers, seed: &Seed) -> Self {
        let (key, from_lower) = headers.flow_key();
        Self {
            tag: key.tag(seed),
            direction_shift: (from_lower ^ 1) << 4,
            ip_bytes: headers.ip_bytes,
            ports: u32::from(headers.source_port) << 16 | u32::from(headers.destination_port),
            continues: if headers.protocol == ip_protocol::TCP { not_only_syn(headers.tcp_flags) } else { 1 },
        }
    }

    /// 1 if the packet comes from the flow's lower endpoint, else 0.
    #[inline(always)]
    #[must_use]
    pub const fn from_lower(&self) -> u64 {
        self.direction_shift >> 4 ^ 1
    }

    /// Whether the packet opens a TCP connection.
    #[inline(always)]
    #[must_use]
    pub const fn opens(&self) -> bool {
        self.continues == 0
    }

    /// Whether neither port is below [`FIRST_PEER_PORT`]: peers choose theirs.
    #[inline(always)]
    #[must_use]
    pub const fn has_peer_ports(&self) -> bool {
        let first = FIRST_PEER_PORT as u32;
        (self.ports >> 16 >= first) & (self.ports & 0xffff >= first)
    }
}

/// Shortest frame with fast headers, in bytes.
const LEAST: usize = link::ETHERNET_LEN + IPV4_LEN + TRANSPORT_LEN;

/// The fast headers of the commonest frames; `None` for all others.
///
/// `seed` is asked only once all fields are read: its words would take registers that these need.
#[inline(always)]
pub fn fast_headers<P: Packet>(packet: &P, seed: impl FnOnce() -> Seed) -> Option<FastHeaders> {
    // One bounds test for a whole IPv4 packet; the version is read here too.
    let bytes = packet.read::<LEAST>(0)?;
    match link::version(be16(&bytes, link::ETHERNET_LEN - 2))? {
        4 => ipv4(packet, &bytes, seed),
        _ => ipv6(packet, seed),
    }
}

/// Source and destination of a frame that has fast headers; `None` for an IPv6 packet with an IPv4-mapped address.
///
/// [`fast_headers`] does not look for that: such a packet opens no flow, so no settled flow has its tag.
#[inline(always)]
pub fn fast_addresses<P: Packet>(packet: &P) -> Option<(Address, Address)> {
    if link::plain_version(packet)? == 4 {
        let bytes = packet.read::<8>(link::ETHERNET_LEN + 12)?;
        return Some((Address::v4(be32(&bytes, 0)), Address::v4(be32(&bytes, 4))));
    }
    let bytes = packet.read::<32>(link::ETHERNET_LEN + 8)?;
    let address = |at| Address { high: be64(&bytes, at), low: be64(&bytes, at + 8) };
    let (source, destination) = (address(0), address(16));
    (!key::any_ipv4(source, destination)).then_some((source, destination))
}

#[inline(always)]
fn ipv4<P: Packet>(packet: &P, bytes: &[u8; LEAST], seed: impl FnOnce() -> Seed) -> Option<FastHeaders> {
    const START: usize = link::ETHERNET_LEN;
    const PORTS: usize = START + IPV4_LEN;
    if bytes[START] != IPV4_PLAIN || be16(bytes, START + 6) & FRAGMENTED != 0 {
        return None;
    }
    let (ip_bytes, protocol, ports) = (be16(bytes, START + 2), bytes[START + 9], be32(bytes, PORTS));
    let continues = continues(protocol, bytes[PORTS + 13], ports)?;
    fits(packet, START, usize::from(ip_bytes), IPV4_LEN)?;
    let (source, destination) = (u64::from(be32(bytes, START + 12)), u64::from(be32(bytes, START + 16)));
    if source == destination {
        // Between a host and itself the ports decide which end is the lower.
        return None;
    }
    // As in `Headers::flow_key`: computed, not branched on.
    let difference = destination.wrapping_sub(source);
    let from_higher = sign_mask(difference);
    let (lower, higher) =
        (source.wrapping_add(difference & from_higher), destination.wrapping_sub(difference & from_higher));
    let direction_shift = from_higher & 16;
    let tag = key::tag_ipv4(lower << 32 | higher, u64::from(protocol) << 32 | ordered(ports, direction_shift), &seed());
    Some(FastHeaders { tag, direction_shift, ip_bytes: u32::from(ip_bytes), ports, continues })
}

#[inline(always)]
fn ipv6<P: Packet>(packet: &P, seed: impl FnOnce() -> Seed) -> Option<FastHeaders> {
    let bytes = packet.read::<{ IPV6_LEN + TRANSPORT_LEN }>(link::ETHERNET_LEN)?;
    let payload_len = usize::from(be16(&bytes, 4));
    let protocol = bytes[6];
    let ports = be32(&bytes, IPV6_LEN);
    if bytes[0] >> 4 != 6 || payload_len == 0 {
        return None;
    }
    fits(packet, link::ETHERNET_LEN, IPV6_LEN + payload_len, IPV6_LEN)?;
    let tcp_flags = bytes[IPV6_LEN + 13];
    let continues = continues(protocol, tcp_flags, ports)?;
    let word = |at| be64(&bytes, at);
    let (source, destination) = (Address { high: word(8), low: word(16) }, Address { high: word(24), low: word(32) });
    if source.high == destination.high {
        // Between hosts of one /64, or two IPv4 addresses in IPv6, the rest decides which end is the lower.
        return None;
    }
    // As in `Headers::flow_key`: computed, not branched on.
    let from_higher = neg(is_less(destination.high, source.high));
    let (high, low) = ((source.high ^ destination.high) & from_higher, (source.low ^ destination.low) & from_higher);
    let lower = Address { high: source.high ^ high, low: source.low ^ low };
    let higher = Address { high: destination.high ^ high, low: destination.low ^ low };
    let direction_shift = from_higher & 16;
    let tag = key::tag_ipv6(lower, higher, u64::from(protocol) << 32 | ordered(ports, direction_shift), &seed());
    Some(FastHeaders { tag, direction_shift, ip_bytes: (IPV6_LEN + payload_len) as u32, ports, continues })
}

/// Both ports, the lower end's in the upper half of 32 bits.
#[inline(always)]
fn ordered(ports: u32, direction_shift: u64) -> u64 {
    // Both ports twice in a row; take the half that starts with the lower end's port.
    (u64::from(ports) << 32 | u64::from(ports)) >> direction_shift & 0xffff_ffff
}

/// `Some` for an IP packet whose length is stated, which the frame holds, and which has room for the transport header.
#[inline(always)]
fn fits<P: Packet>(packet: &P, start: usize, ip_bytes: usize, header_len: usize) -> Option<()> {
    (ip_bytes >= header_len + TRANSPORT_LEN && start + ip_bytes <= packet.readable()).then_some(())
}

/// 0 for flags with SYN and without ACK.
#[inline(always)]
const fn not_only_syn(flags: u8) -> u32 {
    (flags & (tcp_flag::SYN | tcp_flag::ACK)) as u32 ^ tcp_flag::SYN as u32
}

/// 0 for TCP with SYN and without ACK; `None` for all but TCP, and UDP outside tunnels.
#[inline(always)]
fn continues(protocol: u8, flags: u8, ports: u32) -> Option<u32> {
    match protocol {
        ip_protocol::TCP => Some(not_only_syn(flags)),
        ip_protocol::UDP if ports as u16 != tunnel::GTPU_PORT => Some(1),
        _ => None,
    }
}

/// `L` bytes at a constant place. As a chunk, it is one load; bytes taken one by one may become as many loads.
#[inline(always)]
fn chunk<const N: usize, const L: usize>(bytes: &[u8; N], at: usize) -> [u8; L] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; L])
}

#[inline(always)]
fn be16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes(chunk(bytes, at))
}

#[inline(always)]
fn be32<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes(chunk(bytes, at))
}

#[inline(always)]
fn be64<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    u64::from_be_bytes(chunk(bytes, at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::parse::{self, packet::Frame};

    /// Frames near the common ones: an Ethernet header, then mostly what an IP header with TCP or UDP begins with.
    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let start = prop_oneof![
            (prop_oneof![Just(0x45_u8), any::<u8>()], 0_u8..=1, any::<u8>()).prop_map(|(first, high, low)| {
                let mut bytes = [0; 6];
                (bytes[0], bytes[2], bytes[3]) = (first, high, low);
                (0x0800_u16, bytes)
            }),
            (0_u8..=1, any::<u8>()).prop_map(|(high, low)| (0x86dd, [0x60, 0, 0, 0, high, low])),
        ];
        let protocol = prop_oneof![Just(6_u8), Just(17), Just(44), any::<u8>()];
        let flags = prop_oneof![Just(0_u8), Just(0x40), any::<u8>()];
        let rest = proptest::collection::vec(any::<u8>(), 0..600);
        (start, protocol, flags, rest, any::<bool>()).prop_map(|((ethertype, start), protocol, flags, rest, gtpu)| {
            let mut frame = vec![0; 12];
            frame.extend(ethertype.to_be_bytes());
            frame.extend(start);
            frame.extend(rest);
            let (protocol_at, port_at) = if ethertype == 0x0800 { (14 + 9, 14 + 22) } else { (14 + 6, 14 + 42) };
            if frame.len() > port_at + 1 {
                frame[protocol_at] = protocol;
                if ethertype == 0x0800 {
                    frame[14 + 6] = flags;
                    frame[14 + 7] = if flags & 1 == 0 { 0 } else { frame[14 + 7] };
                }
                if gtpu {
                    frame[port_at..port_at + 2].copy_from_slice(&tunnel::GTPU_PORT.to_be_bytes());
                }
            }
            frame
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn agrees_with_both_parsers(bytes in frames(), words: [u64; 3]) {
            let (frame, seed) = (Frame::new(&bytes, bytes.len()), Seed::from_random(words));
            if let Some(fast) = fast_headers(&frame, || seed) {
                let plain = parse::plain_headers(&frame).expect("whatever has fast headers is plain");
                prop_assert_eq!(fast, FastHeaders::of(&plain, &seed));
                prop_assert_eq!(Ok(plain), parse::headers(&frame));
            }
        }
    }

    /// Checks that the frames above reach every case: otherwise a strategy without common frames would pass.
    #[test]
    fn common_frames_have_fast_headers() {
        use proptest::{strategy::ValueTree, test_runner::TestRunner};
        let (mut runner, seed) = (TestRunner::deterministic(), Seed::from_random([1, 2, 3]));
        let (mut v4, mut v6) = (0, 0);
        for _ in 0..2_000 {
            let bytes = frames().new_tree(&mut runner).expect("a frame").current();
            if fast_headers(&Frame::new(&bytes, bytes.len()), || seed).is_some() {
                *if bytes[12] == 8 { &mut v4 } else { &mut v6 } += 1;
            }
        }
        assert!(v4 > 50 && v6 > 50, "{v4} {v6}");
    }
}
