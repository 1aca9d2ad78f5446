//! What the steps of the slow path hand to each other, in per-CPU memory.

use crate::{
    key::{Address, FlowKey},
    packet::Packet,
    payload::Payload,
    store::{Note, Settings, Store},
    walk::{self, Headers},
};

/// How a packet came to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Entry(pub(super) u32);

impl Entry {
    pub(super) const KNOWN: Self = Self(0);
    pub(super) const NEW: Self = Self(1);
    pub(super) const RESTARTED: Self = Self(2);
}

/// One packet on its way through the slow path.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Work {
    pub(super) headers: Headers,
    /// The flow's tag.
    pub(super) tag: u64,
    /// Coarse time in seconds.
    pub(super) now_s: u64,
    /// The word of the way as it was when the way was looked up or chosen.
    pub(super) word: u64,
    /// Subscriber address of the lower endpoint, and of the higher.
    pub(super) ends: [Address; 2],
    /// Their block lengths; [`super::subscribers::NO_POOL`] for no subscriber.
    pub(super) block_lens: [u32; 2],
    pub(super) set_index: u32,
    pub(super) way: u32,
    /// 1 when the packet came from the lower endpoint.
    pub(super) from_lower: u32,
    /// Low 16 bits of the interface index.
    pub(super) interface: u32,
    pub(super) entry: Entry,
    /// Protocol number of the verdict.
    pub(super) protocol: u32,
    /// Confidence number of the verdict.
    pub(super) confidence: u32,
    pub(super) reserved: u32,
}

impl Work {
    /// Before any packet.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            headers: Headers::EMPTY,
            tag: 0,
            now_s: 0,
            word: 0,
            ends: [Address { high: 0, low: 0 }; 2],
            block_lens: [0; 2],
            set_index: 0,
            way: 0,
            from_lower: 0,
            interface: 0,
            entry: Entry::KNOWN,
            protocol: 0,
            confidence: 0,
            reserved: 0,
        }
    }

    /// Takes up a packet. It walks the headers again, so that on the fast path they need no memory.
    #[inline(never)]
    pub(super) fn begin<P: Packet, S: Store>(
        &mut self,
        packet: &P,
        store: &S,
        settings: &Settings,
        interface: u16,
    ) -> bool {
        if walk::full(packet, &mut self.headers).is_err() {
            return false;
        }
        let (key, from_lower) = self.headers.flow_key();
        self.tag = key.tag(&settings.seed);
        self.set_index = FlowKey::set_index(self.tag, settings.set_mask);
        self.from_lower = u32::from(from_lower);
        self.interface = u32::from(interface);
        self.now_s = store.now_s(settings);
        self.entry = Entry::KNOWN;
        true
    }

    #[inline(always)]
    pub(super) fn is_from_lower(&self) -> bool {
        self.from_lower != 0
    }

    #[inline(always)]
    pub(super) fn note(&self, protocol: u8, confidence: u8) -> Note {
        Note::flow(self.entry.0, protocol, confidence)
    }
}

/// Scratch memory of one CPU.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Scratch {
    /// The payload being looked into.
    pub payload: Payload,
    /// See [`Work`].
    pub work: Work,
}

impl Scratch {
    /// Before any packet.
    #[must_use]
    pub const fn empty() -> Self {
        Self { payload: Payload::empty(), work: Work::empty() }
    }
}
