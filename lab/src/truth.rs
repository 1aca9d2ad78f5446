//! Ground truth of a capture between isolated namespaces: every flow that is not named here is P2P.
//!
//! The parser is independent of the program under test, so that a fault there cannot hide itself. The lab's links carry
//! plain Ethernet; fragments and tunnels do not occur.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::Result;

use super::capture::frames;

/// Services that a machine uses without any P2P client, by UDP port: names, addresses, time, discovery on its link.
const BACKGROUND: [(u16, &str); 11] = [
    (53, "DNS"),
    (67, "DHCP"),
    (68, "DHCP"),
    (123, "NTP"),
    (546, "DHCPv6"),
    (547, "DHCPv6"),
    (1900, "SSDP"),
    (5350, "NAT-PMP"),
    (5351, "NAT-PMP"),
    (5353, "mDNS"),
    (5355, "LLMNR"),
];
/// Local service discovery of BitTorrent (BEP 14) is P2P although it is multicast.
const LSD_PORT: u16 = 6771;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Ground truth of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FlowKind {
    /// Traffic of the clients or their servers.
    P2p,
    /// A TCP connection that never carried payload: refused, or not answered. No first byte tells what it would be.
    Bare,
    /// Something else, by name.
    Other(&'static str),
}

/// Both ends of a flow, the smaller first, and its transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey {
    transport: u8,
    ends: [SocketAddr; 2],
}

impl fmt::Display for FlowKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            TCP => "tcp",
            UDP => "udp",
            other => return write!(out, "protocol {other} {} {}", self.ends[0].ip(), self.ends[1].ip()),
        };
        write!(out, "{transport} {} {}", self.ends[0], self.ends[1])
    }
}

/// Packets of one flow.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    /// When each came (since 1970) and its IP bytes.
    pub packets: Vec<(Duration, u64)>,
    /// Bytes after the transport header.
    pub payload: u64,
}

impl Flow {
    /// IP bytes from `since` on.
    #[must_use]
    pub fn bytes_since(&self, since: Duration) -> u64 {
        self.packets.iter().filter(|(time, _)| *time >= since).map(|(_, bytes)| bytes).sum()
    }

    /// IP bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes_since(Duration::ZERO)
    }
}

/// The flows of a capture.
#[derive(Clone, Debug, Default)]
pub struct Truth(pub BTreeMap<FlowKey, Flow>);

impl Truth {
    /// Reads a pcap file.
    ///
    /// # Errors
    /// The bytes are no pcap file.
    pub fn read(pcap: &[u8]) -> Result<Self> {
        let mut flows: BTreeMap<FlowKey, Flow> = BTreeMap::new();
        for frame in frames(pcap)? {
            let Some(packet) = parse(frame.bytes) else { continue };
            let flow = flows.entry(packet.key).or_default();
            flow.packets.push((frame.time, packet.bytes));
            flow.payload += packet.payload;
        }
        Ok(Self(flows))
    }

    /// Flows of a kind.
    pub fn flows(&self, kind: FlowKind) -> impl Iterator<Item = (&FlowKey, &Flow)> {
        self.0.iter().filter(move |(key, flow)| key.kind(flow) == kind)
    }

    /// IP bytes of a kind from `since` on.
    #[must_use]
    pub fn bytes_since(&self, kind: FlowKind, since: Duration) -> u64 {
        self.flows(kind).map(|(_, flow)| flow.bytes_since(since)).sum()
    }

    /// IP bytes of a kind.
    #[must_use]
    pub fn bytes(&self, kind: FlowKind) -> u64 {
        self.bytes_since(kind, Duration::ZERO)
    }
}

impl FlowKey {
    fn kind(&self, flow: &Flow) -> FlowKind {
        if ![TCP, UDP].contains(&self.transport) {
            return FlowKind::Other("ICMP and the like");
        }
        if self.transport == UDP
            && let Some(name) = background(&self.ends)
        {
            return FlowKind::Other(name);
        }
        if self.transport == TCP && flow.payload == 0 { FlowKind::Bare } else { FlowKind::P2p }
    }
}

/// Name of the service if a UDP flow between these ends needs no P2P client.
#[must_use]
pub fn background(ends: &[SocketAddr; 2]) -> Option<&'static str> {
    let has = |port: u16| ends.iter().any(|end| end.port() == port);
    if has(LSD_PORT) {
        return None;
    }
    let service = BACKGROUND.iter().find(|(port, _)| has(*port)).map(|(_, name)| *name);
    service.or_else(|| ends.iter().any(|end| is_group(end.ip())).then_some("multicast"))
}

