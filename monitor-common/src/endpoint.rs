//! What is known of endpoints and subscribers from earlier flows: a bounded, ageing, set-associative table.
//!
//! Four kinds of knowledge share it, each under a keyed hash of its own: an *endpoint* (address and port) that spoke a
//! protocol; a *speaker*, the subscriber block that did; an endpoint that a server *named* to one subscriber; and, when the
//! heuristic tier is on, how many remote endpoints a subscriber opened MSE-shaped connections to. `engine/learn.rs` says who may teach what, `engine/associate.rs` what follows.
//!
//! An entry is forgotten [`ENDPOINT_SECONDS`] after it was last taught. A full set gives up what expired, then endpoints that were
//! only named, then remote ones before subscribers' own, the oldest first. Nothing here is a counter, so losing an entry loses no count.

use crate::{
    bpf::{
        branchless::{bound, neg},
        shared_u64::SharedU64,
    },
    key::{Address, Seed, absorb},
    limits::{ENDPOINT_SECONDS, WAYS},
};

/// Four entries: one cache line.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct EndpointSet {
    /// Keyed hash of what is known; 0 when the way was never used.
    pub tags: [SharedU64; WAYS],
    /// [`Known`] of each.
    pub words: [SharedU64; WAYS],
}

const _: () = assert!(core::mem::size_of::<EndpointSet>() == 64);

/// The word of an entry: bits 0..16 and 27..32 second of the latest teaching, 16..24 protocol, 24 a subscriber's own, 25 in use, 26
/// being written, 32..64 a subscriber's bitmap of remote endpoints; for others, bit 32: only named. Seconds of 21 bits come again after 24 days; the drain clears what has
/// expired long before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known(pub u64);

const OWN: u64 = 1 << 24;
const USED: u64 = 1 << 25;
const WRITING: u64 = 1 << 26;
const NAMED: u64 = 1 << 32;

impl Known {
    /// Nothing.
    pub const NOTHING: Self = Self(0);

    /// A protocol, taught at `now_s`; `own` for a subscriber's own endpoints and for subscribers.
    #[inline(always)]
    #[must_use]
    pub const fn new(protocol: u8, own: bool, now_s: u64) -> Self {
        let second = (now_s & 0xffff) | (now_s >> 16 & 0x1f) << 27;
        Self(second | (protocol as u64) << 16 | if own { OWN } else { 0 } | USED)
    }

    /// The same for an endpoint that has only been named.
    #[inline(always)]
    #[must_use]
    pub const fn named(self) -> Self {
        Self(self.0 | NAMED)
    }

    /// The same, with a bitmap.
    #[inline(always)]
    #[must_use]
    pub const fn with_bitmap(self, bitmap: u32) -> Self {
        Self((self.0 & 0xffff_ffff) | (bitmap as u64) << 32)
    }

    /// Whether this is an entry.
    #[inline(always)]
    #[must_use]
    pub const fn is_known(self) -> bool {
        self.0 & USED != 0
    }

