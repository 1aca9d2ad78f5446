//! `peertally doctor`: what on this machine keeps Peertally from counting, makes its counts weaker, or costs more than
//! it should. It changes nothing. Only the measurement of the program's cost turns the kernel's run statistics on, and
//! off again.
//!
//! [`facts`] reads the machine; the checks judge what it read, and each finding has the fix.

pub mod cost;
pub mod facts;
mod interfaces;
mod node;
mod show;
mod state;

use std::time::Duration;

use clap::Args;
use peertally_core::exit::Exit;
use serde::Serialize;

pub use show::{json, line, show};

use self::facts::Facts;
use super::{
    Format,
    plan::{Plan, PlanError},
};
use crate::config::{self, ConfigError, Resolved, RunArgs};

/// The flags of `peertally doctor`.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// The options of `run`.
    #[command(flatten)]
    pub run: RunArgs,
    /// Seconds for which the cost of a running program is measured; 0: not at all.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(..=600))]
    pub cost_seconds: u64,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// It counts, but less, at a higher cost, or not for long.
    Warning,
    /// It does not count.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: one word, which does not change between versions.
    pub check: &'static str,
    /// Interface that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// How much it matters.
    pub severity: Severity,
    /// What was found, and what it means.
    pub found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    fn new(check: &'static str, severity: Severity, found: impl Into<String>) -> Self {
        Self { check, interface: None, severity, found: found.into(), fix: None }
    }

    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Severity::Ok, found)
    }

    fn note(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Severity::Note, found)
    }

    fn warning(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..Self::new(check, Severity::Warning, found) }
    }

    fn error(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..Self::new(check, Severity::Error, found) }
    }

    fn on(self, interface: &str) -> Self {
        Self { interface: Some(interface.to_owned()), ..self }
    }
}

/// All findings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The worst of them.
    pub worst: Severity,
    /// In the order of the checks.
    pub findings: Vec<Finding>,
}

impl Report {
    fn new(findings: Vec<Finding>) -> Self {
        let worst = findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok);
        Self { worst, findings }
    }

    /// Exit code: 0 nothing worth a second look, 1 a warning, 2 an error.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self.worst {
            Severity::Ok | Severity::Note => Exit::Ok,
            Severity::Warning => Exit::Warnings,
            Severity::Error => Exit::Errors,
        }
    }
}

/// Looks at this machine for what `run` would be given.
///
/// # Errors
/// [`ConfigError`]: without a configuration it is not known what to look at.
pub fn main(args: &DoctorArgs) -> Result<Report, ConfigError> {
    let resolved = config::load(args.run.config.as_deref(), &args.run.overrides())?;
    let mut findings = judge(&Facts::read(&resolved), &resolved);
    if args.cost_seconds > 0 {
        findings.push(cost::measure(Duration::from_secs(args.cost_seconds)));
    }
    Ok(Report::new(findings))
}

/// What keeps `run` from starting, after it was refused. Findings that the refusal itself names may be among them.
#[must_use]
pub fn after_refusal(args: &RunArgs) -> Vec<Finding> {
    let Ok(resolved) = config::load(args.config.as_deref(), &args.overrides()) else { return Vec::new() };
    let mut findings = judge(&Facts::read(&resolved), &resolved);
    findings.retain(|finding| finding.severity == Severity::Error);
    findings
}

/// Judges what was read.
#[must_use]
pub fn judge(facts: &Facts, resolved: &Resolved) -> Vec<Finding> {
    let plan = Plan::new(resolved);
    let mut findings = node::judge(facts, &plan);
    findings.extend(interfaces::judge(facts, resolved));
    findings.extend(state::judge(facts, resolved));
    findings
}

/// Bytes of the tables and of the agent, if the plan can be made.
fn needed(plan: &Result<Plan, PlanError>) -> Option<u64> {
    plan.as_ref().ok().map(|plan| plan.kernel_bytes + plan.agent_bytes)
}
