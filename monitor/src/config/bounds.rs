//! The range of every key that has one: checked when a configuration is read, and printed in the reference.

use std::{fmt, time::Duration};

/// What a bounded number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Milliseconds, written as a duration.
    Milliseconds,
    /// A plain number.
    Count,
}

/// The range of one key, both ends included.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The key; `[]` stands for an index.
    pub key: &'static str,
    /// Least value.
    pub min: u64,
    /// Greatest value.
    pub max: u64,
    /// What the numbers count.
    pub unit: Unit,
}

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const DAY: u64 = 24 * HOUR;
/// The greatest integer of TOML; the policy engine keeps `u64::MAX` for "no threshold".
const UNLIMITED: u64 = i64::MAX as u64;

/// Every bounded key.
pub const BOUNDS: &[Bounds] = &[
    count("capacity.flows", 1 << 10, 1 << 26),
    count("capacity.tallies", 1 << 10, 1 << 24),
    count("capacity.peers", 1 << 10, 1 << 26),
    count("heuristic.endpoints", 1, monitor_common::limits::SUSPECT_BUCKETS as u64),
    span("heuristic.window", SECOND, 40 * 60 * SECOND),
    // Below 100 ms a drain of a million tallies would take a large part of a core; above an hour windows mean little.
    span("drain_interval", 100, HOUR),
    count("metrics.top_k", 0, 1_000),
    count("policies[].threshold", 1, UNLIMITED),
    span("policies[].window", 100, 31 * DAY),
    span("policies[].cool_down", 0, 365 * DAY),
    span("hooks[].timeout", 100, HOUR),
    count("hooks[].retries", 0, 100),
    span("hooks[].retry_delay", 10, HOUR),
    count("hooks[].queue", 1, 100_000),
    count("hooks[].concurrency", 1, 256),
    span("shutdown_grace", 0, HOUR),
];

const fn count(key: &'static str, min: u64, max: u64) -> Bounds {
    Bounds { key, min, max, unit: Unit::Count }
}

const fn span(key: &'static str, min: u64, max: u64) -> Bounds {
    Bounds { key, min, max, unit: Unit::Milliseconds }
}

impl Bounds {
    /// The bounds of a key; `path` may have indexes.
    #[must_use]
    pub fn of(path: &str) -> Option<&'static Self> {
        let mut key = String::with_capacity(path.len());
        let mut inside = false;
        for character in path.chars() {
            match character {
                '[' => {
                    key.push_str("[]");
                    inside = true;
                }
                ']' => inside = false,
                _ if !inside => key.push(character),
                _ => {}
            }
        }
        BOUNDS.iter().find(|bounds| bounds.key == key)
    }

    /// Whether a number lies in the range.
    #[must_use]
    pub const fn holds(&self, value: u64) -> bool {
        self.min <= value && value <= self.max
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit {
            Unit::Milliseconds => {
                let show = |ms| humantime::format_duration(Duration::from_millis(ms)).to_string();
                write!(f, "{} to {}", show(self.min), show(self.max))
            }
            Unit::Count if self.max == UNLIMITED => write!(f, "at least {}", self.min),
            Unit::Count => write!(f, "{} to {}", self.min, self.max),
        }
    }
}
