//! The file of watchlist hits: a [`RecordFile`] of those that each subscriber may have in an hour.
//!
//! While the disk takes nothing, hits wait in memory, so many and no more. Each hit ends in exactly one count: written,
//! or lost by reason.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use monitor_common::abi::{
    key::Address,
    protocol::{Confidence, Protocol},
    watch::WatchHit,
};
use peertally_core::{content_list::Watchlist, policy::event::rfc3339, pool::Pool, words::Evidence};
use peertally_datapath::owned::OwnedError;
use serde::Serialize;

use super::{
    record_counts::{RecordKind, RecordLoss},
    record_file::RecordFile,
    state::AgentState,
};
use crate::config::Rotation;

const KIND: RecordKind = RecordKind::WatchlistHits;
/// Hits that wait for the disk: 16 MB, some minutes of the busiest watchlist.
const MAX_WAITING: usize = 1 << 16;
const HOUR_NS: u64 = 3_600_000_000_000;

/// What a [`HitLog`] is opened with.
#[derive(Debug)]
pub struct HitLogOptions {
    /// The file.
    pub path: PathBuf,
    /// The list that hits are of.
    pub watchlist: Arc<Watchlist>,
    /// What subscribers are charged on; each row names it.
    pub evidence: Evidence,
    /// Pools, which tell the subscriber of a hit.
    pub pools: Vec<Pool>,
    /// Rows of one subscriber in an hour.
    pub hourly: u64,
    /// Size and number of files.
    pub rotation: Rotation,
}

/// See the module documentation.
#[derive(Debug)]
pub struct HitLog {
    file: RecordFile,
    options: HitLogOptions,
    state: Arc<AgentState>,
    waiting: VecDeque<String>,
    hour: Hour,
}

/// Rows of the present hour, on the hits' clock.
#[derive(Debug, Default)]
struct Hour {
    number: u64,
    rows: HashMap<(u32, Address), u64>,
    lost: u64,
}

#[derive(Serialize)]
struct HitRow<'a> {
    time: String,
    list_line: u32,
    list_digest: &'a str,
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

/// Says that hits of an hour are not in the file.
#[derive(Serialize)]
struct LossRow {
    time: String,
    lost: u64,
    reason: &'static str,
}

impl HitLog {
    /// Opens the file, or makes it. Counts go to `state`.
    ///
    /// # Errors
    /// [`OwnedError`].
    pub fn open(options: HitLogOptions, state: Arc<AgentState>) -> Result<Self, OwnedError> {
        let file = RecordFile::open(options.path.clone(), options.rotation)?;
        Ok(Self { file, options, state, waiting: VecDeque::new(), hour: Hour::default() })
    }

    /// Hits of another list and other pools from now on. Content that was taken off has line 0.
    pub fn set_list(&mut self, watchlist: Arc<Watchlist>, pools: Vec<Pool>) {
        self.options.watchlist = watchlist;
        self.options.pools = pools;
    }

    /// Appends hits; `now` and `now_ns` are the same moment on the wall clock and on the hits' clock. What the disk
    /// does not take waits for the next call.
    pub fn append(&mut self, hits: &[WatchHit], now: SystemTime, now_ns: u64) {
        let watchlist = Arc::clone(&self.options.watchlist);
        // A flow may name content that was taken off the list since.
        let is_off = |hit: &WatchHit| watchlist.lines.get(hit.entry as usize) == Some(&0);
        for hit in hits {
            if is_off(hit) {
                self.state.records.lost(KIND, RecordLoss::OffList, 1);
                continue;
            }
            let age = Duration::from_nanos(now_ns.saturating_sub(hit.time_ns));
            let time = now.checked_sub(age).unwrap_or(now);
            self.begin_hour(hit.time_ns / HOUR_NS, now);
            let rows = self.hour.rows.entry(self.subscriber(hit)).or_default();
            *rows += 1;
            if *rows > self.options.hourly {
                self.hour.lost += 1;
                self.state.records.lost(KIND, RecordLoss::Rate, 1);
                continue;
            }
            let row = json(&self.row(hit, time));
            self.push(row);
        }
        self.begin_hour(now_ns / HOUR_NS, now);
        self.write();
    }

