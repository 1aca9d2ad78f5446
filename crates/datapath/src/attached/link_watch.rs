//! Waits for messages of the kernel that a link was made, changed or removed (rtnetlink group `RTNLGRP_LINK`), so that
//! an interface made anew does not wait for the next drain.

use std::{
    io::{self, Read as _},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::event::{PollFd, PollFlags, poll};

/// `RTNLGRP_LINK` of linux/rtnetlink.h.
const LINK_GROUP: u32 = 1;

/// Watches links until dropped.
#[derive(Debug)]
pub(super) struct LinkWatch {
    /// Whether a message came since the last look.
    pending: Arc<AtomicBool>,
    end: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl LinkWatch {
    /// Starts to watch the links of the present network namespace; `wake` is called with the first message since the
    /// last [`Self::looked`].
    ///
    /// # Errors
    /// No socket or no thread.
    pub(super) fn start(wake: impl Fn() + Send + 'static) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(LINK_GROUP)?;
        socket.set_non_blocking(true)?;
        let (end, ended) = UnixStream::pair()?;
        let pending = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&pending);
        let thread = thread::Builder::new().name("links".to_owned()).spawn(move || {
            while wait(&socket, &ended) {
                if !noted.swap(true, Relaxed) {
                    wake();
                }
            }
        })?;
        Ok(Self { pending, end: Some(end), thread: Some(thread) })
    }

    /// Says that the links are looked at now: a message from here on wakes again.
    pub(super) fn looked(&self) {
        self.pending.store(false, Relaxed);
    }
}

/// Waits for messages and takes them all; `false` when the watch ends.
fn wait(socket: &Socket, mut ended: &UnixStream) -> bool {
    loop {
        let mut waiting = [PollFd::new(socket, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
        match poll(&mut waiting, None) {
            Ok(_) => {}
            Err(error) if error == rustix::io::Errno::INTR => continue,
            Err(error) => {
                tracing::error!(%error, "link messages are no longer read; interfaces are looked at with each drain");
                // Nothing but the end is waited for.
                let _closed = ended.read(&mut [0]);
                return false;
            }
        }
        if !waiting[1].revents().is_empty() {
            return false;
        }
        if !waiting[0].revents().is_empty() {
            break;
        }
    }
    // What the messages say is not read: all interfaces are looked at. An error, such as lost messages, says as much.
    let mut message = Vec::with_capacity(64 * 1024);
    while socket.recv(&mut message, 0).is_ok() {
        message.clear();
    }
    true
}

impl Drop for LinkWatch {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It cannot panic, and if it did there is nothing to undo.
            let _ended = thread.join();
        }
    }
}
