//! `peertally detach`: takes the program off every interface and removes its pinned maps.

use std::fmt::Write as _;

use peertally_datapath::attached::{self, AttachError};

/// Detaches; returns what to print.
///
/// # Errors
/// [`AttachError`] when a pin cannot be removed.
pub fn main() -> Result<String, AttachError> {
    let removed = attached::detach()?;
    if removed.is_empty() {
        return Ok("nothing was attached by Peertally\n".to_owned());
    }
    let mut out = String::new();
    for pin in removed {
        let _infallible = writeln!(out, "removed {}", pin.display());
    }
    Ok(out)
}
