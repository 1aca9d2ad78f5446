//! The file of watchlist hits: one JSON object per line, append-only, readable by its owner only.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    net::{IpAddr, Ipv6Addr},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use monitor_common::abi::{
    protocol::{Confidence, Protocol},
    watch::WatchHit,
};
use peertally_core::{policy::event::rfc3339, words::Evidence};
use serde::Serialize;

/// See the module documentation.
#[derive(Debug)]
pub struct HitLog {
    file: File,
    lines: Vec<u32>,
    evidence: Evidence,
}

#[derive(Serialize)]
struct HitRow<'a> {
    time: String,
    list_line: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    realm: Option<u32>,
    protocol: &'a str,
    confidence: &'a str,
    transport: &'a str,
    source: IpAddr,
    source_port: u16,
    destination: IpAddr,
    destination_port: u16,
    evidence: &'a str,
}

impl HitLog {
    /// Opens the file, or makes it. `lines` are the list's lines by entry number; each row names `evidence`.
    ///
    /// # Errors
    /// Error of the operating system.
    pub fn open(path: &Path, lines: Vec<u32>, evidence: Evidence) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        Ok(Self { file, lines, evidence })
    }

    /// Appends hits; `now` and `now_ns` are the same moment on the wall clock and on the hits' clock.
    ///
    /// # Errors
    /// Errors of the file system; the hits are still counted.
    pub fn append(&mut self, hits: &[WatchHit], now: SystemTime, now_ns: u64) -> io::Result<()> {
        if hits.is_empty() {
            return Ok(());
        }
        let mut text = Vec::new();
        for hit in hits {
            let age = Duration::from_nanos(now_ns.saturating_sub(hit.time_ns));
            let row = HitRow {
                time: rfc3339(now.checked_sub(age).unwrap_or(now)),
                list_line: self.lines.get(hit.entry as usize).copied().unwrap_or(0),
                realm: (hit.realm != 0).then_some(hit.realm),
                protocol: Protocol::from_number(hit.protocol).map_or("unclassified", Protocol::label),
                confidence: Confidence::from_number(hit.confidence).map_or("none", Confidence::label),
                transport: if hit.transport == monitor_common::parse::ip_protocol::TCP { "tcp" } else { "udp" },
                source: Ipv6Addr::from(hit.source.bytes()).to_canonical(),
                source_port: hit.source_port,
                destination: Ipv6Addr::from(hit.destination.bytes()).to_canonical(),
                destination_port: hit.destination_port,
                evidence: self.evidence.label(),
            };
            serde_json::to_writer(&mut text, &row).map_err(io::Error::other)?;
            text.push(b'\n');
        }
        self.file.write_all(&text)?;
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use monitor_common::abi::key::Address;

    use super::*;

    /// A hit at 4 seconds on the hits' clock.
    fn hit() -> WatchHit {
        WatchHit {
            time_ns: 4_000_000_000,
            source: Address::v4(0x0a00_0001),
            destination: Address::v4(0xc000_0201),
            entry: 1,
            source_port: 40_000,
            destination_port: 6881,
            protocol: Protocol::BitTorrent as u8,
            confidence: Confidence::Signature as u8,
            transport: 6,
            reserved: 0,
            realm: 0,
        }
    }

    #[test]
    fn a_hit_before_1970_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("hits.jsonl");
        let mut log = HitLog::open(&path, Vec::new(), Evidence::Answered).expect("opens");
        // A router without a clock chip: the wall clock starts at 1970 and is set back after the hit.
        log.append(&[hit()], SystemTime::UNIX_EPOCH + Duration::from_secs(1), 9_000_000_000).expect("writes");
        let text = std::fs::read_to_string(&path).expect("reads");
        assert!(text.starts_with("{\"time\":\"1970-01-01T00:00:00.000Z\""), "{text}");
    }

    #[test]
    fn a_hit_is_a_line_without_the_hash() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("hits.jsonl");
        let mut log = HitLog::open(&path, vec![7, 9], Evidence::Answered).expect("opens");
        let hit = hit();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let other = WatchHit { realm: 7, ..hit };
        log.append(&[hit, other], now, 5_500_000_000).expect("writes");
        log.append(&[], now, 0).expect("nothing to write");
        let text = std::fs::read_to_string(&path).expect("reads");
        let (first, second) = text.split_once('\n').expect("two lines");
        assert!(second.contains("\"list_line\":9,\"realm\":7,\"protocol\""), "a hit of a realm says which: {second}");
        assert_eq!(
            first,
            "{\"time\":\"2023-11-14T22:13:18.500Z\",\"list_line\":9,\"protocol\":\"bittorrent\",\"confidence\":\"signature\",\
             \"transport\":\"tcp\",\"source\":\"10.0.0.1\",\"source_port\":40000,\"destination\":\"192.0.2.1\",\"destination_port\":6881,\
             \"evidence\":\"answered\"}"
        );
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_hit_of_one_direction_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("hits.jsonl");
        let mut log = HitLog::open(&path, vec![7, 9], Evidence::OneWay).expect("opens");
        log.append(&[hit()], SystemTime::now(), 5_500_000_000).expect("writes");
        let row: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("reads")).expect("JSON");
        assert_eq!(row["evidence"], "one_way");
    }
}
