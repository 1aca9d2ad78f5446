//! Independent counts to compare with: the kernel's interface counters, and a capture by tcpdump.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};

use super::{
    capture::{Capture, Frame, frames},
    netns::Namespace,
};

/// The kernel's counts of one interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames received and dropped.
    pub rx_dropped: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

/// Reads the counters of the namespace that the calling thread is in.
pub(super) fn read() -> Result<BTreeMap<String, Counters>> {
    let path = "/proc/thread-self/net/dev";
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, line)| Ok((name.trim().to_owned(), row(line)?)))
        .collect()
}

/// One row of proc_net_dev(5): eight receive columns, eight transmit columns.
fn row(line: &str) -> Result<Counters> {
    let fields: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().context("a number")?;
    ensure!(fields.len() >= 16, "an interface has 16 counters, not {}", fields.len());
    Ok(Counters {
        rx_bytes: fields[0],
        rx_packets: fields[1],
        rx_dropped: fields[3],
        tx_bytes: fields[8],
        tx_packets: fields[9],
    })
}

/// TCP segments that the hosts of the calling thread's namespace sent again (`RetransSegs` of RFC 4022).
pub(super) fn tcp_resent() -> Result<u64> {
    let path = "/proc/thread-self/net/snmp";
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (names, values) = (lines.next().context("a line of names")?, lines.next().context("a line of values")?);
    let named = names.split_whitespace().zip(values.split_whitespace()).find(|(name, _)| *name == "RetransSegs");
    named.context("RetransSegs")?.1.parse().context("a number")
}

/// A running count of the IP packets that a host sends into its link, by tcpdump: what the router's end of that link
/// receives, counted by a program that shares nothing with ours.
#[derive(Debug)]
pub struct IpReference(Capture);

impl IpReference {
    /// Starts to count the packets that `host` sends on `eth0`.
    ///
    /// # Errors
    /// tcpdump does not start.
    pub fn start(host: &Namespace, directory: &Path) -> Result<Self> {
        let file = directory.join(format!("{}.pcap", host.name()));
        // Hardware addresses of hosts end with 2, those of the router with 1. `-Q out` would make tcpdump's two counts
        // differ, and libpcap loses packets of the filter `outbound`.
        Capture::start(host, "eth0", &file, &["-s", "128", "ether[11] = 2"]).map(Self)
    }

    /// Stops and gives IP packets, IP bytes, and frames that hold something else.
    ///
    /// # Errors
    /// tcpdump lost packets, or its capture is not readable.
    pub fn stop(self) -> Result<IpCount> {
        count(&self.0.stop()?)
    }
}

/// A count of IP packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IpCount {
    /// IPv4 and IPv6 packets.
    pub packets: u64,
    /// Their bytes, as their headers say.
    pub bytes: u64,
    /// Other frames.
    pub other: u64,
}

/// Counts the packets of a pcap file: bytes as their headers say.
fn count(file: &[u8]) -> Result<IpCount> {
    let u16_be = |bytes: &[u8]| u64::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    let mut counts = IpCount::default();
    for Frame { bytes: frame, .. } in frames(file)? {
        let bytes = match frame.get(12..14) {
            Some([0x08, 0x00]) => u16_be(&frame[16..18]),
            Some([0x86, 0xdd]) => 40 + u16_be(&frame[18..20]),
            _ => {
                counts.other += 1;
                continue;
            }
        };
        counts.packets += 1;
        counts.bytes += bytes;
    }
    Ok(counts)
}
