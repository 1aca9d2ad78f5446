//! What happens to one frame: walk, look up, count; and, for a flow's first packets only, inspect.
//!
//! Invariants (design section 3):
//! * each IP packet is counted exactly once at node level, and once per subscriber end;
//! * packets before a verdict stay in their flow's own counters, so they count for the verdict; nothing is ever subtracted;
//! * the path of a settled flow reads one set, adds one counter and touches no clock, pool or tally.

use crate::{
    cell::masked,
    flow::{Word, pack, unpack},
    key::FlowKey,
    limits::{FIRST_PEER_PORT, FOLD_PACKETS, WAYS},
    packet::Packet,
    store::{Event, Inspection, Note, Settings, Store},
    walk::{self, Headers},
};

mod account;
mod associate;
mod cache;
mod inspect;
mod learn;
mod subscribers;
mod watchlist;
mod work;

pub use account::settle_idle;
use work::Task;
pub use work::{Scratch, Work};

/// Counts one frame that came in on the interface with index `interface` (its low 16 bits).
#[inline(always)]
pub fn process<P: Packet, S: Store>(packet: &P, store: &S, settings: &Settings, interface: u16) {
    let current = match walk::plain(packet) {
        Some(headers) => settled(&headers, store, settings, interface) || !keep(store, headers),
        None => unusual(packet, store, settings, interface),
    };
    if !current {
        slow(packet, store, settings, interface);
    }
}

/// Leaves the headers in the work, for the slow path; whether that went well.
#[inline(always)]
fn keep<S: Store>(store: &S, headers: Headers) -> bool {
    step(store, |work| {
        work.headers = headers;
        true
    })
}

/// As [`settled`], for frames that take the full walk; `true` also for a frame that is skipped. Leaves the headers in the work.
#[inline(never)]
fn unusual<P: Packet, S: Store>(packet: &P, store: &S, settings: &Settings, interface: u16) -> bool {
    let done = store.with_scratch(|scratch| match walk::full(packet, &mut scratch.work.headers) {
        Ok(()) => settled(&scratch.work.headers, store, settings, interface),
        Err(reason) => {
            store.count_skip(reason);
            store.note(Note::skipped(reason));
            true
        }
    });
    done.unwrap_or(false)
}

/// Counts a packet of a settled flow that needs nothing but its counter; whether this was one.
#[inline(always)]
fn settled<S: Store>(headers: &Headers, store: &S, settings: &Settings, interface: u16) -> bool {
    let (key, from_lower) = headers.flow_key();
    let tag = key.tag(&settings.seed);
    let Some(mut set) = store.flow_set(FlowKey::set_index(tag, settings.set_mask)) else { return false };
    let mut way = cache::find(set, tag);
    if way == WAYS {
        let Some(second) = store.flow_set(FlowKey::second_set_index(tag, settings.set_mask)) else { return false };
        set = second;
        way = cache::find(set, tag);
        if way == WAYS {
            return false;
        }
    }
    let way = masked::<{ WAYS - 1 }>(way);
    let word = Word(set.words[way].load());
    let counter = &set.counters[counter_index(way, from_lower)];
    if !word.is_settled_on(from_lower, interface)
        || headers.opens_connection()
        || unpack(counter.load()).0 >= FOLD_PACKETS
    {
        return false;
    }
    let now_s = settings.clock_s.load();
    if word.second() != now_s as u16 {
        // The first packet in a new second says so. If another CPU was first, the slow path sees what has changed.
        let seen = word.seen(now_s as u16, from_lower, interface);
        let unclassified = word.protocol_number() == 0;
        let peers = headers.source_port >= FIRST_PEER_PORT && headers.destination_port >= FIRST_PEER_PORT;
        if unclassified && (cache::paused(word, now_s) || (peers && cache::is_due_at(word, now_s))) {
            return false;
        }
        if !set.words[way].replace(word.0, seen.0) {
            return false;
        }
    }
    counter.add(pack(1, u64::from(headers.ip_bytes)));
    store.note(Note::flow(work::Entry::KNOWN.0, word.protocol_number(), word.confidence_number()));
    true
}

/// Index of a flow's counter for one direction.
#[inline(always)]
const fn counter_index(way: usize, from_lower: u64) -> usize {
    (2 * way + (from_lower ^ 1) as usize) & (2 * WAYS - 1)
}

/// Everything but a settled flow's ordinary packet, step by step.
///
/// Each step is a function of its own that takes what it needs from [`Work`], in per-CPU memory. The verifier forgets what it
/// knew of a value that went through a map, so it verifies each step once, and not once for each way to reach it.
#[inline(never)]
fn slow<P: Packet, S: Store>(packet: &P, store: &S, settings: &Settings, interface: u16) {
    if !step(store, |work| work.begin(store, settings, interface)) {
        return;
    }
    if !step(store, |work| cache::look_up(store, settings, work)) {
        if !step(store, |work| subscribers::locate(store, work)) {
            step(store, |work| account::transit(store, work));
            return;
        }
        if !step(store, |work| cache::choose(store, settings, work))
            || !step(store, |work| cache::take(store, settings, work))
        {
            step(store, |work| account::direct(store, settings, work));
            return;
        }
    }
    if !step(store, |work| account::count(store, work)) {
        return;
    }
    let task = store.with_scratch(|scratch| scratch.work.task).unwrap_or(Task::NONE);
    if task == Task::ASSOCIATE {
        if step(store, |work| associate::judge(store, settings, work)) {
            step(store, |work| associate::relabel(store, settings, work));
        }
        return;
    }
    if store.with_scratch(|scratch| inspect::look(packet, settings, store, scratch)) != Some(true) {
        return;
    }
    if task == Task::INSPECT {
        step(store, |work| associate::judge(store, settings, work));
        step(store, |work| inspect::conclude(store, settings, work));
    }
    step(store, |work| learn::learn(store, settings, work));
    if settings.inspection.load() == Inspection::Watchlist as u64 {
        step(store, |work| work.content.is_some() && watchlist::compare(store, settings, work));
    }
}

/// Runs one step on this CPU's work.
#[inline(always)]
fn step<S: Store>(store: &S, step: impl FnOnce(&mut Work) -> bool) -> bool {
    match store.with_scratch(|scratch| step(&mut scratch.work)) {
        Some(answer) => answer,
        None => {
            store.count_event(Event::Lost);
            false
        }
    }
}
