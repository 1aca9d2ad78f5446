//! Rows of hits, their bound in an hour, and a disk that takes nothing for a while.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use monitor_common::abi::settings::InspectionDepth;

use super::*;
use crate::{agent::record_file, export::collector::drain_histogram};

/// Name of the list in rows.
const DIGEST: &str = "d1e5";

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

struct Scratch {
    folder: tempfile::TempDir,
    state: Arc<AgentState>,
}

impl Scratch {
    fn new() -> Self {
        let state = AgentState::new(InspectionDepth::Watchlist, Evidence::Answered, Vec::new(), drain_histogram());
        Self { folder: tempfile::tempdir().expect("a folder"), state }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("state/hits.jsonl")
    }

    fn open(&self, evidence: Evidence, hourly: u64) -> HitLog {
        let watchlist = Watchlist { lines: vec![7, 9], digest: DIGEST.to_owned(), ..Watchlist::default() };
        let options = HitLogOptions {
            path: self.path(),
            watchlist: Arc::new(watchlist),
            evidence,
            pools: vec!["10.0.0.0/8/32".parse().expect("a pool")],
            hourly,
            rotation: Rotation::default(),
        };
        fs::create_dir_all(self.path().parent().expect("a folder")).expect("made");
        HitLog::open(options, Arc::clone(&self.state)).expect("opens")
    }

    fn rows(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.path()).expect("reads");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn report(&self) -> crate::agent::record_counts::RecordReport {
        self.state.records.report(KIND)
    }
}

#[test]
fn a_hit_before_1970_is_written() {
    let scratch = Scratch::new();
    let mut log = scratch.open(Evidence::Answered, 10);
    // A router without a clock chip: the wall clock starts at 1970 and is set back after the hit.
    log.append(&[hit()], SystemTime::UNIX_EPOCH + Duration::from_secs(1), 9_000_000_000);
    assert_eq!(scratch.rows()[0]["time"], "1970-01-01T00:00:00.000Z");
}

#[test]
fn a_hit_is_a_line_without_the_hash() {
    let scratch = Scratch::new();
    let mut log = scratch.open(Evidence::Answered, 10);
    let hit = hit();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let other = WatchHit { realm: 7, ..hit };
    log.append(&[hit, other], now, 5_500_000_000);
    log.append(&[], now, 0);
    let text = fs::read_to_string(scratch.path()).expect("reads");
    let (first, second) = text.split_once('\n').expect("two lines");
    assert!(second.contains("\"realm\":7,\"protocol\""), "a hit of a realm says which: {second}");
    let fields = "{\"time\":\"2023-11-14T22:13:18.500Z\",\"list_line\":9,\"list_digest\":\"d1e5\",\"protocol\":\"bittorrent\",\
                  \"confidence\":\"signature\",\"transport\":\"tcp\",\"source\":\"10.0.0.1\",\"source_port\":40000,\
                  \"destination\":\"192.0.2.1\",\"destination_port\":6881,\"evidence\":\"answered\",\"previous\":\"";
    assert!(first.starts_with(fields), "{first}");
    assert_eq!(fs::metadata(scratch.path()).expect("there").permissions().mode() & 0o777, 0o600);
    assert_eq!(record_file::verify(&scratch.path(), |_| {}).expect("a chain").records, 2);
}

#[test]
fn a_hit_of_one_direction_says_so() {
    let scratch = Scratch::new();
    scratch.open(Evidence::OneWay, 10).append(&[hit()], SystemTime::now(), 5_500_000_000);
    assert_eq!(scratch.rows()[0]["evidence"], "one_way");
}

#[test]
fn one_subscriber_cannot_fill_the_file_and_takes_nothing_from_others() {
    let scratch = Scratch::new();
    let mut log = scratch.open(Evidence::Answered, 3);
    let other = WatchHit { source: Address::v4(0x0a00_0002), ..hit() };
    // From outside to the subscriber: the same subscriber, the other way round.
    let answer = WatchHit { source: hit().destination, destination: hit().source, ..hit() };
    log.append(&vec![hit(); 1000], SystemTime::now(), 5_000_000_000);
    log.append(&[answer, other, other, other], SystemTime::now(), 6_000_000_000);
    let of = |source: &str| scratch.rows().iter().filter(|row| row["source"] == source).count();
    assert_eq!((of("10.0.0.1"), of("10.0.0.2"), of("192.0.2.1")), (3, 3, 0));
    assert_eq!(scratch.report().lost, [998, 0, 0, 0], "each is counted");
    // In the next hour there are rows again, and the file says what is missing.
    log.append(&[WatchHit { time_ns: HOUR_NS + 1, ..hit() }], SystemTime::now(), HOUR_NS + 2);
    let rows = scratch.rows();
    assert_eq!((&rows[6]["lost"], &rows[6]["reason"]), (&998.into(), &"rate".into()));
    assert_eq!(of("10.0.0.1"), 4);
}

/// A folder in place of the file: nothing can be written there, for root either.
fn block(path: &Path) {
    let aside = path.with_extension("aside");
    fs::rename(path, aside).expect("moved");
    fs::create_dir(path).expect("made");
}

fn unblock(path: &Path) {
    fs::remove_dir(path).expect("removed");
    fs::rename(path.with_extension("aside"), path).expect("moved");
}

#[test]
fn hits_wait_while_nothing_can_be_written_and_are_lost_beyond_a_bound_only() {
    let scratch = Scratch::new();
    let mut log = scratch.open(Evidence::Answered, u64::MAX);
    log.append(&[hit()], SystemTime::now(), 5_000_000_000);
    block(&scratch.path());
    for _ in 0..3 {
        log.append(&[hit(); 2], SystemTime::now(), 5_000_000_000);
    }
    let report = scratch.report();
    assert_eq!((report.written, report.waiting, report.failures), (1, 6, 3));
    assert!(report.problem.is_some_and(|problem| problem.contains("cannot be written")));
    unblock(&scratch.path());
    log.append(&[], SystemTime::now(), 5_000_000_000);
    assert_eq!(record_file::verify(&scratch.path(), |_| {}).expect("a chain").records, 7);
    assert_eq!((scratch.report().waiting, scratch.report().problem), (0, None));
    block(&scratch.path());
    log.append(&vec![hit(); MAX_WAITING + 5], SystemTime::now(), 5_000_000_000);
    log.finish(SystemTime::now());
    assert_eq!(scratch.report().lost, [0, 5, MAX_WAITING as u64, 0], "each ends in one count");
}

/// The twin stays on the list.
#[test]
fn a_hit_of_content_that_was_taken_off_the_list_is_counted_and_not_written() {
    let scratch = Scratch::new();
    let mut log = scratch.open(Evidence::Answered, 10);
    let shorter = Watchlist { lines: vec![7, 0], digest: DIGEST.to_owned(), ..Watchlist::default() };
    log.set_list(Arc::new(shorter), Vec::new());
    log.append(&[hit(), WatchHit { entry: 0, ..hit() }], SystemTime::now(), 5_000_000_000);
    assert_eq!((scratch.rows().len(), scratch.report().lost), (1, [0, 0, 0, 1]));
}
