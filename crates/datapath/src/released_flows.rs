//! Takes the flows in the table away from subscribers whose pool was removed or is cut into other blocks.
//!
//! Flows name tally slots, whose keys name blocks. A flow of a removed block ends: its next packet is looked up like
//! that of a new flow. A flow of a block that is cut otherwise keeps its verdict, and its next packet shows who is
//! charged. Flows that charge nobody yet are left alone: they look the subscribers up when they charge somebody.

use std::collections::HashMap;

use monitor_common::{
    abi::{key::Address, limits::WAYS},
    engine::release::{EndedFlow, end_flow, flush_ended, uncharge_flow, unlock_abandoned},
    tables::flow_table::{FlowState, NO_SLOT, Phase, unpack_slots},
};
use peertally_core::pool::{BlockFate, PoolChange};

use crate::view::{MappedCounters, View};

/// Scans at most: a flow that another CPU is just changing is tried again after all packets in progress are done.
const SCANS: usize = 3;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReleasedFlows {
    /// Flows of removed blocks, which ended.
    pub ended: u64,
    /// Flows of blocks that are cut otherwise, which charge anew.
    pub uncharged: u64,
    /// Flows that were being changed in each scan: they still charge whom they did.
    pub busy: u64,
    /// Ways that a dead agent had locked.
    pub abandoned: u64,
    /// Verdict writes that failed; always 0 unless there is a bug.
    pub internal_errors: u64,
}

impl ReleasedFlows {
    /// Whether no flow was found.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        (self.ended, self.uncharged, self.busy) == (0, 0, 0)
    }
}

/// Takes flows away from subscribers that `change` ends; the new pools are in the tables already.
///
/// `wait` returns when every packet that was in progress when it was called is done.
pub fn release_flows(view: &View<'_>, change: &PoolChange, mut wait: impl FnMut()) -> ReleasedFlows {
    let mut release =
        Release { view, change, fates: HashMap::new(), ended: Vec::new(), done: ReleasedFlows::default() };
    let counters = MappedCounters::new(*view);
    // Packets that have looked the old pools up may still charge a flow.
    wait();
    for scan in 1..=SCANS {
        release.scan(&counters);
        if release.done.busy == 0 || scan == SCANS {
            break;
        }
        wait();
    }
    if !release.ended.is_empty() {
        wait();
        let now_s = view.settings.clock_s.load();
        for (index, way, ended) in &release.ended {
            flush_ended(&counters, &view.flows[*index], *way, *ended, now_s);
        }
    }
    ReleasedFlows { internal_errors: counters.internal_errors(), ..release.done }
}

/// Ends flows whose way an agent had locked when it died.
pub fn release_abandoned(view: &View<'_>, mut wait: impl FnMut()) -> u64 {
    let is_locked =
        |(index, way): &(usize, usize)| FlowState(view.flows[*index].states[*way].load()).phase() == Phase::Locked;
    let ways = (0..view.flows.len()).flat_map(|index| (0..WAYS).map(move |way| (index, way)));
    // A CPU holds a lock for a part of a packet only.
    let mut locked: Vec<_> =
        ways.filter(is_locked).map(|(index, way)| (index, way, claims(view, index, way))).collect();
    if locked.is_empty() {
        return 0;
    }
    // Twice: a CPU that locks the way at the moment of a look counts its claim a moment later.
    for _ in 0..2 {
        wait();
        locked.retain(|(index, way, before)| is_locked(&(*index, *way)) && claims(view, *index, *way) == *before);
    }
    let counters = MappedCounters::new(*view);
    let now_s = view.settings.clock_s.load();
    let freed = locked.iter().filter(|(index, way, _)| {
        unlock_abandoned(&counters, view.settings, (&view.flows[*index], &view.cold[*index]), *way, now_s)
    });
    freed.count() as u64
}

fn claims(view: &View<'_>, index: usize, way: usize) -> u64 {
    view.cold[index].flows[way].claims()
}

struct Release<'a> {
    view: &'a View<'a>,
    change: &'a PoolChange,
    /// By tally slot.
    fates: HashMap<u32, BlockFate>,
    ended: Vec<(usize, usize, EndedFlow)>,
    done: ReleasedFlows,
}

impl Release<'_> {
    fn scan(&mut self, counters: &MappedCounters<'_>) {
        let view = self.view;
        self.done.busy = 0;
        let now_s = view.settings.clock_s.load();
        for (index, (set, cold)) in view.flows.iter().zip(view.cold).enumerate() {
            for way in 0..WAYS {
                let state = FlowState(set.states[way].load());
                if !matches!(state.phase(), Phase::Inspecting | Phase::Settled) {
                    continue;
                }
                let (lower, higher) = unpack_slots(cold.flows[way].slots.load());
                match self.fate(lower).max(self.fate(higher)) {
                    BlockFate::Kept => {}
                    BlockFate::Recut => {
                        if uncharge_flow(counters, view.settings, (set, cold), way, now_s) {
                            self.done.uncharged += 1;
                        } else {
                            self.done.busy += 1;
                        }
                    }
                    BlockFate::Removed => match end_flow(counters, view.settings, (set, cold), way, now_s) {
                        Some(ended) => {
                            self.done.ended += 1;
                            self.ended.push((index, way, ended));
                        }
                        None => self.done.busy += 1,
                    },
                }
            }
        }
    }

    /// What becomes of the block that a tally slot belongs to. The catch-all tally belongs to nobody.
    fn fate(&mut self, slot: u32) -> BlockFate {
        if slot == NO_SLOT || slot == 0 {
            return BlockFate::Kept;
        }
        let (view, change) = (self.view, self.change);
        let find = || {
            let key = view.keys.get(slot as usize).and_then(|key| key.read());
            key.map_or(BlockFate::Kept, |key| change.fate(Address::v6(key.address), key.prefix_len))
        };
        *self.fates.entry(slot).or_insert_with(find)
    }
}
