//! Context of one packet: what the steps of the slow path hand to each other, in per-CPU memory.
#![expect(unsafe_code, reason = "volatile stores: the BPF target must not call memset")]

use crate::{
    abi::{
        interface::InterfaceEntry,
        key::{Address, Seed},
        limits::FIRST_PEER_PORT,
        outcome::PacketOutcome,
        protocol::Verdict,
        remotes::RemoteNumbers,
        settings::Settings,
        tally::KeyWords,
        watch::ContentHash,
    },
    dissect::peer_list::PeerListReader,
    parse::{
        Headers, ip_protocol,
        payload::{Payload, Transport},
        tcp_flag,
    },
    tables::{flow_table::FlowState, maps::Maps, progress::Progress, reassembly::Sweep, token_bucket::TokenBucket},
};

/// Outcome of the flow table's look-up for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Lookup(pub(crate) u32);

impl Lookup {
    pub(crate) const KNOWN: Self = Self(0);
    pub(crate) const NEW: Self = Self(1);
    pub(crate) const RESTARTED: Self = Self(2);
}

/// The task that remains once a packet is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Task(pub(crate) u32);

impl Task {
    /// Nothing.
    pub(crate) const NONE: Self = Self(0);
    /// The flow has no verdict: inspect the payload.
    pub(crate) const INSPECT: Self = Self(1);
    /// The flow has a verdict: inspect the payload to learn peers.
    pub(crate) const LEARN: Self = Self(2);
    /// The flow ended as unclassified some time ago: associate it again.
    pub(crate) const ASSOCIATE: Self = Self(3);
}

/// A CPU's latest reading of the time, which moves with the kernel's ticks only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CpuClock {
    /// When it was read, in the kernel's ticks.
    pub tick: u64,
    /// The coarse monotonic time, in nanoseconds.
    pub ns: u64,
}

/// The frame: headers, time and interface.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct FrameContext {
    pub(crate) headers: Headers,
    /// Difference of the realm's seed ([`Seed::realm_mask`]).
    pub(crate) realm_mask: u64,
    /// Coarse time in seconds.
    pub(crate) now_s: u64,
    /// When this CPU read the time last.
    pub(crate) clock: CpuClock,
    /// Interface: [`InterfaceEntry::without_realm`].
    pub(crate) interface: u32,
    /// Realm of the packet's addresses.
    pub(crate) realm: u32,
    /// 1 when `headers` is this packet's.
    pub(crate) headers_parsed: u32,
}

/// The flow of the packet, and its verdict.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct FlowContext {
    /// The flow's tag.
    pub(crate) tag: u64,
    /// State of the way ([`crate::tables::flow_table::FlowState`]) when it was looked up or selected.
    pub(crate) state: u64,
    pub(crate) set_index: u32,
    /// [`crate::abi::limits::WAYS`] for a flow that is in no set.
    pub(crate) way: u32,
    /// 1 when the packet came from the lower endpoint.
    pub(crate) from_lower: u32,
    pub(crate) lookup: Lookup,
    /// Protocol number of the verdict.
    pub(crate) protocol: u32,
    /// Confidence number of the verdict.
    pub(crate) confidence: u32,
    /// Number of the rule that gave the verdict with this packet, 0 for none.
    pub(crate) rule: u32,
    pub(crate) task: Task,
    /// 1 when the packet may have shown that a subscriber of the flow takes part.
    pub(crate) charge_due: u32,
    /// Verdict records that the packet brings about (`engine/records.rs`), 0 for none.
    pub(crate) records: u32,
}

