//! Verdict records on their way from the kernel to the store.
//!
//! Addresses are hashed with the pseudonym key as soon as they arrive, and never leave this module. Each subscriber has
//! so many records in an hour. While the store takes nothing, records wait in memory, so many and no more. Each record
//! ends in exactly one count: written, or lost by reason.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        mpsc::{self, Receiver, TryRecvError},
    },
    time::{Duration, Instant, SystemTime},
};

use monitor_common::abi::record::VerdictRecord;
use peertally_core::subscriber::{Pseudonyms, Subscriber};
use peertally_store::{
    Store, StoreError,
    verdict_records::{Bounds, Hash, KeptRecord, Removed, write},
};

use super::{
    record_counts::{RecordKind, RecordLoss},
    state::AgentState,
};

const KIND: RecordKind = RecordKind::VerdictRecords;
/// Records that wait for the store: 8 MB.
const MAX_WAITING: usize = 1 << 16;
/// Records in one write.
const MAX_WRITTEN: usize = 1 << 13;
/// Subscribers whose records of an hour are counted; further ones have none in that hour.
const MAX_COUNTED: usize = 1 << 20;
/// Longest time between two looks for records that are not kept any more.
const TRIM: Duration = Duration::from_secs(60);
const HOUR_S: u64 = 3_600;

/// Bounds of the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordOptions {
    /// Records of one subscriber in an hour.
    pub hourly: u64,
    /// How long and how many are kept.
    pub bounds: Bounds,
}

/// A write that has not ended.
#[derive(Debug)]
struct Writing {
    records: Arc<Vec<KeptRecord>>,
    ended: Receiver<Result<Removed, StoreError>>,
}

/// See the module documentation.
#[derive(Debug)]
pub struct VerdictRecords {
    store: Store,
    pseudonyms: Pseudonyms,
    options: RecordOptions,
    state: Arc<AgentState>,
    hour: u64,
    counted: HashMap<Hash, u64>,
    waiting: Vec<KeptRecord>,
    writing: Option<Writing>,
    /// When records were removed last; `None` if there may be more to remove.
    trimmed: Option<Instant>,
}

impl VerdictRecords {
    /// Records go into a store, under hashes of these pseudonyms' key. Counts go to `state`.
    #[must_use]
    pub fn new(store: Store, pseudonyms: Pseudonyms, options: RecordOptions, state: Arc<AgentState>) -> Self {
        Self {
            store,
            pseudonyms,
            options,
            state,
            hour: 0,
            counted: HashMap::new(),
            waiting: Vec::new(),
            writing: None,
            trimmed: None,
        }
    }

    /// Takes records in, and hands to the store what waits; `now` and `now_s` are the same moment on the wall clock and
    /// on the records' clock.
    pub fn take(&mut self, records: &[VerdictRecord], now: SystemTime, now_s: u64) {
        let key = self.pseudonyms.key_id();
        for record in records {
            let kept = self.hashed(record, &key, now, now_s);
            if !self.admit(kept.subscriber, record.time_s / HOUR_S) {
                self.state.records.lost(KIND, RecordLoss::Rate, 1);
            } else {
                self.wait(kept);
            }
        }
        self.look(false);
        self.submit(now);
        self.state.records.set_waiting(KIND, self.waiting());
    }

    /// Writes what waits for the last time.
    pub fn finish(&mut self, now: SystemTime) {
        loop {
            self.look(true);
            let before = self.waiting.len();
            self.submit(now);
            self.look(true);
            if self.waiting.is_empty() || self.waiting.len() >= before {
                break;
            }
        }
        let lost = self.waiting.len();
        self.state.records.set_waiting(KIND, lost);
        if lost > 0 {
            self.state.records.lost(KIND, RecordLoss::Shutdown, lost);
            tracing::error!(
                records = lost,
                "verdict records that waited for the store are lost with the end of the agent"
            );
        }
    }

    fn hashed(&self, record: &VerdictRecord, key: &str, now: SystemTime, now_s: u64) -> KeptRecord {
        let age = Duration::from_secs(now_s.saturating_sub(record.time_s));
        let since = now.checked_sub(age).unwrap_or(now).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let of = |address: [u8; 16], prefix_len| {
            self.pseudonyms.hash_of(&Subscriber { address, realm: record.realm, prefix_len })
        };
        KeptRecord {
            time_ms: since.as_millis() as i64,
            key: key.to_owned(),
            subscriber: of(record.block.bytes(), record.block_len),
            own: of(record.own.bytes(), 128),
            own_port: record.own_port,
            remote: self.pseudonyms.hash_of_remote(record.remote.bytes()),
            remote_port: record.remote_port,
            transport: record.transport,
            protocol: record.protocol,
            confidence: record.confidence,
            rule: record.rule,
            answered: record.answered != 0,
        }
    }

