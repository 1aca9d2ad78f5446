//! `peertally detach`: takes the program off every interface and removes its pinned maps.

use std::fmt::Write as _;

use peertally_core::snapshot::RunningProgram;
use peertally_datapath::attached::{self, AttachError};

/// Detaches; returns what to print.
///
/// # Errors
/// [`AttachError`] beside a running agent, or when a pin cannot be removed.
pub fn main() -> Result<String, AttachError> {
    let detached = attached::detach()?;
    let mut out = String::new();
    if detached.removed.is_empty() && detached.left.is_empty() {
        out.push_str("nothing was attached by Peertally\n");
    }
    for pin in detached.removed {
        let _infallible = writeln!(out, "removed {}", pin.display());
    }
    out.push_str(&show_left(&detached.left));
    Ok(out)
}

/// Programs that run without pins here, with what takes them off.
#[must_use]
pub fn show_left(left: &[RunningProgram]) -> String {
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
