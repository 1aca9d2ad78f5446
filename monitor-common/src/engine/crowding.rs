//! Crowding: a subscriber who holds more than one way of a full set gives one of them to a new flow.
//!
//! A P2P flow that was active within the last minute is not evicted for other flows. So a subscriber with many such
//! flows, and a helper outside who answers them, could fill the table and hide all others. The ways of one set are
//! shared by flows that chance brings together, so among a hundred thousand sets few have two flows of one line.

use crate::{
    abi::{key::FlowKey, limits::WAYS, settings::Settings, tally::SlotKey},
    bpf::branchless::{is_equal, neg},
    tables::{
        context::PacketContext,
        flow_table::{ColdSet, FlowState, NO_SLOT, unpack_slots},
        maps::Maps,
    },
};

/// Ways of one full set that a subscriber may hold. With half of them, two subscribers could hold all of the table.
const SHARE: u64 = 1;

/// Selects the way of a crowding subscriber's flow, the longest unseen one, for the packet's new flow: sets
/// `set_index`, `way` and `state`. `false` if there is none.
#[inline(never)]
pub(super) fn select_victim<M: Maps>(maps: &M, settings: &Settings, ctx: &mut PacketContext) -> bool {
    best_in(maps, ctx, FlowKey::set_index(ctx.flow.tag, settings.set_mask))
        || best_in(maps, ctx, FlowKey::second_set_index(ctx.flow.tag, settings.set_mask))
}

#[inline(never)]
fn best_in<M: Maps>(maps: &M, ctx: &mut PacketContext, index: u32) -> bool {
    let (Some(set), Some(cold)) = (maps.flow_set(index), maps.cold_set(index)) else { return false };
    let blocks = [block(maps, cold, 0), block(maps, cold, 1), block(maps, cold, 2), block(maps, cold, 3)];
    let mut best = 0;
    let mut way = 0;
    while way < WAYS {
        let own = blocks[way];
        let held =
            is_equal(own, blocks[0]) + is_equal(own, blocks[1]) + is_equal(own, blocks[2]) + is_equal(own, blocks[3]);
        let state = FlowState(set.states[way].load());
        let age = state.crowding_priority(ctx.frame.now_s);
        if own != 0 && held > SHARE && age > best {
            best = age;
            ctx.flow.set_index = index;
            ctx.flow.way = way as u32;
            ctx.flow.state = state.0;
        }
        way += 1;
    }
    best != 0
}

/// A digest of the first subscriber block that the flow in a way is charged to; 0 for none.
#[inline(always)]
fn block<M: Maps>(maps: &M, cold: &ColdSet, way: usize) -> u64 {
    let (lower, higher) = unpack_slots(cold.flows[way & (WAYS - 1)].slots.load());
    let slot = if lower == NO_SLOT { higher } else { lower };
    // No key has the number that means "no slot", and the catch-all tally, in slot 0, is of many subscribers.
    let digest = maps.slot_key(slot).map_or(0, SlotKey::block_digest);
    digest & neg(1 ^ is_equal(u64::from(slot), 0))
}

const _: () = assert!(WAYS == 4, "the ways are written out");
