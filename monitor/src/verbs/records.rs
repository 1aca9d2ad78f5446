//! `peertally records`: the flows that a notice may be about. A notice names an address, a port and a time.
//!
//! Reads the store, beside a running agent or without one. An address is hashed under the present key and the older
//! ones, as records were at their time. Needs what only root has: the keys and the store.

pub mod args;

use std::{
    fmt::Write as _,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use monitor_common::{
    abi::{
        protocol::{Confidence, Protocol},
        rule::Rule,
    },
    parse::ip_protocol,
};
use peertally_core::{
    exit::{Exit, ExitCause},
    policy::event::rfc3339,
    subscriber::{Pseudonyms, Subscriber},
};
use peertally_store::{
    StoreError, rusqlite,
    store::open_reader,
    verdict_records::{Hash, KeptRecord, Query, find},
};
use serde::Serialize;

use self::args::RecordsArgs;
use super::{
    Format,
    resolve::{self, ResolveError},
    run::store_exit,
};
use crate::config::{self, ConfigError, Overrides};

/// Why no records are listed.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The configuration, which names the folder and the key.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] ResolveError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store cannot be read.
    #[error("cannot read the verdict records in the store: {0}; check the file in `state_dir`")]
    Read(#[from] rusqlite::Error),
}

impl ExitCause for RecordsError {
    fn exit(&self) -> Exit {
        match self {
            Self::Config(error) => error.exit(),
            Self::Keys(error) => error.exit(),
            Self::Store(error) => store_exit(error),
            Self::Read(_) => Exit::Unavailable,
        }
    }
}

/// One record for people and programs.
#[derive(Serialize)]
struct Row {
    time: String,
    subscriber: String,
    key: String,
    transport: String,
    own_port: u16,
    protocol: &'static str,
    confidence: &'static str,
    rule: &'static str,
    answered: bool,
    remote: String,
    remote_port: u16,
}

/// Finds records; returns the text to print.
///
/// # Errors
/// [`RecordsError`].
pub fn main(args: &RecordsArgs) -> Result<String, RecordsError> {
    let resolved = config::load(args.config.as_deref(), &Overrides::default())?;
    // A pseudonym alone needs no key.
    let keyed = args.address.is_some() || args.remote.is_some();
    let keys = if keyed { resolve::keys(&resolved.pseudonym_key_file)? } else { Vec::new() };
    let found = find(&open_reader(&resolved.state_dir)?, &query(args, &keys))?;
    let rows: Vec<Row> = found.iter().map(row).collect();
    Ok(match args.format {
        Format::Table => table(&rows),
        Format::Json => {
            let text = serde_json::to_string_pretty(&serde_json::json!({ "records": rows }));
            text.expect("strings and numbers always serialise") + "\n"
        }
    })
}

fn query(args: &RecordsArgs, keys: &[Pseudonyms]) -> Query {
    let of_address = |address: IpAddr| keys.iter().map(move |key| key.hash_of(&single(address, args.realm)));
    let remote = args.remote.map(bytes);
    let ms = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    };
    let around = |at: SystemTime| {
        let earliest = at.checked_sub(args.tolerance).unwrap_or(SystemTime::UNIX_EPOCH);
        (ms(earliest), at.checked_add(args.tolerance).map_or(i64::MAX, ms))
    };
    Query {
        own: args.pseudonym.into_iter().chain(args.address.into_iter().flat_map(of_address)).collect(),
        own_port: args.port,
        remote: remote.iter().flat_map(|address| keys.iter().map(|key| key.hash_of_remote(*address))).collect(),
        time_ms: args.at.map_or((0, i64::MAX), around),
        limit: args.limit,
    }
}

fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// An address as a block of its own.
fn single(address: IpAddr, realm: u32) -> Subscriber {
    Subscriber { address: bytes(address), realm, prefix_len: 128 }
}

fn hexadecimal(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn row(record: &KeptRecord) -> Row {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(record.time_ms.max(0).unsigned_abs());
    Row {
        time: rfc3339(time),
        subscriber: hexadecimal(&record.subscriber),
        key: record.key.clone(),
        transport: match record.transport {
            ip_protocol::TCP => "tcp".to_owned(),
            ip_protocol::UDP => "udp".to_owned(),
            other => other.to_string(),
        },
        own_port: record.own_port,
        protocol: Protocol::from_number(record.protocol).map_or("unknown", Protocol::label),
        confidence: Confidence::from_number(record.confidence).map_or("unknown", Confidence::label),
        rule: Rule::from_number(record.rule).map_or("unknown", Rule::name),
        answered: record.answered,
        remote: hexadecimal(&record.remote),
        remote_port: record.remote_port,
    }
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no record matches\n".to_owned();
    }
    let mut out = format!(
        "{:<24} {:<24} {:<5} {:>8} {:<14} {:<12} {:<20} {:<8} {:<24} {:>11} {}\n",
        "time",
        "subscriber",
        "l4",
        "own port",
        "protocol",
        "confidence",
        "rule",
        "answered",
        "remote",
        "remote port",
        "key"
    );
    for row in rows {
        let _infallible = writeln!(
            out,
            "{:<24} {:<24} {:<5} {:>8} {:<14} {:<12} {:<20} {:<8} {:<24} {:>11} {}",
            row.time,
            row.subscriber,
            row.transport,
            row.own_port,
            row.protocol,
            row.confidence,
            row.rule,
            row.answered,
            row.remote,
            row.remote_port,
            row.key
        );
    }
    out
}
