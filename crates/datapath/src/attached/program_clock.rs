//! The coarse clock of the program, advanced every second.
//!
//! The program's slow path also advances it. If all packets belong to settled flows, only this thread does; otherwise
//! an active flow would look idle to the first new flow.

use std::{
    io,
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::Duration,
};

use monitor_common::abi::settings::Settings;

use super::AttachError;
use crate::mapped::MappedArray;

/// Advances the clock until dropped.
#[derive(Debug)]
pub(super) struct ProgramClock {
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Seconds of the clock that `bpf_ktime_get_coarse_ns` reads (kernel/bpf/helpers.c).
pub(super) fn now_s() -> u64 {
    rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse).tv_sec.unsigned_abs()
}

impl ProgramClock {
    /// Starts advancing the clock.
    pub(super) fn start(settings: MappedArray<Settings>) -> Result<Self, AttachError> {
        settings.values()[0].clock_s.store(now_s());
        let (end, ended) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("clock".to_owned())
            .spawn(move || {
                while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(Duration::from_secs(1)) {
                    settings.values()[0].clock_s.store(now_s());
                }
            })
            .map_err(|source: io::Error| AttachError::Thread { source })?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for ProgramClock {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It cannot panic, and if it did there is nothing to undo.
            let _ended = thread.join();
        }
    }
}
