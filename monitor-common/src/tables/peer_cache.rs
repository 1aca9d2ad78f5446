//! Peer cache: endpoints and subscribers learned from earlier flows, in a bounded set-associative table with ageing.
//!
//! Each entry is stored under a keyed hash ([`Key`]) of what it is about:
//! * an endpoint (address and port) that spoke a protocol, or a subscriber block that did;
//! * an endpoint to which a server referred one subscriber;
//! * with the heuristic tier on, the remote endpoints to which a subscriber opened MSE-like connections.
//!
//! `engine/learn.rs` decides who may teach what, `engine/associate.rs` what follows.
//!
//! An entry expires [`PEER_SECONDS`] after it was last learned. A full set evicts expired entries first, then referred
//! endpoints, then remote ones, then subscribers' own, the oldest first. Nothing here is a counter, so an eviction
//! loses no count.
//!
//! Each subscriber may teach a [`share`] of the cache for each protocol. What it teaches beyond that is evicted first,
//! so of what others taught one entry of a set is lost at most.

use super::age_21_s;
use crate::{
    abi::{
        key::{Address, Seed, absorb},
        limits::{
            OWN_ENDPOINTS_LEAST, OWN_ENDPOINTS_PART, PEER_SECONDS, REMOTE_ENDPOINTS_LEAST, REMOTE_ENDPOINTS_PART,
            SHARE_PERIOD_BITS, WAYS,
        },
    },
    bpf::{
        branchless::{bound, neg},
        shared_u64::SharedU64,
    },
};

/// Four entries: one cache line.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct PeerSet {
    /// [`tag`] of each entry; 0 when the way was never used.
    pub tags: [SharedU64; WAYS],
    /// [`PeerEntry`] of each.
    pub entries: [SharedU64; WAYS],
}

const _: () = assert!(core::mem::size_of::<PeerSet>() == 64);

/// One entry. Bits 0..16 and 27..32: second in which it was last learned; 16..24: protocol; 24: a subscriber's own; 25:
/// in use; 26: being written. Bits 32..64 are a subscriber's bitmap of remote endpoints ([`Key::MseCandidate`]), or how
/// many endpoints it taught, its own and remote ones in 16 bits each ([`Key::Subscriber`]); bit 32 of other entries:
/// only referred.
///
/// The 21-bit seconds wrap after 24 days; the drain clears expired entries long before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerEntry(pub u64);

const OWN: u64 = 1 << 24;
const USED: u64 = 1 << 25;
const WRITING: u64 = 1 << 26;
const REFERRED: u64 = 1 << 32;

impl PeerEntry {
    /// An unused entry.
    pub const EMPTY: Self = Self(0);

    /// An entry for a protocol, learned at `now_s`; `own` for a subscriber's own endpoints and for subscribers.
    #[inline(always)]
    #[must_use]
    pub const fn new(protocol: u8, own: bool, now_s: u64) -> Self {
        let second = (now_s & 0xffff) | (now_s >> 16 & 0x1f) << 27;
        Self(second | (protocol as u64) << 16 | if own { OWN } else { 0 } | USED)
    }

    /// The entry marked as only referred, or as beyond its subscriber's share.
    #[inline(always)]
    #[must_use]
    pub const fn referred(self) -> Self {
        Self(self.0 | REFERRED)
    }

    /// [`Self::referred`] if so, without a branch, which would double the verifier's work.
    #[inline(always)]
    #[must_use]
    pub const fn referred_if(self, referred: bool) -> Self {
        Self(self.0 | (REFERRED * referred as u64))
    }

    /// Whether the entry is evicted before others: it is only referred, or beyond its subscriber's share.
    #[inline(always)]
    #[must_use]
    pub const fn is_referred(self) -> bool {
        self.0 & REFERRED != 0
    }

    /// The entry with a bitmap of remote endpoints.
    #[inline(always)]
    #[must_use]
    pub const fn with_endpoints(self, endpoints: u32) -> Self {
        Self((self.0 & 0xffff_ffff) | (endpoints as u64) << 32)
    }

    /// A subscriber's entry with the counts of what it taught, from the entry held so far. A new period begins at zero.
    #[inline(always)]
    #[must_use]
    pub const fn with_counts_of(self, held: Self) -> Self {
        let other_period = (self.second() ^ held.second()) >> SHARE_PERIOD_BITS != 0;
        let counts = (held.0 & !0xffff_ffff) * (held.is_used() & !other_period) as u64;
        Self(self.0 & 0xffff_ffff | counts)
    }

