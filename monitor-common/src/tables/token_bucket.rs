//! Tokens of the slow path: what one CPU may spend on packets that open flows or are inspected.
//!
//! A bucket holds nanoseconds of credit ([`Shedding`](crate::abi::settings::Shedding)). It is refilled with the time
//! that has passed, which moves with the kernel's ticks: whatever `CONFIG_HZ` is, and without a clock of its own.

use crate::abi::{
    limits::{SHED_BATCH, SHED_BUCKET_NS, SHED_OPENINGS_NS},
    settings::Settings,
};

/// Who asks for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Claim {
    /// Any packet: it draws on the upper half of a bucket.
    Common = 0,
    /// A packet that answers a flow or brings a subscriber's own payload: it draws on the whole bucket.
    Reserved = 1,
}

impl Claim {
    /// Part of a bucket that it must leave.
    #[inline(always)]
    const fn kept(self, bucket_ns: u64) -> u64 {
        match self {
            Self::Common => bucket_ns / 2,
            Self::Reserved => 0,
        }
    }
}

/// The buckets of one CPU.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TokenBucket {
    /// Credit, in nanoseconds.
    credit_ns: u64,
    /// When it was refilled.
    refilled_ns: u64,
    /// When the bucket of all CPUs last had too little, by [`Claim`]: until the next tick it has no more.
    refused_ns: [u64; 2],
    /// New flows that this CPU took from the bucket of all CPUs and has not opened, by [`Claim`].
    allotted: [u32; 2],
    /// 1 when the latest packet that would open a flow got no token: the next one hardly will.
    pub(crate) refuses: u64,
}

impl TokenBucket {
    /// Before any packet.
    pub(crate) const fn empty() -> Self {
        Self { credit_ns: 0, refilled_ns: 0, refused_ns: [0; 2], allotted: [0; 2], refuses: 0 }
    }

    /// Takes a token of the slow path; `true` if shedding is off.
    #[inline(always)]
    pub(crate) fn take(&mut self, settings: &Settings, now_ns: u64, claim: Claim) -> bool {
        let cost = settings.token_ns.load();
        if cost == 0 {
            return true;
        }
        let passed = now_ns.saturating_sub(self.refilled_ns);
        let credit = self.credit_ns.saturating_add(passed).min(SHED_BUCKET_NS);
        let has_token = credit >= claim.kept(SHED_BUCKET_NS) + cost;
        self.refilled_ns = now_ns;
        self.credit_ns = if has_token { credit - cost } else { credit };
        has_token
    }

    /// Takes a token of the slow path and one of a new flow; `true` if shedding is off.
    #[inline(always)]
    pub(crate) fn take_opening(&mut self, settings: &Settings, now_ns: u64, claim: Claim) -> bool {
        if settings.token_ns.load() == 0 {
            self.refuses = 0;
            return true;
        }
        // In this order, since a packet that one bucket refuses must cost the other nothing.
        let may_open = self.has_opening(settings, now_ns, claim) && self.take(settings, now_ns, claim);
        if may_open {
            self.allotted[claim as usize & 1] -= 1;
        }
        self.refuses = u64::from(!may_open);
        may_open
    }

    /// Whether a new flow is allotted to this CPU, if need be from the bucket of all CPUs.
    #[inline(always)]
    fn has_opening(&mut self, settings: &Settings, now_ns: u64, claim: Claim) -> bool {
        let index = claim as usize & 1;
        if self.allotted[index] > 0 {
            return true;
        }
        if self.refused_ns[index] == now_ns {
            return false;
        }
        let batch_ns = settings.opening_ns.load() * u64::from(SHED_BATCH);
        let until = settings.openings_until_ns.load();
        let next = until.max(now_ns.saturating_sub(SHED_OPENINGS_NS)) + batch_ns;
        if next > now_ns.saturating_sub(claim.kept(SHED_OPENINGS_NS)) {
            self.refused_ns[index] = now_ns;
            return false;
        }
        // If another CPU was first, this packet goes without, and the next one tries again.
        if !settings.openings_until_ns.replace(until, next) {
            return false;
        }
        self.allotted[index] = SHED_BATCH;
        true
    }
}

/// Packets and IP bytes of one interface that one CPU counted apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PacketTally {
    /// IP packets.
    pub packets: u64,
    /// IP bytes.
    pub bytes: u64,
}