    /// Counts a record of a subscriber; whether it may have another one in this hour.
    fn admit(&mut self, subscriber: Hash, hour: u64) -> bool {
        // Records of several CPUs come in any order.
        if hour > self.hour {
            (self.hour, self.counted) = (hour, HashMap::new());
        }
        if self.counted.len() >= MAX_COUNTED && !self.counted.contains_key(&subscriber) {
            return false;
        }
        let count = self.counted.entry(subscriber).or_default();
        *count += 1;
        *count <= self.options.hourly
    }

    fn waiting(&self) -> usize {
        self.waiting.len() + self.writing.as_ref().map_or(0, |writing| writing.records.len())
    }

    fn wait(&mut self, record: KeptRecord) {
        if self.waiting() >= MAX_WAITING {
            return self.state.records.lost(KIND, RecordLoss::QueueFull, 1);
        }
        self.waiting.push(record);
    }

    /// Looks whether the write has ended, or waits until it has.
    fn look(&mut self, to_the_end: bool) {
        let Some(writing) = &self.writing else { return };
        let ended = if to_the_end {
            writing.ended.recv().ok()
        } else {
            match writing.ended.try_recv() {
                Ok(ended) => Some(ended),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => None,
            }
        };
        let records = self.writing.take().map(|writing| writing.records).unwrap_or_default();
        match ended {
            Some(Ok(removed)) => self.written(records.len(), removed),
            Some(Err(error)) => self.failed(&records, &error.to_string()),
            None => self.failed(&records, "the writer of the store has ended"),
        }
    }

    fn written(&mut self, records: usize, removed: Removed) {
        self.state.records.written(KIND, records, 0);
        self.state.records.removed_rows(removed.expired, removed.excess);
        self.trimmed = (!removed.is_partial()).then(Instant::now);
        if self.state.records.recovered(KIND) {
            tracing::warn!("verdict records are written again");
        }
    }

    /// Keeps the records of a write that failed for the next one.
    fn failed(&mut self, records: &[KeptRecord], error: &str) {
        let newer = std::mem::replace(&mut self.waiting, records.to_vec());
        newer.into_iter().for_each(|record| self.wait(record));
        if self.state.records.failed(KIND, format!("verdict records cannot be written: {error}")) {
            tracing::error!(%error, "cannot write verdict records; they wait in memory, {MAX_WAITING} at most");
        }
    }

    /// Hands a write in, unless one has not ended or there is nothing to write.
    fn submit(&mut self, now: SystemTime) {
        let trims = self.trimmed.is_none_or(|trimmed| trimmed.elapsed() >= TRIM);
        if self.writing.is_some() || self.waiting.is_empty() && !trims {
            return;
        }
        let records: Vec<_> = self.waiting.drain(..self.waiting.len().min(MAX_WRITTEN)).collect();
        let records = Arc::new(records);
        let (sender, ended) = mpsc::sync_channel(1);
        let (written, bounds) = (Arc::clone(&records), self.options.bounds);
        let now_ms = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        self.store.writer().submit(
            move |transaction| write(transaction, &written, &bounds, now_ms),
            move |outcome| {
                // Nobody waits if the agent is ending.
                let _gone = sender.send(outcome);
            },
        );
        self.writing = Some(Writing { records, ended });
    }
}

#[cfg(test)]
mod tests {
    use monitor_common::abi::{key::Address, settings::InspectionDepth};
    use peertally_core::words::Evidence;
    use peertally_store::{
        rusqlite::Connection,
        verdict_records::{Query, find},
        writer::Unobserved,
    };

    use super::*;
    use crate::export::collector::drain_histogram;

    const SUBSCRIBER: u32 = 0x0a4d_2c17;
    const REMOTE: u32 = 0xcb00_7142;

    fn record(own_port: u16) -> VerdictRecord {
        VerdictRecord {
            time_s: 7_200,
            block: Address::v4(SUBSCRIBER),
            own: Address::v4(SUBSCRIBER),
            remote: Address::v4(REMOTE),
            own_port,
            remote_port: 6881,
            block_len: 128,
            protocol: 2,
            confidence: 4,
            rule: 1,
            transport: 6,
            answered: 1,
            ..VerdictRecord::default()
        }
    }

    struct Scratch {
        folder: tempfile::TempDir,
        pseudonyms: Pseudonyms,
        state: Arc<AgentState>,
    }

    impl Scratch {
        fn new() -> Self {
            let state = AgentState::new(InspectionDepth::Framing, Evidence::Answered, Vec::new(), drain_histogram());
            let pseudonyms = Pseudonyms::with_key([7; 32]);
            Self { folder: tempfile::tempdir().expect("a folder"), pseudonyms, state }
        }