    /// A subscriber's entry after it taught one more endpoint, its own or a remote one; `None` if its share of
    /// `share` endpoints is used up.
    #[inline(always)]
    #[must_use]
    pub const fn after_endpoint(self, own: bool, share: u32) -> Option<Self> {
        let shift = if own { 32 } else { 48 };
        let count = (self.0 >> shift) as u32 & 0xffff;
        if self.is_used() && count < share { Some(Self(self.0 + (1 << shift))) } else { None }
    }

    /// Whether the entry is in use.
    #[inline(always)]
    #[must_use]
    pub const fn is_used(self) -> bool {
        self.0 & USED != 0
    }

    /// Protocol number of the entry.
    #[inline(always)]
    #[must_use]
    pub const fn protocol_number(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// Bitmap of remote endpoints.
    #[inline(always)]
    #[must_use]
    pub const fn endpoints(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Low 21 bits of the second in which the entry was last learned.
    #[inline(always)]
    const fn second(self) -> u32 {
        (self.0 & 0xffff) as u32 | ((self.0 >> 27) as u32 & 0x1f) << 16
    }

    /// Seconds since the entry was last learned.
    #[inline(always)]
    #[must_use]
    pub fn age_s(self, now_s: u64) -> u32 {
        age_21_s(now_s, self.second())
    }

    /// Whether the entry is in use and has not expired.
    #[inline(always)]
    #[must_use]
    pub fn is_current(self, now_s: u64) -> bool {
        self.is_used() && self.age_s(now_s) < PEER_SECONDS as u32
    }

    /// Priority for eviction; 0 for never. Without a branch, see [`PeerSet::insert`].
    #[inline(always)]
    fn eviction_priority(self, now_s: u64) -> u64 {
        let age = u64::from(self.age_s(now_s));
        let lasts = neg(age.wrapping_add(neg(u64::from(PEER_SECONDS))) >> 63);
        let kept = self.0 >> 24 & 7 | 8 & !lasts | self.0 >> 28 & 16;
        let least = u64::from(EVICTION_PRIORITY[bound::<{ EVICTION_PRIORITY.len() - 1 }>(kept as usize)]);
        (least + age) & neg(1 ^ self.0 >> 26 & 1)
    }
}

/// Base priority for eviction, by bits 24 to 26 of the entry, then expired, then only referred. The age of 21 bits is
/// added.
static EVICTION_PRIORITY: [u32; 32] = {
    let (own, used, expired, referred) = (1, 2, 8, 16);
    let mut table = [0; 32];
    let mut kept = 0;
    while kept < table.len() {
        table[kept] = if kept & used == 0 {
            0xa0_0000
        } else if kept & expired != 0 {
            EXPIRED
        } else if kept & own != 0 {
            1
        } else if kept & referred != 0 {
            0x60_0000
        } else {
            0x40_0000
        };
        kept += 1;
    }
    table
};

/// Least priority of entries that have expired or were never used.
const EXPIRED: u32 = 0x80_0000;
/// The kinds of keys; the rest of a key is hashed with the kind.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Key {
    /// An address and a port.
    Endpoint = 1 << 40,
    /// A subscriber's block, its length, and a protocol number.
    Subscriber = 2 << 40,
    /// A subscriber's block and its length.
    MseCandidate = 3 << 40,
    /// A subscriber's block and its length, for requests; the tag takes the place of the tunnel in those of
    /// [`Self::Referred`].
    Requester = 4 << 40,
    /// An address and a port to which a server referred one subscriber.
    Referred = 5 << 40,
}

/// The tag of an entry: a keyed 64-bit hash, never 0. `tunnel` is the digest of the outer addresses, 0 outside tunnels.
#[inline(always)]
#[must_use]
pub fn tag(seed: &Seed, kind: Key, address: Address, detail: u64, tunnel: u64) -> u64 {
    let mut hash = absorb(seed.mask, address.high, seed);
    hash = absorb(hash, address.low, seed);
    hash = absorb(hash, tunnel, seed);
    hash = absorb(hash, kind as u64 | detail, seed);
    // Without a branch, which would double the verifier's work from here on.
    hash | (1 ^ (hash | neg(hash)) >> 63)
}

/// Endpoints that one subscriber may teach for one protocol in a period of `1 << SHARE_PERIOD_BITS` seconds: its own,
/// or remote ones. `mask` is that of the sets.
#[inline(always)]
#[must_use]
pub const fn share(mask: u64, own: bool) -> u32 {
    let entries = (mask + 1) * WAYS as u64;
    let (part, least) =
        if own { (OWN_ENDPOINTS_PART, OWN_ENDPOINTS_LEAST) } else { (REMOTE_ENDPOINTS_PART, REMOTE_ENDPOINTS_LEAST) };
    let share = entries / part;
    if share < least {
        least as u32
    } else if share > 0xffff {
        0xffff
    } else {
        share as u32
    }
}

/// The set of a tag, for a power-of-two number of sets.
#[inline(always)]
#[must_use]
pub const fn set_index(tag: u64, mask: u64) -> u32 {
    ((tag >> 32) & mask) as u32
}

impl PeerSet {
    /// The entry of a tag, unless it has expired.
    #[inline(always)]
    #[must_use]
    pub fn find(&self, tag: u64, now_s: u64) -> PeerEntry {
        let mut way = 0;
        while way < WAYS {
            if self.tags[way].load() == tag {
                let known = PeerEntry(self.entries[way].load());
                // The way may have been taken between the two loads.
                let same = self.tags[way].load() == tag;
                return if same && known.is_current(now_s) { known } else { PeerEntry::EMPTY };
            }
            way += 1;
        }
        PeerEntry::EMPTY
    }

