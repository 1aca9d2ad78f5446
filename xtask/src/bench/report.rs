//! Result of a run, in the form of `docs/performance.md#json-output`.

use serde::{Deserialize, Serialize};

/// Largest memory of an idle agent, without the maps, in MiB. Unlike a time, it does not depend on the load of the
/// machine. The peak is the first commit of the history, with a reading of each tally. 300 is what is wanted.
pub(super) const MEMORY_MIB: f64 = 400.0;

/// One run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct BenchReport {
    /// Rows of the packet path.
    #[serde(default)]
    pub(super) rows: Vec<Row>,
    /// Drain of every tally.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) drain: Option<Drain>,
    /// Answers of the metrics endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) scrape: Vec<Scrape>,
    /// Evaluation of many policies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) policies: Vec<Policies>,
    /// The agent without traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) idle: Option<Idle>,
    /// Targets, with the measured values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) targets: Vec<BenchTarget>,
    /// Missing rows, with the reasons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) not_measured: Vec<NotMeasured>,
}

/// A number that this run could not measure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct NotMeasured {
    /// Path of the row, or name of another number.
    pub(super) path: String,
    /// Reason.
    pub(super) reason: String,
}

/// One row of the packet path: ns of CPU time per packet, less the cost of an empty program in this run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    /// Name.
    pub(super) path: String,
    /// Flows.
    pub(super) flows: u32,
    /// Subscribers.
    pub(super) subscribers: u32,
    /// CPUs that send at once.
    pub(super) cpus: u32,
    /// Address pools.
    pub(super) pools: u32,
    /// The shipped program.
    pub(super) ns_above_empty: f64,
    /// Half the distance between the quartiles of its rounds.
    pub(super) spread_ns: f64,
    /// The conventional design.
    pub(super) reference_ns_above_empty: f64,
    /// Half the distance between the quartiles of the reference's rounds.
    pub(super) reference_spread_ns: f64,
    /// The empty program with the generator in front.
    pub(super) empty_ns: f64,
    /// Cost of the shipped program divided by that of the reference: median of the rounds' ratios.
    pub(super) ratio: f64,
    /// Half the distance between the quartiles of the rounds' ratios.
    pub(super) ratio_spread: f64,
    /// Another build of the program, usually the baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) beside: Option<Beside>,
    /// Why that build could not run the row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) beside_refused: Option<String>,
    /// The program with the first protocols only, in rows without packets of other protocols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) first_protocols: Option<FirstProtocols>,
}

/// Cost of another build, measured in the rounds of the shipped program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Beside {
    /// Cost of this program.
    pub(super) ns_above_empty: f64,
    /// Half the distance between the quartiles of its rounds.
    pub(super) spread_ns: f64,
    /// Cost of the measured program divided by that of this one: median of the rounds' ratios.
    pub(super) multiple: f64,
    /// Half the distance between the quartiles of the rounds' ratios.
    pub(super) multiple_spread: f64,
}

impl Beside {
    /// Multiple for the gate. Disturbed rounds can give zero or less, which counts as infinite.
    pub(super) fn cost(&self) -> f64 {
        if self.multiple > 0.0 { self.multiple } else { f64::INFINITY }
    }

    /// Median of several attempts. Of two, the worse one, so that a third attempt decides.
    pub(super) fn median(mut attempts: Vec<Self>) -> Option<Self> {
        attempts.sort_by(|one, other| one.cost().total_cmp(&other.cost()));
        (!attempts.is_empty()).then(|| attempts.swap_remove(attempts.len() / 2))
    }
}

/// Cost of the shipped program with the first protocols only, measured in the rounds of the whole program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct FirstProtocols {
    /// Cost of this program.
    pub(super) ns_above_empty: f64,
    /// Half the distance between the quartiles of its rounds.
    pub(super) spread_ns: f64,
    /// Cost of the shipped program divided by that of this one: median of the rounds' ratios.
    pub(super) rise: f64,
    /// Half the distance between the quartiles of the rounds' ratios.
    pub(super) rise_spread: f64,
}

impl Row {
    /// Name in the baseline.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.path, self.flows)
    }

    /// A row of 1,024 flows with a reference of 100 ns.
    #[cfg(test)]
    pub(super) fn for_tests(path: &str, ratio: f64) -> Self {
        Self {
            path: path.to_owned(),
            flows: 1024,
            subscribers: 65_536,
            cpus: 1,
            pools: 1,
            ns_above_empty: ratio * 100.0,
            spread_ns: 0.0,
            reference_ns_above_empty: 100.0,
            reference_spread_ns: 0.0,
            empty_ns: 30.0,
            ratio,
            ratio_spread: 0.0,
            beside: None,
            beside_refused: None,
            first_protocols: None,
        }
    }

    /// This row with a pair that has this multiple.
    #[cfg(test)]
    pub(super) fn with_beside(self, multiple: f64) -> Self {
        let beside =
            Beside { ns_above_empty: self.ns_above_empty / multiple, spread_ns: 0.0, multiple, multiple_spread: 0.0 };
        Self { beside: Some(beside), ..self }
    }
}

