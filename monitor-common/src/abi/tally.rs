//! Tallies: counters per (subscriber block, protocol, confidence). Contract: `docs/architecture.md#counting`.

use super::{
    key::Address,
    protocol::{CONFIDENCE_SLOTS, PROTOCOL_SLOTS},
    remotes::RemoteSet,
};
use crate::bpf::{branchless::neg, shared_u64::SharedU64};

/// The key of a tally: one subscriber block, one protocol, one confidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TallyKey {
    /// First address of the subscriber's block, network order; IPv4 as `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).
    pub address: [u8; 16],
    /// Realm: separates equal addresses on different lines (VRFs, say); 0 on a node without realms.
    pub realm: u32,
    /// Length of the block in bits, out of 128 (an IPv4 /32 is 128).
    pub prefix_len: u8,
    /// [`crate::abi::protocol::Protocol`] number.
    pub protocol: u8,
    /// [`crate::abi::protocol::Confidence`] number.
    pub confidence: u8,
}

impl TallyKey {
    /// The key of the catch-all tally, which takes what a full table refuses.
    pub const CATCH_ALL: Self = KeyWords::CATCH_ALL.key();
}

/// A [`TallyKey`] as three words: the form the kernel's maps hold, built with aligned 64-bit stores only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct KeyWords {
    /// First half of the block's address, host order.
    pub high: u64,
    /// Second half.
    pub low: u64,
    /// Realm in bits 32..64, block length 24..32, protocol 16..24, confidence 8..16; bit 0 is always set.
    pub meta: u64,
}

impl KeyWords {
    /// The block's address.
    #[must_use]
    pub const fn block(&self) -> Address {
        Address { high: self.high, low: self.low }
    }

    /// The block's length in bits, out of 128.
    #[must_use]
    pub const fn block_len(&self) -> u32 {
        (self.meta >> 24) as u32 & 0xff
    }

    /// The block's realm.
    #[must_use]
    pub const fn realm(&self) -> u32 {
        (self.meta >> 32) as u32
    }

    /// The key of a block, protocol and confidence.
    #[inline(always)]
    #[must_use]
    pub const fn new(block: Address, realm: u32, prefix_len: u8, protocol: u8, confidence: u8) -> Self {
        let meta = ((realm as u64) << 32)
            | ((prefix_len as u64) << 24)
            | ((protocol as u64) << 16)
            | ((confidence as u64) << 8)
            | 1;
        Self { high: block.high, low: block.low, meta }
    }

    /// Number of the protocol it counts.
    #[inline(always)]
    #[must_use]
    pub const fn protocol_number(&self) -> u8 {
        (self.meta >> 16) as u8
    }

    /// The key of the catch-all tally, which takes what a full table refuses.
    pub const CATCH_ALL: Self = Self::new(Address { high: 0, low: 0 }, u32::MAX, 0, 0, 0);

    /// The unpacked key.
    const fn key(self) -> TallyKey {
        TallyKey {
            address: Address { high: self.high, low: self.low }.bytes(),
            realm: (self.meta >> 32) as u32,
            prefix_len: (self.meta >> 24) as u8,
            protocol: (self.meta >> 16) as u8,
            confidence: (self.meta >> 8) as u8,
        }
    }
}

impl From<KeyWords> for TallyKey {
    fn from(words: KeyWords) -> Self {
        words.key()
    }
}

/// A tally key where the agent reads it: three words, the last of them written last, 0 while the slot is unused.
#[derive(Debug, Default)]
#[repr(C)]
pub struct SlotKey {
    high: SharedU64,
    low: SharedU64,
    meta: SharedU64,
}

const _: () = assert!(core::mem::size_of::<SlotKey>() == 24);

impl SlotKey {
    /// Last word of a slot that no CPU uses: two CPUs made one tally at once, and this slot lost.
    const WITHDRAWN: u64 = 2;
    /// Bit of the last word while the agent retires the slot: its key cannot be found any more.
    const RETIRING: u64 = 4;

    /// Whether the slot lost against another one of its key, and may be given back.
    #[must_use]
    pub fn is_withdrawn(&self) -> bool {
        self.meta.load() == Self::WITHDRAWN
    }

    /// Whether the agent retires the slot.
    #[must_use]
    pub fn is_retiring(&self) -> bool {
        self.meta.load() & Self::RETIRING != 0
    }

    /// Begins to retire the slot, which is in use.
    pub fn retire(&self) {
        self.meta.or(Self::RETIRING);
    }

