//! The report for people and for programs.

use std::fmt::Write;

use super::{Finding, Report, Severity};
use crate::config::messages::escape_invisible;

impl Severity {
    /// The word in the report.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One finding as a line, with the fix on a second one.
#[must_use]
pub fn line(finding: &Finding) -> String {
    let about = finding.interface.as_ref().map_or_else(String::new, |interface| format!("{interface}: "));
    let mut out = format!(
        "{:<8} {:<13} {}\n",
        finding.severity.label(),
        finding.check,
        escape_invisible(&(about + &finding.found))
    );
    if let Some(fix) = &finding.fix {
        let _infallible = writeln!(out, "{:<8} {:<13} -> {}", "", "", escape_invisible(fix));
    }
    out
}

/// Writes a report as lines.
#[must_use]
pub fn show(report: &Report) -> String {
    let mut out: String = report.findings.iter().map(line).collect();
    let count = |severity| report.findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let _infallible = match (errors, warnings) {
        (0, 0) => writeln!(out, "\nNothing keeps Peertally from counting here."),
        _ => {
            let plural = |count| if count == 1 { "" } else { "s" };
            writeln!(out, "\n{errors} error{}, {warnings} warning{}.", plural(errors), plural(warnings))
        }
    };
    out
}

/// Writes a report as one JSON object.
#[must_use]
pub fn json(report: &Report) -> String {
    serde_json::to_string_pretty(report).map_or_else(|error| error.to_string(), |text| text + "\n")
}
