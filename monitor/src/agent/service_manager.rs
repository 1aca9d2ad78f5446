//! What the agent tells the service manager that started it: ready, reloading, stopping, and alive (sd_notify(3)).
//! Without one (`NOTIFY_SOCKET` is not set) nothing is sent.

use std::{sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::{task::JoinHandle, time};

use super::{AgentState, Heartbeat};

/// Time between two looks for the first drain.
const LOOK: Duration = Duration::from_millis(20);
/// Time between two messages to the watchdog is the limit of the service manager divided by this.
const WATCHDOG_SHARE: u32 = 3;

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager how the agent is; look at NOTIFY_SOCKET of the service");
    }
}

/// Says once that the agent counts: it is attached, and has drained once. An interface that is waited for makes the
/// agent no less ready. From then on, tells the watchdog that the drain loop runs, as long as it does.
pub fn start(state: Arc<AgentState>, heartbeat: Arc<Heartbeat>) -> JoinHandle<()> {
    tokio::spawn(async move {
        while state.published().is_none() {
            time::sleep(LOOK).await;
        }
        send(&[NotifyState::Ready, NotifyState::Status("counting")]);
        let Some(limit) = sd_notify::watchdog_enabled() else { return };
        let mut ticks = time::interval(limit / WATCHDOG_SHARE);
        loop {
            ticks.tick().await;
            match heartbeat.missed() {
                None => send(&[NotifyState::Watchdog]),
                Some(since) => tracing::error!(
                    seconds = since.as_secs(),
                    "the drain loop does not run: the watchdog of the service manager is left to end the agent"
                ),
            }
        }
    })
}

/// Says that a reload begins. [`reloaded`] must follow.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot read the clock for the service manager"),
    }
}

/// Says that a reload has ended. Whether it was applied is in the report, and in the log.
pub fn reloaded() {
    send(&[NotifyState::Ready]);
}

/// Says that the agent is ending.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}