    /// Writes what waits for the last time.
    pub fn finish(&mut self, now: SystemTime) {
        self.begin_hour(u64::MAX, now);
        self.write();
        let lost = self.waiting.len();
        if lost > 0 {
            self.state.records.lost(KIND, RecordLoss::Shutdown, lost);
            tracing::error!(
                records = lost,
                "watchlist hits that waited for the disk are lost with the end of the agent"
            );
        }
    }

    /// Ends the hour before, and says what it lost.
    fn begin_hour(&mut self, number: u64, now: SystemTime) {
        // Hits of several CPUs come in any order.
        if number <= self.hour.number {
            return;
        }
        let ended = std::mem::replace(&mut self.hour, Hour { number, ..Hour::default() });
        if ended.lost > 0 {
            let row = LossRow { time: rfc3339(now), lost: ended.lost, reason: RecordLoss::Rate.label() };
            self.push(json(&row));
        }
    }

    /// The subscriber whose hit it is: the sender if that is one, and else the receiver.
    fn subscriber(&self, hit: &WatchHit) -> (u32, Address) {
        let block = |address: Address| {
            let ip = Ipv6Addr::from(address.bytes()).to_canonical();
            let pools = self.options.pools.iter().filter(|pool| pool.prefix().contains(&ip));
            pools.max_by_key(|pool| pool.prefix_len).map(|pool| address.block(pool.block_len()))
        };
        (hit.realm, block(hit.source).or_else(|| block(hit.destination)).unwrap_or(hit.source))
    }

    fn row(&self, hit: &WatchHit, time: SystemTime) -> HitRow<'_> {
        HitRow {
            time: rfc3339(time),
            list_line: self.options.watchlist.lines.get(hit.entry as usize).copied().unwrap_or(0),
            list_digest: &self.options.watchlist.digest,
            realm: (hit.realm != 0).then_some(hit.realm),
            protocol: Protocol::from_number(hit.protocol).map_or("unclassified", Protocol::label),
            confidence: Confidence::from_number(hit.confidence).map_or("none", Confidence::label),
            transport: if hit.transport == monitor_common::parse::ip_protocol::TCP { "tcp" } else { "udp" },
            source: Ipv6Addr::from(hit.source.bytes()).to_canonical(),
            source_port: hit.source_port,
            destination: Ipv6Addr::from(hit.destination.bytes()).to_canonical(),
            destination_port: hit.destination_port,
            evidence: self.options.evidence.label(),
        }
    }

    fn push(&mut self, row: String) {
        if self.waiting.len() >= MAX_WAITING {
            return self.state.records.lost(KIND, RecordLoss::QueueFull, 1);
        }
        self.waiting.push_back(row);
    }

    fn write(&mut self) {
        let appended = self.file.append(self.waiting.iter().map(String::as_str));
        self.waiting.drain(..appended.written);
        self.state.records.written(KIND, appended.written, appended.removed_files);
        self.state.records.set_waiting(KIND, self.waiting.len());
        match appended.error {
            Some(error) => self.report(&error),
            None if self.state.records.recovered(KIND) => {
                tracing::warn!("watchlist hits are written again");
            }
            None => {}
        }
    }

    fn report(&self, error: &io::Error) {
        let file = self.file.path().display();
        if self.state.records.failed(KIND, format!("watchlist hits cannot be written: {error}")) {
            tracing::error!(
                %file, %error,
                "cannot write watchlist hits; they wait in memory, {MAX_WAITING} at most; free some space, or make `state_dir` writable"
            );
        }
    }
}

fn json(row: &impl Serialize) -> String {
    serde_json::to_string(row).expect("a row is plain data")
}

#[cfg(test)]
mod tests;
