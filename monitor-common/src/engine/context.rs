//! What the steps of the slow path hand to each other, in per-CPU memory.
#![expect(unsafe_code, reason = "volatile stores: the BPF target must not call memset")]

use super::Place;
use crate::{
    abi::{
        key::{Address, Seed},
        limits::FIRST_PEER_PORT,
        outcome::PacketOutcome,
        settings::Settings,
        watch::ContentHash,
    },
    dissect::peer_list::PeerListReader,
    parse::{FastHeaders, Headers, ip_protocol, payload::Payload},
    tables::maps::Maps,
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

/// What is to be done with a packet once it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Task(pub(super) u32);

impl Task {
    /// Nothing.
    pub(super) const NONE: Self = Self(0);
    /// The flow has no verdict: look into the payload.
    pub(super) const INSPECT: Self = Self(1);
    /// The flow has a verdict: look who spoke the protocol, and learn.
    pub(super) const LEARN: Self = Self(2);
    /// The flow ended as unclassified some time ago: compare it with the peer cache again.
    pub(super) const ASSOCIATE: Self = Self(3);
}

/// One packet on its way through the slow path.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PacketContext {
    pub(super) headers: Headers,
    /// What the seed of the packet's realm differs by ([`Seed::realm_mask`]).
    realm_mask: u64,
    /// The flow's tag.
    pub(super) tag: u64,
    /// Coarse time in seconds.
    pub(super) now_s: u64,
    /// When this CPU looked at the time last, in the kernel's ticks.
    tick: u64,
    /// The word of the way as it was when the way was looked up or chosen.
    pub(super) state: u64,
    /// Subscriber address of the lower endpoint, and of the higher.
    pub(super) ends: [Address; 2],
    /// Their block lengths; [`super::subscribers::NO_POOL`] for no subscriber.
    pub(super) block_lens: [u32; 2],
    /// Keyed hashes of their blocks ([`crate::tables::tally_cache::block_hash`]), for ends that are subscribers.
    pub(super) block_hashes: [u64; 2],
    pub(super) set_index: u32,
    /// [`crate::abi::limits::WAYS`] for a flow that is in no set.
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
    /// What is to be done with the packet once it is counted.
    pub(super) task: Task,
    /// Bits of [`crate::tables::flow_table::evidence`].
    pub(super) evidence: u32,
    /// Port that the payload says its sender listens on, or 0.
    pub(super) named_port: u32,
    /// 1 when the packet's payload is certainly of the flow's protocol.
    pub(super) spoke: u32,
    /// 1 when a certain payload is one that its sender's stream may begin with.
    pub(super) begins: u32,
    /// 1 when the payload is the first of its direction that was looked into.
    pub(super) first: u32,
    /// 1 when the payload is kept for the next one of its direction.
    pub(super) hold: u32,
    /// 1 when the inspection has ended, or there is something to learn.
    pub(super) ended: u32,
    /// 1 when no more payloads of the flow are looked into.
    pub(super) exhausted: u32,
    /// 1 when the packet has a subscriber's address and came in on a core interface: it may be forged.
    pub(super) forged: u32,
    /// 1 when the packet's headers are in the work.
    pub(super) walked: u32,
    /// Realm of the packet's addresses.
    pub(super) realm: u32,
    /// How much is known of its subscribers (`subscribers.rs`).
    pub(super) lookup_stage: u32,
    /// TCP sequence number (upper half) and acknowledgement number of the packet, where they were read.
    pub(super) numbers: u64,
    /// Tag of the subscriber whose question the packet answers.
    pub(super) requester: u64,
    /// What the payload asks, and the sources that it names.
    pub(super) sources: PeerListReader,
    /// The content that the payload names; zero in every depth but `watchlist`, and as soon as it was compared.
    pub(super) content: ContentHash,
}

