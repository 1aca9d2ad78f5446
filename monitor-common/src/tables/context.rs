//! What the steps of the slow path hand to each other, in per-CPU memory.
#![expect(unsafe_code, reason = "volatile stores: the BPF target must not call memset")]

use crate::{
    abi::{
        key::{Address, Seed},
        limits::FIRST_PEER_PORT,
        outcome::PacketOutcome,
        settings::Settings,
        watch::ContentHash,
    },
    dissect::peer_list::PeerListReader,
    parse::{
        Headers, ip_protocol,
        packet::Packet,
        payload::{Payload, Transport},
    },
    tables::flow_table::FlowState,
};

/// How a packet came to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Entry(pub(crate) u32);

impl Entry {
    pub(crate) const KNOWN: Self = Self(0);
    pub(crate) const NEW: Self = Self(1);
    pub(crate) const RESTARTED: Self = Self(2);
}

/// What is to be done with a packet once it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Task(pub(crate) u32);

impl Task {
    /// Nothing.
    pub(crate) const NONE: Self = Self(0);
    /// The flow has no verdict: look into the payload.
    pub(crate) const INSPECT: Self = Self(1);
    /// The flow has a verdict: look who spoke the protocol, and learn.
    pub(crate) const LEARN: Self = Self(2);
    /// The flow ended as unclassified some time ago: compare it with the peer cache again.
    pub(crate) const ASSOCIATE: Self = Self(3);
}

