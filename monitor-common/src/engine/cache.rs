//! Finding, choosing and taking over ways of a set.

use super::{account, subscribers, work::Entry, work::Work};
use crate::{
    flow::{FlowSet, Progress, State, Word, pack_slots},
    limits::{CLOCK_SKEW_AGE, FRESH_SECONDS, IDLE_SECONDS, WAYS},
    protocol::{Confidence, Protocol},
    store::{Event, Settings, Store},
};

/// Protocol and confidence numbers of a flow without a verdict.
const NONE: (u8, u8) = (Protocol::Unclassified as u8, Confidence::None as u8);

/// The way whose tag is `tag`.
#[inline(always)]
pub(super) fn find(set: &FlowSet, tag: u64) -> Option<usize> {
    if set.tags[0].load() == tag {
        Some(0)
    } else if set.tags[1].load() == tag {
        Some(1)
    } else if set.tags[2].load() == tag {
        Some(2)
    } else if set.tags[3].load() == tag {
        Some(3)
    } else {
        None
    }
}

/// Looks the flow up; whether it is in the cache and can go on as it is. Fills in `way`, `word` and `entry`.
#[inline(never)]
pub(super) fn look_up<S: Store>(store: &S, work: &mut Work) -> bool {
    work.entry = Entry::NEW;
    let (Some(set), Some(cold)) = (store.flow_set(work.set_index), store.cold_set(work.set_index)) else {
        return false;
    };
    let Some(way) = find(set, work.tag) else { return false };
    let way = way & (WAYS - 1);
    let word = Word(set.words[way].load());
    work.way = way as u32;
    work.word = word.0;
    if matches!(word.state(), State::Empty | State::Locked) {
        return false;
    }
    // A SYN on a flow that was settled or carried payload: the ports are in use again, and the old verdict must not be
    // inherited. A repeated first SYN is no restart.
    let progress = Progress::from_bits(cold.flows[way].progress.load());
    let used = word.state() == State::Settled || (progress.inspected_lower | progress.inspected_higher) != 0;
    if work.headers.opens_connection() && used {
        work.entry = Entry::RESTARTED;
        return false;
    }
    work.entry = Entry::KNOWN;
    true
}

/// How willingly a way is given up: 0 never, otherwise the higher the better.
#[inline(always)]
fn willingness(word: Word, now_s: u64) -> u32 {
    let age = age_s(word, now_s);
    let p2p = word.protocol_number() > Protocol::Fragment as u8;
    match word.state() {
        State::Empty => FREE,
        State::Locked => 0,
        State::Inspecting | State::Settled if age < FRESH_SECONDS => 0,
        // A verdict is being written: the way is as good as locked.
        State::Inspecting if word.protocol_number() != 0 => 0,
        State::Inspecting | State::Settled if age >= IDLE_SECONDS => (2 - u32::from(p2p)) * IDLE + u32::from(age),
        State::Inspecting | State::Settled if p2p => 0,
        State::Inspecting | State::Settled => u32::from(age),
    }
}

/// Seconds since the flow's latest packet.
#[inline(always)]
pub(super) fn age_s(word: Word, now_s: u64) -> u16 {
    let age = (now_s as u16).wrapping_sub(word.second());
    if age >= CLOCK_SKEW_AGE { 0 } else { age }
}

/// Willingness of an empty way.
const FREE: u32 = u32::MAX;
/// Willingness of an idle flow is at least this; ages have 16 bits.
const IDLE: u32 = 0x10_0000;

/// Chooses a way for the packet's new flow; `false` (and a counted event) when the set has none to give.
#[inline(never)]
pub(super) fn choose<S: Store>(store: &S, work: &mut Work) -> bool {
    if work.entry == Entry::RESTARTED {
        store.count_event(Event::FlowRestarted);
        return true;
    }
    let Some(set) = store.flow_set(work.set_index) else { return false };
    if find(set, work.tag).is_some() {
        // Another CPU is making or ending this very flow.
        store.count_event(Event::FlowBusy);
        return false;
    }
    let mut best = 0;
    let mut way = 0;
    while way < WAYS {
        let word = Word(set.words[way].load());
        let value = willingness(word, work.now_s);
        if value > best {
            best = value;
            work.way = way as u32;
            work.word = word.0;
        }
        way += 1;
    }
    if best == 0 {
        store.count_event(Event::FlowRefused);
        return false;
    }
    store.count_event(Event::FlowNew);
    if best != FREE {
        store.count_event(if best >= IDLE { Event::EvictedIdle } else { Event::EvictedUnclassified });
    }
    true
}

/// Takes the chosen way over for the packet's flow: locks it, folds what it counted, and writes the new flow.
///
/// `false` when another CPU was first, with the way or with the flow.
#[inline(never)]
pub(super) fn take<S: Store>(store: &S, settings: &Settings, work: &mut Work) -> bool {
    let way = work.way as usize & (WAYS - 1);
    let (Some(set), Some(cold)) = (store.flow_set(work.set_index), store.cold_set(work.set_index)) else {
        return false;
    };
    let cell = &set.words[way];
    let word = Word(work.word);
    if !cell.replace(word.0, Word::LOCKED.0) {
        store.count_event(Event::FlowBusy);
        return false;
    }
    let cold = &cold.flows[way];
    if word.state() != State::Empty {
        account::end_flow(store, set, cold, way, word, work.now_s);
    }
    cold.generation.add(1);
    cold.memo.store(0);
    cold.progress.store(Progress::default().to_bits());
    let lower = subscribers::slot(store, settings, work, 0, NONE);
    let higher = subscribers::slot(store, settings, work, 1, NONE);
    cold.slots.store(pack_slots(lower, higher));
    // A full barrier: of two CPUs that enter the same flow at once, at least one sees the other's tag and gives way.
    set.tags[way].swap(work.tag);
    let mut seen = 0;
    let mut other = 0;
    while other < WAYS {
        seen += u32::from(set.tags[other].load() == work.tag);
        other += 1;
    }
    if seen > 1 {
        set.tags[way].store(0);
        cell.store(Word::EMPTY.0);
        store.count_event(Event::FlowBusy);
        return false;
    }
    let which = subscribers::which(work);
    let fresh = Word::inspecting(work.now_s as u16, work.is_from_lower(), which, work.interface as u16);
    cell.swap(fresh.0);
    true
}
