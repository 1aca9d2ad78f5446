//! What the program costs on this node, by the kernel's run statistics (`BPF_ENABLE_STATS`, bpf(2)).
//!
//! They cost each program run two reads of the clock, so they are on only while a [`Measurement`] lives.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use aya::{
    programs::{ProgramError, ProgramInfo, loaded_programs},
    sys::{Stats, SyscallError, enable_stats},
};

use crate::object::PROGRAM;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    /// The statistics cannot be turned on.
    #[error("cannot turn on the kernel's run statistics: {0}")]
    Stats(#[source] SyscallError),
    /// Programs cannot be listed.
    #[error("cannot list the loaded programs: {0}")]
    Programs(#[source] ProgramError),
}

/// Runs of the program, and the time that they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunCost {
    /// Runs: frames.
    pub frames: u64,
    /// Time of all runs, of all CPUs together.
    pub busy: Duration,
    /// Length of the measurement.
    pub wall: Duration,
}

impl RunCost {
    /// Nanoseconds a frame; `None` without a frame.
    #[must_use]
    pub fn nanoseconds_a_frame(&self) -> Option<f64> {
        (self.frames > 0).then(|| self.busy.as_nanos() as f64 / self.frames as f64)
    }

    /// Share of one CPU.
    #[must_use]
    pub fn cpus(&self) -> f64 {
        if self.wall.is_zero() { 0.0 } else { self.busy.as_secs_f64() / self.wall.as_secs_f64() }
    }
}

/// A measurement that runs. The statistics go off when it is dropped.
pub struct Measurement {
    _statistics: OwnedFd,
    start: Instant,
    before: (u64, Duration),
}

impl Measurement {
    /// Turns the statistics on.
    ///
    /// # Errors
    /// [`CostError`].
    pub fn start() -> Result<Self, CostError> {
        let statistics = enable_stats(Stats::RunTime).map_err(CostError::Stats)?;
        Ok(Self { _statistics: statistics, start: Instant::now(), before: runs()? })
    }

    /// What the programs of Peertally did since.
    ///
    /// # Errors
    /// [`CostError::Programs`].
    pub fn end(self) -> Result<RunCost, CostError> {
        let (frames, busy) = runs()?;
        Ok(RunCost {
            frames: frames.saturating_sub(self.before.0),
            busy: busy.saturating_sub(self.before.1),
            wall: self.start.elapsed(),
        })
    }
}

/// Runs of all entry programs of Peertally so far. Its stages run within them.
fn runs() -> Result<(u64, Duration), CostError> {
    let mut sum = (0, Duration::ZERO);
    for program in loaded_programs() {
        let program: ProgramInfo = match program {
            Ok(program) => program,
            // It ended meanwhile.
            Err(ProgramError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(CostError::Programs(error)),
        };
        if program.name_as_str() == Some(PROGRAM) {
            sum.0 += program.run_count();
            sum.1 += program.run_time();
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_costs_its_part_of_the_time() {
        let cost = RunCost { frames: 1000, busy: Duration::from_micros(50), wall: Duration::from_millis(1) };
        assert_eq!(cost.nanoseconds_a_frame(), Some(50.0));
        assert!((cost.cpus() - 0.05).abs() < 1e-9);
        assert_eq!(RunCost::default().nanoseconds_a_frame(), None);
    }
}
