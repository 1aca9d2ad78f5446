//! Waiting for conditions: the only place of the laboratory that lets time pass.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Waits until `condition` gives a value, looking every `pause`.
///
/// # Errors
/// `condition` fails, or gives nothing within `timeout`.
pub fn wait_for_some<T>(
    what: &str,
    timeout: Duration,
    pause: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if start.elapsed() > timeout {
            bail!("no {what} within {} s", timeout.as_secs());
        }
        thread::sleep(pause);
    }
}

/// Waits until `condition` holds, looking every `pause`.
///
/// # Errors
/// `condition` fails, or does not hold within `timeout`.
pub fn wait_for(
    what: &str,
    timeout: Duration,
    pause: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    wait_for_some(what, timeout, pause, || Ok(condition()?.then_some(())))
}