    /// Takes one endpoint, own or remote, from the share of a subscriber; `false` if the share is used up, or the
    /// subscriber has no entry.
    #[inline(always)]
    #[must_use]
    pub fn take_share(&self, tag: u64, own: bool, share: u32) -> bool {
        let mut way = 0;
        while way < WAYS {
            if self.tags[way].load() == tag {
                let held = PeerEntry(self.entries[way].load());
                // If another CPU was first, one endpoint is not counted.
                return held
                    .after_endpoint(own, share)
                    .map(|entry| self.entries[way].replace(held.0, entry.0))
                    .is_some();
            }
            way += 1;
        }
        false
    }

    /// Inserts the entry of a tag, or refreshes it.
    ///
    /// The ways are compared without branches: otherwise the verifier would walk all that follows once for each way and
    /// each reason to choose it.
    #[inline(always)]
    pub fn insert(&self, tag: u64, known: PeerEntry, now_s: u64) -> Inserted {
        // Each priority has the way in its low bits, counted from the last one: of two equal ones, the first wins.
        let (mut best, mut found, mut held) = (0, 0, 0);
        let mut way = 0;
        while way < WAYS {
            let number = (WAYS - 1 - way) as u64;
            let word = self.entries[way].load();
            let priority = PeerEntry(word).eviction_priority(now_s) << 2 | number;
            let more = priority.wrapping_add(neg(best));
            best = best.wrapping_add(more & !neg(more >> 63));
            let difference = self.tags[way].load() ^ tag;
            let differs = neg((difference | neg(difference)) >> 63 | (1 ^ word >> 25 & 1));
            found = found & differs | (WAYS as u64 | number) & !differs;
            held = held & differs | word & !differs;
            // Keeps the compiler from unrolling the loop, whose values would not fit the registers.
            way = bound::<{ 2 * WAYS - 1 }>(way + 1);
        }
        if found != 0 {
            // Another CPU may refresh it at the same time; its word is equally good.
            self.entries[(WAYS - 1) ^ bound::<{ WAYS - 1 }>(found as usize)].replace(held, known.0);
            return Inserted::Refreshed;
        }
        let chosen = (WAYS - 1) ^ bound::<{ WAYS - 1 }>(best as usize);
        let held = self.entries[chosen].load();
        if best < WAYS as u64 || !self.entries[chosen].replace(held, WRITING) {
            return Inserted::Busy;
        }
        self.tags[chosen].swap(tag);
        self.entries[chosen].store(known.0);
        if best >> 2 < u64::from(EXPIRED) { Inserted::Evicted } else { Inserted::New }
    }
}

/// The outcome of [`PeerSet::insert`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// The tag had an entry, which is refreshed.
    Refreshed,
    /// A free or expired way was taken.
    New,
    /// An entry that had not expired was evicted.
    Evicted,
    /// Another CPU was writing the set; the next packet tries again.
    Busy,
}

#[cfg(test)]
mod tests {
    use super::*;

    const REMOTE_PEER: PeerEntry = PeerEntry::new(2, false, 100);
    const OWN_PEER: PeerEntry = PeerEntry::new(2, true, 100);

