//! The agent's log: one line per event, on standard error.
//!
//! No subscriber address, content identifier or secret is logged; subscribers appear under their pseudonyms.

use peertally_core::words::{LogFormat, LogLevel};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::raw::Log;

/// Libraries that log warnings and errors only.
const QUIET: &[&str] = &["hyper", "hyper_util", "reqwest", "rustls", "h2", "mio", "tower"];

/// Starts the log. Does nothing if one is running already.
pub fn start(log: &Log) {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let quiet = QUIET.iter().map(|target| (*target, level.min(LevelFilter::WARN)));
    let targets = Targets::new().with_default(level).with_targets(quiet);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match log.format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // An error means that a log is running already.
    let _running = tracing_subscriber::registry().with(lines.with_filter(targets)).try_init();
}
