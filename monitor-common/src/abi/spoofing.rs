//! Why a packet counts as spoofed, and the sets of prefixes by which that is judged.

use super::limits::MAX_INTERFACES;

labelled_numbers! {
    /// Why a packet with a subscriber's source counts for no flow. Append only, never renumber.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    SpoofReason:

    /// The subscriber is not behind the interface.
    Spoofed = 0, "spoofed";
    /// It arrived on a core interface, and other routers serve subscribers of that pool, too.
    CoreSource = 1, "core_source";
}

/// Counters of spoofed packets: one for each reason and interface number.
pub const SPOOFED_ENTRIES: usize = SpoofReason::ALL.len() * MAX_INTERFACES;

/// Index of a counter of spoofed packets.
#[inline(always)]
#[must_use]
pub const fn spoofed_index(reason: SpoofReason, interface: u32) -> u32 {
    reason as u32 * MAX_INTERFACES as u32 + interface
}

/// Number of the set of the pools that other routers serve, too. The others are those that access interfaces allow.
pub const SHARED_POOLS: u32 = 0;
/// The value of a prefix in a set. 0 is that of a prefix that is cut out of one around it.
pub const IN_SET: u32 = 1;
