//! Booked totals: whole batches, once each, for the tables that they belong to.

use std::time::Instant;

use monitor_common::abi::tally::{TallyKey, Totals};
use peertally_core::booked::{BookedTally, BookedTotals};
use peertally_store::{Store, booked::StoredTotals, writer::Unobserved};

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
