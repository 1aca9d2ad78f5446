//! Progress of a flow's inspection, and the evidence that its packets gave: one word of the cold entry.

use crate::{abi::limits::INSPECTED_PER_DIRECTION, bpf::branchless::is_less};

/// Progress of a flow's inspection: inspected payload packets per direction, evidence, and the rules' flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Inspected payload packets, lower to higher endpoint.
    pub inspected_lower: u8,
    /// Inspected payload packets, higher to lower endpoint.
    pub inspected_higher: u8,
    /// Bits of [`evidence`], all below bit 16.
    pub evidence: u32,
    /// [`crate::dissect::rule_state::RuleState::rule_flags`].
    pub rule_flags: u32,
}

impl Progress {
    /// Counts a payload of one direction as inspected, at a cost of 0 or 1; returns the new count.
    ///
    /// Without a branch, which would double the verifier's work.
    #[inline(always)]
    pub fn inspect(&mut self, from_lower: bool, cost: u8) -> u8 {
        let shift = 8 * (1 - u32::from(from_lower));
        let counts = u64::from(self.inspected_lower) | u64::from(self.inspected_higher) << 8;
        let room = is_less(counts >> shift & 0xff, 0xff);
        let counts = counts + ((u64::from(cost) & room) << shift);
        (self.inspected_lower, self.inspected_higher) = (counts as u8, (counts >> 8) as u8);
        (counts >> shift) as u8
    }

    /// Inspected payload packets of one end (0 lower, 1 higher).
    #[inline(always)]
    #[must_use]
    pub const fn inspected(&self, end: usize) -> u8 {
        // Without a branch, which would double the verifier's work.
        ((self.inspected_lower as u32 | (self.inspected_higher as u32) << 8) >> (8 * (end as u32 & 1))) as u8
    }

    /// Uses up the budget of one end (0 lower, 1 higher).
    #[inline(always)]
    pub const fn use_up(&mut self, end: usize) {
        *self.inspected_mut(end) = INSPECTED_PER_DIRECTION;
    }

    /// Renews the budget of one end (0 lower, 1 higher).
    #[inline(always)]
    pub const fn renew(&mut self, end: usize) {
        *self.inspected_mut(end) = 0;
    }

    #[inline(always)]
    const fn inspected_mut(&mut self, end: usize) -> &mut u8 {
        if end == 0 { &mut self.inspected_lower } else { &mut self.inspected_higher }
    }

    /// The packed form.
    #[inline(always)]
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.inspected_lower as u64
            | ((self.inspected_higher as u64) << 8)
            | ((self.evidence as u64 & 0xffff) << 16)
            | ((self.rule_flags as u64) << 32)
    }

    /// From the packed form.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            inspected_lower: bits as u8,
            inspected_higher: (bits >> 8) as u8,
            evidence: (bits >> 16) as u32 & 0xffff,
            rule_flags: (bits >> 32) as u32,
        }
    }
}

/// Evidence bits that a flow's packets have set, kept after its verdict. A pair of bits has the lower endpoint first.
pub mod evidence {
    /// The bit of a pair for the direction of a packet, given the lower endpoint's; `from_lower` is 1 or 0.
    #[inline(always)]
    #[must_use]
    pub const fn of(flag: u32, from_lower: u32) -> u32 {
        flag << (1 - (from_lower & 1))
    }

    /// The lower endpoint sent a payload that is certainly of the flow's protocol.
    pub const SPOKE_LOWER: u32 = 1 << 0;
    /// The higher endpoint did.
    pub const SPOKE_HIGHER: u32 = 1 << 1;
    /// Both did.
    pub const BOTH_SPOKE: u32 = SPOKE_LOWER | SPOKE_HIGHER;
    /// The flow began with a TCP SYN, so that its first packet came from the connecting side.
    pub const OPENED: u32 = 1 << 2;
    /// The side that opened the connection began it with text of no P2P protocol, or with TLS, as browsers do.
    pub const OPENED_AS_BROWSER: u32 = 1 << 3;
    /// The first payload of the lower endpoint had the size and entropy of an MSE handshake.
    pub const MSE_LOWER: u32 = 1 << 4;
    /// That of the higher endpoint had.
    pub const MSE_HIGHER: u32 = 1 << 5;
    /// Both had.
    pub const MSE: u32 = MSE_LOWER | MSE_HIGHER;
    /// The lower endpoint repeated a value that the higher one chose: its address is not forged.
    pub const PROVED_LOWER: u32 = 1 << 6;
    /// The higher endpoint did.
    pub const PROVED_HIGHER: u32 = 1 << 7;
    /// The first payload of a direction had recognisable structure (TLS, text, repeated headers).
    pub const LOW_ENTROPY: u32 = 1 << 8;
    /// The first payload of the lower endpoint had high entropy (`entropy.rs`).
    pub const HIGH_ENTROPY_LOWER: u32 = 1 << 9;
    /// That of the higher endpoint did.
    pub const HIGH_ENTROPY_HIGHER: u32 = 1 << 10;
    /// One of them did.
    pub const HIGH_ENTROPY: u32 = HIGH_ENTROPY_LOWER | HIGH_ENTROPY_HIGHER;
    /// The first payload of the lower endpoint was certainly TLS, QUIC or DNS (`early_exit.rs`).
    pub const NON_P2P_LOWER: u32 = 1 << 11;
    /// That of the higher endpoint was.
    pub const NON_P2P_HIGHER: u32 = 1 << 12;
    /// Both were.
    pub const NON_P2P: u32 = NON_P2P_LOWER | NON_P2P_HIGHER;
    /// A packet of the flow had a subscriber's address and arrived on a core interface: the opener of the flow is
    /// unknown.
    pub const SPOOFED: u32 = 1 << 13;
    /// The lower endpoint's stream started with the flow's protocol, so its payloads count (`engine/learn.rs`). Over
    /// UDP, where a payload is no part of a stream, any certain one sets the bit.
    pub const STARTED_LOWER: u32 = 1 << 14;
    /// The higher endpoint's did.
    pub const STARTED_HIGHER: u32 = 1 << 15;
}
