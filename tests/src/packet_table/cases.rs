//! The cases. `10.0.0.1` and `2001:db8::1` are subscribers; each case has a peer of its own, so that flows never meet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use monitor_common::abi::{limits::MAX_IPV6_EXTENSIONS, protocol::Protocol, reason::Reason, tally::Direction};

use super::frames::{
    IPV4, IPV6, Ipv4, Ipv6, Layer, authentication, bittorrent_handshake, ethernet, extension, fragment, tcp, udp,
    udp_claiming,
};
use super::{Case, Expected, Flow};
use crate::wire::Carrier;

const SUBSCRIBER4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const SUBSCRIBER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ACK: u8 = 0x10;
const SYN: u8 = 0x02;
/// Ports that no signature knows.
const PORTS: (u16, u16) = (40_000, 40_001);
/// Payload that no signature knows.
const PLAIN: &[u8] = &[0x55; 64];

/// The peer of a case outside every pool.
fn peer4(case: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, case)
}

/// The peer of a case outside every pool.
fn peer6(case: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb9, 0, 0, 0, 0, 0, u16::from(case))
}

/// IPv4 from the subscriber to the case's peer.
fn up4(case: u8, protocol: u8) -> Ipv4 {
    Ipv4::new(SUBSCRIBER4, peer4(case), protocol)
}

/// IPv6 from the subscriber to the case's peer.
fn up6(case: u8, next: u8) -> Ipv6 {
    Ipv6::new(SUBSCRIBER6, peer6(case), next)
}

/// A flow from the subscriber to the case's peer.
fn flow(source: impl Into<IpAddr>, destination: impl Into<IpAddr>, l4: u8, ports: (u16, u16), bytes: usize) -> Flow {
    Flow {
        source: (source.into(), ports.0),
        destination: (destination.into(), ports.1),
        l4,
        fragment: false,
        tunnel: None,
        direction: Direction::Up,
        bytes: bytes as u64,
        protocol: Protocol::Unclassified,
    }
}

fn flow4(case: u8, l4: u8, ports: (u16, u16), bytes: usize) -> Flow {
    flow(SUBSCRIBER4, peer4(case), l4, ports, bytes)
}

fn flow6(case: u8, l4: u8, ports: (u16, u16), bytes: usize) -> Flow {
    flow(SUBSCRIBER6, peer6(case), l4, ports, bytes)
}

/// Collects cases and numbers them.
struct Table(Vec<Case>);

impl Table {
    fn skip(&mut self, name: &'static str, frame: Vec<u8>, reason: Reason) {
        self.0.push(Case { name, frame, expected: Expected::Skipped(reason) });
    }

    /// A frame that counts in a flow; `build` gets the case's number.
    fn flow(&mut self, name: &'static str, build: impl FnOnce(u8) -> (Vec<u8>, Flow)) {
        let number = u8::try_from(self.0.len() + 1).expect("fewer than 255 cases");
        let (frame, flow) = build(number);
        self.0.push(Case { name, frame, expected: Expected::Flow(flow) });
    }
}

pub(super) fn all() -> Vec<Case> {
    let mut table = Table(Vec::new());
    plain(&mut table);
    link_layers(&mut table);
    short_frames(&mut table);
    lengths(&mut table);
    ipv4_headers(&mut table);
    ipv6_headers(&mut table);
    transports(&mut table);
    tunnels(&mut table);
    table.0
}