/// The subscribers at the ends of the packet, the lower endpoint first.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct SubscriberContext {
    /// Their addresses: the outermost ones that lie in a pool.
    pub(crate) addresses: [Address; 2],
    /// Keyed hashes of their blocks ([`crate::tables::tally_cache::block_hash`]), for ends that are subscribers.
    pub(crate) block_hashes: [u64; 2],
    /// Their block lengths; [`NO_POOL`] for no subscriber.
    pub(crate) block_lens: [u32; 2],
    /// How far the look-up has come (`engine/subscribers.rs`).
    pub(crate) lookup_done: u32,
    /// 1 when the addresses come from inside a tunnel whose outer ends the operator did not name: anybody may have
    /// written them, so nobody is charged.
    pub(crate) unvouched: u32,
}

/// Results of the payload's inspection.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct InspectionContext {
    /// The payload's requests, and the peers that it lists.
    pub(crate) peer_list: PeerListReader,
    /// The content that the payload names; zero in every depth but `watchlist`, and as soon as it was compared.
    pub(crate) content: ContentHash,
    /// Tag of the subscriber whose request the packet answers.
    pub(crate) requester: u64,
    /// Bits of [`crate::tables::progress::evidence`].
    pub(crate) evidence: u32,
    /// Port on which the payload says that its sender listens, or 0.
    pub(crate) listen_port: u32,
    /// 1 when the payload is certainly of the flow's protocol.
    pub(crate) spoke: u32,
    /// 1 when a certain payload may be the start of its sender's stream.
    pub(crate) may_start: u32,
    /// 1 when the payload is the first of its direction that was inspected.
    pub(crate) first: u32,
    /// 1 when the payload is held for the next segment of its direction.
    pub(crate) hold: u32,
    /// 1 when the rules have read the payload, which is in the window.
    pub(crate) classified: u32,
    /// 1 when a rule matched the payload.
    pub(crate) found: u32,
    /// Protocol number of that rule.
    pub(crate) found_protocol: u32,
    /// Confidence number of that rule.
    pub(crate) found_confidence: u32,
    /// 1 when the inspection has ended, or there is something to learn.
    pub(crate) ended: u32,
    /// 1 when no more payloads of the flow are inspected.
    pub(crate) exhausted: u32,
    /// 1 when the packet has the address of a subscriber who is not behind its interface (`engine/spoofing.rs`).
    pub(crate) spoofed: u32,
    /// 1 when the payload costs no budget (`engine/budget.rs`).
    pub(crate) spared: u32,
    /// 1 when the payload is ahead of its stream, so that it tells nothing of the stream's start.
    pub(crate) ahead: u32,
    /// 1 when the packet has no payload that is inspected.
    pub(crate) skipped: u32,
}

impl InspectionContext {
    /// What the payload takes from the budget of its direction.
    #[inline(always)]
    pub(crate) const fn cost(&self) -> u8 {
        1 ^ (self.spared as u8 & 1)
    }
}

/// Context of one packet on the slow path.
///
/// Flags are numbers of 32 bits, 0 or 1: a `bool` in memory makes the compiler mask and branch on every load, and the
/// verifier follows each branch.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PacketContext {
    pub(crate) frame: FrameContext,
    pub(crate) flow: FlowContext,
    pub(crate) subscribers: SubscriberContext,
    pub(crate) inspection: InspectionContext,
}

/// The 64-bit word of [`InspectionContext`] from which on all fields are cleared for each packet.
const EVIDENCE_WORD: usize = core::mem::offset_of!(InspectionContext, evidence) / 8;

const _: () = assert!(core::mem::offset_of!(InspectionContext, evidence).is_multiple_of(8));
const _: () = assert!(size_of::<InspectionContext>().is_multiple_of(8) && align_of::<InspectionContext>() == 8);

/// A block length that no pool has: "no subscriber".
pub(crate) const NO_POOL: u32 = 255;

