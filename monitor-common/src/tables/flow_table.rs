//! The flow table: a set-associative table whose sets fill two adjacent cache lines.
//!
//! The first line of a [`FlowSet`] holds four tags and four states, which is all a lookup reads; the second holds the
//! counters of these flows. One packet of a settled flow therefore touches one set and no tally: its counters are
//! flushed into the subscriber's tally when the flow is evicted, restarted or near overflow, and the agent adds what is
//! still in the table when it drains. Data that only a flow's first packets need is in a [`ColdSet`] with the same
//! index.
//!
//! Who may write what:
//! * a way is claimed, settled, restarted or released by compare-and-swap on its state, so one CPU wins;
//! * slots are changed by the CPU that has claimed the flow's verdict, or marked the flow as charging, or locked the
//!   way;
//! * counters are only added to, or swapped for zero by the CPU that flushes them: nothing is lost or counted twice;
//! * the cold entry is written by the claimer before the state leaves [`Phase::Locked`]; later only the inspection's
//!   progress changes.

use super::{age_s, conversation::Conversation, progress::Progress};
use crate::{
    abi::{
        interface::InterfaceEntry,
        limits::{
            ASSOCIATION_SECONDS, FLUSH_BYTES, FLUSH_PACKETS, FRESH_SECONDS, IDLE_SECONDS, INSPECTED_PER_DIRECTION,
            PENDING_IDLE_SECONDS, SERVER_FLOW_PACKETS, WAYS,
        },
        protocol::Protocol,
        remotes::RemoteNumbers,
        rule::RULE_SLOTS,
        tally::Direction,
    },
    bpf::shared_u64::SharedU64,
};

/// Tags, states and packed counters of four flows.
#[repr(C, align(128))]
#[derive(Default)]
pub struct FlowSet {
    /// Keyed hash of each flow's key; 0 when the way was never used.
    pub tags: [SharedU64; WAYS],
    /// [`FlowState`] of each flow.
    pub states: [SharedU64; WAYS],
    /// Packed counters ([`pack`]) of each flow: `2 * way` for lower to higher endpoint, `2 * way + 1` for the other
    /// direction.
    pub counters: [SharedU64; 2 * WAYS],
}

const _: () = assert!(core::mem::size_of::<FlowSet>() == 128);

impl FlowSet {
    /// A value whose top bit is set if a way has this tag. Without a branch, which the processor might mispredict: no
    /// tag has a top bit, so only 0 - 1 has it.
    #[inline(always)]
    fn has_tag(&self, way: usize, tag: u64) -> u64 {
        (self.tags[way].load() ^ tag).wrapping_sub(1)
    }

    /// The way with this tag.
    #[inline(always)]
    #[must_use]
    pub fn find(&self, tag: u64) -> Option<usize> {
        let (one, two, three) = (self.has_tag(1, tag), self.has_tag(2, tag), self.has_tag(3, tag));
        // The bits of the way's number: 2 or 3, 1 or 3.
        let (upper, lower) = (two | three, one | three);
        // Computed in parallel to the number, so that no load of the way waits for it.
        let any = (upper | one | self.has_tag(0, tag)) as i64;
        (any < 0).then_some((upper >> 63 << 1 | lower >> 63) as usize)
    }
}

/// Data of a flow that only the slow path and the drain need.
#[repr(C)]
#[derive(Default)]
pub struct ColdFlow {
    /// Tally slots: lower endpoint in the low 32 bits, higher endpoint in the high 32; [`NO_SLOT`] for no subscriber.
    pub slots: SharedU64,
    /// Value that a rule stores for a later packet ([`crate::dissect::rule_state::RuleState::rule_value`]).
    pub rule_value: SharedU64,
    /// [`Progress`] of the inspection, packed.
    pub progress: SharedU64,
    /// Bits 0..44 count claims of this way: two equal reads enclose one flow. Bits 44..52 have the rule of the flow's
    /// P2P verdict. Above are the [`RemoteNumbers`] of a flow that is charged.
    pub generation: SharedU64,
    /// [`Conversation`]: what the flow's packets prove of its ends.
    pub conversation: SharedU64,
    /// TCP: first sequence number seen of the lower endpoint in the low 32 bits, of the higher one in the high 32.
    pub first_sequences: SharedU64,
    /// Content of the watchlist that a payload named before the flow was charged: number of the entry plus 1, and the
    /// sender in bit 32 (1 for the lower endpoint); 0 for none.
    pub watched: SharedU64,
    /// [`Streams`](super::streams::Streams): how far both directions have come.
    pub streams: SharedU64,
}

