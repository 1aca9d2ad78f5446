//! Settings of the program: the only entry of the map `SETTINGS`, written by the agent.

use super::{
    key::Seed,
    limits::{SHED_BATCH, SHED_OPENINGS_NS, SHED_WAYS},
};
use crate::bpf::shared_u64::SharedU64;

/// Settings from the agent, and the clock that both sides advance: the only entry of the `SETTINGS` map.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Settings {
    /// Secret of the flow hash.
    pub seed: Seed,
    /// Number of flow sets minus one; the number is a power of two.
    pub set_mask: u64,
    /// Coarse time in seconds; advanced by the program's slow path and by the agent.
    pub clock_s: SharedU64,
    /// Next ticket of the ring of free slots ([`crate::tables::slot_ring`]). At first, slots have their own numbers as
    /// tickets; slot 0 is the catch-all.
    pub next_slot: SharedU64,
    /// Number of slots.
    pub slots: u64,
    /// [`InspectionDepth`] number; changed while the program runs.
    pub inspection: SharedU64,
    /// Number of peer sets minus one; the number is a power of two.
    pub peer_mask: u64,
    /// [`Heuristic`] in its packed form, 0 for off; changed while the program runs.
    pub heuristic: SharedU64,
    /// Number of lines of the tally cache minus one; the number is a power of two.
    pub tally_mask: u64,
    /// Cost of a token of the slow path ([`Shedding::token_ns`]), 0 for no shedding; changed while the program runs.
    pub token_ns: SharedU64,
    /// Cost of a new flow, of all CPUs together ([`Shedding::opening_ns`]); changed while the program runs.
    pub opening_ns: SharedU64,
    /// Time up to which new flows have been allotted to CPUs, in nanoseconds; advanced by the program's slow path.
    pub openings_until_ns: SharedU64,
    /// 1 on a router that sees one direction only: every flow counts as answered. Else 0.
    pub one_way: SharedU64,
    /// [`Self::clock_s`] of the agent's latest drain, which knows the remotes of all flows without a packet since then.
    pub drained_s: SharedU64,
}

const _: () = assert!(core::mem::size_of::<Settings>() == 128);

/// Rule of the heuristic tier: MSE-like connections of a subscriber count as BitTorrent if they go to at least
/// `endpoints` remote endpoints within `window_s` seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heuristic {
    /// Distinct remote endpoints, at most [`crate::abi::limits::MSE_CANDIDATE_BUCKETS`].
    pub endpoints: u32,
    /// The window in seconds; a certain BitTorrent flow of that subscriber must also fall into it.
    pub window_s: u16,
}

impl Heuristic {
    /// The packed form.
    #[inline(always)]
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.endpoints as u64 | (self.window_s as u64) << 32
    }

    /// From the packed form.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self { endpoints: bits as u32, window_s: (bits >> 32) as u16 }
    }
}

/// Bound of the slow path: packets that find no token are shed (`docs/architecture.md#shedding`).
///
/// Buckets hold nanoseconds of credit, and a token costs some of them. Then a refill is the time that has passed, and
/// the program needs no division.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shedding {
    /// Packets of the slow path in a second, for each CPU.
    pub packets_per_second: u32,
}

impl Shedding {
    /// What a packet of the slow path costs its CPU's bucket, in nanoseconds; at least 1, as 0 is off.
    #[must_use]
    pub const fn token_ns(self) -> u64 {
        let each = if self.packets_per_second == 0 { 1 } else { self.packets_per_second as u64 };
        let cost = 1_000_000_000 / each;
        if cost == 0 { 1 } else { cost }
    }

    /// What a new flow costs the bucket of all CPUs, in nanoseconds, in a table of so many flows: a share of
    /// [`SHED_WAYS`] of them may be new in each second. A batch never exceeds half of the bucket.
    #[must_use]
    pub const fn opening_ns(flows: u64) -> u64 {
        let flows_per_second = flows / SHED_WAYS;
        let cost = 1_000_000_000 / if flows_per_second == 0 { 1 } else { flows_per_second };
        let most = SHED_OPENINGS_NS / 2 / SHED_BATCH as u64;
        if cost > most { most } else { cost }
    }
}

/// How deep a packet may be inspected (`docs/architecture.md#inspection-and-privacy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum InspectionDepth {
    /// Addresses, ports and sizes only.
    Headers = 0,
    /// Also protocol framing in the first payload bytes.
    Framing = 1,
    /// Also whether a payload names content that is on the operator's list.
    Watchlist = 2,
}

impl InspectionDepth {
    /// Every depth, in number order.
    pub const ALL: &'static [Self] = &[Self::Headers, Self::Framing, Self::Watchlist];

    /// The word of the configuration, metrics and events.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Headers => "headers",
            Self::Framing => "framing",
            Self::Watchlist => "watchlist",
        }
    }
}
