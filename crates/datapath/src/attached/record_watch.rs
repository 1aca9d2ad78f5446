//! Waits until the program says that half of the buffer of verdict records is full, so that they do not wait for the
//! next drain.

use std::{
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
};

/// Events of the ring buffer.
const RING: u64 = 0;
/// The watch ends.
const END: u64 = 1;

/// Watches the ring buffer until dropped.
#[derive(Debug)]
pub(super) struct RecordWatch {
    /// Whether the buffer was half full since records were taken.
    pending: Arc<AtomicBool>,
    end: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl RecordWatch {
    /// Starts to watch; `wake` is called with the first event since the last [`Self::taken`].
    ///
    /// # Errors
    /// No descriptor or no thread.
    pub(super) fn start(ring: OwnedFd, wake: impl Fn() + Send + 'static) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let (end, ended) = UnixStream::pair()?;
        // Edge-triggered: records that wait are no event, only what the program says.
        epoll::add(&epoll, &ring, EventData::new_u64(RING), EventFlags::IN | EventFlags::ET)?;
        epoll::add(&epoll, &ended, EventData::new_u64(END), EventFlags::IN)?;
        let pending = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&pending);
        let thread = thread::Builder::new().name("verdict-records".to_owned()).spawn(move || {
            let _watched = ring;
            while wait(&epoll, &ended) {
                if !noted.swap(true, Relaxed) {
                    wake();
                }
            }
        })?;
        Ok(Self { pending, end: Some(end), thread: Some(thread) })
    }

    /// Says that records are taken now: what the program says from here on wakes again.
    pub(super) fn taken(&self) {
        self.pending.store(false, Relaxed);
    }
}

/// Waits for the ring buffer; `false` when the watch ends.
fn wait(epoll: &OwnedFd, mut ended: &UnixStream) -> bool {
    let mut events = Vec::with_capacity(2);
    loop {
        events.clear();
        match epoll::wait(epoll, spare_capacity(&mut events), None) {
            Ok(_) => return events.iter().all(|event| event.data.u64() != END),
            Err(error) if error == rustix::io::Errno::INTR => {}
            Err(error) => {
                tracing::error!(%error, "the buffer of verdict records is not watched any more; each drain reads it");
                // Nothing but the end is waited for.
                let _closed = ended.read(&mut [0]);
                return false;
            }
        }
    }
}

impl Drop for RecordWatch {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It cannot panic, and if it did there is nothing to undo.
            let _ended = thread.join();
        }
    }
}
