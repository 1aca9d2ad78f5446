//! Looking into a flow's first payload packets, and settling it.

use super::{Scratch, account, subscribers, work::Work};
use crate::{
    cell::Cell,
    classify::classify,
    flow::{Progress, State, Word, pack_slots, unpack},
    limits::{INSPECTED_PER_DIRECTION, PENDING_PACKETS, WAYS},
    packet::Packet,
    payload::{FlowState, Transport},
    protocol::{Protocol, Verdict},
    store::{Event, Inspection, Settings, Store},
    walk::ip_protocol,
};

/// Looks at the packet; whether it brings the flow's final verdict, which is then in the work.
#[inline(never)]
pub(super) fn look<P: Packet, S: Store>(packet: &P, settings: &Settings, store: &S, scratch: &mut Scratch) -> bool {
    match verdict_of_packet(packet, settings, store, scratch) {
        Some(verdict) => {
            scratch.work.protocol = verdict.protocol as u32;
            scratch.work.confidence = verdict.confidence as u32;
            true
        }
        None => {
            store.note(scratch.work.note(0, 0));
            false
        }
    }
}

#[inline(always)]
fn verdict_of_packet<P: Packet, S: Store>(
    packet: &P,
    settings: &Settings,
    store: &S,
    scratch: &mut Scratch,
) -> Option<Verdict> {
    let work = &scratch.work;
    if work.headers.fragment != 0 {
        return Some(Verdict::FRAGMENT);
    }
    let transport = match work.headers.protocol {
        ip_protocol::TCP => Transport::Tcp,
        ip_protocol::UDP => Transport::Udp,
        _ => return Some(Verdict::UNCLASSIFIED),
    };
    if settings.inspection.load() == Inspection::Headers as u64 {
        return Some(Verdict::UNCLASSIFIED);
    }
    let from_lower = work.from_lower != 0;
    let way = work.way as usize & (WAYS - 1);
    if work.headers.payload_len == 0 {
        let set = store.flow_set(work.set_index)?;
        let counted = unpack(set.counters[super::counter_index(way, from_lower)].load()).0;
        // Acknowledgements only: no use waiting for a payload for ever.
        return (counted >= PENDING_PACKETS).then_some(Verdict::UNCLASSIFIED);
    }
    let cold = store.cold_set(work.set_index)?;
    let cold = &cold.flows[way];
    let mut progress = Progress::from_bits(cold.progress.load());
    let mut state = FlowState { memo: cold.memo.load(), marks: progress.marks, reserved: 0 };
    let payload = &mut scratch.payload;
    payload.len = work.headers.payload_len;
    payload.source_port = work.headers.source_port;
    payload.destination_port = work.headers.destination_port;
    payload.from_lower = work.from_lower;
    packet.copy_payload(work.headers.payload_offset as usize, payload);
    if let Some(verdict) = classify(transport, payload, &mut state) {
        return Some(verdict);
    }
    let inspected = if from_lower {
        progress.inspected_lower += 1;
        progress.inspected_lower
    } else {
        progress.inspected_higher += 1;
        progress.inspected_higher
    };
    if inspected >= INSPECTED_PER_DIRECTION {
        return Some(Verdict::UNCLASSIFIED);
    }
    progress.marks = state.marks;
    cold.memo.store(state.memo);
    cold.progress.store(progress.to_bits());
    None
}

/// Writes a flow's final verdict, once: the first CPU to mark the word wins.
#[inline(never)]
pub(super) fn conclude<S: Store>(store: &S, settings: &Settings, work: &mut Work) -> bool {
    let (protocol, confidence) = (work.protocol as u8, work.confidence as u8);
    let way = work.way as usize & (WAYS - 1);
    let (Some(set), Some(cold)) = (store.flow_set(work.set_index), store.cold_set(work.set_index)) else {
        store.count_event(Event::Lost);
        return false;
    };
    let (cell, cold) = (&set.words[way], &cold.flows[way]);
    store.note(work.note(protocol, confidence));
    let generation = cold.generation.load();
    if protocol != Protocol::Unclassified as u8 {
        if !claim(cell, protocol, confidence) {
            return false;
        }
        // New pools may have been loaded since the flow began; without a subscriber its tallies stay the ones it has.
        if subscribers::locate(store, work) {
            let lower = subscribers::slot(store, settings, work, 0, (protocol, confidence));
            let higher = subscribers::slot(store, settings, work, 1, (protocol, confidence));
            cold.slots.store(pack_slots(lower, higher));
        }
    }
    account::publish(store, cell, cold, generation, (protocol, confidence));
    true
}

/// Marks a flow under inspection with the verdict that this CPU is about to write; whether it may.
#[inline(always)]
fn claim(cell: &Cell, protocol: u8, confidence: u8) -> bool {
    let mut attempt = 0;
    // Another CPU may refresh the last-seen second in between; that must not cost the verdict.
    while attempt < 4 {
        let word = Word(cell.load());
        if word.state() != State::Inspecting || word.protocol_number() != 0 {
            return false;
        }
        if cell.replace(word.0, word.claimed_by(protocol, confidence).0) {
            return true;
        }
        attempt += 1;
    }
    false
}
