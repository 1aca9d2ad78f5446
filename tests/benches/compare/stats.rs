//! The kernel's run statistics of XDP programs (`BPF_ENABLE_STATS`, Linux 5.8).

use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use aya::{
    programs::Xdp,
    sys::{Stats, enable_stats},
};

/// Statistics are on while this lives.
pub(crate) struct On {
    _on: OwnedFd,
}

/// Runs of a program, and the time they took together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Runs {
    /// Packets.
    pub(crate) packets: u64,
    /// Their time, in ns. The two clock readings around each run are partly in it.
    pub(crate) ns: u64,
}

impl On {
    /// Switches them on.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { _on: enable_stats(Stats::RunTime).context("BPF_ENABLE_STATS")? })
    }
}

impl Runs {
    /// Runs of a program so far.
    pub(crate) fn of(program: &Xdp) -> Result<Self> {
        let info = program.info().context("the program's statistics")?;
        let ns = u64::try_from(info.run_time().as_nanos()).context("a run time")?;
        Ok(Self { packets: info.run_count(), ns })
    }

    /// Runs since an earlier reading.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self { packets: self.packets - earlier.packets, ns: self.ns - earlier.ns }
    }

    /// Time per packet, in ns.
    pub(crate) fn ns_per_packet(self) -> f64 {
        self.ns as f64 / self.packets.max(1) as f64
    }
}
