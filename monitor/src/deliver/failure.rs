//! Why an attempt failed. Each reason is a label value; a kind of hook lists those that it can report.

use std::time::Duration;

/// A reason for a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureReason {
    /// Label value.
    pub label: &'static str,
    /// Meaning, for the documentation.
    pub meaning: &'static str,
    /// Whether another attempt may succeed.
    pub is_retried: bool,
}

/// The attempt took too long.
pub const TIMEOUT: FailureReason = FailureReason::retried("timeout", "the attempt took longer than `timeout`");
/// No connection was made.
pub const CONNECT: FailureReason = FailureReason::retried("connect", "no connection: name, route, refused, TLS");
/// The receiver refused the event.
pub const REJECTED: FailureReason = FailureReason::permanent(
    "rejected",
    "the receiver refused the event, which is not sent again (HTTP: any status but 2xx, 408, 429 and 5xx)",
);
/// The receiver could not accept the event now.
pub const SERVER: FailureReason =
    FailureReason::retried("server", "the receiver could not accept the event now (HTTP 408, 429 or 5xx)");
/// Reading or writing failed.
pub const IO: FailureReason = FailureReason::retried("io", "reading or writing failed");

impl FailureReason {
    /// A reason after which the event is sent again.
    #[must_use]
    pub const fn retried(label: &'static str, meaning: &'static str) -> Self {
        Self { label, meaning, is_retried: true }
    }

    /// A reason after which no further attempt is made.
    #[must_use]
    pub const fn permanent(label: &'static str, meaning: &'static str) -> Self {
        Self { label, meaning, is_retried: false }
    }
}

/// A failed attempt.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Why.
    pub reason: FailureReason,
    /// Cause for the log, without secrets.
    pub detail: String,
    /// Least wait the other side asked for.
    pub retry_after: Option<Duration>,
}

impl Failure {
    pub(super) fn new(reason: FailureReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), retry_after: None }
    }
}