fn plain(table: &mut Table) {
    table.flow("UDP over IPv4", |case| {
        let packet = up4(case, UDP).packet(&udp(PORTS.0, PORTS.1, PLAIN));
        (ethernet(&[], IPV4, &packet), flow4(case, UDP, PORTS, packet.len()))
    });
    table.flow("TCP over IPv4", |case| {
        let packet = up4(case, TCP).packet(&tcp(PORTS.0, PORTS.1, ACK, 0, PLAIN));
        (ethernet(&[], IPV4, &packet), flow4(case, TCP, PORTS, packet.len()))
    });
    table.flow("UDP over IPv6", |case| {
        let packet = up6(case, UDP).packet(&udp(PORTS.0, PORTS.1, PLAIN));
        (ethernet(&[], IPV6, &packet), flow6(case, UDP, PORTS, packet.len()))
    });
    table.flow("TCP over IPv6", |case| {
        let packet = up6(case, TCP).packet(&tcp(PORTS.0, PORTS.1, ACK, 0, PLAIN));
        (ethernet(&[], IPV6, &packet), flow6(case, TCP, PORTS, packet.len()))
    });
    table.flow("download", |case| {
        let packet = Ipv4::new(peer4(case), SUBSCRIBER4, UDP).packet(&udp(PORTS.1, PORTS.0, PLAIN));
        let flow = flow(peer4(case), SUBSCRIBER4, UDP, (PORTS.1, PORTS.0), packet.len());
        (ethernet(&[], IPV4, &packet), Flow { direction: Direction::Down, ..flow })
    });
    table.flow("both ends are subscribers", |case| {
        let other = Ipv4Addr::new(10, 0, 1, case);
        let packet = Ipv4::new(SUBSCRIBER4, other, UDP).packet(&udp(PORTS.0, PORTS.1, PLAIN));
        let flow = flow(SUBSCRIBER4, other, UDP, PORTS, packet.len());
        (ethernet(&[], IPV4, &packet), Flow { direction: Direction::Local, ..flow })
    });
    let packet = Ipv4::new(peer4(1), peer4(2), UDP).packet(&udp(PORTS.0, PORTS.1, PLAIN));
    let expected = Expected::Transit(packet.len() as u64);
    table.0.push(Case { name: "no end is a subscriber", frame: ethernet(&[], IPV4, &packet), expected });
    table.flow("a BitTorrent handshake is named at once", |case| {
        let packet = up4(case, TCP).packet(&tcp(PORTS.0, PORTS.1, ACK, 3, &bittorrent_handshake()));
        let flow = flow4(case, TCP, PORTS, packet.len());
        (ethernet(&[], IPV4, &packet), Flow { protocol: Protocol::BitTorrent, ..flow })
    });
    table.flow("a BitTorrent handshake in QinQ, PPPoE and IPv6", |case| {
        let packet = up6(case, TCP).packet(&tcp(PORTS.0, PORTS.1, ACK, 3, &bittorrent_handshake()));
        let layers = [Layer::Vlan(0x88a8), Layer::Vlan(0x8100), Layer::Pppoe(0, 0x0057)];
        let flow = flow6(case, TCP, PORTS, packet.len());
        (ethernet(&layers, IPV6, &packet), Flow { protocol: Protocol::BitTorrent, ..flow })
    });
}

