//! Reassembly buffers: the first bytes of a TCP direction, held until its next segment.
//!
//! A signature may be split over the first segments of a stream. Few flows need a buffer, and each only for a moment,
//! so the table is small. The two directions of a flow use adjacent slots at an index from the flow's tag. Another flow
//! with that index overwrites them, which is counted (`reassembly_evicted`).
//!
//! A slot is used only by the flow direction that wrote it, for the segment with the next expected sequence number,
//! within [`HOLD_SECONDS`]. It is zeroed as soon as it is used or its flow settles, and otherwise by the agent's next
//! drain, or without an agent by the program's own [`Sweep`]. `dissect/hold_rules.rs` decides which bytes may be held.

use super::age_s;
use crate::{
    abi::limits::{HELD_BYTES, HOLD_SECONDS, REASSEMBLY_SLOTS, SWEPT_SLOTS},
    bpf::{branchless::neg, shared_u64::SharedU64},
    parse::payload::Payload,
};

/// Words of held bytes.
const WORDS: usize = HELD_BYTES / 8;

/// Held bytes of one direction of one flow: two adjacent cache lines.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct ReassemblySlot {
    /// [`tag`] of the direction; meaningless while `word` is 0.
    tag: SharedU64,
    /// 0 while unused. Bits 0..16: second in which it was written; 16..23: bytes held; 23: being written; 24..31: bytes
    /// of the stream that they stand for; 32..64: next expected sequence number.
    word: SharedU64,
    /// The bytes in memory order, then zeros.
    bytes: [SharedU64; WORDS],
}

const _: () = assert!(core::mem::size_of::<ReassemblySlot>() == 128);
const _: () =
    assert!(HELD_BYTES < 1 << 7 && REASSEMBLY_SLOTS.is_power_of_two() && REASSEMBLY_SLOTS.is_multiple_of(SWEPT_SLOTS));

const WRITING: u64 = 1 << 23;

/// Index of a direction's slot. `from_lower` is 1 or 0.
#[inline(always)]
#[must_use]
pub const fn index(flow_tag: u64, from_lower: u32) -> u32 {
    // The lowest bit of every flow's tag is 1.
    (flow_tag as u32 ^ (from_lower & 1)) & (REASSEMBLY_SLOTS - 1)
}

/// The tag of a direction.
#[inline(always)]
#[must_use]
pub const fn tag(flow_tag: u64, from_lower: u32) -> u64 {
    flow_tag ^ (from_lower & 1) as u64
}

/// How a segment relates to the bytes held for its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuation {
    /// The segment continues the held bytes, which are in the payload's window now.
    Continues,
    /// The segment repeats the held bytes and has more: it starts the direction itself.
    Replaces,
    /// The segment is a retransmission or follows a gap: the slot stays.
    OutOfOrder,
    /// The held bytes are gone.
    Missing,
}

