//! The host engine: the shared data path over plain memory. Needs no rights and no kernel support.

use monitor_common::abi::{outcome::Outcome, reason::Reason, rule::Rule, settings::InspectionDepth};
use peertally_capture::Frame;
use peertally_datapath::host::HostDataPath;

use super::{
    args::EngineKind,
    engine::{EngineError, EngineOptions, EngineTotals, ReplayEngine, SEED, SIZES},
};

struct Host(HostDataPath);

/// An empty host engine.
pub(super) fn open(options: &EngineOptions) -> Box<dyn ReplayEngine> {
    let mut path = HostDataPath::new(&SIZES, &options.pools, SEED, InspectionDepth::Framing);
    path.set_tunnel_endpoints(&options.tunnel_endpoints);
    if options.one_way {
        path.set_one_way();
    }
    Box::new(Host(path))
}

impl ReplayEngine for Host {
    fn kind(&self) -> EngineKind {
        EngineKind::Host
    }

    fn packet(&mut self, frame: &Frame<'_>, now_s: u64) -> Result<Outcome, EngineError> {
        Ok(self.0.frame(frame.bytes, frame.wire_len, now_s))
    }

    fn rule(&self) -> Option<Rule> {
        self.0.rule()
    }

    fn is_charged(&self) -> bool {
        self.0.is_charged()
    }

    fn finish(self: Box<Self>) -> Result<EngineTotals, EngineError> {
        let skipped = Reason::ALL.iter().map(|reason| (*reason, self.0.skipped(*reason))).collect();
        Ok(EngineTotals::read(&self.0.view(), skipped))
    }
}
