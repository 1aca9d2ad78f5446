//! The agent's side of ageing over the host's data path: drains, restarts and kills, with exact sums.

mod month;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use monitor_common::abi::{event::KernelEvent, key::Seed, settings::InspectionDepth, tally::TallyKey};
use peertally_core::{
    snapshot::Snapshot,
    testing::{Books, MemoryBooks},
};

use super::{Ageing, NoProgram};
use crate::{
    TableSizes,
    attached::drain::{Drain, DrainContext},
    host::HostDataPath,
    replaced,
};

/// Age at which tallies leave.
const AGE_S: u64 = 600;
/// Time between two drains.
const DRAIN_S: u64 = 60;

/// A data path, and an agent that drains it.
struct World {
    path: HostDataPath,
    drain: Drain,
    ageing: Ageing,
    books: MemoryBooks,
    now_s: u64,
    /// Bytes sent by each subscriber.
    sent: HashMap<u32, u64>,
    /// Bytes of each subscriber in the latest drain and in all before.
    shown: HashMap<TallyKey, u64>,
    /// Sum of the changes of all drains.
    changed: u64,
    ports: u16,
}

fn ageing(books: &MemoryBooks) -> Ageing {
    Ageing::new(Duration::from_secs(AGE_S), Box::new(books.clone()), Box::new(NoProgram))
}

fn path(tallies: u32, flows: u32, random: u64) -> HostDataPath {
    let sizes = TableSizes { flows, tallies, peers: 16 };
    let pools = ["10.0.0.0/8".parse().expect("pool")];
    let path = HostDataPath::new(&sizes, &pools, Seed::from_random([random, 2, 3]), InspectionDepth::Headers);
    path.set_one_way();
    path
}