impl ReassemblySlot {
    /// Whether bytes are held, or were and are not zeroed yet.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.word.load() != 0
    }

    /// Relates the segment of `len` bytes at `sequence` to the held bytes, and zeroes them unless they may still be
    /// needed.
    #[inline(always)]
    pub fn resume(&self, tag: u64, sequence: u32, len: u32, now_s: u64, payload: &mut Payload) -> Continuation {
        let word = self.word.load();
        if word == 0 || word & WRITING != 0 || self.tag.load() != tag {
            return Continuation::Missing;
        }
        let next = (word >> 32) as u32;
        let stands_for = (word >> 24) as u32 & 0x7f;
        let continues = sequence == next;
        let replaces = sequence == next.wrapping_sub(stands_for) && len > stands_for;
        let current = age_s(now_s, word as u16) < HOLD_SECONDS;
        if current && !(continues || replaces) {
            return Continuation::OutOfOrder;
        }
        if !self.word.replace(word, WRITING) {
            return Continuation::Missing;
        }
        // From here on only this CPU touches the slot. Another flow may have taken it before.
        let mine = self.tag.load() == tag;
        if mine && current && continues {
            payload.prepend_held(&self.bytes);
            payload.captured = (word >> 16) as u32 & 0x7f;
        }
        self.clear();
        match (mine && current, continues) {
            (false, _) => Continuation::Missing,
            (true, true) => Continuation::Continues,
            (true, false) => Continuation::Replaces,
        }
    }

    /// Holds the first `count` bytes of a payload, 8 or all of them; the stream goes on at `next`.
    ///
    /// Returns whether bytes were lost: another direction's were evicted, or another CPU was writing the slot, so these
    /// are not held.
    #[inline(always)]
    pub fn hold(&self, tag: u64, next: u32, count: u32, now_s: u64, payload: &Payload) -> bool {
        let word = self.word.load();
        if word & WRITING != 0 || !self.word.replace(word, WRITING) {
            // Another CPU writes this slot; this direction's bytes are not held.
            return true;
        }
        let overwritten = word != 0 && age_s(now_s, word as u16) < HOLD_SECONDS && self.tag.load() != tag;
        self.tag.store(tag);
        // All ones when more than a word is held. Without a branch, which would double the verifier's work.
        let rest = neg(8u64.wrapping_sub(u64::from(count)) >> 63);
        self.bytes[0].store(payload.counted_word(0));
        let mut index = 1;
        while index < WORDS {
            self.bytes[index].store(payload.counted_word(index) & rest);
            index += 1;
        }
        let stands_for = u64::from(payload.len & 0x7f);
        let lengths = u64::from(count & 0x7f) << 16 | stands_for << 24;
        self.word.swap(u64::from(next) << 32 | lengths | (now_s & 0xffff));
        overwritten
    }

    /// Zeroes the slot if it belongs to this direction.
    #[inline(always)]
    pub fn release(&self, tag: u64) {
        let word = self.word.load();
        if word != 0 && word & WRITING == 0 && self.tag.load() == tag && self.word.replace(word, WRITING) {
            self.clear();
        }
    }

    /// Zeroes the slot if it has expired; returns whether it is in use.
    ///
    /// The 16-bit seconds wrap after 18 hours: a slot that nobody zeroed for so long may be kept for five seconds more.
    #[inline(always)]
    pub fn expire(&self, now_s: u64) -> bool {
        let word = self.word.load();
        let out_of_date = word != 0 && word & WRITING == 0 && age_s(now_s, word as u16) >= HOLD_SECONDS;
        if out_of_date && self.word.replace(word, WRITING) {
            self.clear();
        }
        word != 0 && !out_of_date
    }

    /// Zeroes the slot, which the caller has marked as being written.
    #[inline(always)]
    fn clear(&self) {
        let mut index = 0;
        while index < WORDS {
            self.bytes[index].store(0);
            index += 1;
        }
        self.tag.store(0);
        self.word.swap(0);
    }
}

/// A CPU's way through the slots: it zeroes those that have expired, a few at a time, so that no agent is needed.
///
/// Time moves with the kernel's ticks, so the cost is bounded however many packets there are. A CPU that inspects
/// packets at each tick has seen every slot after `REASSEMBLY_SLOTS / SWEPT_SLOTS` ticks: two seconds of 250 ticks.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Sweep {
    /// The reading of the clock at which this CPU went on last.
    at_ns: u64,
    /// The next slot, counted on without end.
    next: u32,
    _padding: u32,
}

impl Sweep {
    /// Before any packet.
    #[must_use]
    pub const fn new() -> Self {
        Self { at_ns: 0, next: 0, _padding: 0 }
    }

