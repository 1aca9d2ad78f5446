//! Options of `peertally records`.

use std::{
    net::IpAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{ArgGroup, Args};

use crate::verbs::Format;

/// Options of `records`.
#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("whose").args(["pseudonym", "address"]).required(true)))]
pub struct RecordsArgs {
    /// A subscriber, by the pseudonym of a metric, a log line or an event.
    #[arg(long, value_name = "PSEUDONYM", value_parser = pseudonym)]
    pub pseudonym: Option<[u8; 12]>,
    /// An address of a subscriber, as a notice names it.
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<IpAddr>,
    /// Realm of the address.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "address")]
    pub realm: u32,
    /// Port of the subscriber.
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Address of the other end.
    #[arg(long, value_name = "ADDRESS")]
    pub remote: Option<IpAddr>,
    /// Time in UTC, such as 2026-12-01T08:30:00Z. A record has the time at which its flow began to count as P2P
    /// protocol traffic, which may be hours before a notice's time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub at: Option<SystemTime>,
    /// Longest distance from that time, either way.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    pub tolerance: Duration,
    /// Number of records, latest first.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u32,
    /// Configuration file, which names `state_dir` and the key. Default: /etc/peertally/peertally.toml if it exists.
    #[arg(long, value_name = "FILE", env = "PEERTALLY_CONFIG")]
    pub config: Option<PathBuf>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

fn pseudonym(text: &str) -> Result<[u8; 12], String> {
    let bytes = || {
        let digits = text.as_bytes().chunks_exact(2);
        digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect::<Option<Vec<u8>>>()
    };
    let found = (text.len() == 24).then(bytes).flatten().and_then(|bytes| bytes.try_into().ok());
    found.ok_or_else(|| "a pseudonym has 24 hexadecimal digits".to_owned())
}

fn time(text: &str) -> Result<SystemTime, String> {
    let read = humantime::parse_rfc3339_weak(text);
    read.map_err(|_| "write the time in UTC, such as 2026-12-01T08:30:00Z".to_owned())
}
