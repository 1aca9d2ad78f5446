//! Grace periods: the time in which every CPU has ended the program that it ran before.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Sender},
    },
    thread,
    time::Duration,
};

use rustix::thread::{MembarrierCommand, membarrier};

/// Waits until no CPU runs a program that was replaced or detached before this call: such a packet still needs its
/// stages.
pub(crate) fn wait_for_packets() {
    // The kernel's `synchronize_rcu` (kernel/sched/membarrier.c); programs run within RCU read sections.
    if membarrier(MembarrierCommand::Global).is_err() {
        // Not offered with `nohz_full`. A packet takes microseconds.
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Tells when a grace period is over.
pub trait GracePeriods: Send {
    /// Begins one. An earlier one counts no more.
    fn begin(&mut self);
    /// Whether the latest one is over.
    fn is_over(&mut self) -> bool;
    /// Waits for the end of the latest one.
    fn wait(&mut self);
}

/// Grace periods where no program runs beside the caller.
#[derive(Debug)]
pub struct NoProgram;

impl GracePeriods for NoProgram {
    fn begin(&mut self) {}

    fn is_over(&mut self) -> bool {
        true
    }

    fn wait(&mut self) {}
}

/// Grace periods of the kernel, awaited by a thread: a drain does not wait.
#[derive(Debug)]
pub struct RcuGrace {
    begun: u64,
    over: Arc<AtomicU64>,
    thread: Sender<u64>,
}

impl RcuGrace {
    /// Starts the thread, which ends when this is dropped.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start() -> io::Result<Self> {
        let over = Arc::new(AtomicU64::new(0));
        let (sender, receiver) = mpsc::channel();
        let ended = Arc::clone(&over);
        thread::Builder::new().name("grace".to_owned()).spawn(move || {
            while let Ok(number) = receiver.recv() {
                wait_for_packets();
                ended.store(number, Ordering::Release);
            }
        })?;
        Ok(Self { begun: 0, over, thread: sender })
    }
}

impl GracePeriods for RcuGrace {
    fn begin(&mut self) {
        self.begun += 1;
        // The thread ends only with this sender.
        let _ended = self.thread.send(self.begun);
    }

    fn is_over(&mut self) -> bool {
        self.over.load(Ordering::Acquire) >= self.begun
    }

    fn wait(&mut self) {
        while !self.is_over() {
            wait_for_packets();
        }
    }
}
