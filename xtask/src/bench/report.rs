//! The result of a run: the JSON of design section 4, and the table that people read.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// One run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Report {
    /// The packet path, by row.
    #[serde(default)]
    pub(super) rows: Vec<Row>,
    /// Reading every tally.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) drain: Option<Drain>,
    /// Answers of the metrics endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) scrape: Vec<Scrape>,
}

/// One row of the packet path: ns of CPU time per packet above an empty program in the same run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    /// Name.
    pub(super) path: String,
    /// Flows.
    pub(super) flows: u32,
    /// Subscribers.
    pub(super) subscribers: u32,
    /// Address pools.
    pub(super) pools: u32,
    /// The shipped program.
    pub(super) ns_above_empty: f64,
    /// Half the distance between the quartiles of its rounds.
    pub(super) spread_ns: f64,
    /// The conventional design.
    pub(super) reference_ns_above_empty: f64,
    /// The same for the reference.
    pub(super) reference_spread_ns: f64,
    /// The empty program with the generator in front.
    pub(super) empty_ns: f64,
}

impl Row {
    /// Cost as a part of the reference's.
    pub(super) fn ratio(&self) -> f64 {
        self.ns_above_empty / self.reference_ns_above_empty
    }

    /// Name in the baseline.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.path, self.flows)
    }
}

/// Reading every tally.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Drain {
    /// Tallies.
    pub(super) tallies: u64,
    /// By mapped memory, in ms.
    pub(super) ms: f64,
    /// By batch map calls over a hash of the same number of entries, in ms.
    pub(super) batch_ms: f64,
}

/// One answer of an endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Scrape {
    /// Path.
    pub(super) endpoint: String,
    /// Subscribers with a tally.
    pub(super) subscribers: u64,
    /// Time to the last byte, in ms.
    pub(super) ms: f64,
    /// Bytes of the body.
    pub(super) bytes: u64,
}

impl Report {
    /// Adds what another bench found.
    pub(super) fn add(&mut self, other: Report) {
        self.rows.extend(other.rows);
        self.drain = other.drain.or(self.drain.take());
        self.scrape.extend(other.scrape);
    }

    /// Takes the rows of a later run in place of the same rows here.
    pub(super) fn replace(&mut self, later: Report) {
        for row in later.rows {
            if let Some(here) = self.rows.iter_mut().find(|here| here.name() == row.name()) {
                *here = row;
            }
        }
    }

    /// The row of this path and number of flows.
    pub(super) fn row(&self, path: &str, flows: u32) -> Option<&Row> {
        self.rows.iter().find(|row| row.path == path && row.flows == flows)
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |cells: std::fmt::Arguments<'_>| {
            let _cannot_fail = writeln!(text, "{cells}");
        };
        if !self.rows.is_empty() {
            line(format_args!(
                "ns of CPU time per packet above an empty XDP program, median ± half the quartile distance"
            ));
            line(format_args!(
                "{:<24}{:>8}{:>7}{:>18}{:>18}{:>8}",
                "path", "flows", "pools", "peertally", "reference", "ratio"
            ));
        }
        for row in &self.rows {
            line(format_args!(
                "{:<24}{:>8}{:>7}{:>10.1} ±{:>6.1}{:>10.1} ±{:>6.1}{:>7.0}%",
                row.path,
                row.flows,
                row.pools,
                row.ns_above_empty,
                row.spread_ns,
                row.reference_ns_above_empty,
                row.reference_spread_ns,
                row.ratio() * 100.0
            ));
        }
        if let Some(drain) = &self.drain {
            line(format_args!(
                "drain of {} tallies: {:.1} ms by mapped memory, {:.1} ms by batch calls ({:.0} times)",
                drain.tallies,
                drain.ms,
                drain.batch_ms,
                drain.batch_ms / drain.ms
            ));
        }
        for scrape in &self.scrape {
            line(format_args!(
                "{} with {} subscribers: {:.1} ms, {} bytes",
                scrape.endpoint, scrape.subscribers, scrape.ms, scrape.bytes
            ));
        }
        text
    }
}