const _: () = assert!(core::mem::size_of::<ColdFlow>() == 64);

const REMOTES_SHIFT: u32 = u64::BITS - RemoteNumbers::BITS;
/// A rule's number has eight bits.
const RULE_SHIFT: u32 = REMOTES_SHIFT - 8;

const _: () = assert!(RULE_SLOTS <= 1 << (REMOTES_SHIFT - RULE_SHIFT));

impl ColdFlow {
    /// Claims of this way so far.
    #[inline(always)]
    #[must_use]
    pub fn claims(&self) -> u64 {
        self.generation.load() & !(u64::MAX << RULE_SHIFT)
    }

    /// Number of the rule that gave the flow its P2P verdict. Without meaning before it has one.
    #[inline(always)]
    #[must_use]
    pub fn rule(&self) -> u32 {
        (self.generation.load() >> RULE_SHIFT) as u32 & 0xff
    }

    /// Stores the number of the verdict's rule; for the CPU that may write the verdict.
    #[inline(always)]
    pub fn set_rule(&self, rule: u32) {
        let others = self.generation.load() & !(0xff << RULE_SHIFT);
        self.generation.store(others | u64::from(rule & 0xff) << RULE_SHIFT);
    }

    /// The remotes of the flow's ends. Without meaning before it is charged.
    #[inline(always)]
    #[must_use]
    pub fn remotes(&self) -> RemoteNumbers {
        remotes_of(self.generation.load())
    }

    /// Stores the remotes of the flow's ends; for the CPU that may change its slots.
    #[inline(always)]
    pub fn set_remotes(&self, remotes: RemoteNumbers) {
        let others = self.generation.load() & !(u64::MAX << REMOTES_SHIFT);
        self.generation.store(others | remotes.0 << REMOTES_SHIFT);
    }

    /// Progress of the inspection.
    #[inline(always)]
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress::from_bits(self.progress.load())
    }

    /// Stores the progress of the inspection.
    #[inline(always)]
    pub fn set_progress(&self, progress: Progress) {
        self.progress.store(progress.to_bits());
    }

    /// What the flow's packets prove of its ends.
    #[inline(always)]
    #[must_use]
    pub fn conversation(&self) -> Conversation {
        Conversation(self.conversation.load())
    }

    /// Sets bits of the conversation; returns whether one of them was clear before.
    #[inline(always)]
    pub fn note(&self, bits: u64) -> bool {
        let mut attempt = 0;
        // Another CPU may set bits in between; a mark that is lost after so many comes again with a later packet.
        while attempt < 4 {
            let before = self.conversation.load();
            if before & bits == bits {
                return false;
            }
            if self.conversation.replace(before, before | bits) {
                return true;
            }
            attempt += 1;
        }
        false
    }
}

/// The remotes of the flow with this [`ColdFlow::generation`].
#[inline(always)]
#[must_use]
pub const fn remotes_of(generation: u64) -> RemoteNumbers {
    RemoteNumbers(generation >> REMOTES_SHIFT)
}

/// Cold parts of the flows of one set.
#[repr(C, align(128))]
#[derive(Default)]
pub struct ColdSet {
    /// One per way.
    pub flows: [ColdFlow; WAYS],
}

const _: () = assert!(core::mem::size_of::<ColdSet>() == 256);

impl ColdSet {
    /// The flow in one way.
    #[inline(always)]
    #[must_use]
    pub const fn flow(&self, way: u32) -> &ColdFlow {
        &self.flows[way as usize & (WAYS - 1)]
    }
}

/// The slot number that means "this end is charged nothing": it is no subscriber, or has not taken part.
pub const NO_SLOT: u32 = u32::MAX;
/// The slots of a flow that is charged to nobody.
pub const NO_SLOTS: u64 = pack_slots(NO_SLOT, NO_SLOT);

