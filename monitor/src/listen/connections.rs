//! The places of a listener's connections: a bounded number, and who makes room when all are taken.
//!
//! A connection that has sent no whole request, or whose reader takes nothing, costs its owner nothing. So a new
//! connection takes the place of the oldest of these, and idle connections never keep a scrape out.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// Bounds of the connections of one listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Time for the header of a request, from the start of the connection.
    pub header: Duration,
    /// Time in which a reader takes something.
    pub write: Duration,
    /// Time of a whole connection: one request and its answer.
    pub total: Duration,
}

impl Limits {
    /// The agent's bounds for this number of connections: ten seconds, as Prometheus waits, and five minutes
    /// for tables of millions of subscribers over a slow line.
    #[must_use]
    pub const fn of(connections: usize) -> Self {
        let seconds = Duration::from_secs(10);
        Self { connections, header: seconds, write: seconds, total: Duration::from_secs(300) }
    }
}

/// A reader that has taken nothing for this long may lose its place to a new connection.
const STALLED: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No whole request yet.
    Waiting,
    /// The request is being answered.
    Answering,
    /// The reader takes nothing.
    Stalled,
}

/// One open connection.
#[derive(Debug)]
pub(super) struct Connection {
    phase: Mutex<(Phase, Instant)>,
    displaced: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    fn new() -> Arc<Self> {
        Arc::new(Self { phase: Mutex::new((Phase::Waiting, Instant::now())), displaced: Notify::new() })
    }

    /// Notes that a request is being answered.
    pub(super) fn answering(&self) {
        *lock(&self.phase) = (Phase::Answering, Instant::now());
    }

    /// Notes that the reader takes nothing.
    pub(super) fn stalled(&self) {
        *lock(&self.phase) = (Phase::Stalled, Instant::now());
    }

    /// Ends when the connection has lost its place.
    pub(super) async fn displaced(&self) {
        self.displaced.notified().await;
    }

    /// How readily the connection makes room: the least first. `None`: not at all.
    fn willingness(&self, now: Instant) -> Option<(u8, Instant)> {
        let (phase, since) = *lock(&self.phase);
        match phase {
            Phase::Waiting => Some((0, since)),
            Phase::Stalled if now.duration_since(since) >= STALLED => Some((1, since)),
            Phase::Stalled | Phase::Answering => None,
        }
    }
}

/// What became of a request for a place.
#[derive(Debug)]
pub(super) struct Admission {
    /// The connection; `None` if all places are taken by connections that are being answered.
    pub(super) connection: Option<Arc<Connection>>,
    /// Whether another connection lost its place.
    pub(super) has_displaced: bool,
}

/// The places of one listener.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<Vec<Arc<Connection>>>);

impl Places {
    /// Takes a place among `limit`.
    pub(super) fn admit(&self, limit: usize) -> Admission {
        let mut open = lock(&self.0);
        let now = Instant::now();
        let mut has_displaced = false;
        if open.len() >= limit {
            let willing = open.iter().enumerate().filter_map(|(at, each)| Some((each.willingness(now)?, at)));
            let Some((_, at)) = willing.min() else { return Admission { connection: None, has_displaced } };
            open.remove(at).displaced.notify_one();
            has_displaced = true;
        }
        let connection = Connection::new();
        open.push(Arc::clone(&connection));
        Admission { connection: Some(connection), has_displaced }
    }

    /// Gives a place back; returns how many are taken.
    pub(super) fn leave(&self, connection: &Arc<Connection>) -> usize {
        let mut open = lock(&self.0);
        open.retain(|each| !Arc::ptr_eq(each, connection));
        open.len()
    }

    /// Places that are taken.
    pub(super) fn taken(&self) -> usize {
        lock(&self.0).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_being_answered_keeps_the_place() {
        let places = Places::default();
        let admit = || places.admit(2);
        let first = admit().connection.expect("room");
        let second = admit().connection.expect("room");
        first.answering();
        let third = admit();
        assert!(third.has_displaced && places.taken() == 2);
        third.connection.expect("the place of the second").answering();
        assert_eq!(places.leave(&second), 2, "the second has lost its place before");
        let fourth = admit();
        assert!(fourth.connection.is_none() && !fourth.has_displaced, "both are being answered");
        *lock(&first.phase) = (Phase::Stalled, Instant::now());
        assert!(admit().connection.is_none(), "a short wait for a reader is no stall");
        *lock(&first.phase) = (Phase::Stalled, Instant::now().checked_sub(STALLED).expect("a time"));
        assert!(admit().has_displaced, "the stalled one makes room");
        assert_eq!(places.leave(&first), 2);
    }
}