    /// Whether no key was written, or the slot was freed.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.meta.load() == 0
    }

    /// Frees the slot for another key.
    pub fn free(&self) {
        self.meta.swap(0);
    }

    /// The key as the map of all slots has it, if the slot is in use.
    #[must_use]
    pub fn words(&self) -> Option<KeyWords> {
        let meta = self.meta.load();
        let words = || KeyWords { high: self.high.load(), low: self.low.load(), meta: meta & !Self::RETIRING };
        (meta & 1 == 1).then(words)
    }

    /// Writes a key, or takes the slot out of use.
    #[inline(always)]
    pub fn write(&self, key: Option<&KeyWords>) {
        let Some(key) = key else {
            self.meta.store(Self::WITHDRAWN);
            return;
        };
        self.high.store(key.high);
        self.low.store(key.low);
        self.meta.swap(key.meta);
    }

    /// A number that two subscriber blocks share by chance only; 0 if the slot is not in use.
    #[inline(always)]
    #[must_use]
    pub fn block_digest(&self) -> u64 {
        // Odd, with bits all over the word: a block's few differing bits change the upper half.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        let meta = self.meta.load();
        // Realm and block length, without protocol and confidence.
        let block = self.high.load() ^ self.low.load().wrapping_mul(SPREAD) ^ (meta >> 24);
        block.wrapping_mul(SPREAD) & neg(meta & 1)
    }

    /// The key, if the slot is in use.
    #[must_use]
    pub fn read(&self) -> Option<TallyKey> {
        self.words().map(TallyKey::from)
    }
}

/// One tally in the mapped array. Counters only grow while the slot has its key; the agent's drain empties the remotes.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Tally {
    /// IP packets the subscriber sent.
    pub packets_up: SharedU64,
    /// IP bytes the subscriber sent.
    pub bytes_up: SharedU64,
    /// IP packets the subscriber received.
    pub packets_down: SharedU64,
    /// IP bytes the subscriber received.
    pub bytes_down: SharedU64,
    /// Flows whose verdict this is.
    pub flows: SharedU64,
    /// Time of the last flush into this tally, coarse monotonic seconds.
    pub last_seen_s: SharedU64,
    /// [`RemoteSet`] of flows that moved since the agent's latest drain, and have ended.
    pub remotes: SharedU64,
}

const _: () = assert!(core::mem::size_of::<Tally>() == 56);

/// The counters of a [`Tally`] as plain numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Flows whose verdict this is.
    pub flows: u64,
    /// IP packets the subscriber sent.
    pub packets_up: u64,
    /// IP bytes the subscriber sent.
    pub bytes_up: u64,
    /// IP packets the subscriber received.
    pub packets_down: u64,
    /// IP bytes the subscriber received.
    pub bytes_down: u64,
}

impl Tally {
    /// A copy of the counters; each is read once, so they may be some packets apart.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            flows: self.flows.load(),
            packets_up: self.packets_up.load(),
            bytes_up: self.bytes_up.load(),
            packets_down: self.packets_down.load(),
            bytes_down: self.bytes_down.load(),
        }
    }

    /// Adds hosts to the remotes.
    #[inline(always)]
    pub fn add_remotes(&self, remotes: RemoteSet) {
        // Nearly always, the bit is set: a load costs less than an atomic operation.
        if self.remotes.load() & remotes.0 != remotes.0 {
            self.remotes.or(remotes.0);
        }
    }

    /// Zeroes a tally that nothing names any more.
    pub fn clear(&self) {
        let counters = [&self.packets_up, &self.bytes_up, &self.packets_down, &self.bytes_down, &self.flows];
        counters.into_iter().chain([&self.last_seen_s, &self.remotes]).for_each(|word| word.store(0));
    }

    /// Takes the remotes out.
    #[must_use]
    pub fn take_remotes(&self) -> RemoteSet {
        RemoteSet(if self.remotes.load() == 0 { 0 } else { self.remotes.swap(0) })
    }
}

/// Node-level counters of one (interface, direction, protocol, confidence), of charged or uncharged traffic. Each
/// packet counts in exactly one of them.
#[derive(Debug, Default)]
#[repr(C)]
pub struct NodeTally {
    /// IP packets.
    pub packets: SharedU64,
    /// IP bytes.
    pub bytes: SharedU64,
    /// Flows whose first packet came in this direction over this interface.
    pub flows: SharedU64,
}

const _: () = assert!(core::mem::size_of::<NodeTally>() == 24);

/// Direction of a packet as the subscriber pools define it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Direction {
    /// From a subscriber to the outside.
    Up = 0,
    /// From the outside to a subscriber.
    Down = 1,
    /// From one subscriber to another: credited to both.
    Local = 2,
    /// Neither end is a subscriber: counted, never inspected.
    Transit = 3,
}

impl Direction {
    /// Every direction, in number order.
    pub const ALL: &'static [Direction] = &[Self::Up, Self::Down, Self::Local, Self::Transit];

    /// The label value used in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Local => "local",
            Self::Transit => "transit",
        }
    }
}

/// Entries of the node table per interface.
pub const NODE_ENTRIES_PER_INTERFACE: usize = Direction::ALL.len() * 2 * CONFIDENCE_SLOTS * PROTOCOL_SLOTS;

/// Index of the node-level tally of an interface number, direction and verdict numbers. `uncharged` is 1 for traffic of
/// subscribers' flows that counts for no subscriber, else 0.
#[inline(always)]
#[must_use]
pub const fn node_index(
    interface_number: u32,
    direction: Direction,
    uncharged: u32,
    protocol: u8,
    confidence: u8,
) -> u32 {
    let place = (interface_number * Direction::ALL.len() as u32 + direction as u32) * 2 + (uncharged & 1);
    (place * CONFIDENCE_SLOTS as u32 + confidence as u32) * PROTOCOL_SLOTS as u32 + protocol as u32
}
