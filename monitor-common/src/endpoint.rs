//! What is known of endpoints and subscribers from earlier flows: a bounded, ageing, set-associative table.
//!
//! Three kinds of knowledge share it, each under a keyed hash of its own: an *endpoint* (address and port) that spoke a
//! protocol; a *speaker*, the subscriber block that did; and, when the heuristic tier is on, how many remote endpoints a
//! subscriber opened MSE-shaped connections to. `engine/learn.rs` says who may teach what, `engine/associate.rs` what follows.
//!
//! An entry is forgotten [`ENDPOINT_SECONDS`] after it was last taught. A full set gives up what expired, then remote
//! endpoints before subscribers' own, the oldest first. Nothing here is a counter, so losing an entry loses no count.

use crate::{
    cell::Cell,
    key::{Address, Seed, absorb},
    limits::{ENDPOINT_SECONDS, WAYS},
};

/// Four entries: one cache line.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct EndpointSet {
    /// Keyed hash of what is known; 0 when the way was never used.
    pub tags: [Cell; WAYS],
    /// [`Known`] of each.
    pub words: [Cell; WAYS],
}

const _: () = assert!(core::mem::size_of::<EndpointSet>() == 64);

/// The word of an entry: bits 0..16 and 27..32 second of the latest teaching, 16..24 protocol, 24 a subscriber's own, 25 in use, 26
/// being written, 32..64 a bitmap of remote endpoints. Seconds of 21 bits come again after 24 days; the drain clears what has
/// expired long before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known(pub u64);

const OWN: u64 = 1 << 24;
const USED: u64 = 1 << 25;
const WRITING: u64 = 1 << 26;

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
    pub const fn age_s(self, now_s: u64) -> u32 {
        let second = (self.0 & 0xffff) as u32 | ((self.0 >> 27) as u32 & 0x1f) << 16;
        let age = (now_s as u32).wrapping_sub(second) & SECONDS;
        // Clocks of two CPUs may be a moment apart.
        if age >= SECONDS - CLOCK_SKEW_S { 0 } else { age }
    }

    /// Whether it is an entry that has not expired.
    #[inline(always)]
    #[must_use]
    pub const fn is_current(self, now_s: u64) -> bool {
        self.is_known() && self.age_s(now_s) < ENDPOINT_SECONDS as u32
    }

    /// How willingly it is given up for another: 0 never.
    #[inline(always)]
    const fn willingness(self, now_s: u64) -> u32 {
        let age = self.age_s(now_s);
        if self.0 & WRITING != 0 {
            0
        } else if !self.is_known() {
            u32::MAX
        } else if age >= ENDPOINT_SECONDS as u32 {
            EXPIRED + age
        } else if self.0 & OWN == 0 {
            REMOTE + age
        } else {
            1 + age
        }
    }
}

/// Willingness of remote endpoints and of expired entries is at least this; ages have 21 bits.
const REMOTE: u32 = 0x40_0000;
const EXPIRED: u32 = 0x80_0000;
/// The bits of a second that a word keeps.
const SECONDS: u32 = 0x1f_ffff;
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
}

/// The tag of an entry: a keyed 64-bit hash, never 0. `tunnel` is the digest of the outer addresses, 0 outside tunnels.
#[inline(always)]
#[must_use]
pub fn tag(seed: &Seed, kind: Kind, address: Address, detail: u64, tunnel: u64) -> u64 {
    let mut hash = absorb(seed.mask, address.high, seed);
    hash = absorb(hash, address.low, seed);
    hash = absorb(hash, tunnel, seed);
    hash = absorb(hash, kind as u64 | detail, seed);
    if hash == 0 { 1 } else { hash }
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
    #[inline(always)]
    pub fn teach(&self, tag: u64, known: Known, now_s: u64) -> Taught {
        let (mut best, mut chosen) = (0, 0);
        let mut way = 0;
        while way < WAYS {
            let held = Known(self.words[way].load());
            if self.tags[way].load() == tag && held.is_known() {
                // Another CPU may refresh it at once: then its word is as good.
                self.words[way].replace(held.0, known.0);
                return Taught::Refreshed;
            }
            let willingness = held.willingness(now_s);
            if willingness > best {
                (best, chosen) = (willingness, way);
            }
            way += 1;
        }
        let chosen = chosen & (WAYS - 1);
        let held = self.words[chosen].load();
        if best == 0 || !self.words[chosen].replace(held, WRITING) {
            return Taught::Missed;
        }
        self.tags[chosen].swap(tag);
        self.words[chosen].store(known.0);
        if best < EXPIRED { Taught::Evicted } else { Taught::Entered }
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