impl PacketContext {
    /// Before any packet.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            headers: Headers::EMPTY,
            realm_mask: 0,
            tag: 0,
            now_s: 0,
            tick: 0,
            state: 0,
            ends: [Address { high: 0, low: 0 }; 2],
            block_lens: [0; 2],
            block_hashes: [0; 2],
            set_index: 0,
            way: 0,
            from_lower: 0,
            interface: 0,
            entry: Entry::KNOWN,
            protocol: 0,
            confidence: 0,
            task: Task::NONE,
            evidence: 0,
            named_port: 0,
            spoke: 0,
            begins: 0,
            first: 0,
            hold: 0,
            ended: 0,
            exhausted: 0,
            forged: 0,
            walked: 0,
            realm: 0,
            lookup_stage: 0,
            numbers: 0,
            requester: 0,
            sources: PeerListReader::NONE,
            content: ContentHash([0; 3]),
        }
    }

    /// Takes up a packet whose flow was looked for.
    #[inline(always)]
    pub(super) fn found(&mut self, fast: &FastHeaders, place: Place, settings: &Settings, realm: u32) -> bool {
        self.walked = 0;
        self.lookup_stage = 0;
        (self.realm, self.realm_mask) = (realm, settings.seed.realm_mask(realm));
        self.tag = fast.tag;
        self.from_lower = fast.from_lower() as u32;
        self.set_index = place.set_index(fast.tag, settings.set_mask);
        self.way = place.way();
        true
    }

    /// Notes that the packet's headers are in the work.
    #[inline(always)]
    pub(super) fn has_headers(&mut self) -> bool {
        self.walked = 1;
        true
    }

    /// The seed of the packet's realm, by which all is found that is kept of its flow and its subscribers.
    #[inline(always)]
    pub(super) fn seed(&self, settings: &Settings) -> Seed {
        settings.seed.of_realm(self.realm_mask)
    }

    /// Begins the slow path of the packet whose headers are in the work.
    #[inline(never)]
    pub(super) fn begin<M: Maps>(&mut self, maps: &M, settings: &Settings, interface: u16) -> bool {
        self.interface = u32::from(interface);
        self.now_s = maps.now_s(settings, &mut self.tick);
        self.entry = Entry::KNOWN;
        self.task = Task::NONE;
        // Nothing of an earlier packet may be taken for this one's.
        self.content.clear();
        for field in [
            &mut self.evidence,
            &mut self.named_port,
            &mut self.spoke,
            &mut self.begins,
            &mut self.first,
            &mut self.hold,
            &mut self.exhausted,
            &mut self.sources.requests,
        ] {
            // SAFETY: as in `ContentHash::clear`, and for the same reason.
            unsafe { core::ptr::from_mut(field).write_volatile(0) };
        }
        true
    }

    /// Port of one end (0 lower, 1 higher).
    #[inline(always)]
    pub(super) fn port(&self, end: usize) -> u16 {
        if (end == 0) == self.is_from_lower() { self.headers.source_port } else { self.headers.destination_port }
    }

    /// Address of one end, as its packets inside any tunnel have it.
    #[inline(always)]
    pub(super) fn address(&self, end: usize) -> Address {
        if (end == 0) == self.is_from_lower() { self.headers.source } else { self.headers.destination }
    }

    /// Whether the flow is TCP.
    #[inline(always)]
    pub(super) fn is_tcp(&self) -> bool {
        self.headers.protocol == ip_protocol::TCP
    }

    /// Whether the flow is TCP, as 1 or 0: not UDP, of what is looked into. TCP's number (6) has bit 0 clear, UDP's (17) set.
    #[inline(always)]
    pub(super) fn tcp_bit(&self) -> u64 {
        u64::from(!self.headers.protocol & 1)
    }

    /// Whether what peers do can be known by its endpoints: TCP or UDP between ports that no service has by default.
    #[inline(always)]
    pub(super) fn has_peer_ports(&self) -> bool {
        (self.is_tcp() | (self.headers.protocol == ip_protocol::UDP))
            & (self.headers.source_port >= FIRST_PEER_PORT)
            & (self.headers.destination_port >= FIRST_PEER_PORT)
    }

    #[inline(always)]
    pub(super) fn is_from_lower(&self) -> bool {
        self.from_lower != 0
    }

    #[inline(always)]
    pub(super) fn outcome(&self, protocol: u8, confidence: u8) -> PacketOutcome {
        PacketOutcome::flow(self.entry.0, protocol, confidence)
    }
}

/// Scratch memory of one CPU.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Scratch {
    /// The payload being looked into.
    pub payload: Payload,
    /// See [`PacketContext`].
    pub ctx: PacketContext,
}

impl Scratch {
    /// Before any packet.
    #[must_use]
    pub const fn empty() -> Self {
        Self { payload: Payload::empty(), ctx: PacketContext::empty() }
    }
}
