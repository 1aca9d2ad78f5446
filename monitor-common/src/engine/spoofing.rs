//! Spoofing: packets in the name of a subscriber who is not behind the interface that they arrive on.
//!
//! Such a packet never charges its sender and teaches nothing (`charge.rs` has what it counts for).

use crate::{
    abi::{
        interface::InterfaceEntry,
        spoofing::{SHARED_POOLS, SpoofReason},
    },
    parse::Headers,
    tables::{context::PacketContext, maps::Maps, pool_table},
};

/// Whether the source of the packet is a subscriber who is not behind its interface: any subscriber on a core
/// interface, and one outside the prefixes of an access interface that has some.
#[inline(always)]
pub(super) fn is_spoofed<M: Maps>(maps: &M, ctx: &PacketContext) -> bool {
    let entry = ctx.entry();
    (entry.is_core() || entry.prefix_set() != 0) && !may_send(maps, &ctx.frame.headers, entry)
}

/// Whether the source of the packet is a subscriber outside the prefixes of its access interface.
#[inline(always)]
pub(super) fn is_outside<M: Maps>(maps: &M, headers: &Headers, entry: InterfaceEntry) -> bool {
    !entry.is_core() && entry.prefix_set() != 0 && !may_send(maps, headers, entry)
}

/// Whether packets of the source may come from an interface.
///
/// Inside a tunnel, the outermost address that is a subscriber's counts, as for who is charged. On a core interface
/// neither may be one.
#[inline(never)]
fn may_send<M: Maps>(maps: &M, headers: &Headers, entry: InterfaceEntry) -> bool {
    let subscriber = if pool_table::find(maps, headers.outer_source).is_some() {
        headers.outer_source
    } else if headers.tunnel != 0 && pool_table::find(maps, headers.source).is_some() {
        headers.source
    } else {
        return true;
    };
    !entry.is_core() && maps.set_holds(entry.prefix_set(), subscriber)
}

/// Counts a spoofed packet that belongs to no flow.
#[inline(never)]
pub(super) fn count<M: Maps>(maps: &M, ctx: &PacketContext) {
    let sender = ctx.subscribers.addresses[ctx.sender() & 1];
    let elsewhere = ctx.interface().is_core() && maps.set_holds(SHARED_POOLS, sender);
    let reason = if elsewhere { SpoofReason::CoreSource } else { SpoofReason::Spoofed };
    maps.count_spoofed(reason, ctx.interface(), u64::from(ctx.frame.headers.ip_bytes));
}
