//! Counts of the connections to the metrics port and the control socket.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One of the agent's listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerName {
    /// The metrics port.
    Metrics,
    /// The control socket.
    Control,
}

impl ListenerName {
    /// Both listeners.
    pub const ALL: [Self; 2] = [Self::Metrics, Self::Control];

    /// Label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Control => "control",
        }
    }
}

/// Why a connection was refused or given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// No whole request came in time.
    HeaderTimeout,
    /// The reader took nothing for too long.
    WriteTimeout,
    /// The answer took too long as a whole.
    AnswerTimeout,
    /// A new connection needed its place, while this one sent no request or read nothing.
    Displaced,
    /// All places are taken by connections that are being answered.
    Full,
    /// All places for streams of every subscriber are taken.
    TooManyStreams,
    /// The process has no descriptor left.
    NoDescriptor,
    /// The control socket was used by another user than root and the agent's own.
    ForeignUser,
}

impl GivenUp {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::HeaderTimeout,
        Self::WriteTimeout,
        Self::AnswerTimeout,
        Self::Displaced,
        Self::Full,
        Self::TooManyStreams,
        Self::NoDescriptor,
        Self::ForeignUser,
    ];

    /// Label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::HeaderTimeout => "header_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::AnswerTimeout => "answer_timeout",
            Self::Displaced => "displaced",
            Self::Full => "full",
            Self::TooManyStreams => "too_many_streams",
            Self::NoDescriptor => "no_descriptor",
            Self::ForeignUser => "foreign_user",
        }
    }
}

#[derive(Debug, Default)]
struct ListenerCounts {
    open: AtomicU64,
    given_up: [AtomicU64; GivenUp::ALL.len()],
}

/// Counts of all listeners.
#[derive(Debug, Default)]
pub struct ConnectionCounts([ListenerCounts; ListenerName::ALL.len()]);

impl ConnectionCounts {
    /// Counts a connection that was refused or given up; returns how many were before for this reason.
    pub fn count(&self, listener: ListenerName, reason: GivenUp) -> u64 {
        self.0[listener as usize].given_up[reason as usize].fetch_add(1, Relaxed)
    }

    /// Notes how many connections are open.
    pub fn set_open(&self, listener: ListenerName, connections: usize) {
        self.0[listener as usize].open.store(connections as u64, Relaxed);
    }

    /// Open connections.
    #[must_use]
    pub fn open(&self, listener: ListenerName) -> u64 {
        self.0[listener as usize].open.load(Relaxed)
    }

    /// Connections that were refused or given up, by reason.
    pub fn given_up(&self, listener: ListenerName) -> impl Iterator<Item = (GivenUp, u64)> {
        let counts = &self.0[listener as usize].given_up;
        GivenUp::ALL.into_iter().map(|reason| (reason, counts[reason as usize].load(Relaxed)))
    }
}
