//! Shared parts of `demo` and `lab`: the agent that they run, and their end on a signal.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{
    command::{cargo, run},
    workspace::target,
};

/// The given executable of the agent, or one that is built now in release mode.
///
/// # Errors
/// When the file is not there, or the build fails.
pub(crate) fn agent_to_run(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(binary) = given {
        return binary.canonicalize().with_context(|| format!("find {}", binary.display()));
    }
    run(&mut cargo(&["build", "--release", "--locked", "--package", "monitor", "--bin", "peertally"]))?;
    Ok(target().join("release/peertally"))
}

/// Has the first signal set the lab's interrupt flag, which is returned. A second signal ends the program at once; the
/// lab's guard then removes the lab.
///
/// # Errors
/// When a handler cannot be installed.
pub(crate) fn end_on_signals() -> Result<Arc<AtomicBool>> {
    let interrupted = peertally_lab::interrupt();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, interrupted.clone())?;
        signal_hook::flag::register(signal, interrupted.clone())?;
    }
    Ok(interrupted)
}