/// A UDP datagram of a subscriber to one of its flows' remotes.
fn datagram(subscriber: u32, port: u16, bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend((28 + bytes as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend((0x0a00_0000 + subscriber).to_be_bytes());
    frame.extend([192, 0, 2, 1]);
    frame.extend(port.to_be_bytes());
    frame.extend([0x1a, 0xe1]);
    frame.extend((8 + bytes as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(vec![0xaa; bytes]);
    frame
}

impl World {
    fn new(tallies: u32, flows: u32) -> Self {
        let books = MemoryBooks::default();
        Self {
            path: path(tallies, flows, 1),
            drain: Drain::default(),
            ageing: ageing(&books),
            books,
            now_s: 1_000_000,
            sent: HashMap::new(),
            shown: HashMap::new(),
            changed: 0,
            ports: 1024,
        }
    }

    /// A new flow of a subscriber.
    fn send(&mut self, subscriber: u32) {
        self.ports = self.ports.wrapping_add(1).max(1024);
        self.send_from(subscriber, self.ports);
    }

    fn send_from(&mut self, subscriber: u32, port: u16) {
        let frame = datagram(subscriber, port, 100 + subscriber as usize % 7);
        self.path.frame(&frame, frame.len(), self.now_s);
        *self.sent.entry(subscriber).or_default() += frame.len() as u64 - 14;
    }

    /// A drain. Whatever was shown must not go down.
    fn drain(&mut self) -> Snapshot {
        self.now_s += DRAIN_S;
        let view = self.path.view();
        view.settings.clock_s.store(self.now_s);
        let mut index = self.path.slot_index();
        let freed = self.ageing.before_read(&view, &mut index);
        self.drain.note_freed(&freed);
        let mut read = self.drain.memory();
        view.read_into(15, &mut read, Some(&mut self.drain.remotes));
        let context = DrainContext { interfaces: &[], pools: 1 };
        let snapshot = self.drain.snapshot(&view, read, Instant::now(), &context, Some(&mut self.ageing));
        let drain = &self.drain;
        self.ageing.after_read(&view, &mut index, |slot| drain.keeps(slot));
        let mut rows: HashMap<TallyKey, u64> = HashMap::new();
        for (slot, key) in snapshot.keys.iter().enumerate().filter(|(_, key)| **key != TallyKey::CATCH_ALL) {
            if let Some(totals) = snapshot.row(slot) {
                assert_eq!(rows.insert(*key, totals.bytes_up), None, "two rows of {key:?}");
            }
        }
        for (key, bytes) in &rows {
            let before = self.shown.get(key).copied().unwrap_or_default();
            assert!(*bytes >= before, "{key:?} went down from {before} to {bytes}");
        }
        self.changed += snapshot.changes.iter().map(|change| change.delta.bytes_up).sum::<u64>();
        self.shown.extend(rows);
        snapshot
    }

    /// The agent is killed, and another one starts.
    fn kill(&mut self) {
        self.drain = Drain::default();
        self.ageing = ageing(&self.books);
    }

    /// Another agent starts, with tables of other sizes. As many starts before it as `kills` says were killed after the
    /// books were written.
    fn replace(&mut self, tallies: u32, flows: u32, kills: u32) {
        self.ports += 1;
        let old = std::mem::replace(&mut self.path, path(tallies, flows, self.ports.into()));
        replaced::end_flows(&old.view(), self.now_s);
        for _ in 0..=kills {
            self.kill();
            let totals = replaced::totals(&old.view());
            self.ageing.carry(&self.path.view(), vec![totals]).expect("booked");
        }
    }

    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock()
    }

    /// Drains until all tallies have left, and checks that exactly what was sent is in the books.
    fn end(mut self) {
        for _ in 0..2 * AGE_S / DRAIN_S + 60 {
            self.drain();
            if self.path.view().tallies_in_use() == 1 {
                break;
            }
        }
        assert_eq!(self.path.view().tallies_in_use(), 1, "all but the catch-all have left");
        let mut booked: HashMap<u32, u64> = HashMap::new();
        for (key, totals) in &self.books().totals {
            let [.., a, b, c, d] = key.address;
            *booked.entry(u32::from_be_bytes([a, b, c, d]) - 0x0a00_0000).or_default() += totals.bytes_up;
        }
        assert_eq!(booked, self.sent);
        assert_eq!(self.path.events(KernelEvent::TallyRefused) + self.path.events(KernelEvent::TallyReserved), 0);
    }
}

/// Numbers that look random (Knuth's MMIX generator).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn a_tally_that_does_not_move_gives_its_slot_back() {
    let mut world = World::new(16, 64);
    world.send(1);
    world.drain();
    assert_eq!(world.path.view().tallies_in_use(), 2);
    for _ in 0..AGE_S / DRAIN_S + 6 {
        world.drain();
    }
    assert_eq!(world.path.view().tallies_in_use(), 1);
    assert_eq!(world.ageing.counts().retired, 1);
    world.end();
}

#[test]
fn a_tally_that_moves_stays() {
    let mut world = World::new(16, 64);
    for _ in 0..3 * AGE_S / DRAIN_S {
        world.send(1);
        // A flow that never ends: its packets reach the tally only in the end.
        world.send_from(2, 1000);
        world.drain();
        assert!(world.now_s < 1_000_000 + 2 * DRAIN_S || world.path.view().tallies_in_use() == 3);
    }
    assert_eq!(world.ageing.counts().retired, 0);
    world.end();
}

#[test]
fn who_comes_back_goes_on_where_it_was() {
    let mut world = World::new(16, 64);
    for _ in 0..5 {
        world.send(1);
        for _ in 0..AGE_S / DRAIN_S + 8 {
            world.drain();
        }
        assert_eq!(world.path.view().tallies_in_use(), 1);
    }
    // The changes are the traffic alone, without what came from the books. The first drain is the baseline.
    assert_eq!(world.changed, world.sent[&1] / 5 * 4);
    assert_eq!(world.shown.values().copied().collect::<Vec<_>>(), [world.sent[&1]]);
    world.end();
}

/// Drains until the only tally has left; returns the seconds.
fn seconds_until_it_leaves(world: &mut World) -> u64 {
    let begun_s = world.now_s;
    while world.ageing.counts().retired == 0 {
        world.drain();
    }
    world.now_s - begun_s
}

/// A long flow, whose inspection is over, so that no pause begins it anew; and a packet of it with each drain.
fn long_flow(drains: u64) -> World {
    let mut world = World::new(16, 64);
    (0..80).for_each(|_| world.send_from(1, 1000));
    for _ in 0..drains {
        world.send_from(1, 1000);
        world.drain();
    }
    world
}

#[test]
fn a_tally_leaves_at_its_age_after_the_last_packet_of_a_long_flow() {
    // What the flow counts reaches its tally only at its end.
    let mut world = long_flow(3 * AGE_S / DRAIN_S);
    let left_s = seconds_until_it_leaves(&mut world);
    assert!((AGE_S..AGE_S + 12 * DRAIN_S).contains(&left_s), "after {left_s} s");
    world.end();
}

#[test]
fn a_tally_that_moves_on_its_way_out_leaves_at_its_age_after_that() {
    for step in 0..6 {
        let mut world = long_flow(1);
        while !world.path.view().keys[1].is_retiring() {
            world.drain();
        }
        (0..step).for_each(|_| drop(world.drain()));
        if world.ageing.counts().retired > 0 {
            continue;
        }
        world.send_from(1, 1000);
        world.drain();
        let is_new = world.ageing.counts().retired > 0 || world.path.view().tallies_in_use() > 2;
        let left_s = seconds_until_it_leaves(&mut world);
        assert!(is_new || left_s >= AGE_S - DRAIN_S, "step {step}: after {left_s} s");
        world.end();
    }
}

#[test]
fn a_longer_age_holds_from_the_next_drain_on() {
    let mut world = World::new(16, 64);
    world.send(1);
    world.drain();
    world.ageing.set_age(Duration::from_secs(3 * AGE_S));
    for _ in 0..2 * AGE_S / DRAIN_S {
        world.drain();
    }
    assert_eq!(world.ageing.counts().retired, 0);
    for _ in 0..AGE_S / DRAIN_S + 12 {
        world.drain();
    }
    assert_eq!(world.ageing.counts().retired, 1);
}

#[test]
fn slots_go_to_the_end_of_the_ring_while_programs_take_from_its_front() {
    let world = World::new(16, 64);
    let view = world.path.view();
    let end = view.ring_end();
    for taken in 1..5 {
        view.settings.next_slot.add(1);
        assert_eq!((view.ring_end(), view.slots_free() as u64), (end, 15 - taken));
    }
}

#[test]
fn who_comes_back_at_any_step_has_one_row() {
    for step in 0..12 {
        let mut world = World::new(16, 64);
        world.drain();
        world.send(1);
        for _ in 0..AGE_S / DRAIN_S + step {
            world.drain();
        }
        for _ in 0..8 {
            world.send(1);
            world.drain();
        }
        assert_eq!(world.shown.values().copied().collect::<Vec<_>>(), [world.sent[&1]], "step {step}");
        assert_eq!(world.changed, world.sent[&1], "step {step}");
        world.end();
    }
}

#[test]
fn many_subscribers_pass_through_a_small_table() {
    let mut world = World::new(256, 64);
    let mut numbers = Numbers(1);
    for day in 0..200_u32 {
        // Blocks that change: none of the first ones comes back for long.
        for _ in 0..4 {
            world.send(day / 2 + numbers.below(8) as u32);
        }
        world.drain();
    }
    assert!(world.sent.len() > 90);
    world.end();
}

#[test]
fn a_kill_at_any_step_loses_nothing_and_books_nothing_twice() {
    // The long form is for `cargo xtask test --soak`.
    let seeds = if std::env::var_os("PEERTALLY_SOAK").is_some() { 40 } else { 4 };
    for seed in 0..seeds {
        let mut world = World::new(256, 64);
        let mut numbers = Numbers(seed);
        for _ in 0..150 {
            for _ in 0..numbers.below(4) {
                world.send(numbers.below(40) as u32);
            }
            world.drain();
            if numbers.below(5) != 0 {
                continue;
            }
            // Killed within the last steps, after the commit: some tallies are zero, some slots free, none is given.
            let latest = world.books().latest.clone();
            let view = world.path.view();
            for (slot, key) in latest {
                let (tally, slot_key) = (&view.tallies[slot as usize], &view.keys[slot as usize]);
                if slot_key.is_retiring() && slot_key.read() == Some(key) {
                    if numbers.below(3) > 0 {
                        tally.clear();
                    }
                    if numbers.below(3) == 0 {
                        tally.clear();
                        slot_key.free();
                    }
                }
            }
            world.kill();
        }
        world.end();
    }
}

#[test]
fn tables_that_are_replaced_at_any_step_lose_nothing_and_count_nothing_twice() {
    let seeds = if std::env::var_os("PEERTALLY_SOAK").is_some() { 40 } else { 4 };
    for seed in 0..seeds {
        let mut world = World::new(256, 64);
        let mut numbers = Numbers(seed);
        for step in 0..150 {
            for _ in 0..numbers.below(4) {
                world.send(numbers.below(40) as u32);
            }
            // A flow that goes on in all tables.
            world.send_from(41, 1000);
            if step % 3 != 0 {
                world.drain();
            }
            if numbers.below(6) == 0 {
                // Fewer tallies than there are subscribers, too: the others are in the books.
                let sizes = [(256, 64), (128, 64), (256, 16), (512, 128)][numbers.below(4) as usize];
                world.replace(sizes.0, sizes.1, numbers.below(2) as u32);
            }
        }
        world.end();
    }
}

#[test]
fn a_replacement_is_no_traffic() {
    let mut world = World::new(64, 64);
    world.send(1);
    world.drain();
    for flows in [16, 64, 16] {
        world.replace(32, flows, 0);
        world.drain();
        let before = world.changed;
        world.send(1);
        world.send(2);
        world.drain();
        let sent = world.sent.keys().map(|subscriber| 128 + u64::from(*subscriber) % 7).sum::<u64>();
        assert_eq!(world.changed - before, sent, "what was carried is in no window");
    }
    world.end();
}

#[test]
fn replaced_tables_wait_for_books_that_can_be_written() {
    let mut world = World::new(64, 64);
    world.send(1);
    world.drain();
    let old = std::mem::replace(&mut world.path, path(32, 64, 9));
    world.kill();
    replaced::end_flows(&old.view(), world.now_s);
    world.books().fails = true;
    assert!(world.ageing.carry(&world.path.view(), vec![replaced::totals(&old.view())]).is_err());
    assert_eq!(world.ageing.counts().failures, 1);
    world.books().fails = false;
    world.ageing.carry(&world.path.view(), vec![replaced::totals(&old.view())]).expect("booked");
    world.end();
}

#[test]
fn books_that_cannot_be_written_keep_the_slots() {
    let mut world = World::new(16, 64);
    world.send(1);
    world.drain();
    world.books().fails = true;
    for _ in 0..3 * AGE_S / DRAIN_S {
        world.drain();
    }
    assert_eq!(world.path.view().tallies_in_use(), 2);
    assert!(world.ageing.counts().failures > 0);
    world.books().fails = false;
    world.end();
}

#[test]
fn a_commit_of_unknown_end_counts_once() {
    let mut world = World::new(16, 64);
    for _ in 0..3 {
        world.drain();
    }
    world.send(1);
    world.books().silent = true;
    for _ in 0..3 * AGE_S / DRAIN_S {
        world.drain();
    }
    assert_eq!(world.books().totals.len(), 1, "it is booked");
    world.kill();
    world.send(1);
    world.books().silent = false;
    world.drain();
    world.end();
}

#[test]
fn a_table_that_is_nearly_full_loses_the_oldest_first() {
    let mut world = World::new(128, 512);
    for subscriber in 0..90 {
        world.send(subscriber);
        if subscriber % 30 == 29 {
            world.drain();
            world.drain();
        }
    }
    // 91 of 128 slots: below the mark, and below the quarter that is for verdicts.
    assert_eq!(world.ageing.counts().retired, 0);
    world.path.view().settings.next_slot.store(106);
    (91..106).for_each(|slot| world.path.view().keys[slot].free());
    for _ in 0..8 {
        world.drain();
    }
    let retired = world.ageing.counts().retired;
    assert!((10..=30).contains(&retired), "{retired} left");
    let view = world.path.view();
    let stays = |slot: usize| view.keys[slot].words().is_some();
    assert!((61..91).all(stays), "the youngest stay");
}
