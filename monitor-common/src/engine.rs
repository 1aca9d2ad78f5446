//! What happens to one frame: walk, look up, count; and, for a flow's first packets only, inspect.
//!
//! Invariants (design section 3):
//! * each IP packet is counted exactly once at node level, and once per subscriber end;
//! * packets before a verdict stay in their flow's own counters, so they count for the verdict; nothing is ever subtracted;
//! * the path of a settled flow reads one set, adds one counter and touches no clock, pool or tally.

use crate::{
    flow::{ColdSet, FlowSet, State, Word, pack, unpack},
    key::FlowKey,
    limits::{FOLD_PACKETS, WAYS},
    packet::Packet,
    protocol::Verdict,
    store::{Disposition, Event, Settings, Store},
    walk::{Headers, walk},
};

mod account;
mod cache;
mod inspect;
mod subscribers;

pub use account::settle_idle;

/// Counts one frame that came in on the interface with index `interface` (its low 16 bits).
#[inline(always)]
pub fn process<P: Packet, S: Store>(packet: &P, store: &S, settings: &Settings, interface: u16) {
    let headers = match walk(packet) {
        Ok(headers) => headers,
        Err(reason) => {
            store.count_skip(reason);
            store.note(Disposition::Skipped(reason));
            return;
        }
    };
    if !settled(&headers, store, settings, interface) {
        slow(packet, store, settings, interface);
    }
}

/// Counts a packet of a settled flow that needs nothing but its counter; whether this was one.
#[inline(always)]
fn settled<S: Store>(headers: &Headers, store: &S, settings: &Settings, interface: u16) -> bool {
    let (key, from_lower) = headers.flow_key();
    let tag = key.tag(&settings.seed);
    let Some(set) = store.flow_set(FlowKey::set_index(tag, settings.set_mask)) else { return false };
    let way = match cache::find(set, tag) {
        Some(way) => way,
        None => return false,
    };
    let word = Word(set.words[way & (WAYS - 1)].load());
    let counter = &set.counters[counter_index(way, from_lower)];
    if !word.is_current(settings.clock_s.load() as u16, from_lower, interface)
        || headers.opens_connection()
        || unpack(counter.load()).0 >= FOLD_PACKETS
    {
        return false;
    }
    counter.add(pack(1, u64::from(headers.ip_bytes)));
    if let Some(verdict) = word.verdict() {
        store.note(Disposition::Hit(verdict));
    }
    true
}

/// Index of a flow's counter for one direction.
#[inline(always)]
const fn counter_index(way: usize, from_lower: bool) -> usize {
    (2 * way + (!from_lower) as usize) & (2 * WAYS - 1)
}

/// One packet on its way through the slow path.
struct Passage<'a> {
    headers: &'a Headers,
    set: &'a FlowSet,
    cold: &'a ColdSet,
    settings: &'a Settings,
    tag: u64,
    /// Coarse time in seconds.
    now_s: u64,
    /// Low 16 bits of the interface index.
    interface: u16,
    from_lower: bool,
}

/// Everything but a settled flow's ordinary packet. Walks the headers again, so that they need no memory on the fast path.
#[inline(never)]
fn slow<P: Packet, S: Store>(packet: &P, store: &S, settings: &Settings, interface: u16) {
    let Ok(headers) = walk(packet) else { return };
    let (key, from_lower) = headers.flow_key();
    let tag = key.tag(&settings.seed);
    let set_index = FlowKey::set_index(tag, settings.set_mask);
    let (Some(set), Some(cold)) = (store.flow_set(set_index), store.cold_set(set_index)) else {
        store.count_event(Event::Lost);
        return;
    };
    let now_s = store.now_s(settings);
    let passage = Passage { headers: &headers, set, cold, settings, tag, now_s, interface, from_lower };
    let (way, entry) = match enter(store, &passage) {
        Ok(entered) => entered,
        Err(disposition) => {
            store.note(disposition);
            return;
        }
    };
    count(store, &passage, way);
    let verdict = inspect::packet(packet, store, &passage, way);
    store.note(match entry {
        Entry::Known => Disposition::Hit(verdict),
        Entry::New => Disposition::New(verdict),
        Entry::Restarted => Disposition::Restarted(verdict),
    });
}

/// How a packet came to its flow.
#[derive(Clone, Copy)]
enum Entry {
    Known,
    New,
    Restarted,
}

/// The way of the packet's flow, claimed if need be; or how the packet was counted without one.
#[inline(always)]
fn enter<S: Store>(store: &S, passage: &Passage<'_>) -> Result<(usize, Entry), Disposition> {
    if let Some(way) = cache::find(passage.set, passage.tag) {
        let word = Word(passage.set.words[way & (WAYS - 1)].load());
        if matches!(word.state(), State::Empty | State::Locked) {
            store.count_event(Event::FlowBusy);
            return Err(account::direct(store, passage));
        }
        if !(passage.headers.opens_connection() && cache::has_payload_history(passage.cold, way, word)) {
            return Ok((way, Entry::Known));
        }
        // A SYN on a flow that already carried payload: the ports are in use again, the old verdict must not be inherited.
        let Some(ends) = subscribers::locate(store, passage.headers) else {
            return Err(account::transit(store, passage));
        };
        return if cache::take(store, passage, way, word, &ends) {
            store.count_event(Event::FlowRestarted);
            Ok((way, Entry::Restarted))
        } else {
            store.count_event(Event::FlowBusy);
            Err(account::direct(store, passage))
        };
    }
    let Some(ends) = subscribers::locate(store, passage.headers) else {
        return Err(account::transit(store, passage));
    };
    match cache::claim(store, passage, &ends) {
        Some(way) => Ok((way, Entry::New)),
        None => Err(account::direct(store, passage)),
    }
}

/// Adds the packet to its flow's counter; keeps the flow's last-seen second and interface current.
#[inline(always)]
fn count<S: Store>(store: &S, passage: &Passage<'_>, way: usize) {
    let cell = &passage.set.words[way & (WAYS - 1)];
    let word = Word(cell.load());
    if word.state() == State::Settled {
        let counted = unpack(passage.set.counters[counter_index(way, passage.from_lower)].load()).0;
        if counted >= FOLD_PACKETS || word.interface(passage.from_lower) != passage.interface {
            // What was counted so far belongs to the interface it came in on.
            account::fold(store, passage, way, word);
            if counted >= FOLD_PACKETS {
                store.count_event(Event::FoldedOverflow);
            }
        }
    }
    if matches!(word.state(), State::Settled | State::Inspecting) {
        let seen = word.seen(passage.now_s as u16, passage.from_lower, passage.interface);
        if seen != word {
            // Another CPU may have been first: then its word is as good, the next packet tries again.
            cell.replace(word.0, seen.0);
        }
    }
    passage.set.counters[counter_index(way, passage.from_lower)].add(pack(1, u64::from(passage.headers.ip_bytes)));
}

/// The verdict of a way as it is now.
#[inline(always)]
fn verdict_of(word: Word) -> Verdict {
    word.verdict().unwrap_or(Verdict::UNCLASSIFIED)
}