impl PacketContext {
    /// Before any packet.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            frame: FrameContext {
                headers: Headers::EMPTY,
                realm_mask: 0,
                now_s: 0,
                clock: CpuClock { tick: 0, ns: 0 },
                interface: 0,
                realm: 0,
                headers_parsed: 0,
            },
            flow: FlowContext {
                tag: 0,
                state: 0,
                set_index: 0,
                way: 0,
                from_lower: 0,
                lookup: Lookup::KNOWN,
                protocol: 0,
                confidence: 0,
                rule: 0,
                task: Task::NONE,
                charge_due: 0,
                records: 0,
            },
            subscribers: SubscriberContext {
                addresses: [Address { high: 0, low: 0 }; 2],
                block_hashes: [0; 2],
                block_lens: [0; 2],
                lookup_done: 0,
                unvouched: 0,
            },
            inspection: InspectionContext {
                peer_list: PeerListReader::NONE,
                content: ContentHash([0; 3]),
                requester: 0,
                evidence: 0,
                listen_port: 0,
                spoke: 0,
                may_start: 0,
                first: 0,
                hold: 0,
                classified: 0,
                found: 0,
                found_protocol: 0,
                found_confidence: 0,
                ended: 0,
                exhausted: 0,
                spoofed: 0,
                spared: 0,
                ahead: 0,
                skipped: 0,
            },
        }
    }

    /// The seed of the packet's realm, for all keyed hashes of its flow and subscribers.
    #[inline(always)]
    pub(crate) fn seed(&self, settings: &Settings) -> Seed {
        settings.seed.of_realm(self.frame.realm_mask)
    }

    /// Clears what an earlier packet left.
    #[inline(always)]
    pub(crate) fn clear(&mut self) {
        self.inspection.content.clear();
        let flow = &mut self.flow;
        for field in [&mut flow.rule, &mut flow.charge_due, &mut flow.records, &mut self.inspection.peer_list.requests]
        {
            // SAFETY: as in `ContentHash::clear`, and for the same reason.
            unsafe { core::ptr::from_mut(field).write_volatile(0) };
        }
        let fields = core::ptr::from_mut(&mut self.inspection).cast::<u64>();
        for word in EVIDENCE_WORD..size_of::<InspectionContext>() / 8 {
            // SAFETY: a word of the structure, aligned as the structure is; all its fields from `evidence` on are plain
            // numbers. Volatile as in `ContentHash::clear`. Two fields at a time, since a slow packet waits for stores.
            unsafe { fields.add(word).write_volatile(0) };
        }
    }

    /// The interface on which the packet arrived, without its realm.
    #[inline(always)]
    pub(crate) fn interface(&self) -> InterfaceEntry {
        InterfaceEntry::of_code(self.frame.interface as u8)
    }

    /// The entry of the interface, or of the VLAN, on which the packet arrived, without its realm.
    #[inline(always)]
    pub(crate) fn entry(&self) -> InterfaceEntry {
        InterfaceEntry(u64::from(self.frame.interface))
    }

    /// Port of one end (0 lower, 1 higher).
    #[inline(always)]
    pub(crate) fn port(&self, end: usize) -> u16 {
        if (end == 0) == self.is_from_lower() {
            self.frame.headers.source_port
        } else {
            self.frame.headers.destination_port
        }
    }

    /// Address of one end, as its packets inside any tunnel have it.
    #[inline(always)]
    pub(crate) fn address(&self, end: usize) -> Address {
        if (end == 0) == self.is_from_lower() { self.frame.headers.source } else { self.frame.headers.destination }
    }

    /// The remotes of the flow's ends, inside any tunnel.
    #[inline(always)]
    pub(crate) fn remotes(&self, settings: &Settings) -> RemoteNumbers {
        RemoteNumbers::between(self.address(0), self.address(1), &settings.seed)
    }

    /// The end (0 lower, 1 higher) that sent the packet.
    #[inline(always)]
    pub(crate) fn sender(&self) -> usize {
        1 - self.receiver()
    }

    /// The end (0 lower, 1 higher) that the packet goes to.
    #[inline(always)]
    pub(crate) fn receiver(&self) -> usize {
        self.flow.from_lower as usize & 1
    }

    /// The block of the subscriber at one end (0 lower, 1 higher).
    #[inline(always)]
    pub(crate) fn block(&self, end: usize) -> Address {
        self.subscribers.addresses[end & 1].block(self.subscribers.block_lens[end & 1] as u8)
    }

    /// The tally key of the subscriber at one end (0 lower, 1 higher) and a verdict's numbers.
    #[inline(always)]
    pub(crate) fn tally_key(&self, end: usize, verdict: (u8, u8)) -> KeyWords {
        let block_len = self.subscribers.block_lens[end & 1] as u8;
        KeyWords::new(self.block(end), self.frame.realm, block_len, verdict.0, verdict.1)
    }

    /// Whether the flow is TCP.
    #[inline(always)]
    pub(crate) fn is_tcp(&self) -> bool {
        self.frame.headers.protocol == ip_protocol::TCP
    }

    /// Whether what peers do can be known by its endpoints: TCP or UDP between ports that no service has by default.
    #[inline(always)]
    pub(crate) fn has_peer_ports(&self) -> bool {
        (self.is_tcp() | (self.frame.headers.protocol == ip_protocol::UDP))
            & (self.frame.headers.source_port >= FIRST_PEER_PORT)
            & (self.frame.headers.destination_port >= FIRST_PEER_PORT)
    }

    /// Transport of the packet, which is TCP or UDP.
    #[inline(always)]
    pub(crate) fn transport(&self) -> Transport {
        if self.is_tcp() { Transport::Tcp } else { Transport::Udp }
    }

    /// Sequence number of the segment that follows this one; a SYN takes one itself.
    #[inline(always)]
    pub(crate) fn next_sequence(&self) -> u32 {
        let syn = u32::from(self.frame.headers.tcp_flags) >> tcp_flag::SYN.trailing_zeros() & 1;
        self.frame.headers.sequence.wrapping_add(self.frame.headers.payload_len).wrapping_add(syn)
    }

    /// Stores the flow's evidence.
    #[inline(always)]
    pub(crate) fn store_evidence<M: Maps>(&self, maps: &M) {
        if let Some(cold) = maps.cold_set(self.flow.set_index) {
            let cold = cold.flow(self.flow.way);
            cold.set_progress(Progress { evidence: self.inspection.evidence, ..cold.progress() });
        }
    }

    /// Reports a packet of a flow that is still under inspection.
    #[inline(always)]
    pub(crate) fn report_pending<M: Maps>(&self, maps: &M) {
        maps.report_outcome(self.outcome(self.flow.protocol as u8, self.flow.confidence as u8));
    }

    /// Writes the final verdict, in place of a provisional one.
    #[inline(always)]
    pub(crate) fn set_verdict(&mut self, verdict: Verdict) {
        self.flow.protocol = verdict.protocol as u32;
        self.flow.confidence = verdict.confidence as u32;
    }

    #[inline(always)]
    pub(crate) fn is_from_lower(&self) -> bool {
        self.flow.from_lower != 0
    }

    #[inline(always)]
    pub(crate) fn outcome(&self, protocol: u8, confidence: u8) -> PacketOutcome {
        let charged = !FlowState(self.flow.state).is_pending();
        PacketOutcome::flow(self.flow.lookup.0, protocol, confidence).by_rule(self.flow.rule).with_charge(charged)
    }
}

/// Scratch memory of one CPU.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Scratch {
    /// The payload under inspection.
    pub payload: Payload,
    /// See [`PacketContext`].
    pub ctx: PacketContext,
    /// Tokens of the slow path.
    pub bucket: TokenBucket,
    /// This CPU's way through the reassembly slots.
    pub sweep: Sweep,
}

impl Scratch {
    /// Before any packet.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            payload: Payload::empty(),
            ctx: PacketContext::empty(),
            bucket: TokenBucket::empty(),
            sweep: Sweep::new(),
        }
    }
}
