//! Conversation: what the packets of a flow prove of its ends, in one word of the cold entry.
//!
//! Anybody can send packets to a subscriber, and many can send them in a subscriber's name. A flow is **answered** when
//! there are packets of both sides and a proof that a sender who sees no answers cannot give:
//! * TCP: every subscriber in the flow acknowledged bytes that the other side sent (RFC 9293 section 3.4). A SYN-ACK or
//!   a reset does not count: a host sends them to whoever asks;
//! * UDP: one side repeated a value that the other chose, as rules see it;
//! * all else: three packets each way that alternate.

use crate::abi::limits::{ANSWER_GRACE_SECONDS, ANSWER_SECONDS, ANSWER_TURNS};

/// What a flow's packets prove: flags of [`mark`] in bits 0..27, changes of direction in 27..30, and the second of the
/// first packet in 32..64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversation(pub u64);

/// Flags of a conversation. A pair of flags has the lower endpoint first.
pub mod mark {
    /// The flag of a pair for one end (0 lower, 1 higher), given the lower endpoint's.
    #[inline(always)]
    #[must_use]
    pub const fn of(flag: u64, end: usize) -> u64 {
        flag << (end & 1)
    }

    /// A packet of the lower endpoint came; over TCP, its first sequence number is known.
    pub const SEEN_LOWER: u64 = 1 << 0;
    /// One of the higher endpoint came.
    pub const SEEN_HIGHER: u64 = 1 << 1;
    /// Both came.
    pub const SEEN: u64 = SEEN_LOWER | SEEN_HIGHER;
    /// The lower endpoint acknowledged bytes of the higher one.
    pub const ACKNOWLEDGED_LOWER: u64 = 1 << 2;
    /// The higher endpoint acknowledged bytes of the lower one.
    pub const ACKNOWLEDGED_HIGHER: u64 = 1 << 3;
    /// Both did.
    pub const ACKNOWLEDGED: u64 = ACKNOWLEDGED_LOWER | ACKNOWLEDGED_HIGHER;
    /// The lower endpoint sent a message that is certainly of the flow's protocol, wherever in its stream.
    pub const SAID_LOWER: u64 = 1 << 4;
    /// The higher endpoint did.
    pub const SAID_HIGHER: u64 = 1 << 5;
    /// One of them did.
    pub const SAID: u64 = SAID_LOWER | SAID_HIGHER;
    /// Two such messages came.
    pub const SAID_TWICE: u64 = 1 << 6;
    /// The flow is answered.
    pub const ANSWERED: u64 = 1 << 7;
    /// The flow carried a request that any web page can make a browser send: its verdict charges nobody.
    pub const BROWSER: u64 = 1 << 8;
    /// The flow is in the node-level count of flows.
    pub const COUNTED: u64 = 1 << 9;
    /// The latest packet came from the lower endpoint.
    pub const LAST_FROM_LOWER: u64 = 1 << 10;
    /// The flow is one of TCP.
    pub const TCP: u64 = 1 << 11;
    /// The subscribers are named inside a tunnel for whose ends the operator does not vouch: nobody is charged.
    pub const UNVOUCHED: u64 = 1 << 12;
    /// The lower endpoint's packets came from a core interface, though its address is a subscriber's: it is not
    /// charged.
    pub const FOREIGN_LOWER: u64 = 1 << 13;
    /// The higher endpoint's did.
    pub const FOREIGN_HIGHER: u64 = 1 << 14;
    /// One of them did.
    pub const FOREIGN: u64 = FOREIGN_LOWER | FOREIGN_HIGHER;
    /// TCP: the first packet of the lower endpoint was its SYN, so its stream is seen from its start.
    pub const SYN_LOWER: u64 = 1 << 15;
    /// That of the higher endpoint was.
    pub const SYN_HIGHER: u64 = 1 << 16;
    /// The flow went on after a pause that had ended its inspection. Whoever made the pause chose the moment, so what
    /// comes then is no stream joined midway.
    pub const RESUMED: u64 = 1 << 17;
}

const TURNS_SHIFT: u32 = 27;
const TURNS_MASK: u64 = 7;
const FIRST_SHIFT: u32 = 32;

const _: () = assert!(ANSWER_TURNS <= TURNS_MASK);

impl Conversation {
    /// A flow without packets, whose first packet comes at `now_s`.
    #[inline(always)]
    #[must_use]
    pub const fn new(now_s: u64, tcp: bool) -> Self {
        Self(now_s << FIRST_SHIFT | if tcp { mark::TCP } else { 0 })
    }

