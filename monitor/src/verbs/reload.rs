//! `peertally reload`: asks a running agent to read its configuration again.
//!
//! The control socket speaks HTTP: `POST /reload`, or `POST /reload?check=true` to see what would change.

use std::{fmt::Write as _, path::Path, time::Duration};

use peertally_core::exit::Exit;

use super::status::{self, StatusError};
use crate::agent::reload::{ReloadReport, ReloadResult};

/// Longest wait for an answer: a drain of a full table, and the release of flows.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Asks the agent at this control socket to reload, or only to check.
///
/// # Errors
/// No agent answers.
pub fn ask(socket: &Path, check: bool) -> Result<ReloadReport, StatusError> {
    let path = if check { "/reload?check=true" } else { "/reload" };
    let body = status::request(socket, "POST", path, ANSWER_TIMEOUT)?;
    serde_json::from_str(&body).map_err(|_| StatusError::UnexpectedAnswer(socket.to_owned()))
}

/// The exit code of a report.
#[must_use]
pub const fn exit(report: &ReloadReport) -> Exit {
    match report.result {
        ReloadResult::Applied | ReloadResult::Unchanged | ReloadResult::Checked => Exit::Ok,
        ReloadResult::Invalid | ReloadResult::NeedsRestart => Exit::Usage,
        ReloadResult::Failed => Exit::Unavailable,
    }
}

/// Writes a report as lines.
#[must_use]
pub fn show(report: &ReloadReport) -> String {
    let mut out = String::new();
    for change in &report.changes {
        let _infallible = writeln!(out, "{change}");
    }
    let line = match report.result {
        ReloadResult::Applied => {
            let (ended, uncharged) = (report.ended_flows, report.uncharged_flows);
            format!("applied; {ended} flows ended, {uncharged} flows are charged anew")
        }
        ReloadResult::Unchanged => "nothing has changed".to_owned(),
        ReloadResult::Checked => "checked; nothing was applied".to_owned(),
        ReloadResult::Invalid | ReloadResult::NeedsRestart | ReloadResult::Failed => {
            let message = report.message.as_deref().unwrap_or("no reason was given");
            format!("{message}\nthe configuration before stays in force")
        }
    };
    let _infallible = writeln!(out, "{line}");
    if report.busy_flows > 0 {
        let _infallible = writeln!(out, "{} flows were busy and charge whom they did; reload again", report.busy_flows);
    }
    let _infallible =
        writeln!(out, "configuration {}", if report.digest.is_empty() { "of defaults" } else { &report.digest });
    out
}

/// Writes a report as one JSON object.
///
/// # Panics
/// Never: strings, numbers and lists always serialise.
#[must_use]
pub fn json(report: &ReloadReport) -> String {
    serde_json::to_string_pretty(report).expect("strings, numbers and lists always serialise") + "\n"
}
