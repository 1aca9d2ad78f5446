//! Median and quartiles.

use std::fmt;

use serde_json::{Value, json};

/// Median of some values, and the quartiles around it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    lower: f64,
    median: f64,
    upper: f64,
}

impl Spread {
    /// Of these values; each figure is one of them.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |quarter: usize| values.get(values.len() * quarter / 4).copied().unwrap_or(f64::NAN);
        Self { lower: at(1), median: at(2), upper: at(3) }
    }

    pub(crate) fn json(self) -> Value {
        json!({ "lower": self.lower, "median": self.median, "upper": self.upper })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8.2} ({:.2} to {:.2})", self.median, self.lower, self.upper)
    }
}
