//! `peertally policies test`: who would have fired, by what the store has of the past and the policies of a
//! configuration. Reads only: a running agent is not disturbed, and none is needed.

use std::{
    fmt::Write as _,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use clap::{Args, Subcommand};
use peertally_core::{
    exit::{Exit, ExitCause},
    policy::{
        event::rfc3339,
        recorder::Measure,
        retrospect::{Reach, Retrospect, WouldFire},
    },
    subscriber::Pseudonyms,
};
use peertally_store::{StoreError, history, rusqlite, store::open_reader};
use serde_json::json;

use super::{Format, run::store_exit};
use crate::{
    agent::pseudonym_key::{self, PseudonymKeyError},
    config::{self, ConfigError, Overrides},
};

/// What to do with policies.
#[derive(Clone, Debug, Subcommand)]
pub enum PoliciesCommand {
    /// Show who would have fired, and why, by what the store has of the past. Delivers nothing.
    Test(TestArgs),
}

/// Options of `policies test`.
#[derive(Clone, Debug, Args)]
pub struct TestArgs {
    /// Configuration file with the policies to test, and with the `state_dir` of the agent. Default:
    /// /etc/peertally/peertally.toml if it exists.
    #[arg(long, value_name = "FILE", env = "PEERTALLY_CONFIG")]
    pub config: Option<PathBuf>,
    /// Show what would have fired since a time (RFC 3339), or for so long (`2days`). Default: all that the store has.
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<SystemTime>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

fn since(text: &str) -> Result<SystemTime, String> {
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(time);
    }
    let duration = humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is neither a time such as 2026-11-24T08:00:00Z nor a duration such as 12h"))?;
    Ok(SystemTime::now().checked_sub(duration).unwrap_or(SystemTime::UNIX_EPOCH))
}

/// Why policies cannot be tested.
#[derive(Debug, thiserror::Error)]
pub enum PoliciesError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The history cannot be read.
    #[error("cannot read the history in the store: {0}; check the file in `state_dir`")]
    Read(#[from] rusqlite::Error),
    /// The key of the pseudonyms.
    #[error(transparent)]
    Key(#[from] PseudonymKeyError),
    /// No policy.
    #[error("the configuration has no policy to test; add a [[policies]] table")]
    NoPolicy,
}

impl ExitCause for PoliciesError {
    fn exit(&self) -> Exit {
        match self {
            Self::Config(error) => error.exit(),
            Self::Store(error) => store_exit(error),
            Self::Key(error) => error.exit(),
            Self::Read(_) => Exit::Unavailable,
            Self::NoPolicy => Exit::Usage,
        }
    }
}

/// Result of a test.
struct Tested {
    /// Begin of the first span and end of the last one.
    span: Option<(SystemTime, SystemTime)>,
    reach: Vec<Reach>,
    fired: Vec<WouldFire>,
}

/// Tests the policies of a configuration; returns the text to print.
///
/// # Errors
/// [`PoliciesError`].
pub fn main(command: &PoliciesCommand) -> Result<String, PoliciesError> {
    let PoliciesCommand::Test(args) = command;
    let resolved = config::load(args.config.as_deref(), &Overrides::default())?;
    if resolved.policies.is_empty() {
        return Err(PoliciesError::NoPolicy);
    }
    let pseudonyms = pseudonym_key::read(&resolved.pseudonym_key_file)?;
    let connection = open_reader(&resolved.state_dir)?;
    // One state of the store, while an agent writes.
    let transaction = connection.unchecked_transaction()?;
    let tested = test(&transaction, resolved.policies, args.since)?;
    Ok(match args.format {
        Format::Table => table(&tested, &pseudonyms),
        Format::Json => to_json(&tested, &pseudonyms),
    })
}

fn wall(ms: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms.max(0).unsigned_abs())
}

fn test(
    connection: &rusqlite::Connection,
    policies: Vec<peertally_core::policy::Policy>,
    since: Option<SystemTime>,
) -> rusqlite::Result<Tested> {
    let spans = history::spans(connection)?;
    let mut retrospect = Retrospect::new(policies, Instant::now());
    let (mut fired, mut next) = (Vec::new(), 0);
    let mut measures: Vec<Measure> = Vec::new();
    let mut end = |next: &mut usize, measures: &mut Vec<Measure>| {
        let kept = &spans[*next];
        let time = wall(kept.ended_ms);
        fired.extend(retrospect.take(&kept.span, measures, time, since.is_none_or(|since| time >= since)));
        measures.clear();
        *next += 1;
    };
    history::measures(connection, |measure| {
        while spans.get(next).is_some_and(|kept| kept.span.number < measure.span) {
            end(&mut next, &mut measures);
        }
        measures.push(*measure);
    })?;
    while next < spans.len() {
        end(&mut next, &mut measures);
    }
    let span = spans.first().zip(spans.last()).map(|(first, last)| {
        let length = first.span.ended.saturating_sub(first.span.begun);
        let begun = wall(first.ended_ms).checked_sub(length).unwrap_or(SystemTime::UNIX_EPOCH);
        (begun, wall(last.ended_ms))
    });
    Ok(Tested { span, reach: retrospect.reach().to_vec(), fired })
}

fn table(tested: &Tested, pseudonyms: &Pseudonyms) -> String {
    let mut out = String::new();
    let Some((begun, ended)) = tested.span else {
        return "The store has no history yet: nothing can be said. Run the agent for a while.\n".to_owned();
    };
    // Writing to a string cannot fail.
    let mut line = |text: String| _ = writeln!(out, "{text}");
    line(format!("history from {} to {}", rfc3339(begun), rfc3339(ended)));
    for Reach { policy, whole_since, too_long } in &tested.reach {
        let whole = whole_since.map_or_else(
            || {
                "the history is shorter than its window: it may fire earlier than shown, or where nothing is shown"
                    .to_owned()
            },
            |since| format!("whole windows since {}", rfc3339(since)),
        );
        let long = match too_long {
            0 => String::new(),
            spans => format!("; {spans} spans are longer than its window, and nothing can be said of them"),
        };
        line(format!("policy {}: {whole}{long}", policy.name));
    }
    line(format!(
        "{:<24} {:<20} {:<34} {:>16} {:>16} {}",
        "time", "policy", "subscriber", "value", "threshold", "metric"
    ));
    for WouldFire { policy, subscriber, value, time, .. } in &tested.fired {
        let (name, pseudonym, threshold) = (&*policy.name, pseudonyms.of(subscriber), policy.threshold);
        let metric = format!("{} {}", policy.metric.label(), policy.direction.label());
        line(format!("{:<24} {name:<20} {pseudonym:<34} {value:>16} {threshold:>16} {metric}", rfc3339(*time)));
    }
    line(format!("{} would have fired", tested.fired.len()));
    out
}

fn to_json(tested: &Tested, pseudonyms: &Pseudonyms) -> String {
    let policies: Vec<_> = tested
        .reach
        .iter()
        .map(|reach| {
            json!({ "policy": &*reach.policy.name, "whole_since": reach.whole_since.map(rfc3339), "spans_too_long": reach.too_long })
        })
        .collect();
    let fired: Vec<_> = tested
        .fired
        .iter()
        .map(|each| {
            json!({
                "time": rfc3339(each.time), "policy": &*each.policy.name, "subscriber": pseudonyms.of(&each.subscriber),
                "metric": each.policy.metric.label(), "direction": each.policy.direction.label(), "value": each.value,
                "threshold": each.policy.threshold, "window_start": rfc3339(each.window_start),
                "window_seconds": each.policy.window.as_secs_f64(),
            })
        })
        .collect();
    let (begun, ended) = tested.span.map(|(begun, ended)| (rfc3339(begun), rfc3339(ended))).unzip();
    let all = json!({ "history": { "begun": begun, "ended": ended }, "policies": policies, "fired": fired });
    format!("{all:#}\n")
}
