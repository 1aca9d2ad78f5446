//! The kernel engine: the loaded XDP program, fed by the kernel's test runner and attached to nothing.

use monitor_common::abi::{outcome::Outcome, rule::Rule};
use peertally_capture::Frame;
use peertally_datapath::{
    ObjectError,
    object::{LoadOptions, MonitoredInterface},
    test_run::TestRunner,
};

use super::{
    args::EngineKind,
    engine::{EngineError, EngineOptions, EngineTotals, ReplayEngine, SEED, SIZES},
};

/// Index of the interface that the test runner's frames arrive on: the loopback interface.
const LOOPBACK_INDEX: u32 = 1;

struct Kernel(TestRunner);

/// Loads the program.
///
/// # Errors
/// Rights are missing, or the kernel cannot run it.
pub(super) fn open(options: &EngineOptions) -> Result<Box<dyn ReplayEngine>, EngineError> {
    let options = LoadOptions {
        sizes: SIZES,
        pools: options.pools.clone(),
        tunnel_endpoints: options.tunnel_endpoints.clone(),
        one_way: options.one_way,
        seed: Some(SEED),
        interfaces: vec![MonitoredInterface::access(LOOPBACK_INDEX)],
        ..LoadOptions::default()
    };
    Ok(Box::new(Kernel(TestRunner::new(&options)?)))
}

impl ReplayEngine for Kernel {
    fn kind(&self) -> EngineKind {
        EngineKind::Kernel
    }

    fn packet(&mut self, frame: &Frame<'_>, now_s: u64) -> Result<Outcome, EngineError> {
        Ok(self.0.frame(frame.bytes, frame.wire_len, now_s)?)
    }

    fn rule(&self) -> Option<Rule> {
        self.0.rule()
    }

    fn is_charged(&self) -> bool {
        self.0.is_charged()
    }

    fn finish(self: Box<Self>) -> Result<EngineTotals, EngineError> {
        Ok(EngineTotals::read(&self.0.view(), self.0.skipped()?))
    }
}

impl From<ObjectError> for EngineError {
    fn from(error: ObjectError) -> Self {
        if error.is_missing_rights() { Self::Rights(error) } else { Self::Kernel(error) }
    }
}