    /// The first of the [`SWEPT_SLOTS`] slots to look at now; `None` if the clock has not moved.
    #[inline(always)]
    pub fn step(&mut self, now_ns: u64) -> Option<u32> {
        if self.at_ns == now_ns {
            return None;
        }
        self.at_ns = now_ns;
        let first = self.next;
        self.next = first.wrapping_add(SWEPT_SLOTS);
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: u64 = 0x1234_5678_9abc_def0;

    fn payload(bytes: &[u8]) -> Payload {
        Payload::from_bytes(bytes, 50_000, 80, true)
    }

    /// A slot that holds these bytes, with 1000 as the next sequence number.
    fn held(bytes: &[u8]) -> ReassemblySlot {
        let entry = ReassemblySlot::default();
        assert!(!entry.hold(TAG, 1000, bytes.len() as u32, 100, &payload(bytes)));
        entry
    }

    /// The outcome for a segment, and the bytes in front of it.
    fn resume(entry: &ReassemblySlot, tag: u64, sequence: u32, len: u32, now_s: u64) -> (Continuation, Vec<u8>) {
        let mut payload = Payload::empty();
        let next = entry.resume(tag, sequence, len, now_s, &mut payload);
        (next, payload.window[..payload.captured as usize].to_vec())
    }

    fn is_zero(entry: &ReassemblySlot) -> bool {
        entry.word.load() | entry.tag.load() | entry.bytes.iter().map(SharedU64::load).fold(0, |a, b| a | b) == 0
    }

    #[test]
    fn what_continues_gets_the_bytes_once() {
        for len in 1..=HELD_BYTES {
            let bytes: Vec<u8> = (1..=len as u8).collect();
            let entry = held(&bytes);
            assert_eq!(resume(&entry, TAG, 1000, 5, 104), (Continuation::Continues, bytes));
            assert!(is_zero(&entry));
            assert_eq!(resume(&entry, TAG, 1000, 5, 104), (Continuation::Missing, vec![]));
        }
    }

    #[test]
    fn nobody_else_and_nothing_late_gets_them() {
        let entry = held(b"GNUTELLA");
        assert_eq!(resume(&entry, TAG ^ 1, 1000, 5, 100).0, Continuation::Missing, "the other direction");
        assert_eq!(resume(&entry, TAG, 992, 8, 100).0, Continuation::OutOfOrder, "a retransmission");
        assert_eq!(resume(&entry, TAG, 999, 1, 100).0, Continuation::OutOfOrder, "a keepalive probe");
        assert_eq!(resume(&entry, TAG, 1001, 5, 100).0, Continuation::OutOfOrder, "a gap");
        assert_eq!(resume(&entry, TAG, 1000, 5, 99).0, Continuation::Continues, "a clock that is behind");
        let entry = held(b"GNUTELLA");
        assert_eq!(resume(&entry, TAG, 992, 9, 100), (Continuation::Replaces, vec![]), "sent anew, and more");
        assert!(is_zero(&entry));
        let entry = held(b"GNUTELLA");
        assert_eq!(resume(&entry, TAG, 1000, 5, 100 + u64::from(HOLD_SECONDS)), (Continuation::Missing, vec![]));
        assert!(is_zero(&entry), "too late");
    }

    #[test]
    fn a_part_may_stand_for_the_whole() {
        let entry = ReassemblySlot::default();
        assert!(!entry.hold(TAG, 1000, 8, 100, &payload(b"$MyNick someone")));
        assert_eq!(resume(&entry, TAG, 985, 15, 100).0, Continuation::OutOfOrder, "the whole again");
        assert_eq!(resume(&entry, TAG, 1000, 1, 100), (Continuation::Continues, b"$MyNick ".to_vec()));
    }

    #[test]
    fn another_direction_overwrites_and_says_so() {
        let entry = held(b"GNUTELLA");
        assert!(entry.hold(TAG + 2, 5, 4, 101, &payload(b"HEAD")));
        assert_eq!(resume(&entry, TAG, 1000, 5, 101).0, Continuation::Missing);
        assert_eq!(resume(&entry, TAG + 2, 5, 5, 101), (Continuation::Continues, b"HEAD".to_vec()));
        let entry = held(b"GNUTELLA");
        assert!(!entry.hold(TAG + 2, 5, 4, 100 + u64::from(HOLD_SECONDS), &payload(b"HEAD")), "out of date");
        assert!(!entry.hold(TAG + 2, 6, 5, 106, &payload(b"HEAD ")), "its own");
    }

    #[test]
    fn what_is_not_used_is_zeroed() {
        let entry = held(b"GNUTELLA");
        entry.release(TAG ^ 1);
        assert!(entry.expire(104));
        entry.release(TAG);
        assert!(is_zero(&entry));
        let entry = held(b"GNUTELLA");
        assert!(!entry.expire(105));
        assert!(is_zero(&entry));
    }

    #[test]
    fn directions_lie_side_by_side() {
        assert_eq!(index(TAG | 1, 0), index(TAG | 1, 1) + 1);
        assert_ne!(tag(TAG, 0), tag(TAG, 1));
        assert!(index(u64::MAX, 0) < REASSEMBLY_SLOTS);
    }
}