fn is_group(address: IpAddr) -> bool {
    address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

struct Packet {
    key: FlowKey,
    bytes: u64,
    payload: u64,
}

/// An IP packet (RFC 791, RFC 8200) after an Ethernet header; `None` if the frame holds none.
fn parse(frame: &[u8]) -> Option<Packet> {
    let ip = frame.get(14..)?;
    let u16_at = |bytes: &[u8], at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let (source, destination, transport, bytes, header): (IpAddr, IpAddr, u8, u16, u16) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?).into());
            (address(12)?, address(16)?, *ip.get(9)?, u16_at(ip, 2)?, u16::from(ip.first()? & 15) * 4)
        }
        [0x86, 0xdd] => {
            let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?).into());
            (address(8)?, address(24)?, *ip.get(6)?, 40 + u16_at(ip, 4)?, 40)
        }
        _ => return None,
    };
    let segment = ip.get(usize::from(header)..)?;
    let (ports, transport_header) = match transport {
        TCP => ([u16_at(segment, 0)?, u16_at(segment, 2)?], u16::from(segment.get(12)? >> 4) * 4),
        UDP => ([u16_at(segment, 0)?, u16_at(segment, 2)?], 8),
        _ => ([0, 0], 0),
    };
    let mut ends = [SocketAddr::new(source, ports[0]), SocketAddr::new(destination, ports[1])];
    ends.sort();
    let payload = bytes.saturating_sub(header).saturating_sub(transport_header);
    Some(Packet { key: FlowKey { transport, ends }, bytes: bytes.into(), payload: payload.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pcap file with one frame an entry: transport, ports, payload bytes; the time is the index in seconds.
    fn pcap(packets: &[(u8, u16, u16, usize)]) -> Vec<u8> {
        let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
        for (second, (transport, from, to, payload)) in packets.iter().enumerate() {
            let header = if *transport == TCP { 20 } else { 8 };
            let mut segment = vec![0; header + payload];
            segment[..2].copy_from_slice(&from.to_be_bytes());
            segment[2..4].copy_from_slice(&to.to_be_bytes());
            if *transport == TCP {
                segment[12] = 5 << 4;
            }
            let total = (20 + segment.len()) as u16;
            let mut frame = vec![0; 12];
            frame.extend([8, 0, 0x45, 0]);
            frame.extend(total.to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, *transport, 0, 0, 100, 64, 1, 2, 198, 51, 100, 2]);
            frame.extend(segment);
            file.extend((second as u32).to_le_bytes());
            file.extend([0; 4]);
            file.extend((frame.len() as u32).to_le_bytes());
            file.extend((frame.len() as u32).to_le_bytes());
            file.extend(frame);
        }
        file
    }

    #[test]
    fn tells_p2p_from_the_rest() {
        let file = pcap(&[(TCP, 5000, 51413, 0), (TCP, 5000, 51413, 100), (TCP, 5001, 51414, 0), (UDP, 40000, 53, 30)]);
        let truth = Truth::read(&file).expect("a pcap file");
        assert_eq!(truth.bytes(FlowKind::P2p), 40 + 140);
        assert_eq!(truth.bytes_since(FlowKind::P2p, Duration::from_secs(1)), 140);
        assert_eq!(truth.bytes(FlowKind::Bare), 40);
        assert_eq!(truth.bytes(FlowKind::Other("DNS")), 58);
        assert!(Truth::read(b"no pcap").is_err());
    }

    #[test]
    fn background_services_are_named_on_unicast_too() {
        let between = |a: &str, b: &str| background(&[a, b].map(|end| end.parse().expect("an address and a port")));
        assert_eq!(between("[2001:db8::1]:546", "[2001:db8::2]:547"), Some("DHCPv6"));
        assert_eq!(between("192.0.2.1:40000", "192.0.2.2:5355"), Some("LLMNR"));
        assert_eq!(between("192.0.2.1:40000", "239.0.0.1:40000"), Some("multicast"));
        assert_eq!(between("192.0.2.1:6771", "239.192.152.143:6771"), None, "local service discovery of BitTorrent");
        assert_eq!(between("192.0.2.1:51413", "192.0.2.2:51413"), None);
    }
}