/// Phase of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Nothing.
    Empty = 0,
    /// One CPU is changing it; others count elsewhere.
    Locked = 1,
    /// A flow under inspection: its counters belong to the verdict to come.
    Inspecting = 2,
    /// A flow with its final verdict.
    Settled = 3,
}

/// The packed state of the flow in a way: bits 0..16 last-seen second, 16 provisional, 17 charging, 18..24 protocol,
/// 24..27 confidence, 27 first packet's direction, 28..30 direction class, 30 pending, 31 server flow. Then for each
/// direction 16 bits, those of lower-to-higher packets first: [`InterfaceEntry::code`] of the interface, in bit 8
/// whether its packets may prove something, in bit 9 whether its payloads teach, in bits 10 and 11 the phase of the
/// way, in bit 12 whether its sender was charged since the flow began. Bits 13 and 14 of the second 16 bits belong to a
/// way that the agent has locked ([`FlowState::locked`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowState(pub u64);

/// Which ends of a flow are subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ends {
    /// The numerically lower endpoint only.
    Lower = 0,
    /// The numerically higher endpoint only.
    Higher = 1,
    /// Both.
    Both = 2,
}

impl Ends {
    /// Direction of a packet of the flow.
    #[inline(always)]
    #[must_use]
    pub const fn direction(self, from_lower: bool) -> Direction {
        match (self, from_lower) {
            (Self::Both, _) => Direction::Local,
            (Self::Lower, true) | (Self::Higher, false) => Direction::Up,
            (Self::Lower, false) | (Self::Higher, true) => Direction::Down,
        }
    }
}

const SECOND_MASK: u64 = 0xffff;
/// The phase is in the bits of both directions, so that the fast path compares it together with the interface.
const PHASE_SHIFT: u32 = INTERFACE_SHIFT + 10;
const PHASE_MASK: u64 = phase_bits(Phase::Settled);

const fn phase_bits(phase: Phase) -> u64 {
    (phase as u64) << PHASE_SHIFT | (phase as u64) << (PHASE_SHIFT + 16)
}

const PROTOCOL_SHIFT: u32 = 18;
const CONFIDENCE_SHIFT: u32 = 24;
const FIRST_SHIFT: u32 = 27;
const ENDS_SHIFT: u32 = 28;
const PENDING: u64 = 1 << 30;
const SERVER_FLOW: u64 = 1 << 31;
const INTERFACE_SHIFT: u32 = 32;
const INTERFACE_MASK: u64 = 0xff;
/// For lower-to-higher packets, as is the next; the bit of the others is 16 bits higher.
const WAITS: u64 = 1 << (INTERFACE_SHIFT + 8);
const LEARNING: u64 = 1 << (INTERFACE_SHIFT + 9);
const LEARNING_BOTH: u64 = LEARNING | LEARNING << 16;
const PROVISIONAL: u64 = 1 << 16;
const CHARGING: u64 = 1 << 17;
const CHARGED: u64 = 1 << (INTERFACE_SHIFT + 12);
/// The way is locked, and the other bits are those of its flow.
const KEPT: u64 = 1 << (INTERFACE_SHIFT + 16 + 13);
/// The kept flow is settled, else under inspection.
const KEPT_SETTLED: u64 = 1 << (INTERFACE_SHIFT + 16 + 14);

/// Shift to the interface of a direction; `from_lower` is 1 or 0.
#[inline(always)]
const fn interface_shift(from_lower: u64) -> u32 {
    INTERFACE_SHIFT + 16 * (1 - (from_lower as u32 & 1))
}

impl FlowState {
    /// The state of a way that one CPU is changing.
    pub const LOCKED: Self = Self(phase_bits(Phase::Locked));
    /// The state of an unused way.
    pub const EMPTY: Self = Self(0);

    /// The locked state that keeps this state of a flow, for the agent: unlike a CPU, it can be killed while it holds
    /// the lock.
    #[must_use]
    pub const fn locked(self) -> Self {
        let settled = if matches!(self.phase(), Phase::Settled) { KEPT_SETTLED } else { 0 };
        Self(self.0 & !PHASE_MASK | phase_bits(Phase::Locked) | KEPT | settled)
    }

