//! Finding, claiming and replacing flows in a set.

use super::{Passage, account, subscribers::Ends};
use crate::{
    flow::{ColdSet, FlowSet, Progress, State, Word, pack_slots},
    limits::{IDLE_SECONDS, WAYS},
    protocol::{Protocol, Verdict},
    store::{Event, Store},
};

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

/// Whether the flow was settled or had payload looked into: then a SYN is a new connection, not a repeated first packet.
#[inline(always)]
pub(super) fn has_payload_history(cold: &ColdSet, way: usize, word: Word) -> bool {
    let progress = Progress::from_bits(cold.flows[way & (WAYS - 1)].progress.load());
    word.state() == State::Settled || progress.inspected_lower | progress.inspected_higher != 0
}

/// How willingly a way is given up: 0 never, otherwise the higher the better.
#[inline(always)]
fn willingness(word: Word, now_s: u64) -> u32 {
    let age = u32::from((now_s as u16).wrapping_sub(word.second()));
    let idle = age >= u32::from(IDLE_SECONDS);
    match word.state() {
        State::Empty => u32::MAX,
        State::Locked => 0,
        // A verdict is being written: the way is as good as locked.
        State::Inspecting if word.protocol_number() != 0 => 0,
        State::Inspecting | State::Settled if word.protocol_number() <= Protocol::Fragment as u8 => {
            if idle {
                0x0010_0000 + age
            } else {
                1 + age
            }
        }
        State::Inspecting | State::Settled => {
            if idle {
                0x0008_0000 + age
            } else {
                0
            }
        }
    }
}

/// Claims a way for a new flow; `None` (and a counted event) when the set has none to give.
#[inline(always)]
pub(super) fn claim<S: Store>(store: &S, passage: &Passage<'_>, ends: &Ends) -> Option<usize> {
    let mut best = 0;
    let mut best_way = 0;
    let mut best_word = Word::EMPTY;
    let mut way = 0;
    while way < WAYS {
        let word = Word(passage.set.words[way & (WAYS - 1)].load());
        let value = willingness(word, passage.now_s);
        if value > best {
            best = value;
            best_way = way;
            best_word = word;
        }
        way += 1;
    }
    if best == 0 {
        store.count_event(Event::FlowRefused);
        return None;
    }
    if !take(store, passage, best_way, best_word, ends) {
        store.count_event(Event::FlowBusy);
        return None;
    }
    store.count_event(match best {
        u32::MAX => Event::FlowNew,
        0x0008_0000.. => Event::EvictedIdle,
        _ => Event::EvictedUnclassified,
    });
    if best != u32::MAX {
        store.count_event(Event::FlowNew);
    }
    Some(best_way)
}

/// Takes a way over for the packet's flow: locks it, folds what it counted, and writes the new flow.
///
/// `false` when another CPU was first, with the way or with the flow.
#[inline(never)]
pub(super) fn take<S: Store>(store: &S, passage: &Passage<'_>, way: usize, word: Word, ends: &Ends) -> bool {
    let way = way & (WAYS - 1);
    let cell = &passage.set.words[way & (WAYS - 1)];
    if !cell.replace(word.0, Word::LOCKED.0) {
        return false;
    }
    if word.state() != State::Empty {
        account::end_flow(store, passage, way, word);
    }
    let cold = &passage.cold.flows[way];
    cold.generation.add(1);
    cold.memo.store(0);
    cold.progress.store(Progress::default().to_bits());
    cold.slots.store(pack_slots(
        ends.slot(store, passage.settings, true, Verdict::UNCLASSIFIED),
        ends.slot(store, passage.settings, false, Verdict::UNCLASSIFIED),
    ));
    // A full barrier: of two CPUs that enter the same flow at once, at least one sees the other's tag.
    passage.set.tags[way & (WAYS - 1)].swap(passage.tag);
    let mut twin = false;
    let mut other = 0;
    while other < WAYS {
        twin |= other != way && passage.set.tags[other].load() == passage.tag;
        other += 1;
    }
    if twin {
        passage.set.tags[way & (WAYS - 1)].store(0);
        cell.store(Word::EMPTY.0);
        return false;
    }
    let fresh = Word::inspecting(passage.now_s as u16, passage.from_lower, ends.which(), passage.interface);
    cell.swap(fresh.0);
    true
}
