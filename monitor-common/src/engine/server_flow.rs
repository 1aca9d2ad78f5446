//! Flows between a client and a server: the budget of packets that are inspected, and the request that an answer must
//! match.

use crate::{
    abi::limits::SERVER_FLOW_PACKETS,
    bpf::shared_u64::SharedU64,
    dissect::{peer_list::requests, rule_state::rule_flags},
    tables::{
        context::PacketContext,
        flow_table::{ColdFlow, FlowState},
        maps::Maps,
        progress::Progress,
    },
};

/// Counts a packet without payload against the budget; whether the budget is used up.
#[inline(always)]
pub(super) fn count_empty(cold: &ColdFlow, ctx: &PacketContext) -> bool {
    let mut progress = cold.progress();
    let exhausted = progress.inspect(ctx.is_from_lower(), 1) >= SERVER_FLOW_PACKETS;
    cold.set_progress(progress);
    exhausted
}

/// Renews the budget.
#[inline(always)]
pub(super) fn renew_budget(cold: &ColdFlow) {
    cold.set_progress(Progress { inspected_lower: 0, inspected_higher: 0, ..cold.progress() });
}

/// Stores the request of the packet's sender, a subscriber: the flow is a server flow from now on, and an answer must
/// match the request. Over UDP the rules have stored the transaction id already.
#[inline(never)]
pub(super) fn store_request<M: Maps>(maps: &M, ctx: &PacketContext, word: &SharedU64) {
    let Some(cold) = maps.cold_set(ctx.flow.set_index) else { return };
    let cold = cold.flow(ctx.flow.way);
    let (state, rule_value) = (FlowState(word.load()), &cold.rule_value);
    if ctx.is_tcp() && ctx.inspection.peer_list.requests & requests::SOURCES != 0 {
        let mut progress = cold.progress();
        progress.rule_flags &= !rule_flags::REQUEST_FROM_LOWER;
        if ctx.is_from_lower() {
            progress.rule_flags |= rule_flags::REQUEST_FROM_LOWER;
        }
        cold.set_progress(progress);
        rule_value.store(u64::from(ctx.next_sequence()) << 32 | u64::from(ctx.frame.headers.acknowledgement));
    } else if ctx.is_tcp() && !state.is_server_flow() {
        // The value that rules stored is no request.
        rule_value.store(0);
    }
    // If another CPU refreshes the last-seen second at this very moment, the next request tries again.
    if state != state.server_flow() {
        word.replace(state.0, state.server_flow().0);
    }
}
