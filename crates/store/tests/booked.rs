//! Booked totals: whole batches, once each, for the tables that they belong to.

use std::{path::Path, time::Instant};

use monitor_common::abi::tally::{TallyKey, Totals};
use peertally_core::booked::{BookedTally, BookedTotals, ReplacedTables};
use peertally_store::{Store, booked::StoredTotals, folder::FILE, rusqlite::Connection, writer::Unobserved};

fn key(host: u8) -> TallyKey {
    TallyKey { address: [host; 16], realm: 7, prefix_len: 128, protocol: 2, confidence: 4 }
}

fn tally(slot: u32, host: u8, bytes_up: u64) -> BookedTally {
    BookedTally { slot, key: key(host), totals: Totals { flows: 1, packets_up: 2, bytes_up, ..Totals::default() } }
}

/// Waits for the end of what was begun.
fn done(totals: &mut StoredTotals) {
    loop {
        if let Some(outcome) = totals.outcome() {
            return outcome.expect("written");
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_batch_is_remembered_until_it_is_forgotten() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || StoredTotals::new(Store::open(folder.path(), Unobserved).expect("opens"));
    let mut totals = open();
    assert_eq!(totals.open(5).expect("opens"), []);
    totals.book(vec![tally(3, 1, 100), tally(4, 2, 200)]);
    done(&mut totals);
    drop(totals);
    // Killed before the slots were given back.
    let mut totals = open();
    assert_eq!(totals.open(5).expect("opens"), [(3, key(1)), (4, key(2))]);
    totals.forget_batch();
    done(&mut totals);
    totals.book(vec![tally(4, 1, 11)]);
    done(&mut totals);
    let bases = totals.bases(&[key(1), key(2), key(3)]).expect("reads");
    assert_eq!(bases.iter().map(|base| (base.flows, base.bytes_up)).collect::<Vec<_>>(), [(2, 111), (1, 200), (0, 0)]);
}

#[test]
fn totals_of_other_tables_are_forgotten() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut totals = StoredTotals::new(Store::open(folder.path(), Unobserved).expect("opens"));
    totals.open(u64::MAX >> 1).expect("opens");
    totals.book(vec![tally(3, 1, 100)]);
    done(&mut totals);
    assert_eq!(totals.open(8).expect("opens"), []);
    assert_eq!(totals.bases(&[key(1)]).expect("reads"), [Totals::default()]);
}

#[test]
fn many_keys_are_found_as_few_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut totals = StoredTotals::new(Store::open(folder.path(), Unobserved).expect("opens"));
    totals.open(1).expect("opens");
    totals.book((0..200).map(|host| tally(u32::from(host), host, 1000 + u64::from(host))).collect());
    done(&mut totals);
    let many: Vec<TallyKey> =
        (0..25_000_u32).map(|host| TallyKey { realm: host / 200 + 7, ..key((host % 200) as u8) }).collect();
    let begun = Instant::now();
    let found = totals.bases(&many).expect("reads");
    println!("{} keys in {:?}", many.len(), begun.elapsed());
    assert!(found.iter().zip(0..).all(|(base, host)| base.bytes_up == if host < 200 { 1000 + host } else { 0 }));
    assert_eq!(totals.bases(&many[..300]).expect("reads"), found[..300]);
}

/// Makes every row that is not marked as live older than totals are kept.
fn age(folder: &Path) {
    let connection = Connection::open(folder.join(FILE)).expect("opens");
    let aged = "UPDATE booked_totals SET booked_s = 0 WHERE booked_s < 9223372036854775807";
    connection.execute(aged, []).expect("writes");
}

#[test]
fn totals_of_a_counter_that_lives_are_kept_and_those_of_one_that_is_gone_for_long_are_forgotten() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || StoredTotals::new(Store::open(folder.path(), Unobserved).expect("opens"));
    let bytes = |totals: &mut StoredTotals, host| totals.bases(&[key(host)]).expect("reads")[0].bytes_up;
    let mut totals = open();
    totals.open(5).expect("opens");
    totals.book(vec![tally(3, 1, 100), tally(4, 2, 200)]);
    done(&mut totals);
    totals.forget_batch();
    done(&mut totals);
    // One comes back, and lives on for longer than totals are kept.
    assert_eq!(bytes(&mut totals, 1), 100);
    for slot in [5, 6] {
        age(folder.path());
        totals.book(vec![tally(slot, slot as u8, 1)]);
        done(&mut totals);
    }
    drop(totals);
    let mut totals = open();
    totals.open(5).expect("opens");
    assert_eq!((bytes(&mut totals, 1), bytes(&mut totals, 2)), (100, 0));
    // It leaves, and is gone for longer: now its totals are old, too.
    totals.forget_batch();
    done(&mut totals);
    totals.book(vec![tally(3, 1, 11)]);
    done(&mut totals);
    age(folder.path());
    for slot in [7, 8] {
        totals.book(vec![tally(slot, slot as u8, 1)]);
        done(&mut totals);
    }
    drop(totals);
    let mut totals = open();
    totals.open(5).expect("opens");
    assert_eq!(bytes(&mut totals, 1), 0);
}

