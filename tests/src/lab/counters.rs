//! Independent counts to compare with: the kernel's interface counters, and a capture by tcpdump.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use super::{netns::Namespace, process::Process, wait::wait_for};

/// What one interface received and sent, as the kernel counts it.
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
pub struct IpReference {
    tcpdump: Process,
    capture: PathBuf,
}

impl IpReference {
    /// Starts to count what `host` sends on `eth0`.
    ///
    /// # Errors
    /// tcpdump does not start.
    pub fn start(host: &Namespace, directory: &Path) -> Result<Self> {
        let name = format!("tcpdump-{}", host.name());
        let capture = directory.join(format!("{name}.pcap"));
        let mut command = host.command("tcpdump");
        // -Z: tcpdump would drop to a user that may not write here.
        command
            .args(["-i", "eth0", "-Q", "out", "-n", "-s", "128", "-B", "65536", "-U", "-Z", "root", "-w"])
            .arg(&capture);
        let mut tcpdump = Process::spawn(&name, directory, &mut command)?;
        wait_for("tcpdump", Duration::from_secs(20), Duration::from_millis(20), || {
            tcpdump.ensure_running()?;
            Ok(tcpdump.log().contains("listening on"))
        })?;
        Ok(Self { tcpdump, capture })
    }

    /// Stops and gives IP packets, IP bytes, and frames that hold something else.
    ///
    /// # Errors
    /// tcpdump lost packets, or its capture is not readable.
    pub fn stop(mut self) -> Result<IpCount> {
        self.tcpdump.signal(Signal::INT)?;
        self.tcpdump.wait(Duration::from_secs(20))?;
        let log = self.tcpdump.log();
        ensure!(log.contains("\n0 packets dropped by kernel"), "tcpdump lost packets: {log}");
        count(&fs::read(&self.capture).with_context(|| format!("read {}", self.capture.display()))?)
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

/// Counts the packets of a pcap file (draft-ietf-opsawg-pcap, little endian, Ethernet).
fn count(file: &[u8]) -> Result<IpCount> {
    let u16_be = |bytes: &[u8]| u64::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    ensure!(file.len() >= 24 && file[..4] == [0xd4, 0xc3, 0xb2, 0xa1] && file[20] == 1, "not an Ethernet pcap file");
    let mut counts = IpCount::default();
    let mut rest = &file[24..];
    while let [_, _, _, _, _, _, _, _, a, b, c, d, _, _, _, _, tail @ ..] = rest {
        let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        let Some((frame, next)) = tail.split_at_checked(length) else { bail!("a capture that ends within a frame") };
        rest = next;
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