    #[test]
    fn what_was_taught_is_known_until_it_expires() {
        let set = PeerSet::default();
        assert_eq!(set.find(7, 100), PeerEntry::EMPTY);
        assert_eq!(set.insert(7, OWN_PEER, 100), Inserted::New);
        assert_eq!(set.find(7, 100), OWN_PEER);
        assert_eq!(set.find(8, 100), PeerEntry::EMPTY);
        let last = 100 + u64::from(PEER_SECONDS) - 1;
        assert!(set.find(7, last).is_used());
        assert!(!set.find(7, last + 1).is_used());
        assert_eq!(set.insert(7, PeerEntry::new(2, true, last), last), Inserted::Refreshed);
        assert!(set.find(7, last + 1).is_used());
        assert!(!set.find(7, last + 65_536).is_used(), "sixteen bits of seconds are not enough");
    }

    #[test]
    fn a_full_set_gives_up_the_oldest_remote_endpoint_first() {
        let set = PeerSet::default();
        for (tag, own, second) in [(1, true, 10), (2, false, 30), (3, false, 20), (4, true, 15)] {
            assert_eq!(set.insert(tag, PeerEntry::new(2, own, second), second), Inserted::New);
        }
        let referred = PeerSet::default();
        for (tag, known) in [(1, REMOTE_PEER), (2, REMOTE_PEER.referred()), (3, REMOTE_PEER), (4, OWN_PEER)] {
            assert_eq!(referred.insert(tag, known, 100), Inserted::New);
        }
        assert_eq!(referred.insert(5, OWN_PEER, 200), Inserted::Evicted);
        assert!(
            !referred.find(2, 200).is_used() && referred.find(1, 200).is_used(),
            "one that was only named goes first"
        );
        assert_eq!(set.insert(5, PeerEntry::new(2, true, 40), 40), Inserted::Evicted);
        assert!(!set.find(3, 40).is_used() && set.find(2, 40).is_used());
        assert_eq!(set.insert(6, PeerEntry::new(2, true, 41), 41), Inserted::Evicted);
        assert!(!set.find(2, 41).is_used());
        assert_eq!(
            set.insert(7, PeerEntry::new(2, true, 42), 42),
            Inserted::Evicted,
            "now the oldest of a subscriber's own"
        );
        assert!(!set.find(1, 42).is_used() && set.find(4, 42).is_used());
    }

    #[test]
    fn a_subscriber_has_a_share_of_own_and_one_of_remote_endpoints() {
        let mask = (1 << 16) - 1;
        assert_eq!((share(mask, true), share(mask, false)), (32, 4096));
        assert_eq!((share(0, true), share(0, false), share(u64::from(u32::MAX), false)), (8, 16, 0xffff));
        let mut entry = PeerEntry::new(2, true, 2_048);
        for _ in 0..3 {
            entry = entry.after_endpoint(true, 3).expect("room");
        }
        assert_eq!(entry.after_endpoint(true, 3), None);
        assert!(entry.after_endpoint(false, 3).is_some(), "remote ones are another share");
        assert_eq!(PeerEntry::EMPTY.after_endpoint(true, 3), None, "who has no entry has no share");
        let refreshed = |now_s| PeerEntry::new(2, true, now_s).with_counts_of(entry);
        assert_eq!(refreshed(4_095).after_endpoint(true, 3), None, "the same period");
        assert!(refreshed(4_096).after_endpoint(true, 3).is_some(), "the next one");
        assert_eq!(PeerEntry::new(2, true, 9).with_counts_of(PeerEntry::EMPTY), PeerEntry::new(2, true, 9));
        assert_eq!((refreshed(4_095).protocol_number(), refreshed(4_095).age_s(4_100)), (2, 5));
    }

    #[test]
    fn an_entry_being_written_is_left_alone() {
        let set = PeerSet::default();
        for word in &set.entries {
            word.store(WRITING);
        }
        assert_eq!(set.insert(1, REMOTE_PEER, 100), Inserted::Busy);
    }

    #[test]
    fn tags_differ_in_every_part() {
        let seed = Seed::from_random([1, 2, 3]);
        let address = Address::v4(0x0a00_0001);
        let first = tag(&seed, Key::Endpoint, address, 6881, 0);
        assert_ne!(first, tag(&seed, Key::Endpoint, address, 6882, 0));
        assert_ne!(first, tag(&seed, Key::Subscriber, address, 6881, 0));
        assert_ne!(first, tag(&seed, Key::Endpoint, Address::v4(0x0a00_0002), 6881, 0));
        assert_ne!(first, tag(&seed, Key::Endpoint, address, 6881, 1));
        assert_ne!(first, tag(&Seed::from_random([1, 2, 5]), Key::Endpoint, address, 6881, 0));
    }
}
