//! Verdict records in the store: found by subscriber, own address, port, remote and time, and removed in slices.

use std::time::Duration;

use peertally_store::{
    Store,
    verdict_records::{Bounds, Hash, KeptRecord, Query, Removed, SLICE, find, write},
    writer::Unobserved,
};

const ALL: Bounds = Bounds { keep: Duration::from_secs(3_600), most: 1_000_000 };

fn record(time_ms: i64, subscriber: u8, own_port: u16) -> KeptRecord {
    KeptRecord {
        time_ms,
        key: "0a0b0c0d".to_owned(),
        subscriber: [subscriber; 12],
        own: [subscriber; 12],
        own_port,
        remote: [own_port as u8; 12],
        remote_port: 6881,
        transport: 6,
        protocol: 2,
        confidence: 4,
        rule: 1,
        answered: true,
    }
}

fn put(store: &Store, rows: Vec<KeptRecord>, bounds: Bounds, now_ms: i64) -> Removed {
    store.writer().write(move |transaction| write(transaction, &rows, &bounds, now_ms)).expect("written")
}

fn query(own: Hash) -> Query {
    Query { own: vec![own], own_port: None, remote: Vec::new(), time_ms: (0, i64::MAX), limit: 100 }
}

fn ports(store: &Store, query: &Query) -> Vec<u16> {
    let found = find(&store.reader().expect("reads"), query).expect("found");
    found.iter().map(|row| row.own_port).collect()
}

#[test]
fn records_are_found_by_what_a_notice_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path(), Unobserved).expect("opens");
    let of_block = KeptRecord { own: [9; 12], ..record(3_000, 2, 7) };
    put(&store, vec![record(1_000, 1, 5), record(2_000, 1, 6), of_block.clone(), record(4_000, 2, 8)], ALL, 5_000);
    assert_eq!(ports(&store, &query([1; 12])), [6, 5]);
    assert_eq!(ports(&store, &Query { own_port: Some(5), ..query([1; 12]) }), [5]);
    assert_eq!(ports(&store, &Query { time_ms: (1_500, 2_500), ..query([1; 12]) }), [6]);
    assert_eq!(ports(&store, &Query { remote: vec![[5; 12]], ..query([1; 12]) }), [5]);
    assert_eq!(ports(&store, &Query { limit: 1, ..query([1; 12]) }), [6]);
    assert_eq!(ports(&store, &query([2; 12])), [8, 7], "a pseudonym has all its addresses");
    assert_eq!(ports(&store, &query([9; 12])), [7], "an address has its own alone");
    assert_eq!(ports(&store, &query([3; 12])), [0; 0]);
    assert_eq!(find(&store.reader().expect("reads"), &query([9; 12])).expect("found"), [of_block]);
    assert_eq!(ports(&store, &Query { own: vec![[3; 12], [9; 12], [1; 12]], ..query([0; 12]) }), [7, 6, 5]);
}

#[test]
fn records_are_removed_by_age_and_by_number() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path(), Unobserved).expect("opens");
    let hour = 3_600_000;
    assert_eq!(put(&store, vec![record(0, 1, 1), record(hour, 1, 2)], ALL, hour), Removed::default());
    assert_eq!(put(&store, vec![], ALL, hour + 1), Removed { expired: 1, excess: 0 });
    let few = Bounds { most: 2, ..ALL };
    let three = (3..6).map(|port| record(hour, 1, port)).collect();
    assert_eq!(put(&store, three, few, hour), Removed { expired: 0, excess: 2 });
    assert_eq!(ports(&store, &query([1; 12])).len(), 2, "the latest stay");
    let many = (0..2 * SLICE as u16).map(|port| record(hour, 1, port)).collect();
    put(&store, many, ALL, hour);
    let removed = put(&store, vec![], few, hour);
    assert!(removed.is_partial() && removed.excess == SLICE, "a slice at a time: {removed:?}");
    while put(&store, vec![], few, hour).is_partial() {}
    assert_eq!(ports(&store, &query([1; 12])).len(), 2);
}
