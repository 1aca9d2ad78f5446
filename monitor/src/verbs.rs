//! The commands, one file each: a verb wires the other rooms together. `run` also makes the plan, to refuse tables that
//! do not fit into the machine.

use clap::ValueEnum;

pub mod audit;
pub mod check_config;
pub mod detach;
pub mod doctor;
pub mod events;
pub mod generate;
pub mod init;
pub mod plan;
pub mod policies;
pub mod records;
pub mod reload;
pub mod replay;
pub mod resolve;
pub mod run;
pub mod status;

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people.
    Table,
    /// One JSON object.
    Json,
}
