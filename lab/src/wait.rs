//! Waits for conditions: the only place in the lab that lets time pass.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

static INTERRUPT: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// A flag that ends every wait of this process with an error once it is set: for handlers of Ctrl-C and SIGTERM.
#[must_use]
pub fn interrupt() -> Arc<AtomicBool> {
    Arc::clone(&INTERRUPT)
}

/// Waits until `condition` gives a value, looking every `pause`.
///
/// # Errors
/// `condition` fails, or gives nothing within `timeout`, or the process is interrupted.
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
        if INTERRUPT.load(Ordering::Relaxed) {
            bail!("interrupted while waiting for: {what}");
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
/// `condition` fails, or does not hold within `timeout`, or the process is interrupted.
pub fn wait_for(
    what: &str,
    timeout: Duration,
    pause: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    wait_for_some(what, timeout, pause, || Ok(condition()?.then_some(())))
}
