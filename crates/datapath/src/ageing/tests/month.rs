//! A month of subscribers whose blocks change daily, through the host's data path, the drain, ageing and the analysis.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use monitor_common::abi::{
    event::KernelEvent, key::Seed, protocol::Confidence, settings::InspectionDepth, tally::TallyKey,
};
use peertally_core::{
    analysis::{Analysis, AnalysisOptions},
    policy::{Policy, ProtocolSet, event::EventSource},
    snapshot::Snapshot,
    subscriber::Pseudonyms,
    testing::MemoryBooks,
    words::{Evidence, Metric, PolicyDirection},
};

use super::super::{Ageing, NoProgram};
use crate::{
    TableSizes,
    attached::drain::{Drain, DrainContext},
    host::HostDataPath,
};

const DAY_S: u64 = 86_400;
/// Time between two drains.
const DRAIN_S: u64 = 1200;
/// Any random words.
const SEED: [u64; 3] = [0x8f3a_91c4_5be7_02d6, 0x1c6d_e2f9_a70b_4835, 0xd4b8_0e57_3f92_c6a1];
/// One subscriber of so many keeps its block for the whole month.
const STABLE: u64 = 50;
/// One subscriber of so many speaks BitTorrent, too.
const P2P: u64 = 5;

/// A node, and an agent that drains it.
struct Month {
    path: HostDataPath,
    drain: Drain,
    ageing: Ageing,
    books: MemoryBooks,
    analysis: Analysis,
    begun: Instant,
    now_s: u64,
    /// Key and bytes that each slot showed last.
    shown: Vec<(TallyKey, u64)>,
    /// Bytes shown of subscribers that keep their block.
    stable: HashMap<TallyKey, u64>,
    sent: u64,
    events: usize,
    most_used: usize,
}

/// What the policy of the simulation needs in a day.
const THRESHOLD: u64 = 150;

fn policy() -> Policy {
    Policy {
        name: "day".into(),
        protocols: ProtocolSet::default_policy(),
        min_confidence: Confidence::Structural,
        metric: Metric::Bytes,
        direction: PolicyDirection::Both,
        threshold: THRESHOLD,
        window: Duration::from_secs(DAY_S),
        cool_down: Duration::from_secs(DAY_S),
        allow: Vec::new(),
        hooks: Vec::new(),
    }
}