    /// The flow's state that a locked way keeps; none if a CPU holds the lock, or the agent that of an empty way.
    #[must_use]
    pub const fn kept(self) -> Option<Self> {
        if !matches!(self.phase(), Phase::Locked) || self.0 & KEPT == 0 {
            return None;
        }
        let phase = if self.0 & KEPT_SETTLED == 0 { Phase::Inspecting } else { Phase::Settled };
        Some(Self(self.0 & !(PHASE_MASK | KEPT | KEPT_SETTLED) | phase_bits(phase)))
    }

    /// The locked state of a flow that is counted already, whatever phase it had.
    #[must_use]
    pub const fn counted(self) -> Self {
        Self(self.0 | KEPT_SETTLED)
    }

    /// The state of a new flow.
    #[inline(always)]
    #[must_use]
    pub fn inspecting(second: u16, first_from_lower: bool, ends: Ends, interface: InterfaceEntry) -> Self {
        let interface = u64::from(interface.code());
        Self(
            u64::from(second)
                | phase_bits(Phase::Inspecting)
                | (u64::from(first_from_lower) << FIRST_SHIFT)
                | ((ends as u64) << ENDS_SHIFT)
                | (interface << INTERFACE_SHIFT)
                | (interface << (INTERFACE_SHIFT + 16)),
        )
    }

    /// The state with the final verdict.
    #[inline(always)]
    #[must_use]
    pub const fn settled(self, protocol: u8, confidence: u8) -> Self {
        let claimed = self.claimed_by(protocol, confidence).0;
        Self(claimed & !PHASE_MASK | phase_bits(Phase::Settled))
    }

    /// The settled state in which later payloads of both directions may still teach which end speaks the protocol.
    #[inline(always)]
    #[must_use]
    pub const fn learning(self) -> Self {
        Self(self.0 | LEARNING_BOTH)
    }

    /// The state in which payloads teach nothing more.
    #[inline(always)]
    #[must_use]
    pub const fn learned(self) -> Self {
        Self(self.0 & !LEARNING_BOTH)
    }

    /// The state in which those of one direction teach nothing more; `from_lower` is 1 or 0.
    #[inline(always)]
    #[must_use]
    pub const fn learned_from(self, from_lower: u32) -> Self {
        Self(self.0 & !(1 << (interface_shift(from_lower as u64) + 9)))
    }

    /// The state in which packets of these directions may prove something: bit 0 from the lower endpoint, bit 1 from
    /// the higher one.
    #[inline(always)]
    #[must_use]
    pub const fn waiting_for(self, directions: u32) -> Self {
        let directions = directions as u64;
        let kept = self.0 & !(WAITS | WAITS << 16);
        Self(kept | ((directions & 1) * WAITS) | ((directions >> 1 & 1) * (WAITS << 16)))
    }

    /// The state of a flow whose subscribers have not all taken part: its counts are pending.
    #[inline(always)]
    #[must_use]
    pub const fn pending(self) -> Self {
        Self(self.0 | PENDING)
    }

    /// The state of a flow whose charge is final.
    #[inline(always)]
    #[must_use]
    pub const fn decided(self) -> Self {
        Self(self.0 & !PENDING)
    }

    /// Whether not every subscriber of the flow has taken part.
    #[inline(always)]
    #[must_use]
    pub const fn is_pending(self) -> bool {
        self.0 & PENDING != 0
    }

    /// Whether payloads of any direction may still teach.
    #[inline(always)]
    #[must_use]
    pub const fn is_learning(self) -> bool {
        self.0 & LEARNING_BOTH != 0
    }

    /// Whether payloads of one direction may still teach; `from_lower` is 1 or 0.
    #[inline(always)]
    #[must_use]
    pub const fn is_learning_from(self, from_lower: u64) -> bool {
        self.0 >> (interface_shift(from_lower) + 9) & 1 != 0
    }

    /// The state of a flow between a client and a server.
    #[inline(always)]
    #[must_use]
    pub const fn server_flow(self) -> Self {
        Self(self.0 | SERVER_FLOW)
    }

    /// [`Self::is_server_flow`] as 1 or 0.
    #[inline(always)]
    #[must_use]
    pub const fn server_flow_bit(self) -> u64 {
        self.0 >> SERVER_FLOW.trailing_zeros() & 1
    }