/// Every stack that is walked, with IPv4 and IPv6 inside, and the ones that are not.
fn link_layers(table: &mut Table) {
    let stacks4: [(&'static str, &[Layer]); 8] = [
        ("one VLAN tag", &[Layer::Vlan(0x8100)]),
        ("service VLAN tag alone", &[Layer::Vlan(0x88a8)]),
        ("QinQ", &[Layer::Vlan(0x88a8), Layer::Vlan(0x8100)]),
        ("QinQ with the old identifier", &[Layer::Vlan(0x9100), Layer::Vlan(0x8100)]),
        ("PPPoE", &[Layer::Pppoe(0, 0x0021)]),
        ("QinQ and PPPoE", &[Layer::Vlan(0x88a8), Layer::Vlan(0x8100), Layer::Pppoe(0, 0x0021)]),
        ("one MPLS label", &[Layer::Mpls(1)]),
        ("VLAN tag and four MPLS labels", &[Layer::Vlan(0x8100), Layer::Mpls(4)]),
    ];
    for (name, layers) in stacks4 {
        table.flow(name, |case| {
            let packet = up4(case, UDP).packet(&udp(PORTS.0, PORTS.1, PLAIN));
            (ethernet(layers, IPV4, &packet), flow4(case, UDP, PORTS, packet.len()))
        });
    }
    let stacks6: [(&'static str, &[Layer]); 4] = [
        ("IPv6 in a VLAN", &[Layer::Vlan(0x8100)]),
        ("IPv6 in QinQ", &[Layer::Vlan(0x88a8), Layer::Vlan(0x8100)]),
        ("IPv6 in PPPoE", &[Layer::Pppoe(0, 0x0057)]),
        ("IPv6 under two MPLS labels", &[Layer::Mpls(2)]),
    ];
    for (name, layers) in stacks6 {
        table.flow(name, |case| {
            let packet = up6(case, UDP).packet(&udp(PORTS.0, PORTS.1, PLAIN));
            (ethernet(layers, IPV6, &packet), flow6(case, UDP, PORTS, packet.len()))
        });
    }
    let packet = up4(0, UDP).packet(&udp(PORTS.0, PORTS.1, PLAIN));
    let three = [Layer::Vlan(0x88a8), Layer::Vlan(0x8100), Layer::Vlan(0x8100)];
    table.skip("three VLAN tags", ethernet(&three, IPV4, &packet), Reason::VlanDepth);
    table.skip("five MPLS labels", ethernet(&[Layer::Mpls(5)], IPV4, &packet), Reason::MplsDepth);
    table.skip("PPPoE with a code", ethernet(&[Layer::Pppoe(0x09, 0x0021)], IPV4, &packet), Reason::BadPppoe);
    table.skip("PPP link control", ethernet(&[Layer::Pppoe(0, 0xc021)], IPV4, &packet), Reason::NotIp);
    table.skip("ARP", ethernet(&[], 0x0806, &[0; 46]), Reason::NotIp);
    table.skip("ARP in a VLAN", ethernet(&[Layer::Vlan(0x8100)], 0x0806, &[0; 46]), Reason::NotIp);
    table.skip("IEEE 802.3 length in place of a type", ethernet(&[], 46, &[0x42; 46]), Reason::NotIp);
    table.skip("MPLS over something that is no IP", ethernet(&[Layer::Mpls(1)], IPV4, &[0; 46]), Reason::NotIp);
}

/// Frames that end inside a header. The kernel's test runner takes no frame below 14 bytes.
fn short_frames(table: &mut Table) {
    let cut = |frame: Vec<u8>, length: usize| frame[..length].to_vec();
    let packet4 = up4(0, UDP).packet(&udp(PORTS.0, PORTS.1, PLAIN));
    let packet6 = up6(0, UDP).packet(&udp(PORTS.0, PORTS.1, PLAIN));
    let vlan = ethernet(&[Layer::Vlan(0x8100)], IPV4, &packet4);
    let pppoe = ethernet(&[Layer::Pppoe(0, 0x0021)], IPV4, &packet4);
    let mpls = ethernet(&[Layer::Mpls(2)], IPV4, &packet4);
    table.skip("ends before the VLAN tag", cut(vlan.clone(), 14), Reason::ShortFrame);
    table.skip("ends inside the VLAN tag", cut(vlan.clone(), 17), Reason::ShortFrame);
    table.skip("ends behind the VLAN tag", cut(vlan, 18), Reason::ShortIp);
    table.skip("ends inside the PPPoE header", cut(pppoe.clone(), 21), Reason::ShortFrame);
    table.skip("ends behind the PPPoE header", cut(pppoe, 22), Reason::ShortIp);
    table.skip("ends between MPLS labels", cut(mpls.clone(), 20), Reason::ShortFrame);
    table.skip("ends behind the MPLS labels", cut(mpls, 22), Reason::ShortFrame);
    table.skip("ends behind the Ethernet header", cut(ethernet(&[], IPV4, &packet4), 14), Reason::ShortIp);
    table.skip("ends inside the IPv4 header", cut(ethernet(&[], IPV4, &packet4), 33), Reason::ShortIp);
    table.skip("ends inside the IPv6 header", cut(ethernet(&[], IPV6, &packet6), 53), Reason::ShortIp);
    table.flow("ends behind the IPv4 header", |case| {
        let packet = up4(case, UDP).packet(&udp(PORTS.0, PORTS.1, PLAIN));
        (cut(ethernet(&[], IPV4, &packet), 34), flow4(case, UDP, (0, 0), 20))
    });
    table.flow("ends inside the UDP header", |case| {
        let packet = up4(case, UDP).packet(&udp(PORTS.0, PORTS.1, PLAIN));
        (cut(ethernet(&[], IPV4, &packet), 41), flow4(case, UDP, (0, 0), 27))
    });
    table.flow("ends behind the IPv6 header", |case| {
        let packet = up6(case, TCP).packet(&tcp(PORTS.0, PORTS.1, ACK, 0, PLAIN));
        (cut(ethernet(&[], IPV6, &packet), 54), flow6(case, TCP, (0, 0), 40))
    });
}

/// Lengths that do not agree with the frame: bytes are bounded by the wire, padding never counts.
fn lengths(table: &mut Table) {
    table.flow("padding behind a short packet", |case| {
        let packet = up4(case, UDP).packet(&udp(PORTS.0, PORTS.1, b"x"));
        let mut frame = ethernet(&[], IPV4, &packet);
        frame.resize(60, 0);
        (frame, flow4(case, UDP, PORTS, 29))
    });
    table.flow("padding is not taken for ports", |case| {
        let mut frame = ethernet(&[], IPV4, &up4(case, UDP).packet(&[]));
        frame.resize(60, 0x77);
        (frame, flow4(case, UDP, (0, 0), 20))
    });
    table.flow("IPv4 claims more than the frame holds", |case| {
        let packet = Ipv4 { total_len: Some(60_000), ..up4(case, UDP) }.packet(&udp(PORTS.0, PORTS.1, PLAIN));
        (ethernet(&[], IPV4, &packet), flow4(case, UDP, PORTS, packet.len()))
    });
    table.flow("IPv4 total length 0 means what the frame held", |case| {
        let packet = Ipv4 { total_len: Some(0), ..up4(case, TCP) }.packet(&tcp(PORTS.0, PORTS.1, ACK, 0, PLAIN));
        (ethernet(&[], IPV4, &packet), flow4(case, TCP, PORTS, packet.len()))
    });
    table.flow("IPv6 claims more than the frame holds", |case| {
        let packet = Ipv6 { payload_len: Some(60_000), ..up6(case, UDP) }.packet(&udp(PORTS.0, PORTS.1, PLAIN));
        (ethernet(&[], IPV6, &packet), flow6(case, UDP, PORTS, packet.len()))
    });
    table.flow("IPv6 payload length 0 means what the frame held", |case| {
        let packet = Ipv6 { payload_len: Some(0), ..up6(case, TCP) }.packet(&tcp(PORTS.0, PORTS.1, ACK, 0, PLAIN));
        (ethernet(&[], IPV6, &packet), flow6(case, TCP, PORTS, packet.len()))
    });
    table.flow("IPv6 claims less than the frame holds", |case| {
        let packet = Ipv6 { payload_len: Some(20), ..up6(case, UDP) }.packet(&udp(PORTS.0, PORTS.1, PLAIN));
        (ethernet(&[], IPV6, &packet), flow6(case, UDP, PORTS, 60))
    });
    table.flow("UDP claims more than its packet", |case| {
        let packet = up4(case, UDP).packet(&udp_claiming(PORTS.0, PORTS.1, 60_000, PLAIN));
        (ethernet(&[], IPV4, &packet), flow4(case, UDP, PORTS, packet.len()))
    });
    table.flow("UDP claims less than its header", |case| {
        let packet = up4(case, UDP).packet(&udp_claiming(PORTS.0, PORTS.1, 3, PLAIN));
        (ethernet(&[], IPV4, &packet), flow4(case, UDP, PORTS, packet.len()))
    });
    for (name, payload) in [("jumbo frame of 4,000 bytes", 3_958), ("jumbo frame of 9,014 bytes", 8_972)] {
        table.flow(name, |case| {
            let packet = up4(case, UDP).packet(&udp(PORTS.0, PORTS.1, &vec![0x55; payload]));
            (ethernet(&[], IPV4, &packet), flow4(case, UDP, PORTS, payload + 28))
        });
    }
    table.flow("the longest IPv4 packet", |case| {
        let packet = up4(case, TCP).packet(&tcp(PORTS.0, PORTS.1, ACK, 0, &vec![0x55; 65_535 - 40]));
        (ethernet(&[], IPV4, &packet), flow4(case, TCP, PORTS, 65_535))
    });
    table.flow("segmentation offload beyond 64 KiB", |case| {
        let payload = vec![0x55; 65_900 - 40];
        let packet = Ipv4 { total_len: Some(0), ..up4(case, TCP) }.packet(&tcp(PORTS.0, PORTS.1, ACK, 0, &payload));
        (ethernet(&[], IPV4, &packet), flow4(case, TCP, PORTS, 65_900))
    });
}

fn ipv4_headers(table: &mut Table) {
    for words in [1, 10] {
        let name = if words == 1 { "IHL 6: one word of options" } else { "IHL 15: the longest options" };
        table.flow(name, |case| {
            let packet = Ipv4 { option_words: words, ..up4(case, UDP) }.packet(&udp(PORTS.0, PORTS.1, PLAIN));
            (ethernet(&[], IPV4, &packet), flow4(case, UDP, PORTS, packet.len()))
        });
    }
    let wrong = |header: Ipv4| ethernet(&[], IPV4, &header.packet(&udp(PORTS.0, PORTS.1, PLAIN)));
    table.skip("IHL 4", wrong(Ipv4 { version_ihl: Some(0x44), ..up4(0, UDP) }), Reason::BadIpLength);
    table.skip("IHL 0", wrong(Ipv4 { version_ihl: Some(0x40), ..up4(0, UDP) }), Reason::BadIpLength);
    table.skip("version 5", wrong(Ipv4 { version_ihl: Some(0x55), ..up4(0, UDP) }), Reason::BadIpVersion);
    table.skip(
        "version 6 behind the type of IPv4",
        ethernet(&[], IPV4, &up6(0, UDP).packet(PLAIN)),
        Reason::BadIpVersion,
    );
    table.skip("total length below 20", wrong(Ipv4 { total_len: Some(19), ..up4(0, UDP) }), Reason::BadIpLength);
    let long = Ipv4 { version_ihl: Some(0x4f), total_len: Some(40), ..up4(0, UDP) };
    table.skip("IHL beyond the total length", wrong(long), Reason::BadIpLength);
    table.flow("first fragment has ports", |case| {
        let packet = Ipv4 { fragment: 0x2000, ..up4(case, UDP) }.packet(&udp_claiming(PORTS.0, PORTS.1, 3_000, PLAIN));
        (ethernet(&[], IPV4, &packet), flow4(case, UDP, PORTS, packet.len()))
    });
    for (name, field) in [("middle fragment", 0x2001), ("last fragment", 0x00b9)] {
        table.flow(name, |case| {
            let packet = Ipv4 { fragment: field, ..up4(case, UDP) }.packet(&bittorrent_handshake());
            let flow = flow4(case, UDP, (0, 0), packet.len());
            (ethernet(&[], IPV4, &packet), Flow { fragment: true, protocol: Protocol::Fragment, ..flow })
        });
    }
    table.flow("do not fragment is no fragment", |case| {
        let packet = Ipv4 { fragment: 0x4000, ..up4(case, UDP) }.packet(&udp(PORTS.0, PORTS.1, PLAIN));
        (ethernet(&[], IPV4, &packet), flow4(case, UDP, PORTS, packet.len()))
    });
    table.flow("ICMP has no ports", |case| {
        let packet = up4(case, ICMP).packet(&[8, 0, 0, 0, 0, 1, 0, 1]);
        (ethernet(&[], IPV4, &packet), flow4(case, ICMP, (0, 0), packet.len()))
    });
}

fn ipv6_headers(table: &mut Table) {
    let datagram = || udp(PORTS.0, PORTS.1, PLAIN);
    let chains: [(&'static str, u8, Vec<u8>); 5] = [
        ("hop-by-hop options", 0, extension(UDP, 0, &datagram())),
        ("routing header of 24 bytes", 43, extension(UDP, 2, &datagram())),
        ("hop-by-hop, destination, routing, authentication, destination", 0, {
            let inner = extension(UDP, 1, &datagram());
            extension(60, 0, &extension(43, 0, &extension(51, 1, &authentication(60, 4, &inner))))
        }),
        ("first fragment", 44, fragment(UDP, 0, true, &datagram())),
        ("atomic fragment (RFC 6946)", 44, fragment(UDP, 0, false, &datagram())),
    ];
    for (name, next, content) in chains {
        table.flow(name, |case| {
            let packet = up6(case, next).packet(&content);
            (ethernet(&[], IPV6, &packet), flow6(case, UDP, PORTS, packet.len()))
        });
    }
    table.flow("later fragment", |case| {
        let packet = up6(case, 44).packet(&fragment(UDP, 181, true, &bittorrent_handshake()));
        let flow = flow6(case, UDP, (0, 0), packet.len());
        (ethernet(&[], IPV6, &packet), Flow { fragment: true, protocol: Protocol::Fragment, ..flow })
    });
    table.flow("later fragment behind an extension header", |case| {
        let packet = up6(case, 0).packet(&extension(44, 0, &fragment(TCP, 1, false, PLAIN)));
        let flow = flow6(case, TCP, (0, 0), packet.len());
        (ethernet(&[], IPV6, &packet), Flow { fragment: true, protocol: Protocol::Fragment, ..flow })
    });
    let chain = |length: u32| {
        let datagram = udp(PORTS.0, PORTS.1, PLAIN);
        (0..length).fold(datagram, |content, index| extension(if index == 0 { UDP } else { 60 }, 0, &content))
    };
    table.flow("as many extension headers as are stepped over", |case| {
        let packet = up6(case, 60).packet(&chain(MAX_IPV6_EXTENSIONS));
        (ethernet(&[], IPV6, &packet), flow6(case, UDP, PORTS, packet.len()))
    });
    table.flow("one extension header more", |case| {
        let packet = up6(case, 60).packet(&chain(MAX_IPV6_EXTENSIONS + 1));
        (ethernet(&[], IPV6, &packet), flow6(case, 60, (0, 0), packet.len()))
    });
    table.flow("an extension header longer than its packet", |case| {
        let packet = up6(case, 60).packet(
            &extension(UDP, 0, &datagram())
                .iter()
                .enumerate()
                .map(|(at, byte)| if at == 1 { 0xff } else { *byte })
                .collect::<Vec<_>>(),
        );
        (ethernet(&[], IPV6, &packet), flow6(case, UDP, (0, 0), packet.len()))
    });
    table.flow("no next header", |case| {
        let packet = up6(case, 59).packet(&[]);
        let mut frame = ethernet(&[], IPV6, &packet);
        frame.resize(80, 0);
        (frame, flow6(case, 59, (0, 0), 40))
    });
    table.flow("ICMPv6 has no ports", |case| {
        let packet = up6(case, 58).packet(&[128, 0, 0, 0, 0, 1, 0, 1]);
        (ethernet(&[], IPV6, &packet), flow6(case, 58, (0, 0), packet.len()))
    });
    let mapped = SUBSCRIBER4.to_ipv6_mapped();
    for (name, source, destination, layers) in [
        ("an IPv4-mapped source", mapped, peer6(0), &[][..]),
        ("an IPv4-mapped destination", peer6(0), mapped, &[]),
        ("both ends IPv4-mapped", mapped, peer4(0).to_ipv6_mapped(), &[]),
        ("an IPv4-mapped source behind a VLAN tag", mapped, SUBSCRIBER6, &[Layer::Vlan(0x8100)]),
    ] {
        let packet = |content: &[u8], next| Ipv6::new(source, destination, next).packet(content);
        let syn = tcp(PORTS.0, PORTS.1, SYN, 0, &[]);
        table.skip(name, ethernet(layers, IPV6, &packet(&datagram(), UDP)), Reason::Ipv4Mapped);
        table.skip(name, ethernet(layers, IPV6, &packet(&syn, TCP)), Reason::Ipv4Mapped);
        table.skip(name, ethernet(layers, IPV6, &packet(&extension(UDP, 0, &datagram()), 0)), Reason::Ipv4Mapped);
    }
    table.flow("an IPv4-mapped source inside 6in4", |case| {
        let packet = up4(case, 41).packet(&Ipv6::new(mapped, peer6(0), UDP).packet(&datagram()));
        (ethernet(&[], IPV4, &packet), flow4(case, 41, (0, 0), packet.len()))
    });
    table.skip(
        "version 4 behind the type of IPv6",
        ethernet(&[], IPV6, &up4(0, UDP).packet(PLAIN)),
        Reason::BadIpVersion,
    );
}

fn transports(table: &mut Table) {
    table.flow("SYN without payload", |case| {
        let packet = up4(case, TCP).packet(&tcp(PORTS.0, PORTS.1, SYN, 5, &[]));
        (ethernet(&[], IPV4, &packet), flow4(case, TCP, PORTS, packet.len()))
    });
    table.flow("UDP without payload", |case| {
        let packet = up4(case, UDP).packet(&udp(PORTS.0, PORTS.1, &[]));
        (ethernet(&[], IPV4, &packet), flow4(case, UDP, PORTS, packet.len()))
    });
    table.flow("TCP with the longest options", |case| {
        let packet = up4(case, TCP).packet(&tcp(PORTS.0, PORTS.1, ACK, 10, &bittorrent_handshake()));
        let flow = flow4(case, TCP, PORTS, packet.len());
        (ethernet(&[], IPV4, &packet), Flow { protocol: Protocol::BitTorrent, ..flow })
    });
    table.flow("a TCP data offset below its header finds no payload", |case| {
        let mut segment = tcp(PORTS.0, PORTS.1, ACK, 0, &bittorrent_handshake());
        segment[12] = 4 << 4;
        let packet = up4(case, TCP).packet(&segment);
        (ethernet(&[], IPV4, &packet), flow4(case, TCP, PORTS, packet.len()))
    });
    table.flow("a TCP data offset beyond its packet finds no payload", |case| {
        let mut segment = tcp(PORTS.0, PORTS.1, ACK, 0, b"xy");
        segment[12] = 15 << 4;
        let packet = up4(case, TCP).packet(&segment);
        (ethernet(&[], IPV4, &packet), flow4(case, TCP, PORTS, packet.len()))
    });
    table.flow("SCTP is counted without ports", |case| {
        let packet = up4(case, 132).packet(PLAIN);
        (ethernet(&[], IPV4, &packet), flow4(case, 132, (0, 0), packet.len()))
    });
}

/// One level is inspected: inner 5-tuple, outer subscriber, outer bytes.
fn tunnels(table: &mut Table) {
    let inner4 = Ipv4::new(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2), UDP);
    let inner6 = Ipv6::new(peer6(250), peer6(251), TCP);
    let handshake = tcp(PORTS.0, PORTS.1, ACK, 0, &bittorrent_handshake());
    let gtpu = |content: &[u8]| {
        let mut message = vec![0x30, 0xff];
        message.extend((content.len() as u16).to_be_bytes());
        message.extend([0, 0, 0, 1]);
        message.extend(content);
        udp(2152, 2152, &message)
    };
    let gre = |protocol: u16, content: &[u8]| {
        let mut packet = vec![0x20, 0];
        packet.extend(protocol.to_be_bytes());
        packet.extend([0, 0, 0, 7]);
        packet.extend(content);
        packet
    };
    let inside4 = inner4.packet(&udp(PORTS.0, PORTS.1, PLAIN));
    let inside6 = inner6.packet(&handshake);
    let of4 = |outer: (IpAddr, IpAddr), bytes| Flow {
        tunnel: Some(outer),
        ..flow(inner4.source, inner4.destination, UDP, PORTS, bytes)
    };
    let of6 = |outer: (IpAddr, IpAddr), bytes| Flow {
        tunnel: Some(outer),
        protocol: Protocol::BitTorrent,
        ..flow(inner6.source, inner6.destination, TCP, PORTS, bytes)
    };
    table.flow("6in4", |case| {
        let packet = up4(case, 41).packet(&inside6);
        (ethernet(&[], IPV4, &packet), of6((SUBSCRIBER4.into(), peer4(case).into()), packet.len()))
    });
    table.flow("DS-Lite", |case| {
        let packet = up6(case, 4).packet(&inside4);
        (ethernet(&[], IPV6, &packet), of4((SUBSCRIBER6.into(), peer6(case).into()), packet.len()))
    });
    table.flow("GRE with a key", |case| {
        let packet = up4(case, 47).packet(&gre(IPV6, &inside6));
        (ethernet(&[], IPV4, &packet), of6((SUBSCRIBER4.into(), peer4(case).into()), packet.len()))
    });
    table.flow("GTP-U", |case| {
        let packet = up4(case, UDP).packet(&gtpu(&inside4));
        (ethernet(&[], IPV4, &packet), of4((SUBSCRIBER4.into(), peer4(case).into()), packet.len()))
    });
    let (endpoint4, endpoint6) = (Ipv4Addr::new(203, 0, 113, 1), Ipv6Addr::new(0x2001, 0xdb9, 1, 0, 0, 0, 0, 1));
    table.flow("GTP-U between named endpoints: a subscriber inside", |case| {
        let inside = up4(case, UDP).packet(&udp(PORTS.0, PORTS.1, PLAIN));
        let (from, to) = (endpoint4, Ipv4Addr::new(203, 0, 113, 15));
        let packet = Ipv4::new(from, to, UDP).packet(&gtpu(&inside));
        let flow = Flow { tunnel: Some((from.into(), to.into())), ..flow4(case, UDP, PORTS, packet.len()) };
        (ethernet(&[], IPV4, &packet), flow)
    });
    table.flow("GRE between others: the flow, its label and its direction stand", |case| {
        let inside = up6(case, TCP).packet(&handshake);
        let packet = Ipv4::new(endpoint4, peer4(case), 47).packet(&gre(IPV6, &inside));
        let tunnel = Some((endpoint4.into(), peer4(case).into()));
        let flow = Flow { tunnel, protocol: Protocol::BitTorrent, ..flow6(case, TCP, PORTS, packet.len()) };
        (ethernet(&[], IPV4, &packet), flow)
    });
    table.flow("4in6 to a named endpoint: the subscriber inside receives", |case| {
        let inside = Ipv4::new(peer4(case), SUBSCRIBER4, UDP).packet(&udp(PORTS.0, PORTS.1, PLAIN));
        let packet = Ipv6::new(peer6(case), endpoint6, 4).packet(&inside);
        let flow = flow(peer4(case), SUBSCRIBER4, UDP, PORTS, packet.len());
        let tunnel = Some((peer6(case).into(), endpoint6.into()));
        (ethernet(&[], IPV6, &packet), Flow { tunnel, direction: Direction::Down, ..flow })
    });
    table.flow("a subscriber inside another one's tunnel is no end", |case| {
        let inside = Ipv4::new(peer4(case), Ipv4Addr::new(10, 0, 2, case), UDP).packet(&udp(PORTS.0, PORTS.1, PLAIN));
        let packet = up4(case, 4).packet(&inside);
        let flow = flow(peer4(case), Ipv4Addr::new(10, 0, 2, case), UDP, PORTS, packet.len());
        (ethernet(&[], IPV4, &packet), Flow { tunnel: Some((SUBSCRIBER4.into(), peer4(case).into())), ..flow })
    });
    for (name, extensions, found) in [
        ("GTP-U with three extension headers", 3, true),
        ("GTP-U with eight extension headers", 8, true),
        ("GTP-U with nine extension headers: the chain's bound", 9, false),
    ] {
        table.flow(name, |case| {
            let frame = ethernet(&[], IPV4, &inner4.packet(&udp(PORTS.0, PORTS.1, PLAIN)));
            let frame = Carrier::Gtpu(extensions).carry(SUBSCRIBER4.into(), peer4(case).into(), &frame);
            let (outer, bytes) = ((SUBSCRIBER4.into(), peer4(case).into()), frame.len() - 14);
            (frame, if found { of4(outer, bytes) } else { flow4(case, UDP, (40_000, 2152), bytes) })
        });
    }
    table.flow("GRE with something that is no IP", |case| {
        let packet = up4(case, 47).packet(&gre(0x6558, &inside4));
        (ethernet(&[], IPV4, &packet), flow4(case, 47, (0, 0), packet.len()))
    });
    table.flow("IPv4 in IPv4 with a broken inside", |case| {
        let packet = up4(case, 4).packet(&[0x41; 40]);
        (ethernet(&[], IPV4, &packet), flow4(case, 4, (0, 0), packet.len()))
    });
}
