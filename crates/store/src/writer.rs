//! The one thread that writes. It commits whatever waits in one transaction (group commit), so that many writers share
//! one synchronisation of the device.
//!
//! Each write is a savepoint of its own: one that fails is undone alone, and the others commit. When the commit fails,
//! for example on a full device, nothing of the group is in the store, and every caller is told so. The caller decides
//! whether to write again. A write that panics fails alone, too.

use std::{
    fmt,
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::{StoreError, WriteFailure, failure::sql_error};

/// Writes that may wait. A caller beyond it waits for its turn, or is told.
const QUEUE: usize = 256;
/// Writes in one transaction at most.
const GROUP: usize = 256;

/// Told of what the writer does, for metrics. Called on the writer's thread: must return soon.
pub trait Observer: Send {
    /// A commit of some writes took this long.
    fn committed(&self, _writes: usize, _duration: Duration) {}
    /// Some writes failed and were not committed.
    fn failed(&self, _writes: usize, _failure: WriteFailure) {}
}

/// An observer that does not look.
#[derive(Debug)]
pub struct Unobserved;

impl Observer for Unobserved {}

/// Hands writes to the writer's thread.
pub struct Writer {
    path: Arc<Path>,
    queue: Option<SyncSender<Box<dyn Task>>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A write that waits.
trait Task: Send {
    /// Writes within a savepoint.
    fn write(&mut self, transaction: &Transaction<'_>) -> rusqlite::Result<()>;
    /// Tells the caller how it ended.
    fn end(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Typed<T, W, D> {
    write: Option<W>,
    written: Option<T>,
    done: D,
}

impl<T, W, D> Task for Typed<T, W, D>
where
    T: Send,
    W: FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send,
    D: FnOnce(Result<T, StoreError>) + Send,
{
    fn write(&mut self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        let write = self.write.take().expect("a task is written once");
        self.written = Some(write(transaction)?);
        Ok(())
    }

    fn end(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { write, written, done } = *self;
        // A write that never ran holds what the caller wants to write again.
        drop(write);
        done(outcome.map(|()| written.expect("what was committed was written before")));
    }
}

impl Writer {
    pub(crate) fn start(
        connection: Connection,
        path: Arc<Path>,
        observer: Box<dyn Observer>,
    ) -> Result<Self, StoreError> {
        let (sender, receiver) = mpsc::sync_channel(QUEUE);
        let own = Arc::clone(&path);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || Thread { connection, path: own, observer }.run(&receiver))
            .map_err(|error| StoreError::Thread(Arc::new(error)))?;
        Ok(Self { path, queue: Some(sender), thread: Some(thread) })
    }

    /// Hands in a write, and waits for its commit. `write` runs on the writer's thread within a transaction.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of the write is in the store.
    pub fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.submit(write, move |outcome| {
            // The caller waits below.
            let _gone = sender.send(outcome);
        });
        receiver.recv().unwrap_or_else(|_| Err(self.closed()))
    }

    /// Hands in a write; `done` is called on the writer's thread after the commit, and must return soon. Waits only
    /// while the queue is full.
    pub fn submit<T: Send + 'static>(
        &self,
        write: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
        done: impl FnOnce(Result<T, StoreError>) + Send + 'static,
    ) {
        let task = Box::new(Typed { write: Some(write), written: None, done });
        let Some(queue) = &self.queue else { return task.end(Err(self.closed())) };
        if let Err(mpsc::SendError(task)) = queue.send(task) {
            task.end(Err(self.closed()));
        }
    }

    /// Whether the thread has ended, which only a bug does while there is a handle: nothing more is written.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    fn closed(&self) -> StoreError {
        StoreError::Closed { path: self.path.to_path_buf() }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The thread commits what waits, and ends.
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A callback may hold the last handle: the thread cannot wait for itself. A panic ended the thread, if it
            // failed; the callers were told by their channels.
            if thread.thread().id() != std::thread::current().id() {
                let _panicked = thread.join();
            }
        }
    }
}

struct Thread {
    connection: Connection,
    path: Arc<Path>,
    observer: Box<dyn Observer>,
}

/// A write and how it went so far.
type Written = (Box<dyn Task>, Result<(), StoreError>);

impl Thread {
    fn run(mut self, queue: &Receiver<Box<dyn Task>>) {
        while let Ok(first) = queue.recv() {
            let waiting = std::iter::once(first).chain(queue.try_iter()).take(GROUP);
            self.commit(waiting);
        }
    }

    fn commit(&mut self, tasks: impl Iterator<Item = Box<dyn Task>>) {
        let begun = Instant::now();
        let (written, outcome) = self.group(tasks);
        let good = written.iter().filter(|(_, own)| own.is_ok()).count();
        match &outcome {
            Ok(()) => self.observer.committed(good, begun.elapsed()),
            Err(error) => self.observer.failed(good, error.failure().unwrap_or(WriteFailure::Refused)),
        }
        for error in written.iter().filter_map(|(_, own)| own.as_ref().err()) {
            self.observer.failed(1, error.failure().unwrap_or(WriteFailure::Refused));
        }
        for (task, own) in written {
            let end = || task.end(own.and_then(|()| outcome.clone()));
            // A caller's bug ends no other caller's write.
            if panic::catch_unwind(AssertUnwindSafe(end)).is_err() {
                self.observer.failed(1, WriteFailure::Refused);
            }
        }
    }

    /// Writes and commits; returns how each write went, and how the commit went.
    fn group(&mut self, mut tasks: impl Iterator<Item = Box<dyn Task>>) -> (Vec<Written>, Result<(), StoreError>) {
        let path = Arc::clone(&self.path);
        let mut written = Vec::new();
        let mut transaction = match self.connection.transaction_with_behavior(TransactionBehavior::Immediate) {
            Ok(transaction) => transaction,
            Err(error) => {
                written.extend(tasks.map(|task| (task, Ok(()))));
                return (written, Err(sql_error("write to", &path)(error)));
            }
        };
        while let Some(mut task) = tasks.next() {
            let own = write_one(&mut transaction, task.as_mut());
            // A full device and some other failures end the whole transaction: nothing before this write is left.
            let is_over = transaction.is_autocommit();
            match own {
                Err(error) if is_over => {
                    let error = sql_error("write to", &path)(error);
                    written.push((task, Ok(())));
                    written.extend(tasks.map(|task| (task, Ok(()))));
                    return (written, Err(error));
                }
                own => written.push((task, own.map_err(sql_error("write to", &path)))),
            }
        }
        let outcome = transaction.commit().map_err(sql_error("commit to", &path));
        (written, outcome)
    }
}

/// Writes within a savepoint, which a failure undoes.
fn write_one(transaction: &mut Transaction<'_>, task: &mut dyn Task) -> rusqlite::Result<()> {
    transaction.execute_batch("SAVEPOINT one")?;
    let write = || task.write(transaction);
    let outcome = panic::catch_unwind(AssertUnwindSafe(write)).unwrap_or_else(|_| {
        let panicked = "the write ended by a panic, which the log has".into();
        Err(rusqlite::Error::ToSqlConversionFailure(panicked))
    });
    let end = if outcome.is_ok() { "RELEASE one" } else { "ROLLBACK TO one; RELEASE one" };
    if !transaction.is_autocommit() {
        transaction.execute_batch(end)?;
    }
    outcome
}