    /// Whether the flow is between a client and a server: requests for sources may come at any time.
    #[inline(always)]
    #[must_use]
    pub const fn is_server_flow(self) -> bool {
        self.0 & SERVER_FLOW != 0
    }

    /// Number of packets of one direction that are inspected at most.
    #[inline(always)]
    #[must_use]
    pub const fn inspection_budget(self) -> u8 {
        if self.is_server_flow() { SERVER_FLOW_PACKETS } else { INSPECTED_PER_DIRECTION }
    }

    /// The state while the caller writes the verdict: no other CPU may settle or replace the flow.
    #[inline(always)]
    #[must_use]
    pub const fn claimed_by(self, protocol: u8, confidence: u8) -> Self {
        Self(
            (self.0 & !(0x1ff << PROTOCOL_SHIFT | PROVISIONAL))
                | ((protocol as u64) << PROTOCOL_SHIFT)
                | ((confidence as u64) << CONFIDENCE_SHIFT),
        )
    }

    /// The claimed state with a provisional verdict: inspection goes on, and the flow ends with this verdict unless a
    /// certain one is found.
    #[inline(always)]
    #[must_use]
    pub const fn provisional(self) -> Self {
        Self(self.0 | PROVISIONAL)
    }

    /// Whether the flow is under inspection and has a provisional verdict.
    #[inline(always)]
    #[must_use]
    pub const fn is_provisional(self) -> bool {
        const WANTED: u64 = phase_bits(Phase::Inspecting) | PROVISIONAL;
        self.0 & (PHASE_MASK | PROVISIONAL) == WANTED
    }

    /// The state that the flow had before [`Self::claimed_by`], given one of that time.
    #[inline(always)]
    #[must_use]
    pub const fn unclaimed(self, before: Self) -> Self {
        const VERDICT: u64 = 0x1ff << PROTOCOL_SHIFT | PROVISIONAL;
        Self(self.0 & !VERDICT | before.0 & VERDICT)
    }

    /// The state while the caller charges the flow: no other CPU may charge, settle, relabel or replace it.
    #[inline(always)]
    #[must_use]
    pub const fn charging(self) -> Self {
        Self(self.0 | CHARGING)
    }

    /// Whether a CPU is charging the flow.
    #[inline(always)]
    #[must_use]
    pub const fn is_charging(self) -> bool {
        self.0 & CHARGING != 0
    }

    /// Whether the flow's phase, verdict and charge are those of another state.
    #[inline(always)]
    #[must_use]
    pub const fn is_charged_as(self, other: Self) -> bool {
        const COMPARED: u64 = PHASE_MASK | 0x1ff << PROTOCOL_SHIFT | PROVISIONAL | PENDING | CHARGED | CHARGED << 16;
        (self.0 ^ other.0) & COMPARED == 0
    }

    /// The state after the flow was charged to the subscribers in `ends` (bit 0 lower, bit 1 higher). With `complete`,
    /// nothing more is to be proved, so the flow is no longer pending.
    ///
    /// It differs from all states before, so that a compare-and-swap by a CPU that saw other slots fails.
    #[inline(always)]
    #[must_use]
    pub const fn charged(self, ends: u64, complete: bool) -> Self {
        // Without a branch, which would double the verifier's work.
        let cleared = CHARGING | (complete as u64 * (PENDING | WAITS | WAITS << 16));
        Self(self.0 & !cleared | ((ends & 1) * CHARGED) | ((ends >> 1 & 1) * (CHARGED << 16)))
    }

    /// Whether a CPU is writing the final verdict of the flow.
    #[inline(always)]
    #[must_use]
    pub const fn is_claimed(self) -> bool {
        matches!(self.phase(), Phase::Inspecting) && self.protocol_number() != 0 && !self.is_provisional()
    }

    /// The state with another last-seen second.
    #[inline(always)]
    #[must_use]
    pub const fn at_second(self, second: u16) -> Self {
        Self(self.0 & !SECOND_MASK | second as u64)
    }

    /// The state after a packet of this direction at `second` on `interface`.
    #[inline(always)]
    #[must_use]
    pub const fn seen(self, second: u16, from_lower: u64, interface: InterfaceEntry) -> Self {
        let shift = interface_shift(from_lower);
        let kept = self.0 & !SECOND_MASK & !(INTERFACE_MASK << shift);
        Self(kept | second as u64 | ((interface.code() as u64) << shift))
    }