    /// Its protocol number.
    #[inline(always)]
    #[must_use]
    pub const fn protocol_number(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// Its bitmap.
    #[inline(always)]
    #[must_use]
    pub const fn bitmap(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Seconds since it was taught.
    #[inline(always)]
    #[must_use]
    pub fn age_s(self, now_s: u64) -> u32 {
        let second = (self.0 & 0xffff) as u32 | ((self.0 >> 27) as u32 & 0x1f) << 16;
        let age = (now_s as u32).wrapping_sub(second) & SECONDS;
        // Clocks of two CPUs may be a moment apart: such an age is none. Adding to it carries into the bit above.
        age & !neg(u64::from(age + CLOCK_SKEW_S) >> SECONDS_BITS) as u32
    }

    /// Whether it is an entry that has not expired.
    #[inline(always)]
    #[must_use]
    pub fn is_current(self, now_s: u64) -> bool {
        self.is_known() && self.age_s(now_s) < ENDPOINT_SECONDS as u32
    }

    /// How willingly it is given up for another: 0 never. Without a branch, as [`EndpointSet::teach`] says.
    #[inline(always)]
    fn willingness(self, now_s: u64) -> u64 {
        let age = u64::from(self.age_s(now_s));
        let lasts = neg(age.wrapping_add(neg(u64::from(ENDPOINT_SECONDS))) >> 63);
        let kept = self.0 >> 24 & 7 | 8 & !lasts | self.0 >> 28 & 16;
        let least = u64::from(WILLINGNESS[bound::<{ WILLINGNESS.len() - 1 }>(kept as usize)]);
        (least + age) & neg(1 ^ self.0 >> 26 & 1)
    }
}

/// The least willingness of what a word says: its bits 24 to 26, then whether it has expired, then whether it was only named. Ages,
/// which are added, have 21 bits.
static WILLINGNESS: [u32; 32] = {
    let (own, used, expired, named) = (1, 2, 8, 16);
    let mut table = [0; 32];
    let mut kept = 0;
    while kept < table.len() {
        table[kept] = if kept & used == 0 {
            0xa0_0000
        } else if kept & expired != 0 {
            EXPIRED
        } else if kept & own != 0 {
            1
        } else if kept & named != 0 {
            0x60_0000
        } else {
            0x40_0000
        };
        kept += 1;
    }
    table
};

/// Willingness of what has expired or was never used is at least this.
const EXPIRED: u32 = 0x80_0000;
/// The bits of a second that a word keeps.
const SECONDS: u32 = (1 << SECONDS_BITS) - 1;
const SECONDS_BITS: u32 = 21;
/// Ages that are no ages but clocks a moment apart.
const CLOCK_SKEW_S: u32 = 16;

/// What an entry is about.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Kind {
    /// An address and a port.
    Endpoint = 1 << 40,
    /// A subscriber's block, its length, and a protocol number.
    Speaker = 2 << 40,
    /// A subscriber's block and its length.
    Suspect = 3 << 40,
    /// The same, as one who asks; its tag stands for the tunnel in those of [`Self::Named`].
    Asker = 4 << 40,
    /// An address and a port, as a server named them to one subscriber.
    Named = 5 << 40,
}

/// The tag of an entry: a keyed 64-bit hash, never 0. `tunnel` is the digest of the outer addresses, 0 outside tunnels.
#[inline(always)]
#[must_use]
pub fn tag(seed: &Seed, kind: Kind, address: Address, detail: u64, tunnel: u64) -> u64 {
    let mut hash = absorb(seed.mask, address.high, seed);
    hash = absorb(hash, address.low, seed);
    hash = absorb(hash, tunnel, seed);
    hash = absorb(hash, kind as u64 | detail, seed);
    // Without a branch, which would double all that the verifier walks behind it.
    hash | (1 ^ (hash | neg(hash)) >> 63)
}

/// The set of a tag, for a power-of-two number of sets.
#[inline(always)]
#[must_use]
pub const fn set_index(tag: u64, mask: u64) -> u32 {
    ((tag >> 32) & mask) as u32
}

impl EndpointSet {
    /// What is known under a tag and has not expired.
    #[inline(always)]
    #[must_use]
    pub fn find(&self, tag: u64, now_s: u64) -> Known {
        let mut way = 0;
        while way < WAYS {
            if self.tags[way].load() == tag {
                let known = Known(self.words[way].load());
                // The entry may have been given away between the two loads.
                let same = self.tags[way].load() == tag;
                return if same && known.is_current(now_s) { known } else { Known::NOTHING };
            }
            way += 1;
        }
        Known::NOTHING
    }

    /// Enters what is known under a tag, or refreshes it.
    ///
    /// The ways are compared without branches: the verifier would walk all that follows for each way and each reason to take it.
    #[inline(always)]
    pub fn teach(&self, tag: u64, known: Known, now_s: u64) -> Taught {
        // Each with the way in its low bits, counted from the last one: of two alike, the first is taken.
        let (mut best, mut found, mut held) = (0, 0, 0);
        let mut way = 0;
        while way < WAYS {
            let number = (WAYS - 1 - way) as u64;
            let word = self.words[way].load();
            let willing = Known(word).willingness(now_s) << 2 | number;
            let more = willing.wrapping_add(neg(best));
            best = best.wrapping_add(more & !neg(more >> 63));
            let difference = self.tags[way].load() ^ tag;
            let differs = neg((difference | neg(difference)) >> 63 | (1 ^ word >> 25 & 1));
            found = found & differs | (WAYS as u64 | number) & !differs;
            held = held & differs | word & !differs;
            // Keeps the compiler from unrolling the loop, whose values would not fit the registers.
            way = bound::<{ 2 * WAYS - 1 }>(way + 1);
        }
        if found != 0 {
            // Another CPU may refresh it at once: then its word is as good.
            self.words[(WAYS - 1) ^ bound::<{ WAYS - 1 }>(found as usize)].replace(held, known.0);
            return Taught::Refreshed;
        }
        let chosen = (WAYS - 1) ^ bound::<{ WAYS - 1 }>(best as usize);
        let held = self.words[chosen].load();
        if best < WAYS as u64 || !self.words[chosen].replace(held, WRITING) {
            return Taught::Missed;
        }
        self.tags[chosen].swap(tag);
        self.words[chosen].store(known.0);
        if best >> 2 < u64::from(EXPIRED) { Taught::Evicted } else { Taught::Entered }
    }
}

/// What became of a teaching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taught {
    /// It was known.
    Refreshed,
    /// It took a free or expired entry.
    Entered,
    /// It took the entry of something that had not expired.
    Evicted,
    /// Another CPU was writing the same set; the next packet teaches again.
    Missed,
}

