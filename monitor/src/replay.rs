//! `peertally replay`: counts captures with the same code that counts live traffic.
//!
//! Reads nothing but the captures, and changes nothing on the machine: the kernel engine loads the program without
//! attaching it to an interface.

pub mod args;

use std::process::ExitCode;

use args::ReplayArgs;

use crate::exit::Exit;

/// Runs the subcommand and reports what happened as an exit code.
#[must_use]
pub fn main(_args: &ReplayArgs) -> ExitCode {
    eprintln!("peertally replay: no engine is built in yet");
    Exit::Unavailable.into()
}
