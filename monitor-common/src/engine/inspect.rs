//! Looking into a flow's first payload packets, and settling it.

use super::{Passage, account, subscribers, verdict_of};
use crate::{
    classify::classify,
    flow::{Progress, State, Word, pack_slots, unpack},
    limits::{INSPECTED_PER_DIRECTION, PENDING_PACKETS, WAYS},
    packet::Packet,
    payload::{FlowState, Transport},
    protocol::Verdict,
    store::{Inspection, Store},
    walk::ip_protocol,
};

/// Inspects a counted packet if its flow is still under inspection; answers the flow's verdict so far.
#[inline(always)]
pub(super) fn packet<P: Packet, S: Store>(packet: &P, store: &S, passage: &Passage<'_>, way: usize) -> Verdict {
    let word = Word(passage.set.words[way & (WAYS - 1)].load());
    if word.state() != State::Inspecting || word.protocol_number() != 0 {
        return verdict_of(word);
    }
    let Some(verdict) = look(packet, store, passage, way) else { return Verdict::UNCLASSIFIED };
    settle(store, passage, way, verdict);
    verdict
}

/// The final verdict of the flow, if this packet brings one.
#[inline(always)]
fn look<P: Packet, S: Store>(packet: &P, store: &S, passage: &Passage<'_>, way: usize) -> Option<Verdict> {
    let headers = passage.headers;
    if headers.fragment != 0 {
        return Some(Verdict::FRAGMENT);
    }
    let transport = match headers.protocol {
        ip_protocol::TCP => Transport::Tcp,
        ip_protocol::UDP => Transport::Udp,
        _ => return Some(Verdict::UNCLASSIFIED),
    };
    if passage.settings.inspection == Inspection::Headers as u64 {
        return Some(Verdict::UNCLASSIFIED);
    }
    if headers.payload_len == 0 {
        let counters = &passage.set.counters;
        let index = super::counter_index(way, passage.from_lower);
        // Acknowledgements only: no use waiting for a payload for ever.
        return (unpack(counters[index].load()).0 >= PENDING_PACKETS).then_some(Verdict::UNCLASSIFIED);
    }
    let cold = &passage.cold.flows[way & (WAYS - 1)];
    let mut progress = Progress::from_bits(cold.progress.load());
    let mut state = FlowState { memo: cold.memo.load(), marks: progress.marks, reserved: 0 };
    let found = store.with_payload(|payload| {
        payload.len = headers.payload_len;
        payload.source_port = headers.source_port;
        payload.destination_port = headers.destination_port;
        payload.from_lower = u32::from(passage.from_lower);
        packet.copy_payload(headers.payload_offset as usize, payload);
        classify(transport, payload, &mut state)
    });
    if let Some(Some(verdict)) = found {
        return Some(verdict);
    }
    let inspected = if passage.from_lower {
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
fn settle<S: Store>(store: &S, passage: &Passage<'_>, way: usize, verdict: Verdict) {
    let way = way & (WAYS - 1);
    let cell = &passage.set.words[way & (WAYS - 1)];
    let word = Word(cell.load());
    if word.state() != State::Inspecting || word.protocol_number() != 0 {
        return;
    }
    let cold = &passage.cold.flows[way];
    if verdict.protocol != crate::protocol::Protocol::Unclassified {
        if !cell.replace(word.0, word.claimed_by(verdict).0) {
            return;
        }
        let Some(ends) = subscribers::locate(store, passage.headers) else { return };
        cold.slots.store(pack_slots(
            ends.slot(store, passage.settings, true, verdict),
            ends.slot(store, passage.settings, false, verdict),
        ));
    }
    account::publish(store, cell, cold, verdict);
}