#[cfg(test)]
mod tests {
    use super::*;

    const REMOTE_PEER: Known = Known::new(2, false, 100);
    const OWN_PEER: Known = Known::new(2, true, 100);

    #[test]
    fn what_was_taught_is_known_until_it_expires() {
        let set = EndpointSet::default();
        assert_eq!(set.find(7, 100), Known::NOTHING);
        assert_eq!(set.teach(7, OWN_PEER, 100), Taught::Entered);
        assert_eq!(set.find(7, 100), OWN_PEER);
        assert_eq!(set.find(8, 100), Known::NOTHING);
        let last = 100 + u64::from(ENDPOINT_SECONDS) - 1;
        assert!(set.find(7, last).is_known());
        assert!(!set.find(7, last + 1).is_known());
        assert_eq!(set.teach(7, Known::new(2, true, last), last), Taught::Refreshed);
        assert!(set.find(7, last + 1).is_known());
        assert!(!set.find(7, last + 65_536).is_known(), "sixteen bits of seconds are not enough");
    }

    #[test]
    fn a_full_set_gives_up_the_oldest_remote_endpoint_first() {
        let set = EndpointSet::default();
        for (tag, own, second) in [(1, true, 10), (2, false, 30), (3, false, 20), (4, true, 15)] {
            assert_eq!(set.teach(tag, Known::new(2, own, second), second), Taught::Entered);
        }
        let named = EndpointSet::default();
        for (tag, known) in [(1, REMOTE_PEER), (2, REMOTE_PEER.named()), (3, REMOTE_PEER), (4, OWN_PEER)] {
            assert_eq!(named.teach(tag, known, 100), Taught::Entered);
        }
        assert_eq!(named.teach(5, OWN_PEER, 200), Taught::Evicted);
        assert!(!named.find(2, 200).is_known() && named.find(1, 200).is_known(), "one that was only named goes first");
        assert_eq!(set.teach(5, Known::new(2, true, 40), 40), Taught::Evicted);
        assert!(!set.find(3, 40).is_known() && set.find(2, 40).is_known());
        assert_eq!(set.teach(6, Known::new(2, true, 41), 41), Taught::Evicted);
        assert!(!set.find(2, 41).is_known());
        assert_eq!(set.teach(7, Known::new(2, true, 42), 42), Taught::Evicted, "now the oldest of a subscriber's own");
        assert!(!set.find(1, 42).is_known() && set.find(4, 42).is_known());
    }

    #[test]
    fn an_entry_being_written_is_left_alone() {
        let set = EndpointSet::default();
        for word in &set.words {
            word.store(WRITING);
        }
        assert_eq!(set.teach(1, REMOTE_PEER, 100), Taught::Missed);
    }

    #[test]
    fn tags_differ_in_every_part() {
        let seed = Seed::from_random([1, 2, 3]);
        let address = Address::v4(0x0a00_0001);
        let first = tag(&seed, Kind::Endpoint, address, 6881, 0);
        assert_ne!(first, tag(&seed, Kind::Endpoint, address, 6882, 0));
        assert_ne!(first, tag(&seed, Kind::Speaker, address, 6881, 0));
        assert_ne!(first, tag(&seed, Kind::Endpoint, Address::v4(0x0a00_0002), 6881, 0));
        assert_ne!(first, tag(&seed, Kind::Endpoint, address, 6881, 1));
        assert_ne!(first, tag(&Seed::from_random([1, 2, 5]), Kind::Endpoint, address, 6881, 0));
    }
}
