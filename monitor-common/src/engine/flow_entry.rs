//! Flow entry: a packet's flow in the table.

use crate::{
    abi::limits::WAYS,
    bpf::shared_u64::SharedU64,
    tables::{
        context::PacketContext,
        flow_table::{ColdFlow, FlowSet, counter_index},
        maps::Maps,
    },
};

/// The packet's flow in the table: looked up once for all that a stage does with it.
#[derive(Clone, Copy)]
pub(super) struct FlowEntry<'a> {
    pub(super) set: &'a FlowSet,
    pub(super) cold: &'a ColdFlow,
    pub(super) way: usize,
}

impl<'a> FlowEntry<'a> {
    /// The flow in the way that the context names.
    #[inline(always)]
    pub(super) fn of<M: Maps>(maps: &'a M, ctx: &PacketContext) -> Option<Self> {
        let way = ctx.flow.way as usize & (WAYS - 1);
        let set = maps.flow_set(ctx.flow.set_index)?;
        Some(Self { set, cold: &maps.cold_set(ctx.flow.set_index)?.flows[way], way })
    }

    /// Its state ([`crate::tables::flow_table::FlowState`]).
    #[inline(always)]
    pub(super) fn state_word(&self) -> &'a SharedU64 {
        &self.set.states[self.way]
    }

    /// Its packed counter of one direction; `from_lower` is 1 or 0.
    #[inline(always)]
    pub(super) fn counter(&self, from_lower: u64) -> &'a SharedU64 {
        &self.set.counters[counter_index(self.way, from_lower)]
    }
}
