//! What the first segments of a TCP stream's direction held, until its next one comes: a signature may be cut over them.
//!
//! A small table of its own, since few flows need it and those for a moment only. The two directions of a flow have entries side
//! by side, at a place that the flow's tag gives; another flow's at the same place is overwritten, and counted
//! (`beginning_overwritten`). What is in an entry is believed only by the flow and direction that wrote it, for the segment that
//! continues it by its sequence number, and for [`HOLD_SECONDS`].
//!
//! Nothing stays: an entry is zeroed as soon as it is used or its flow settles, and by the agent's next drain when neither comes.
//! `dissect/hold_rules.rs` says which bytes may be kept at all.

use crate::{
    bpf::{branchless::neg, shared_u64::SharedU64},
    limits::{BEGINNINGS, HELD_BYTES, HOLD_SECONDS},
    parse::payload::Payload,
};

/// Words of kept bytes.
const WORDS: usize = HELD_BYTES / 8;

/// The kept bytes of one direction of one flow: one entry, two adjacent cache lines.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct Beginning {
    /// [`tag`] of the direction; means nothing while `word` is 0.
    tag: SharedU64,
    /// 0 while unused: bits 0..16 the second in which it was written, 16..23 bytes kept, 23 being written, 24..31 bytes of the stream
    /// that they stand for, 32..64 the sequence number of what comes next.
    word: SharedU64,
    /// The bytes in memory order, zeros behind them.
    bytes: [SharedU64; WORDS],
}

const _: () = assert!(core::mem::size_of::<Beginning>() == 128);
const _: () = assert!(HELD_BYTES < 1 << 7 && BEGINNINGS.is_power_of_two());

const WRITING: u64 = 1 << 23;

/// The place of a direction's entry. `from_lower` is 1 or 0.
#[inline(always)]
#[must_use]
pub const fn index(flow_tag: u64, from_lower: u32) -> u32 {
    // The lowest bit of every flow's tag is 1.
    (flow_tag as u32 ^ (from_lower & 1)) & (BEGINNINGS - 1)
}

/// The tag of a direction.
#[inline(always)]
#[must_use]
pub const fn tag(flow_tag: u64, from_lower: u32) -> u64 {
    flow_tag ^ (from_lower & 1) as u64
}

/// How a segment stands to what was kept of its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It continues what was kept, which is in the payload's window now.
    Continues,
    /// It holds what was kept and more, sent anew: it begins the direction itself.
    Replaces,
    /// It is a retransmission, or there is a gap in front of it: the entry waits.
    Beside,
    /// What was kept is there no longer.
    Lost,
}

impl Beginning {
    /// How the segment of `len` bytes at `sequence` stands to what was kept, which is zeroed when it is of no more use.
    #[inline(always)]
    pub fn take(&self, tag: u64, sequence: u32, len: u32, now_s: u64, payload: &mut Payload) -> Next {
        let word = self.word.load();
        if word == 0 || word & WRITING != 0 || self.tag.load() != tag {
            return Next::Lost;
        }
        let next = (word >> 32) as u32;
        let stands_for = (word >> 24) as u32 & 0x7f;
        let continues = sequence == next;
        let replaces = sequence == next.wrapping_sub(stands_for) && len > stands_for;
        let current = age_s(word, now_s) < HOLD_SECONDS;
        if current && !(continues || replaces) {
            return Next::Beside;
        }
        if !self.word.replace(word, WRITING) {
            return Next::Lost;
        }
        // Nobody else touches the entry from here on. Another flow may have taken it before.
        let mine = self.tag.load() == tag;
        if mine && current && continues {
            payload.begin(&self.bytes);
            payload.captured = (word >> 16) as u32 & 0x7f;
        }
        self.clear();
        match (mine && current, continues) {
            (false, _) => Next::Lost,
            (true, true) => Next::Continues,
            (true, false) => Next::Replaces,
        }
    }

