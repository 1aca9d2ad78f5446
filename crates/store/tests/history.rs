//! The history of what policies measure: commits that are whole, spans that become one, bounds.

use std::{collections::BTreeMap, time::Duration};

use monitor_common::abi::{
    remotes::RemoteSet,
    tally::{TallyKey, Totals},
};
use peertally_core::policy::{
    Sum,
    recorder::{Measure, Measures, Reading, Span},
};
use peertally_store::{
    Store,
    clock::Moment,
    history::{self, Committed, MOST_MEASURES},
    writer::Unobserved,
};
use tempfile::TempDir;

fn open() -> (TempDir, Store) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path(), Unobserved).expect("opens");
    (folder, store)
}

fn key(number: u32) -> TallyKey {
    let mut address = [0; 16];
    address[12..].copy_from_slice(&number.to_be_bytes());
    TallyKey { address, realm: 7, prefix_len: 128, protocol: 2, confidence: 4 }
}

fn totals(bytes_up: u64) -> Totals {
    Totals { flows: 1, bytes_up, ..Totals::default() }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn span(number: u64, begun: u64, ended: u64) -> Span {
    Span { number, begun: seconds(begun), ended: seconds(ended) }
}

fn moment(boot: &str, boot_s: i64, wall_s: i64) -> Moment {
    Moment { boot: boot.into(), boot_ms: boot_s * 1000, wall_ms: wall_s * 1000 }
}

/// Measures of one span by key and bytes, with the starts of the windows.
fn measures(at: Span, rows: &[(u32, u64)], starts: &[u64]) -> Measures {
    Measures {
        tables: 5,
        until: at.ended,
        spans: vec![at],
        measures: rows
            .iter()
            .map(|(number, bytes)| Measure {
                span: at.number,
                key: key(*number),
                sum: Sum { totals: totals(*bytes), remotes: RemoteSet(1 << at.number) },
            })
            .collect(),
        readings: rows
            .iter()
            .map(|(number, bytes)| Reading { slot: *number, key: key(*number), totals: totals(*bytes) })
            .collect(),
        starts: starts.iter().map(|start| (seconds(60), seconds(*start))).collect(),
        ..Measures::default()
    }
}

fn commit(store: &Store, measures: Measures, most: u64) -> Committed {
    let now = moment("a", 1000, 50_000);
    store.writer().write(move |transaction| history::commit(transaction, &measures, &now, most)).expect("commits")
}

/// Bytes and remotes by span and key.
fn read(store: &Store) -> BTreeMap<(u64, u32), (u64, u64)> {
    let mut found = BTreeMap::new();
    let add = |measure: &Measure| {
        let number = u32::from_be_bytes(measure.key.address[12..].try_into().expect("four bytes"));
        let cell: &mut (u64, u64) = found.entry((measure.span, number)).or_default();
        cell.0 += measure.sum.totals.bytes_up;
        cell.1 |= measure.sum.remotes.0;
    };
    history::measures(&store.reader().expect("a reader"), add).expect("reads");
    found
}

fn spans(store: &Store) -> Vec<Span> {
    let spans = history::spans(&store.reader().expect("a reader")).expect("reads");
    spans.into_iter().map(|kept| kept.span).collect()
}

#[test]
fn measures_add_up_and_the_latest_readings_stay() {
    let (_folder, store) = open();
    assert!(history::kept(&store.reader().expect("a reader"), &moment("a", 0, 0)).expect("reads").is_none());
    commit(&store, measures(span(1, 0, 10), &[(1, 100), (2, 5)], &[0]), MOST_MEASURES);
    commit(&store, measures(span(1, 0, 20), &[(1, 11)], &[0]), MOST_MEASURES);
    assert_eq!(read(&store), [((1, 1), (111, 2)), ((1, 2), (5, 2))].into());
    let reader = store.reader().expect("a reader");
    let (kept, time) = history::kept(&reader, &moment("a", 1003, 10)).expect("reads").expect("there is a history");
    assert_eq!(
        (kept.tables, kept.until, time),
        (5, seconds(20), seconds(23)),
        "the clock since the boot tells the time"
    );
    assert_eq!(kept.spans, [span(1, 0, 20)]);
    assert_eq!(kept.starts, [(seconds(60), seconds(0))]);
    let readings: Vec<_> = kept.readings.iter().map(|each| (each.slot, each.totals.bytes_up)).collect();
    assert_eq!(readings, [(1, 11), (2, 5)]);
    let forget = Measures { forget_readings: true, ..measures(span(1, 0, 30), &[(9, 1)], &[0]) };
    commit(&store, forget, MOST_MEASURES);
    let (kept, _) = history::kept(&reader, &moment("a", 1003, 10)).expect("reads").expect("there is a history");
    assert_eq!(kept.readings.len(), 1, "of other tables");
}

#[test]
fn after_a_reboot_the_wall_clock_tells_the_time_and_one_set_back_makes_everything_too_old() {
    let (_folder, store) = open();
    commit(&store, measures(span(1, 0, 10), &[(1, 100)], &[0]), MOST_MEASURES);
    let reader = store.reader().expect("a reader");
    let passed =
        |now: Moment| history::kept(&reader, &now).expect("reads").expect("there is a history").1 - seconds(10);
    assert_eq!(passed(moment("b", 60, 53_600)), seconds(3600));
    assert_eq!(passed(moment("b", 90, 50_060)), seconds(90), "not less than since the boot");
    assert!(passed(moment("b", 60, 46_400)) > seconds(33 * 24 * 3600), "an hour back: nobody knows");
    assert!(passed(moment("b", 60, i64::MAX / 2000)) < seconds(40 * 24 * 3600), "and no time is longer");
    assert_eq!(passed(moment("a", 1_001, 46_400)), seconds(1), "an hour back within the boot changes nothing");
    assert_eq!(passed(moment("a", 1_001, 53_600)), seconds(1), "and an hour on neither");
}

#[test]
fn a_span_that_no_window_begins_with_becomes_part_of_the_one_before() {
    let (_folder, store) = open();
    for number in 1..=4 {
        let starts: Vec<u64> = (0..number).map(|each| each * 10).collect();
        let begun = (number - 1) * 10;
        let rows = [(number as u32, number), (9, 100)];
        commit(&store, measures(span(number, begun, begun + 10), &rows, &starts), MOST_MEASURES);
    }
    assert_eq!(spans(&store).len(), 4, "each is needed");
    // Nothing begins at 10 and 20 any more; and then nothing reaches back to 0.
    commit(&store, measures(span(5, 40, 50), &[(9, 100)], &[0, 30, 40]), MOST_MEASURES);
    assert_eq!(spans(&store), [span(1, 0, 30), span(4, 30, 40), span(5, 40, 50)]);
    let merged = read(&store);
    assert_eq!(merged[&(1, 9)], (300, 0b1110));
    assert_eq!((merged[&(1, 1)].0, merged[&(1, 2)].0, merged[&(1, 3)].0, merged.len()), (1, 2, 3, 7));
    commit(&store, measures(span(6, 50, 60), &[], &[30, 40, 50]), MOST_MEASURES);
    assert_eq!(spans(&store), [span(4, 30, 40), span(5, 40, 50), span(6, 50, 60)]);
    assert_eq!(read(&store).len(), 3);
    let rows: i64 = store
        .reader()
        .expect("a reader")
        .query_row("SELECT count(*) FROM history", [], |row| row.get(0))
        .expect("counts");
    assert_eq!(rows, 3, "removed, not only hidden");
}

#[test]
fn many_measures_are_moved_in_several_commits_and_readers_see_them_moved_at_once() {
    let (_folder, store) = open();
    let rows: Vec<(u32, u64)> = (0..50_000).map(|number| (number, 1)).collect();
    commit(&store, measures(span(1, 0, 10), &rows, &[0]), MOST_MEASURES);
    commit(&store, measures(span(2, 10, 20), &rows, &[0, 10]), MOST_MEASURES);
    let mut moved = Vec::new();
    for number in 3..=8 {
        let begun = (number - 1) * 10;
        moved.push(commit(&store, measures(span(number, begun, begun + 10), &[], &[0, begun]), MOST_MEASURES).moved);
        let found = read(&store);
        assert_eq!((found.len(), found.values().map(|(bytes, _)| bytes).sum::<u64>()), (50_000, 100_000));
        assert!(found.values().all(|(bytes, remotes)| (*bytes, *remotes) == (2, 0b110)));
    }
    assert_eq!(moved, [20_000, 20_000, 10_000, 0, 0, 0]);
    assert_eq!(spans(&store), [span(1, 0, 70), span(8, 70, 80)]);
}

#[test]
fn too_many_measures_cost_the_oldest_span() {
    let (_folder, store) = open();
    let rows = [(1, 1), (2, 1), (3, 1)];
    let mut evicted = 0;
    for number in 1..=6 {
        let starts: Vec<u64> = (0..number).map(|each| each * 10).collect();
        let begun = (number - 1) * 10;
        evicted += commit(&store, measures(span(number, begun, begun + 10), &rows, &starts), 10).evicted;
    }
    assert_eq!(evicted, 3);
    assert_eq!(spans(&store), [span(4, 30, 40), span(5, 40, 50), span(6, 50, 60)]);
    assert_eq!(read(&store).len(), 9);
}

#[test]
fn a_commit_that_fails_leaves_neither_measures_nor_readings() {
    let (_folder, store) = open();
    commit(&store, measures(span(1, 0, 10), &[(1, 100)], &[0]), MOST_MEASURES);
    let (failing, now) = (measures(span(2, 10, 20), &[(1, 50), (2, 1)], &[0, 10]), moment("a", 2000, 60_000));
    let outcome = store.writer().write(move |transaction| {
        history::commit(transaction, &failing, &now, MOST_MEASURES)?;
        transaction.execute("INSERT INTO nothing VALUES (1)", []).map(drop)
    });
    assert!(outcome.is_err());
    assert_eq!(read(&store), [((1, 1), (100, 2))].into());
    let (kept, _) =
        history::kept(&store.reader().expect("a reader"), &moment("a", 1000, 0)).expect("reads").expect("a history");
    assert_eq!((kept.until, kept.readings.len(), kept.spans.len()), (seconds(10), 1, 1));
}
