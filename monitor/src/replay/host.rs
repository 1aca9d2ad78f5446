//! The host engine: the shared data path over plain memory. Needs no rights and no kernel support.

use monitor_common::{
    key::Seed,
    limits::{DEFAULT_ENDPOINTS, DEFAULT_FLOWS, DEFAULT_TALLIES},
    reason::Reason,
    store::{Inspection, Outcome},
};

use super::{
    args::EngineKind,
    engine::{EngineError, EngineTotals, ReplayEngine},
};
use crate::{
    capture::Frame,
    datapath::host::{HostDataPath, TableSizes},
    pool::Pool,
};

/// Table sizes of both engines, those of the agent.
pub(super) const SIZES: TableSizes =
    TableSizes { flows: DEFAULT_FLOWS, tallies: DEFAULT_TALLIES, endpoints: DEFAULT_ENDPOINTS };

/// Hash seed of both engines: fixed, so that flows meet in the same sets and the results are equal. (Digits of pi.)
pub(super) const SEED: Seed = Seed::from_random([0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0]);

struct Host(HostDataPath);

/// An empty host engine.
pub(super) fn open(pools: &[Pool]) -> Box<dyn ReplayEngine> {
    Box::new(Host(HostDataPath::new(&SIZES, pools, SEED, Inspection::Framing)))
}

impl ReplayEngine for Host {
    fn kind(&self) -> EngineKind {
        EngineKind::Host
    }

    fn packet(&mut self, frame: &Frame<'_>, now_s: u64) -> Result<Outcome, EngineError> {
        Ok(self.0.frame(frame.bytes, frame.wire_len, now_s))
    }

    fn finish(self: Box<Self>) -> Result<EngineTotals, EngineError> {
        let skipped = Reason::ALL.iter().map(|reason| (*reason, self.0.skipped(*reason))).collect();
        Ok(EngineTotals::read(&self.0.view(), skipped))
    }
}