    /// Keeps the first `count` bytes of a payload, 8 or all of them, behind which the stream goes on at `next`; whether another
    /// direction's had to give way.
    #[inline(always)]
    pub fn keep(&self, tag: u64, next: u32, count: u32, now_s: u64, payload: &Payload) -> bool {
        let word = self.word.load();
        if word & WRITING != 0 || !self.word.replace(word, WRITING) {
            // Another CPU is writing here. What it wrote is not found, or what this one would have.
            return true;
        }
        let overwritten = word != 0 && age_s(word, now_s) < HOLD_SECONDS && self.tag.load() != tag;
        self.tag.store(tag);
        // All ones when more than a word is kept; without a branch, which would double what the verifier walks.
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

    /// Zeroes the entry if it is this direction's.
    #[inline(always)]
    pub fn forget(&self, tag: u64) {
        let word = self.word.load();
        if word != 0 && word & WRITING == 0 && self.tag.load() == tag && self.word.replace(word, WRITING) {
            self.clear();
        }
    }

    /// Zeroes the entry if it is out of date; whether it is in use.
    ///
    /// For the drain. Seconds come again after 18 hours; this is done far more often.
    pub fn expire(&self, now_s: u64) -> bool {
        let word = self.word.load();
        let out_of_date = word != 0 && word & WRITING == 0 && age_s(word, now_s) >= HOLD_SECONDS;
        if out_of_date && self.word.replace(word, WRITING) {
            self.clear();
        }
        word != 0 && !out_of_date
    }

    /// Zeroes the entry, which the caller has marked as being written.
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

/// Seconds since an entry was written; clocks of two CPUs a moment apart are none.
#[inline(always)]
const fn age_s(word: u64, now_s: u64) -> u16 {
    let age = (now_s as u16).wrapping_sub(word as u16);
    if age >= crate::limits::CLOCK_SKEW_AGE { 0 } else { age }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: u64 = 0x1234_5678_9abc_def0;

    fn payload(bytes: &[u8]) -> Payload {
        Payload::from_bytes(bytes, 50_000, 80, true)
    }

    /// An entry that keeps these bytes, whose next sequence number is 1000.
    fn kept(bytes: &[u8]) -> Beginning {
        let entry = Beginning::default();
        assert!(!entry.keep(TAG, 1000, bytes.len() as u32, 100, &payload(bytes)));
        entry
    }

    /// What a segment becomes, and how the entry stands to it.
    fn take(entry: &Beginning, tag: u64, sequence: u32, len: u32, now_s: u64) -> (Next, Vec<u8>) {
        let mut payload = Payload::empty();
        let next = entry.take(tag, sequence, len, now_s, &mut payload);
        (next, payload.window[..payload.captured as usize].to_vec())
    }

    fn is_zero(entry: &Beginning) -> bool {
        entry.word.load() | entry.tag.load() | entry.bytes.iter().map(SharedU64::load).fold(0, |a, b| a | b) == 0
    }

    #[test]
    fn what_continues_gets_the_bytes_once() {
        for len in 1..=HELD_BYTES {
            let bytes: Vec<u8> = (1..=len as u8).collect();
            let entry = kept(&bytes);
            assert_eq!(take(&entry, TAG, 1000, 5, 104), (Next::Continues, bytes));
            assert!(is_zero(&entry));
            assert_eq!(take(&entry, TAG, 1000, 5, 104), (Next::Lost, vec![]));
        }
    }

    #[test]
    fn nobody_else_and_nothing_late_gets_them() {
        let entry = kept(b"GNUTELLA");
        assert_eq!(take(&entry, TAG ^ 1, 1000, 5, 100).0, Next::Lost, "the other direction");
        assert_eq!(take(&entry, TAG, 992, 8, 100).0, Next::Beside, "a retransmission");
        assert_eq!(take(&entry, TAG, 999, 1, 100).0, Next::Beside, "a keepalive probe");
        assert_eq!(take(&entry, TAG, 1001, 5, 100).0, Next::Beside, "a gap");
        assert_eq!(take(&entry, TAG, 1000, 5, 99).0, Next::Continues, "a clock that is behind");
        let entry = kept(b"GNUTELLA");
        assert_eq!(take(&entry, TAG, 992, 9, 100), (Next::Replaces, vec![]), "sent anew, and more");
        assert!(is_zero(&entry));
        let entry = kept(b"GNUTELLA");
        assert_eq!(take(&entry, TAG, 1000, 5, 100 + u64::from(HOLD_SECONDS)), (Next::Lost, vec![]));
        assert!(is_zero(&entry), "too late");
    }

    #[test]
    fn a_part_may_stand_for_the_whole() {
        let entry = Beginning::default();
        assert!(!entry.keep(TAG, 1000, 8, 100, &payload(b"$MyNick someone")));
        assert_eq!(take(&entry, TAG, 985, 15, 100).0, Next::Beside, "the whole again");
        assert_eq!(take(&entry, TAG, 1000, 1, 100), (Next::Continues, b"$MyNick ".to_vec()));
    }

    #[test]
    fn another_direction_overwrites_and_says_so() {
        let entry = kept(b"GNUTELLA");
        assert!(entry.keep(TAG + 2, 5, 4, 101, &payload(b"HEAD")));
        assert_eq!(take(&entry, TAG, 1000, 5, 101).0, Next::Lost);
        assert_eq!(take(&entry, TAG + 2, 5, 5, 101), (Next::Continues, b"HEAD".to_vec()));
        let entry = kept(b"GNUTELLA");
        assert!(!entry.keep(TAG + 2, 5, 4, 100 + u64::from(HOLD_SECONDS), &payload(b"HEAD")), "out of date");
        assert!(!entry.keep(TAG + 2, 6, 5, 106, &payload(b"HEAD ")), "its own");
    }

    #[test]
    fn what_is_not_used_is_zeroed() {
        let entry = kept(b"GNUTELLA");
        entry.forget(TAG ^ 1);
        assert!(entry.expire(104));
        entry.forget(TAG);
        assert!(is_zero(&entry));
        let entry = kept(b"GNUTELLA");
        assert!(!entry.expire(105));
        assert!(is_zero(&entry));
    }

    #[test]
    fn directions_lie_side_by_side() {
        assert_eq!(index(TAG | 1, 0), index(TAG | 1, 1) + 1);
        assert_ne!(tag(TAG, 0), tag(TAG, 1));
        assert!(index(u64::MAX, 0) < BEGINNINGS);
    }
}
