//! The outcome of one packet, for replay and tests.

use super::{protocol::Verdict, reason::Reason, rule::Rule};

/// The outcome of one packet, for replay and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not counted as IP; the reason says why.
    Skipped(Reason),
    /// Counted as transit.
    Transit,
    /// Counted in a flow that was in the flow table.
    Known(Verdict),
    /// Counted in a flow that this packet opened.
    New(Verdict),
    /// Counted in a flow that this packet restarted.
    Restarted(Verdict),
    /// Counted without a flow entry, as unclassified.
    Uncached,
}

/// The packed form of an [`Outcome`], a byte each: number; reason or protocol number; confidence number; rule number,
/// if the packet brought its flow's verdict; 1 if the flow is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct PacketOutcome(pub u64);

impl PacketOutcome {
    /// Counted as transit.
    pub const TRANSIT: Self = Self(1);
    /// Counted without a flow entry.
    pub const UNCACHED: Self = Self(5);

    /// Not counted as IP.
    #[inline(always)]
    #[must_use]
    pub const fn skipped(reason: Reason) -> Self {
        Self((reason as u64) << 8)
    }

    /// Counted in a flow: `entry` is 0 for a known, 1 for a new, 2 for a restarted one.
    #[inline(always)]
    #[must_use]
    pub const fn flow(entry: u32, protocol: u8, confidence: u8) -> Self {
        Self((2 + entry as u64) | ((protocol as u64) << 8) | ((confidence as u64) << 16))
    }

    /// With the number of the rule that gave the verdict, 0 for none.
    #[inline(always)]
    #[must_use]
    pub const fn by_rule(self, rule: u32) -> Self {
        Self(self.0 | ((rule as u64) & 0xff) << 24)
    }

    /// With or without the mark of a packet whose flow is charged to a subscriber.
    #[inline(always)]
    #[must_use]
    pub const fn with_charge(self, charged: bool) -> Self {
        Self(self.0 & !(1 << 32) | (charged as u64) << 32)
    }

    /// Whether the packet's flow is charged to a subscriber.
    #[must_use]
    pub const fn is_charged(self) -> bool {
        self.0 >> 32 & 1 != 0
    }

    /// The rule that gave the verdict with this packet.
    #[must_use]
    pub const fn rule(self) -> Option<Rule> {
        Rule::from_number((self.0 >> 24) as u8)
    }
}

impl From<PacketOutcome> for Option<Outcome> {
    /// `None` for numbers that this build does not know.
    fn from(PacketOutcome(bits): PacketOutcome) -> Self {
        let (number, detail, confidence) = (bits as u8, (bits >> 8) as u8, (bits >> 16) as u8);
        let verdict = || Verdict::from_numbers(detail, confidence);
        Some(match number {
            0 => Outcome::Skipped(Reason::from_number(detail)?),
            1 => Outcome::Transit,
            2 => Outcome::Known(verdict()?),
            3 => Outcome::New(verdict()?),
            4 => Outcome::Restarted(verdict()?),
            5 => Outcome::Uncached,
            _ => return None,
        })
    }
}