    /// 0 for a settled flow whose packets of this direction neither prove nor teach anything, if the latest of them
    /// arrived on this interface. `direction_shift` is 0 for packets from the lower endpoint, 16 for the others.
    #[inline(always)]
    #[must_use]
    pub const fn unsettled_bits(self, direction_shift: u64, interface: InterfaceEntry) -> u64 {
        const COMPARED: u64 = INTERFACE_MASK | (WAITS | LEARNING | 3 << PHASE_SHIFT) >> INTERFACE_SHIFT;
        const SETTLED: u64 = (Phase::Settled as u64) << (PHASE_SHIFT - INTERFACE_SHIFT);
        // Bits 8 to 14 of an entry are clear: comparing them takes one instruction less than masking the code.
        (self.0 >> INTERFACE_SHIFT >> (direction_shift & 16) ^ interface.0 ^ SETTLED) & COMPARED
    }

    /// Phase of the way.
    #[inline(always)]
    #[must_use]
    pub const fn phase(self) -> Phase {
        match (self.0 >> PHASE_SHIFT) & 3 {
            0 => Phase::Empty,
            1 => Phase::Locked,
            2 => Phase::Inspecting,
            _ => Phase::Settled,
        }
    }

    /// Low 16 bits of the second in which the flow was last seen.
    #[inline(always)]
    #[must_use]
    pub const fn second(self) -> u16 {
        (self.0 & SECOND_MASK) as u16
    }

    /// Protocol number of a settled flow, or of one with a claimed or provisional verdict; else 0 (unclassified).
    #[inline(always)]
    #[must_use]
    pub const fn protocol_number(self) -> u8 {
        ((self.0 >> PROTOCOL_SHIFT) & 0x3f) as u8
    }

    /// Confidence number of a settled flow, or of one with a claimed or provisional verdict; else 0 (none).
    #[inline(always)]
    #[must_use]
    pub const fn confidence_number(self) -> u8 {
        ((self.0 >> CONFIDENCE_SHIFT) & 7) as u8
    }

    /// Protocol and confidence numbers.
    #[inline(always)]
    #[must_use]
    pub const fn verdict_numbers(self) -> (u8, u8) {
        (self.protocol_number(), self.confidence_number())
    }

    /// [`Self::first_from_lower`] as 1 or 0.
    #[inline(always)]
    #[must_use]
    pub const fn first_bit(self) -> u64 {
        (self.0 >> FIRST_SHIFT) & 1
    }

    /// Whether the flow's first packet came from the lower endpoint.
    #[inline(always)]
    #[must_use]
    pub const fn first_from_lower(self) -> bool {
        self.first_bit() == 1
    }

    /// Which ends are subscribers.
    #[inline(always)]
    #[must_use]
    pub const fn ends(self) -> Ends {
        match (self.0 >> ENDS_SHIFT) & 3 {
            0 => Ends::Lower,
            1 => Ends::Higher,
            _ => Ends::Both,
        }
    }

    /// The ends that are subscribers: bit 0 the lower endpoint, bit 1 the higher one.
    #[inline(always)]
    #[must_use]
    pub const fn subscribers(self) -> u64 {
        self.ends() as u64 + 1
    }

    /// Interface of the latest packet of a direction, without its realm.
    #[inline(always)]
    #[must_use]
    pub const fn interface(self, from_lower: bool) -> InterfaceEntry {
        InterfaceEntry::of_code((self.0 >> interface_shift(from_lower as u64)) as u8)
    }

    /// Seconds since the flow's latest packet; 0 if the clocks of two CPUs are a moment apart.
    #[inline(always)]
    #[must_use]
    pub const fn age_s(self, now_s: u64) -> u16 {
        age_s(now_s, self.second())
    }

    /// Whether a flow without a verdict has paused for so long that its inspection may have been ended early.
    #[inline(always)]
    #[must_use]
    pub fn has_paused(self, now_s: u64) -> bool {
        self.phase() == Phase::Settled
            && self.protocol_number() == Protocol::Unclassified as u8
            && self.age_s(now_s) >= PENDING_IDLE_SECONDS
    }

