//! `peertally detach`: takes the program off every interface and removes its pinned maps; with `--purge`, also what the
//! agent keeps on the disk.

mod purge;

use std::{fmt::Write as _, path::Path};

use peertally_core::{
    exit::{Exit, ExitCause},
    snapshot::RunningProgram,
};
use peertally_datapath::attached::{self, AttachError};

pub use purge::{PurgeError, is_ours as is_state_file};

use crate::config::{self, ConfigError, Overrides};

/// Why something stays.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// The configuration, which names the folder to purge.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The program or its pins.
    #[error(transparent)]
    Attached(#[from] AttachError),
    /// The files.
    #[error(transparent)]
    Purge(#[from] PurgeError),
}

impl ExitCause for DetachError {
    fn exit(&self) -> Exit {
        match self {
            Self::Config(error) => error.exit(),
            Self::Attached(error) => error.exit(),
            Self::Purge(error) => error.exit(),
        }
    }
}

/// Detaches, and removes the agent's files in the folder of the configuration, and the pseudonym keys; returns what to
/// print. No agent can start meanwhile.
///
/// # Errors
/// [`DetachError`]; a configuration that cannot be read is refused before anything is done.
pub fn purge(config: Option<&Path>) -> Result<String, DetachError> {
    let resolved = config::load(config, &Overrides::default())?;
    let detached = attached::detach()?;
    let mut out = show(&detached);
    out.push_str(&purge::purge(&resolved.state_dir, &resolved.pseudonym_key_file)?);
    Ok(out)
}

/// Detaches; returns what to print.
///
/// # Errors
/// [`DetachError`] beside a running agent, or when a pin cannot be removed.
pub fn main() -> Result<String, DetachError> {
    Ok(show(&attached::detach()?))
}

fn show(detached: &attached::Detached) -> String {
    let mut out = String::new();
    if detached.removed.is_empty() && detached.left.is_empty() {
        out.push_str("nothing was attached by Peertally\n");
    }
    for pin in &detached.removed {
        let _infallible = writeln!(out, "removed {}", pin.display());
    }
    out.push_str(&show_left(&detached.left));
    out
}

/// Programs that run without pins here, with what takes them off.
fn show_left(left: &[RunningProgram]) -> String {
    let mut out = String::new();
    for RunningProgram { interface, program, mode, .. } in left {
        let _infallible = writeln!(
            out,
            "still attached: `{interface}` runs a program of Peertally (id {program}, {mode} mode) whose pins are in another \
             mount namespace; run `peertally detach` there, or find its link with `bpftool link show` and run \
             `bpftool link detach id LINK`"
        );
    }
    out
}