        fn open(&self, hourly: u64) -> VerdictRecords {
            let store = Store::open(self.folder.path(), Unobserved).expect("opens");
            let bounds = Bounds { keep: Duration::from_secs(86_400), most: 1_000 };
            let options = RecordOptions { hourly, bounds };
            VerdictRecords::new(store, self.pseudonyms.clone(), options, Arc::clone(&self.state))
        }

        fn reader(&self) -> Connection {
            peertally_store::store::open_reader(self.folder.path()).expect("reads")
        }

        fn find(&self, pseudonyms: &Pseudonyms) -> Vec<KeptRecord> {
            let block = "10.77.44.23/32".parse().expect("a block");
            let own = vec![pseudonyms.hash_of(&Subscriber::of_block(block, 0))];
            let all = Query { own, own_port: None, remote: Vec::new(), time_ms: (0, i64::MAX), limit: 1_000 };
            find(&self.reader(), &all).expect("found")
        }

        /// Written, lost by rate, by a full queue and by the end, and waiting.
        fn counts(&self) -> (u64, [u64; 3], u64) {
            let report = self.state.records.report(KIND);
            let lost = [RecordLoss::Rate, RecordLoss::QueueFull, RecordLoss::Shutdown];
            (report.written, lost.map(|reason| report.lost[reason as usize]), report.waiting)
        }
    }

    #[test]
    fn a_record_has_its_time_and_no_address() {
        let scratch = Scratch::new();
        let mut records = scratch.open(100);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        records.take(&[record(50_000)], now, 7_230);
        records.finish(now);
        drop(records);
        let found = scratch.find(&scratch.pseudonyms);
        assert_eq!(found.iter().map(|row| (row.time_ms, row.own_port)).collect::<Vec<_>>(), [(999_970_000, 50_000)]);
        assert_eq!(found[0].remote, scratch.pseudonyms.hash_of_remote(Address::v4(REMOTE).bytes()));
        assert_eq!(scratch.counts(), (1, [0; 3], 0));
        for entry in std::fs::read_dir(scratch.folder.path()).expect("lists") {
            let bytes = std::fs::read(entry.expect("an entry").path()).expect("reads");
            for address in [SUBSCRIBER, REMOTE] {
                for wanted in [address.to_be_bytes(), address.to_le_bytes()] {
                    assert!(!bytes.windows(4).any(|window| window == wanted), "{address:x} is in the store");
                }
            }
        }
    }

    #[test]
    fn a_subscriber_has_so_many_records_in_an_hour_and_another_one_its_own() {
        let scratch = Scratch::new();
        let mut records = scratch.open(3);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let other = VerdictRecord { block: Address::v4(1), own: Address::v4(1), ..record(9) };
        let burst: Vec<_> = (0..10).map(record).chain([other]).collect();
        records.take(&burst, now, 7_200);
        records.take(&[VerdictRecord { time_s: 10_800, ..record(11) }], now, 10_800);
        records.finish(now);
        assert_eq!(scratch.counts(), (3 + 1 + 1, [7, 0, 0], 0), "and the next hour is a new one");
    }

    #[test]
    fn records_of_an_older_key_are_found_under_it() {
        let scratch = Scratch::new();
        let mut records = scratch.open(100);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        records.take(&[record(1)], now, 7_200);
        scratch.pseudonyms.set_key([8; 32]);
        records.take(&[record(2)], now, 7_200);
        records.finish(now);
        let ports =
            |key| scratch.find(&Pseudonyms::with_key([key; 32])).iter().map(|row| row.own_port).collect::<Vec<_>>();
        assert_eq!((ports(7), ports(8), ports(9)), (vec![1], vec![2], vec![]));
        assert_eq!(scratch.find(&scratch.pseudonyms)[0].key, scratch.pseudonyms.key_id());
    }

    #[test]
    fn records_wait_for_a_store_that_takes_nothing_and_are_counted_beyond_the_bound() {
        let scratch = Scratch::new();
        let mut records = scratch.open(u64::MAX);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let locked = Connection::open(scratch.folder.path().join("peertally.db")).expect("opens");
        locked.execute_batch("DROP TABLE verdict_records").expect("dropped");
        records.take(&[record(1), record(2)], now, 7_200);
        records.look(true);
        let report = scratch.state.records.report(KIND);
        assert!(report.problem.is_some_and(|problem| problem.contains("verdict records cannot be written")));
        let burst: Vec<_> = (0..MAX_WAITING).map(|port| record(port as u16)).collect();
        records.take(&burst, now, 7_200);
        records.finish(now);
        let (written, lost, _) = scratch.counts();
        assert_eq!((written, lost), (0, [0, 2, MAX_WAITING as u64]), "full, and then the end");
    }
}