    /// Whether a new period of [`ASSOCIATION_SECONDS`] has begun since the flow's latest packet.
    #[inline(always)]
    #[must_use]
    pub fn is_due(self, now_s: u64) -> bool {
        (u64::from(self.second()) ^ now_s) & 0xffff & !(ASSOCIATION_SECONDS - 1) != 0
    }

    /// Priority for eviction of a flow whose subscriber holds more than its share of a full set; 0 for never.
    #[inline(always)]
    #[must_use]
    pub fn crowding_priority(self, now_s: u64) -> u32 {
        let age = self.age_s(now_s);
        let held = self.phase() != Phase::Settled || self.is_charging();
        if held || age < FRESH_SECONDS { 0 } else { u32::from(age) }
    }

    /// Priority for eviction; 0 for never.
    #[inline(always)]
    #[must_use]
    pub fn eviction_priority(self, now_s: u64) -> u32 {
        let age = self.age_s(now_s);
        // Whoever only sends protects no flow: its subscribers must have taken part.
        let p2p = self.protocol_number() > Protocol::Fragment as u8 && !self.is_pending();
        match self.phase() {
            Phase::Empty => FREE,
            Phase::Locked => 0,
            Phase::Inspecting | Phase::Settled if age < FRESH_SECONDS => 0,
            // A verdict or a charge is being written: the way is as good as locked.
            Phase::Inspecting | Phase::Settled if self.is_claimed() || self.is_charging() => 0,
            Phase::Inspecting | Phase::Settled if age >= IDLE_SECONDS => (2 - u32::from(p2p)) * IDLE + u32::from(age),
            Phase::Inspecting | Phase::Settled if p2p => 0,
            Phase::Inspecting | Phase::Settled => u32::from(age),
        }
    }
}

/// Priority of an empty way.
pub const FREE: u32 = u32::MAX;
/// Least priority of an idle flow; the age of 16 bits is added.
pub const IDLE: u32 = 0x10_0000;

/// Index of a flow's counter for one direction.
#[inline(always)]
#[must_use]
pub const fn counter_index(way: usize, from_lower: u64) -> usize {
    (2 * way + (from_lower ^ 1) as usize) & (2 * WAYS - 1)
}

const BYTES_BITS: u32 = 40;
const BYTES_MASK: u64 = (1 << BYTES_BITS) - 1;

/// A flow counter of `packets` (24 bits) and `bytes` (40 bits), so that one atomic addition counts a packet.
#[inline(always)]
#[must_use]
pub const fn pack(packets: u64, bytes: u64) -> u64 {
    (packets << BYTES_BITS) | bytes
}

/// Packets and bytes of a packed counter.
#[inline(always)]
#[must_use]
pub const fn unpack(counter: u64) -> (u64, u64) {
    (counter >> BYTES_BITS, counter & BYTES_MASK)
}

/// Whether a counter is to be flushed into its tally: at [`FLUSH_PACKETS`], which is its top bit.
#[inline(always)]
#[must_use]
pub const fn is_full(counter: u64) -> bool {
    const { assert!(FLUSH_PACKETS << BYTES_BITS == 1 << 63) }
    (counter as i64) < 0
}

/// Whether a counter is to be flushed into its tally before a merged packet is added: at [`FLUSH_PACKETS`] or at
/// [`FLUSH_BYTES`].
#[inline(always)]
#[must_use]
pub const fn is_full_of_bytes(counter: u64) -> bool {
    counter & (1 << 63 | BYTES_MASK & !(FLUSH_BYTES - 1)) != 0
}

/// Both slots of a flow in one word.
#[inline(always)]
#[must_use]
pub const fn pack_slots(lower: u32, higher: u32) -> u64 {
    lower as u64 | ((higher as u64) << 32)
}

/// The ends that have a slot: bit 0 the lower endpoint, bit 1 the higher one.
#[inline(always)]
#[must_use]
pub const fn with_slots(slots: u64) -> u64 {
    let (lower, higher) = unpack_slots(slots);
    (lower != NO_SLOT) as u64 | ((higher != NO_SLOT) as u64) << 1
}

/// Slots of the lower and the higher endpoint.
#[inline(always)]
#[must_use]
pub const fn unpack_slots(slots: u64) -> (u32, u32) {
    (slots as u32, (slots >> 32) as u32)
}