/// One packet on its way through the slow path.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PacketContext {
    pub(crate) headers: Headers,
    /// What the seed of the packet's realm differs by ([`Seed::realm_mask`]).
    pub(crate) realm_mask: u64,
    /// The flow's tag.
    pub(crate) tag: u64,
    /// Coarse time in seconds.
    pub(crate) now_s: u64,
    /// When this CPU looked at the time last, in the kernel's ticks.
    pub(crate) tick: u64,
    /// The word of the way as it was when the way was looked up or chosen.
    pub(crate) state: u64,
    /// Subscriber address of the lower endpoint, and of the higher.
    pub(crate) ends: [Address; 2],
    /// Their block lengths; [`super::subscribers::NO_POOL`] for no subscriber.
    pub(crate) block_lens: [u32; 2],
    /// Keyed hashes of their blocks ([`crate::tables::tally_cache::block_hash`]), for ends that are subscribers.
    pub(crate) block_hashes: [u64; 2],
    pub(crate) set_index: u32,
    /// [`crate::abi::limits::WAYS`] for a flow that is in no set.
    pub(crate) way: u32,
    /// 1 when the packet came from the lower endpoint.
    pub(crate) from_lower: u32,
    /// Low 16 bits of the interface index.
    pub(crate) interface: u32,
    pub(crate) entry: Entry,
    /// Protocol number of the verdict.
    pub(crate) protocol: u32,
    /// Confidence number of the verdict.
    pub(crate) confidence: u32,
    /// What is to be done with the packet once it is counted.
    pub(crate) task: Task,
    /// Bits of [`crate::tables::flow_table::evidence`].
    pub(crate) evidence: u32,
    /// Port that the payload says its sender listens on, or 0.
    pub(crate) named_port: u32,
    /// 1 when the packet's payload is certainly of the flow's protocol.
    pub(crate) spoke: u32,
    /// 1 when a certain payload is one that its sender's stream may begin with.
    pub(crate) begins: u32,
    /// 1 when the payload is the first of its direction that was looked into.
    pub(crate) first: u32,
    /// 1 when the payload is kept for the next one of its direction.
    pub(crate) hold: u32,
    /// 1 when the inspection has ended, or there is something to learn.
    pub(crate) ended: u32,
    /// 1 when no more payloads of the flow are looked into.
    pub(crate) exhausted: u32,
    /// 1 when the packet has a subscriber's address and came in on a core interface: it may be forged.
    pub(crate) forged: u32,
    /// 1 when the packet's headers are in the work.
    pub(crate) walked: u32,
    /// Realm of the packet's addresses.
    pub(crate) realm: u32,
    /// How much is known of its subscribers (`subscribers.rs`).
    pub(crate) lookup_stage: u32,
    /// TCP sequence number (upper half) and acknowledgement number of the packet, where they were read.
    pub(crate) numbers: u64,
    /// Tag of the subscriber whose question the packet answers.
    pub(crate) requester: u64,
    /// What the payload asks, and the sources that it names.
    pub(crate) sources: PeerListReader,
    /// The content that the payload names; zero in every depth but `watchlist`, and as soon as it was compared.
    pub(crate) content: ContentHash,
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

    /// Notes that the packet's headers are in the work.
    #[inline(always)]
    pub(crate) fn has_headers(&mut self) -> bool {
        self.walked = 1;
        true
    }

    /// The seed of the packet's realm, by which all is found that is kept of its flow and its subscribers.
    #[inline(always)]
    pub(crate) fn seed(&self, settings: &Settings) -> Seed {
        settings.seed.of_realm(self.realm_mask)
    }

    /// Clears what an earlier packet left.
    #[inline(always)]
    pub(crate) fn clear(&mut self) {
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
    }

    /// Port of one end (0 lower, 1 higher).
    #[inline(always)]
    pub(crate) fn port(&self, end: usize) -> u16 {
        if (end == 0) == self.is_from_lower() { self.headers.source_port } else { self.headers.destination_port }
    }

    /// Address of one end, as its packets inside any tunnel have it.
    #[inline(always)]
    pub(crate) fn address(&self, end: usize) -> Address {
        if (end == 0) == self.is_from_lower() { self.headers.source } else { self.headers.destination }
    }

    /// Whether the flow is TCP.
    #[inline(always)]
    pub(crate) fn is_tcp(&self) -> bool {
        self.headers.protocol == ip_protocol::TCP
    }

    /// Whether the flow is TCP, as 1 or 0: not UDP, of what is looked into. TCP's number (6) has bit 0 clear, UDP's (17) set.
    #[inline(always)]
    pub(crate) fn tcp_bit(&self) -> u64 {
        u64::from(!self.headers.protocol & 1)
    }

    /// Whether what peers do can be known by its endpoints: TCP or UDP between ports that no service has by default.
    #[inline(always)]
    pub(crate) fn has_peer_ports(&self) -> bool {
        (self.is_tcp() | (self.headers.protocol == ip_protocol::UDP))
            & (self.headers.source_port >= FIRST_PEER_PORT)
            & (self.headers.destination_port >= FIRST_PEER_PORT)
    }

    /// Transport of the packet, which is TCP or UDP.
    #[inline(always)]
    pub(crate) fn transport(&self) -> Transport {
        if self.is_tcp() { Transport::Tcp } else { Transport::Udp }
    }

    /// Reads the sequence and acknowledgement numbers of the segment.
    #[inline(never)]
    pub(crate) fn read_numbers<P: Packet>(&mut self, packet: &P) {
        let header = self.headers.payload_offset.wrapping_sub(u32::from(self.headers.transport_len));
        // RFC 9293 section 3.1: offsets 4 and 8.
        self.numbers = packet.read::<8>(header as usize + 4).map_or(0, u64::from_be_bytes);
    }

    /// Whether the packet's settled flow without a verdict is due for association again, `state` being that of its latest packet.
    #[inline(always)]
    pub(crate) fn is_due(&self, state: FlowState) -> bool {
        self.has_peer_ports() && state.is_due(self.now_s)
    }

    #[inline(always)]
    pub(crate) fn is_from_lower(&self) -> bool {
        self.from_lower != 0
    }

    #[inline(always)]
    pub(crate) fn outcome(&self, protocol: u8, confidence: u8) -> PacketOutcome {
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
