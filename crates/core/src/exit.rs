//! Exit codes of every subcommand, after BSD's `sysexits.h` (`docs/architecture.md#command-line`).

use std::process::ExitCode;

/// Why the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything asked for was done.
    Ok = 0,
    /// `doctor` found something worth a second look.
    Warnings = 1,
    /// `doctor` found what keeps the program from counting.
    Errors = 2,
    /// Bad usage or configuration (`EX_USAGE`).
    Usage = 64,
    /// The input is damaged; what was readable was used (`EX_DATAERR`).
    Data = 65,
    /// The kernel or an interface cannot do what was asked (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// A bug in this program (`EX_SOFTWARE`).
    Bug = 70,
    /// Rights are missing (`EX_NOPERM`).
    Rights = 77,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that knows the exit code it ends the command with.
pub trait ExitCause: std::error::Error + Send + Sync + 'static {
    /// The exit code.
    fn exit(&self) -> Exit;
}