#[test]
fn a_write_that_fails_forgets_nothing_that_lives() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path(), Unobserved).expect("opens");
    let mut totals = StoredTotals::new(store.clone());
    totals.open(5).expect("opens");
    totals.book(vec![tally(3, 1, 100)]);
    done(&mut totals);
    totals.bases(&[key(1)]).expect("reads");
    // Slot 3 is still in the batch: a second row for it is refused.
    totals.book(vec![tally(3, 9, 1)]);
    let outcome = loop {
        if let Some(outcome) = totals.outcome() {
            break outcome;
        }
        std::thread::yield_now();
    };
    outcome.expect_err("refused");
    age(folder.path());
    totals.book(vec![tally(4, 8, 1)]);
    done(&mut totals);
    assert_eq!(totals.bases(&[key(1)]).expect("reads")[0].bytes_up, 100);
    // As many marks as fit into no single write, and one that is old.
    let many: Vec<_> = (0..10_000_u32)
        .map(|slot| BookedTally {
            slot: slot + 100,
            key: TallyKey { realm: slot + 8, ..key(1) },
            totals: Totals { flows: 1, ..Totals::default() },
        })
        .collect();
    let keys: Vec<TallyKey> = many.iter().map(|booked| booked.key).collect();
    totals.book(many);
    done(&mut totals);
    totals.bases(&keys).expect("reads");
    for slot in 20..26 {
        age(folder.path());
        totals.book(vec![tally(slot, 200 + slot as u8, 1)]);
        done(&mut totals);
    }
    let found = totals.bases(&keys).expect("reads");
    assert_eq!(found.iter().filter(|base| base.flows == 1).count(), 10_000);
    assert_eq!(totals.bases(&[key(220)]).expect("reads"), [Totals::default()], "old and gone");
}

fn bytes_up(totals: &mut StoredTotals, hosts: &[u8]) -> Vec<u64> {
    let keys: Vec<TallyKey> = hosts.iter().map(|host| key(*host)).collect();
    totals.bases(&keys).expect("reads").iter().map(|base| base.bytes_up).collect()
}

#[test]
fn replaced_tables_are_added_once_whoever_is_killed_when() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || StoredTotals::new(Store::open(folder.path(), Unobserved).expect("opens"));
    let mut totals = open();
    totals.open(5).expect("opens");
    totals.book(vec![tally(3, 1, 100)]);
    done(&mut totals);
    totals.forget_batch();
    done(&mut totals);
    // The latest batch is booked, and its slot is not free yet.
    totals.book(vec![tally(4, 2, 200)]);
    done(&mut totals);
    let replaced = || ReplacedTables {
        number: 5,
        tallies: vec![tally(0, 0, 7), tally(3, 1, 11)],
        leaving: vec![tally(4, 2, 200), tally(6, 3, 300)],
    };
    let failed_start = || ReplacedTables { number: 6, tallies: vec![tally(1, 1, 1000)], leaving: Vec::new() };
    totals.carry(vec![failed_start(), replaced()], 8).expect("carries");
    let carried = [7, 1111, 200, 300];
    assert_eq!(bytes_up(&mut totals, &[0, 1, 2, 3]), carried);
    drop(totals);
    // Killed before the replaced tables were removed.
    let mut totals = open();
    totals.carry(vec![replaced(), failed_start()], 8).expect("carries");
    assert_eq!(totals.open(8).expect("opens"), []);
    assert_eq!(bytes_up(&mut totals, &[0, 1, 2, 3]), carried);
    // And replaced again.
    let next = ReplacedTables { number: 8, tallies: vec![tally(9, 3, 1)], leaving: Vec::new() };
    totals.carry(vec![replaced(), next], 9).expect("carries");
    assert_eq!(bytes_up(&mut totals, &[0, 1, 2, 3]), [7, 1111, 200, 301]);
}

#[test]
fn books_of_removed_tables_are_carried_to_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut totals = StoredTotals::new(Store::open(folder.path(), Unobserved).expect("opens"));
    totals.open(5).expect("opens");
    totals.book(vec![tally(3, 1, 100)]);
    done(&mut totals);
    let replaced = ReplacedTables { number: 7, tallies: vec![tally(3, 2, 50)], leaving: vec![tally(4, 1, 20)] };
    totals.carry(vec![replaced], 8).expect("carries");
    assert_eq!(bytes_up(&mut totals, &[1, 2]), [20, 50]);
}