/// A TCP segment from the first host of a block.
fn segment(block: u64, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((20 + payload.len() as u16).to_be_bytes());
    frame.extend([6, 64]);
    frame.extend((0x2001_0db8_u64 << 32 | block << 8).to_be_bytes());
    frame.extend(1_u64.to_be_bytes());
    frame.extend((0x2001_0de0_u64 << 32).to_be_bytes());
    frame.extend(2_u64.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend([0x1a, 0xe1, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    frame.extend(payload);
    frame
}

impl Month {
    fn new(subscribers: u64) -> Self {
        // The default table holds 2^18 tallies for 100,000 subscribers.
        let tallies = (subscribers << 18).div_ceil(100_000) as u32;
        let sizes = TableSizes { flows: 1 << 14, tallies, peers: 1 << 10 };
        let pools = ["2001:db8::/32/56".parse().expect("a pool")];
        let path = HostDataPath::new(&sizes, &pools, Seed::from_random(SEED), InspectionDepth::Framing);
        path.set_one_way();
        let books = MemoryBooks::default();
        let source =
            EventSource { node: "test".into(), inspection: InspectionDepth::Framing, evidence: Evidence::Answered };
        let options = AnalysisOptions { policies: vec![policy()], top_k: 20, source };
        Self {
            path,
            drain: Drain::default(),
            ageing: Ageing::new(Duration::from_secs(DAY_S), Box::new(books.clone()), Box::new(NoProgram)),
            books,
            analysis: Analysis::new(options, Pseudonyms::with_key([7; 32])),
            begun: Instant::now(),
            now_s: 1_000_000,
            shown: Vec::new(),
            stable: HashMap::new(),
            sent: 0,
            events: 0,
            most_used: 0,
        }
    }

    fn send(&mut self, block: u64, port: u16, payload: &[u8]) {
        let frame = segment(block, port, payload);
        self.path.frame(&frame, frame.len(), self.now_s);
        self.sent += frame.len() as u64 - 14;
    }

    /// A subscriber opens its line: some traffic, and some of it BitTorrent.
    fn connect(&mut self, subscriber: u64, block: u64) {
        self.send(block, 40_000, b"hello");
        if subscriber.is_multiple_of(P2P) {
            self.send(block, 50_000, b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0");
            self.send(block, 50_000, &[7; 60]);
        }
    }

    fn drain(&mut self) {
        self.now_s += DRAIN_S;
        let view = self.path.view();
        view.settings.clock_s.store(self.now_s);
        let mut index = self.path.slot_index();
        let freed = self.ageing.before_read(&view, &mut index);
        self.drain.note_freed(&freed);
        let mut read = self.drain.memory();
        view.read_into(15, &mut read, Some(&mut self.drain.remotes));
        let context = DrainContext { interfaces: &[], pools: 1 };
        let taken = self.begun + Duration::from_secs(self.now_s - 1_000_000);
        let snapshot = self.drain.snapshot(&view, read, taken, &context, Some(&mut self.ageing));
        let drain = &self.drain;
        self.ageing.after_read(&view, &mut index, |slot| drain.keeps(slot));
        self.most_used = self.most_used.max(view.tallies_in_use());
        drop(index);
        self.compare(&snapshot);
        let (_, events) = self.analysis.take(snapshot, Default::default);
        self.events += events.len();
        for event in events {
            self.analysis.settle(&event.policy.name, event.subscriber, None);
        }
    }

    /// Nothing that is exported goes down.
    fn compare(&mut self, snapshot: &Snapshot) {
        self.shown.resize(snapshot.keys.len(), (TallyKey::CATCH_ALL, 0));
        for (slot, (key, before)) in self.shown.iter_mut().enumerate().skip(1) {
            let now = snapshot.keys[slot];
            if now == TallyKey::CATCH_ALL {
                *key = now;
                continue;
            }
            let Some(totals) = snapshot.row(slot) else { continue };
            if now == *key {
                assert!(totals.bytes_up >= *before, "{key:?} went down");
            } else if let Some(stable) = self.stable.get(&now) {
                assert!(totals.bytes_up >= *stable, "{now:?} came back with less");
            }
            (*key, *before) = (now, totals.bytes_up);
            if is_stable(&now) {
                self.stable.insert(now, totals.bytes_up);
            }
        }
    }

    fn refused(&self) -> u64 {
        self.path.events(KernelEvent::TallyRefused) + self.path.events(KernelEvent::TallyReserved)
    }
}

/// Whether a key is of a block that stays: they come first.
fn is_stable(key: &TallyKey) -> bool {
    key.address[4] == 0
}

#[test]
fn a_month_of_blocks_that_change_daily_fits_into_the_table_and_the_memory_of_a_day() {
    // The long form is for `cargo xtask test --soak`.
    let long = std::env::var_os("PEERTALLY_SOAK").is_some();
    let (subscribers, days) = if long { (100_000, 30) } else { (10_000, 6) };
    let (mut month, drains) = (Month::new(subscribers), DAY_S / DRAIN_S);
    let mut used_at_once = Vec::new();
    for day in 0..days {
        for drain in 0..drains {
            // Each line is opened at its own time of the day.
            for subscriber in (drain..subscribers).step_by(drains as usize) {
                let block = if subscriber.is_multiple_of(STABLE) {
                    subscriber / STABLE
                } else {
                    // By day, in blocks of 2^16 of the pool's 2^24.
                    0x1_0000 + (day * subscribers + subscriber)
                };
                month.connect(subscriber, block);
            }
            month.drain();
        }
        used_at_once.push(month.analysis.subscribers_at_once());
    }
    assert_eq!(month.refused(), 0, "nobody found the table full");
    let (capacity, last) = (month.path.view().tallies.len(), used_at_once[days as usize - 1]);
    assert!(month.most_used <= capacity * 80 / 100, "{} of {capacity}", month.most_used);
    assert!(last <= used_at_once[2] * 11 / 10, "entries grow from day to day: {used_at_once:?}");
    assert!(last < 3 * subscribers as usize, "{last} entries");
    assert!(month.events as u64 > days * (subscribers / P2P) * 9 / 10, "{} events", month.events);
    // Without traffic all leave, and whatever was sent is in the books.
    while month.path.view().tallies_in_use() > 1 {
        month.drain();
        assert!(month.now_s < 1_000_000 + (days + 5) * DAY_S, "{} are left", month.path.view().tallies_in_use());
    }
    let booked: u64 = month.books.lock().totals.values().map(|totals| totals.bytes_up).sum();
    assert_eq!(booked, month.sent);
    assert!(month.path.events(KernelEvent::FlowRefused) == 0, "flows that ended long ago make room");
}