    /// Whether any of these flags is set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, marks: u64) -> bool {
        self.0 & marks != 0
    }

    /// Whether all of these flags are set.
    #[inline(always)]
    #[must_use]
    pub const fn has_all(self, marks: u64) -> bool {
        self.0 & marks == marks
    }

    /// The conversation with these flags.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, marks: u64) -> Self {
        Self(self.0 | marks)
    }

    /// The conversation after a packet of one direction, whose change of direction counts; `from_lower` is 1 or 0.
    #[inline(always)]
    #[must_use]
    pub const fn after_packet(self, from_lower: u64) -> Self {
        let turns = self.turns();
        let last = (self.0 / mark::LAST_FROM_LOWER) & 1;
        let turned = (turns == 0) as u64 | (last ^ from_lower);
        let turns = if turns + turned > ANSWER_TURNS { ANSWER_TURNS } else { turns + turned };
        let kept = self.0 & !(TURNS_MASK << TURNS_SHIFT | mark::LAST_FROM_LOWER);
        Self(kept | turns << TURNS_SHIFT | (from_lower * mark::LAST_FROM_LOWER))
    }

    /// The conversation without these flags.
    #[inline(always)]
    #[must_use]
    pub const fn without(self, marks: u64) -> Self {
        Self(self.0 & !marks)
    }

    /// The subscribers among `subscribers` (bit 0 lower, bit 1 higher) that are behind this router.
    #[inline(always)]
    #[must_use]
    pub const fn own(self, subscribers: u64) -> u64 {
        subscribers & !(self.0 / mark::FOREIGN_LOWER)
    }

    /// Changes of direction, the first packet included, up to [`ANSWER_TURNS`].
    #[inline(always)]
    #[must_use]
    pub const fn turns(self) -> u64 {
        self.0 >> TURNS_SHIFT & TURNS_MASK
    }

    /// Whether the packets so far answer the flow; `subscribers` has bit 0 for a lower endpoint that is a subscriber,
    /// and bit 1 for a higher one.
    #[inline(always)]
    #[must_use]
    pub const fn is_proved(self, subscribers: u64) -> bool {
        let proved = if self.has(mark::TCP) {
            let missing = subscribers & !(self.0 / mark::ACKNOWLEDGED_LOWER);
            missing & 3 == 0
        } else {
            self.turns() >= ANSWER_TURNS
        };
        proved & self.has_all(mark::SEEN)
    }

    /// Directions whose packets may still prove something (bit 0 from the lower endpoint, bit 1 from the higher one).
    /// With `midway`, the flow is one of TCP with a certain verdict that was not seen from its start: both sides must
    /// acknowledge.
    #[inline(always)]
    #[must_use]
    pub const fn awaited(self, subscribers: u64, midway: bool) -> u32 {
        if self.has(mark::ANSWERED) {
            let missing = !(self.0 / mark::ACKNOWLEDGED_LOWER) & 3;
            missing as u32 * (midway & self.has(mark::TCP)) as u32
        } else if self.has(mark::TCP) {
            let unseen = !(self.0 / mark::SEEN_LOWER);
            let unproved = subscribers & !(self.0 / mark::ACKNOWLEDGED_LOWER);
            ((unseen | unproved) & 3) as u32
        } else {
            // The other side's turn.
            1 + ((self.0 / mark::LAST_FROM_LOWER) & 1) as u32
        }
    }

    /// Seconds since the first packet; 0 if the clocks of two CPUs are a moment apart.
    #[inline(always)]
    #[must_use]
    pub const fn age_s(self, now_s: u64) -> u32 {
        let age = (now_s as u32).wrapping_sub((self.0 >> FIRST_SHIFT) as u32);
        if age > i32::MAX as u32 { 0 } else { age }
    }

    /// Whether the counts so far no longer wait for an answer.
    #[inline(always)]
    #[must_use]
    pub const fn is_late(self, now_s: u64) -> bool {
        self.age_s(now_s) >= ANSWER_SECONDS as u32
    }

    /// [`Self::is_late`] for a reader of the tables.
    #[must_use]
    pub const fn is_late_for_reader(self, now_s: u64) -> bool {
        self.age_s(now_s) >= (ANSWER_SECONDS + ANSWER_GRACE_SECONDS) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_packets_each_way_must_alternate() {
        let mut conversation = Conversation::new(7, false);
        for _ in 0..20 {
            conversation = conversation.after_packet(1);
        }
        assert_eq!((conversation.turns(), conversation.awaited(1, false)), (1, 2), "one side alone makes one turn");
        conversation = conversation.with(mark::SEEN);
        for (index, from_lower) in [0, 1, 0, 1, 0].into_iter().enumerate() {
            assert!(!conversation.is_proved(1), "after {index} changes");
            conversation = conversation.after_packet(from_lower);
        }
        assert!(conversation.is_proved(1) && conversation.is_proved(3));
        assert_eq!(conversation.age_s(7 + 15), 15);
    }

    #[test]
    fn each_subscriber_of_a_connection_must_acknowledge() {
        let conversation = Conversation::new(0, true).with(mark::SEEN | mark::ACKNOWLEDGED_LOWER);
        assert_eq!([1, 2, 3].map(|ends| conversation.is_proved(ends)), [true, false, false]);
        assert_eq!([1, 2, 3].map(|ends| conversation.awaited(ends, false)), [0, 2, 2]);
        let both = conversation.with(mark::ACKNOWLEDGED_HIGHER);
        assert!(both.is_proved(3));
        let answered = conversation.with(mark::ANSWERED);
        assert_eq!([answered.awaited(1, false), answered.awaited(1, true)], [0, 2], "midway, both acknowledge");
        assert_eq!(both.with(mark::ANSWERED).awaited(1, true), 0);
        assert!(!Conversation::new(0, true).with(mark::SEEN_LOWER | mark::ACKNOWLEDGED).is_proved(1), "one side alone");
        assert_eq!(Conversation::new(0, true).with(mark::SEEN_HIGHER).awaited(2, false), 3);
    }

    #[test]
    fn a_clock_that_wraps_or_is_a_moment_behind_makes_nothing_late() {
        let conversation = Conversation::new(u64::from(u32::MAX), false);
        assert!(!conversation.is_late(u64::from(u32::MAX) - 1));
        assert!(conversation.is_late(u64::from(u32::MAX) + 15));
        assert!(!conversation.is_late_for_reader(u64::from(u32::MAX) + 16));
    }
}
