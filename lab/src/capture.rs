//! Captures by tcpdump, and the frames of their files: knowledge that shares nothing with the program under test.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use super::{netns::Namespace, process::Process, wait::wait_for};

/// A running tcpdump that writes a pcap file.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Process,
    file: PathBuf,
}

impl Capture {
    /// Starts to capture `interface` of `namespace` to `file`, with `options` of tcpdump(8), then a filter.
    ///
    /// # Errors
    /// tcpdump does not start.
    pub fn start(namespace: &Namespace, interface: &str, file: &Path, options: &[&str]) -> Result<Self> {
        let name = format!("tcpdump-{}-{interface}", namespace.name());
        let mut command = namespace.command("tcpdump");
        // -Z: tcpdump would drop to a user that may not write here.
        // Without immediate mode, packets of the last second are still in the kernel's buffer when tcpdump ends.
        command.args(["-i", interface, "-n", "-B", "65536", "-U", "-Z", "root", "--immediate-mode", "-w"]).arg(file);
        command.args(options);
        let directory = file.parent().context("a file in a folder")?;
        let mut tcpdump = Process::spawn(&name, directory, &mut command)?;
        wait_for("tcpdump", Duration::from_secs(20), Duration::from_millis(20), || {
            tcpdump.ensure_running()?;
            Ok(tcpdump.log().contains("listening on"))
        })?;
        Ok(Self { tcpdump, file: file.to_owned() })
    }

    /// Stops once every packet so far is in the file, and gives its content.
    ///
    /// # Errors
    /// tcpdump lost packets, or its file is not readable.
    pub fn stop(mut self) -> Result<Vec<u8>> {
        // What tcpdump has not read from the kernel when it ends is in no count of lost packets.
        wait_for("end of the capture", Duration::from_secs(20), Duration::from_millis(50), || {
            self.tcpdump.ensure_running()?;
            self.tcpdump.signal(Signal::USR1)?;
            Ok(last_counts(&self.tcpdump.log()).is_some_and(|(captured, received)| captured == received))
        })
        .with_context(|| self.tcpdump.log())?;
        self.tcpdump.signal(Signal::INT)?;
        self.tcpdump.wait(Duration::from_secs(20))?;
        let log = self.tcpdump.log();
        ensure!(log.contains("\n0 packets dropped by kernel"), "tcpdump lost packets: {log}");
        fs::read(&self.file).with_context(|| format!("read {}", self.file.display()))
    }
}

/// The last counts that tcpdump has written on SIGUSR1 (tcpdump(8)): packets captured, and received by its filter.
fn last_counts(log: &str) -> Option<(u64, u64)> {
    let mut counts =
        log.lines().rev().find_map(|line| line.strip_prefix("tcpdump: ")?.split_once(" packets captured, "))?;
    counts.1 = counts.1.split_once(" packets received by filter")?.0;
    Some((counts.0.parse().ok()?, counts.1.parse().ok()?))
}

/// The part of a pcap file before a time, since 1970.
///
/// # Errors
/// The bytes are no pcap file.
pub fn until(file: &[u8], time: Duration) -> Result<&[u8]> {
    // A record has 16 bytes in front of its frame.
    let later = frames(file)?.into_iter().find(|frame| frame.time >= time);
    Ok(later.map_or(file, |frame| &file[..frame.bytes.as_ptr() as usize - file.as_ptr() as usize - 16]))
}

/// One captured Ethernet frame, as far as it was kept.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// When, since 1970.
    pub time: Duration,
    /// From the destination address on.
    pub bytes: &'a [u8],
}

/// The frames of a pcap file (draft-ietf-opsawg-pcap, little endian, microseconds, Ethernet).
///
/// # Errors
/// Another format, or a file that ends within a frame.
pub fn frames(file: &[u8]) -> Result<Vec<Frame<'_>>> {
    ensure!(file.len() >= 24 && file[..4] == [0xd4, 0xc3, 0xb2, 0xa1] && file[20] == 1, "not an Ethernet pcap file");
    let mut frames = Vec::new();
    let mut rest = &file[24..];
    while let Some((header, tail)) = rest.split_at_checked(16) {
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let time = Duration::from_secs(word(0).into()) + Duration::from_micros(word(4).into());
        let Some((bytes, next)) = tail.split_at_checked(word(8) as usize) else {
            bail!("a capture that ends within a frame")
        };
        frames.push(Frame { time, bytes });
        rest = next;
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_counts_of_tcpdump_are_read() {
        let log = "tcpdump: listening on eth0, link-type EN10MB (Ethernet), snapshot length 128 bytes\n";
        assert_eq!(last_counts(log), None);
        let counts = |captured: u64, received: u64| {
            format!(
                "tcpdump: {captured} packets captured, {received} packets received by filter, 0 packets dropped by kernel\n"
            )
        };
        assert_eq!(last_counts(&[log, &counts(0, 7), &counts(5, 7)].concat()), Some((5, 7)));
        assert_eq!(last_counts(&[log, &counts(5, 7), &counts(7, 7)].concat()), Some((7, 7)));
    }
}
