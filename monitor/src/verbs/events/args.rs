//! Options of `peertally events`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::verbs::Format;

/// Options of `events`.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct EventsArgs {
    /// Configuration file, which names `state_dir` and `control_socket`. Default: /etc/peertally/peertally.toml if it
    /// exists.
    #[arg(long, value_name = "FILE", env = "PEERTALLY_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// Only events that wait for a person.
    #[arg(long)]
    pub held: bool,
    /// Number of events, newest first.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u32,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// A decision.
    #[command(subcommand)]
    pub command: Option<EventsCommand>,
}

/// Decisions about one event.
#[derive(Clone, Debug, Subcommand)]
pub enum EventsCommand {
    /// Deliver an event that is held.
    Release {
        /// Identifier of the event.
        id: String,
    },
    /// Never deliver an event that is held or dead. The cool-down of a held one begins.
    Discard {
        /// Identifier of the event.
        id: String,
    },
    /// Deliver an event again to the hooks that failed to deliver it.
    Redeliver {
        /// Identifier of the event.
        id: String,
    },
}