/// Drain of every tally.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Drain {
    /// Tallies.
    pub(super) tallies: u64,
    /// Time by mapped memory, in ms.
    pub(super) ms: f64,
    /// Time by batch calls over a hash map with as many entries, in ms.
    pub(super) batch_ms: f64,
}

/// One response of an endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Scrape {
    /// Path.
    pub(super) endpoint: String,
    /// Subscribers with a tally.
    pub(super) subscribers: u64,
    /// Content coding, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) encoding: Option<String>,
    /// Time to the last byte, in ms.
    pub(super) ms: f64,
    /// Time to write a constant text of equal length, before any encoding, in ms.
    pub(super) reference_ms: f64,
    /// Bytes of the body.
    pub(super) bytes: u64,
}

impl Scrape {
    /// Endpoint and encoding.
    pub(super) fn what(&self) -> String {
        let encoding = self.encoding.as_ref().map(|encoding| format!(" {encoding}"));
        format!("{}{}", self.endpoint, encoding.unwrap_or_default())
    }
}

/// Evaluation of many policies after a drain that changed every tally.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Policies {
    /// Policies.
    pub(super) policies: u64,
    /// Number of different windows.
    pub(super) windows: u64,
    /// Tallies that changed.
    pub(super) tallies: u64,
    /// CPU time of the whole evaluation, in ms.
    pub(super) ms: f64,
    /// CPU time of a plain pass over this data, in ms.
    pub(super) reference_ms: f64,
}

/// A running agent with many tallies and no traffic.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Idle {
    /// Tallies.
    pub(super) tallies: u64,
    /// CPU time of one drain and its evaluation, in ms.
    pub(super) cpu_ms_per_drain: f64,
    /// CPU time of a plain read of these maps in this run, in ms.
    pub(super) reference_ms: f64,
    /// Share of one core with the default interval of ten seconds.
    pub(super) core_percent: f64,
    /// Peak anonymous memory, in MiB. Maps are mapped files and do not count.
    pub(super) memory_mib: f64,
    /// Memory without tallies, in MiB.
    pub(super) memory_empty_mib: f64,
    /// Difference per tally, in bytes.
    pub(super) bytes_per_tally: f64,
}

#[cfg(test)]
impl Idle {
    /// An agent with a million tallies.
    pub(super) fn for_tests(core_percent: f64, memory_mib: f64) -> Self {
        Self {
            tallies: 1_000_000,
            cpu_ms_per_drain: core_percent * 100.0,
            reference_ms: 30.0,
            core_percent,
            memory_mib,
            memory_empty_mib: 10.0,
            bytes_per_tally: 270.0,
        }
    }
}

impl BenchReport {
    /// Adds the results of another bench.
    pub(super) fn add(&mut self, other: BenchReport) {
        self.rows.extend(other.rows);
        self.drain = other.drain.or(self.drain.take());
        self.scrape.extend(other.scrape);
        self.policies.extend(other.policies);
        self.idle = other.idle.or(self.idle.take());
    }

    /// Reason why the other build could not run, from the first row that it could not run.
    pub(super) fn refused(&self) -> Option<&str> {
        self.rows.iter().find_map(|row| row.beside_refused.as_deref())
    }

    /// The row of this path and number of flows.
    pub(super) fn row(&self, path: &str, flows: u32) -> Option<&Row> {
        self.rows.iter().find(|row| row.path == path && row.flows == flows)
    }
}

/// One target, with the measured value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct BenchTarget {
    /// Measured quantity.
    pub(super) target: String,
    /// Largest value that meets the target.
    pub(super) at_most: f64,
    /// The measured value.
    pub(super) measured: f64,
    /// Unit of both values.
    pub(super) unit: String,
}

impl BenchTarget {
    pub(super) fn new(target: impl Into<String>, measured: f64, at_most: f64, unit: &str) -> Self {
        Self { target: target.into(), at_most, measured, unit: unit.to_owned() }
    }

    /// Whether this run met the target.
    pub(super) fn holds(&self) -> bool {
        self.measured <= self.at_most
    }
}

impl std::fmt::Display for BenchTarget {
    fn fmt(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { target, at_most, measured, unit } = self;
        let verdict = if self.holds() { "met   " } else { "MISSED" };
        write!(text, "{verdict} {target}: {measured:.1} {unit}, at most {at_most:.0}")
    }
}
