//! Reload: reads the configuration again, checks all of it, and then hands it to the drain loop, or changes nothing.
//!
//! Requests come from SIGHUP and from the control socket, and are answered one after another.

use std::{
    fmt,
    sync::{Arc, mpsc as thread},
};

use peertally_datapath::{ReleasedFlows, table_sizes::watchlist_room};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::{
    AgentState, depth_record,
    drain_loop::{Reconfigure, Wake},
    service_manager,
};
use crate::config::{
    ConfigError, Resolved,
    changes::{self, Change},
};
use crate::deliver::Dispatcher;

/// Requests that may wait.
const WAITING: usize = 4;

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadResult {
    /// The new configuration is in force.
    Applied,
    /// The new configuration equals the one in force.
    Unchanged,
    /// Nothing was to be applied, only checked; it would be.
    Checked,
    /// The new configuration has mistakes. The one before stays in force, as in the next cases.
    Invalid,
    /// The new configuration changes a key that needs a restart.
    NeedsRestart,
    /// The kernel or the audit file refused it.
    Failed,
}

impl ReloadResult {
    /// Every result.
    pub const ALL: [Self; 6] =
        [Self::Applied, Self::Unchanged, Self::Checked, Self::Invalid, Self::NeedsRestart, Self::Failed];

    /// Label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Checked => "checked",
            Self::Invalid => "invalid",
            Self::NeedsRestart => "needs_restart",
            Self::Failed => "failed",
        }
    }
}

/// What a reload did, as the control socket and `peertally reload` show it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ReloadReport {
    /// How it ended.
    pub result: ReloadResult,
    /// Why nothing was applied, and the next step.
    pub message: Option<String>,
    /// What changed, or would.
    pub changes: Vec<Change>,
    /// Flows that ended, because their subscriber's pool was removed.
    pub ended_flows: u64,
    /// Flows that are charged anew, because their subscriber's pool is cut otherwise.
    pub uncharged_flows: u64,
    /// Flows that were being changed all the time, and still charge whom they did.
    pub busy_flows: u64,
    /// Digest of the configuration in force.
    pub digest: String,
}

/// A request.
#[derive(Debug)]
struct Request {
    check: bool,
    reply: Option<oneshot::Sender<ReloadReport>>,
}

/// Asks for reloads.
#[derive(Clone, Debug)]
pub struct ReloadHandle(mpsc::Sender<Request>);

impl ReloadHandle {
    /// A handle, and what [`Reloader::run`] takes.
    #[must_use]
    pub fn new() -> (Self, ReloadRequests) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), ReloadRequests(receiver))
    }

    /// Reloads, or only checks. `None` if too many requests wait, or the agent is ending.
    pub async fn reload(&self, check: bool) -> Option<ReloadReport> {
        let (reply, answer) = oneshot::channel();
        self.0.try_send(Request { check, reply: Some(reply) }).ok()?;
        answer.await.ok()
    }

    /// Reloads; the log has the report. More requests than can wait are one.
    pub fn request(&self) {
        // A request that waits reads the file later than now.
        let _full = self.0.try_send(Request { check: false, reply: None });
    }
}

/// Requests on their way to a [`Reloader`].
#[derive(Debug)]
pub struct ReloadRequests(mpsc::Receiver<Request>);

/// Reads the configuration again, with the flags and the environment of the start.
pub type Reread = Arc<dyn Fn() -> Result<Resolved, ConfigError> + Send + Sync>;

/// Answers requests.
pub struct Reloader {
    reread: Reread,
    current: Arc<Resolved>,
    watchlist_room: u32,
    state: Arc<AgentState>,
    drain: thread::Sender<Wake>,
    hooks: Arc<Mutex<Dispatcher>>,
    /// Deliveries that the descriptors of the start are enough for.
    deliveries: usize,
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").finish_non_exhaustive()
    }
}

impl Reloader {
    /// A reloader of an agent that runs with `current`.
    #[must_use]
    pub fn new(
        current: Arc<Resolved>,
        reread: Reread,
        state: Arc<AgentState>,
        drain: thread::Sender<Wake>,
        hooks: Arc<Mutex<Dispatcher>>,
    ) -> Self {
        let deliveries = deliveries(&current);
        let watchlist_room = watchlist_room(current.datapath.watchlist.count());
        Self { reread, current, watchlist_room, state, drain, hooks, deliveries }
    }

    /// Answers requests until the handles are gone.
    pub async fn run(mut self, mut requests: ReloadRequests) {
        while let Some(Request { check, reply }) = requests.0.recv().await {
            let report = if check {
                self.reload(true).await
            } else {
                service_manager::reloading();
                let report = self.reload(false).await;
                service_manager::reloaded();
                report
            };
            self.state.count_reload(report.result);
            log(&report);
            if let Some(reply) = reply {
                // Whoever asked may be gone.
                let _gone = reply.send(report);
            }
        }
    }

    async fn reload(&mut self, check: bool) -> ReloadReport {
        let mut report = ReloadReport {
            result: ReloadResult::Failed,
            message: None,
            changes: Vec::new(),
            ended_flows: 0,
            uncharged_flows: 0,
            busy_flows: 0,
            digest: self.current.digest.clone(),
        };
        let reread = Arc::clone(&self.reread);
        let read =
            tokio::task::spawn_blocking(move || reread().and_then(|read| read.require_interfaces().map(|()| read)));
        let mut read = match read.await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => {
                (report.result, report.message) = (ReloadResult::Invalid, Some(error.to_string()));
                return report;
            }
            Err(error) => {
                report.message = Some(format!("reading the configuration ended by a bug: {error}"));
                return report;
            }
        };
        report.changes = changes::between(&self.current, &read, self.watchlist_room);
        let restart: Vec<String> =
            report.changes.iter().filter(|change| change.needs_restart).map(|change| change.key.clone()).collect();
        if !restart.is_empty() {
            report.result = ReloadResult::NeedsRestart;
            report.message = Some(format!(
                "nothing was applied: {} cannot be changed while the agent runs; restart it, or take these changes back",
                restart.join(", ")
            ));
            return report;
        }
        if deliveries(&read) > self.deliveries {
            report.result = ReloadResult::NeedsRestart;
            report.message = Some(format!(
                "nothing was applied: the hooks may make {} deliveries at a time, and the agent has kept descriptors for {} since \
                 its start; restart it, or lower `concurrency`",
                deliveries(&read),
                self.deliveries
            ));
            return report;
        }
        if check || report.changes.is_empty() {
            report.result = if report.changes.is_empty() { ReloadResult::Unchanged } else { ReloadResult::Checked };
            return report;
        }
        let list = read.datapath.watchlist.numbered_after(&self.current.datapath.watchlist);
        read.datapath.watchlist = Arc::new(list);
        let after = Arc::new(read);
        match self.apply(&after, &report.changes).await {
            Ok(released) => {
                report.result = ReloadResult::Applied;
                report.digest.clone_from(&after.digest);
                (report.ended_flows, report.uncharged_flows) = (released.ended, released.uncharged);
                report.busy_flows = released.busy;
                self.state.set_configuration(&after.digest);
                self.current = after;
            }
            Err(message) => report.message = Some(message),
        }
        report
    }

    async fn apply(&self, after: &Arc<Resolved>, changes: &[Change]) -> Result<ReleasedFlows, String> {
        let ending = || "the agent is ending".to_owned();
        // The record has its space before the watchlist is in force, and is written afterwards.
        let prepared = depth_record::prepare(after).map_err(|error| error.to_string())?;
        let mut dispatcher = self.hooks.lock().await;
        let is_changed = |name: &str| changes.iter().any(|change| change.key == "hooks" && change.item == name);
        let change = dispatcher.prepare(&after.hooks, is_changed).map_err(|error| error.to_string())?;
        let (reply, answer) = oneshot::channel();
        let reconfigure = Reconfigure { after: Arc::clone(after), hooks: change.stats().to_vec(), reply };
        let sent = self.drain.send(Wake::Reconfigure(reconfigure)).map_err(|_| ending());
        let applied = match sent {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(ending())),
            Err(error) => Err(error),
        };
        let released = match applied {
            Ok(released) => {
                dispatcher.commit(change);
                released
            }
            Err(error) => {
                dispatcher.undo();
                return Err(error);
            }
        };
        if let Some(prepared) = prepared {
            tokio::spawn(depth_record::record(prepared, Arc::clone(&self.state)));
        }
        Ok(released)
    }
}

/// Deliveries that the hooks may make at a time.
fn deliveries(resolved: &Resolved) -> usize {
    resolved.hooks.iter().map(|hook| hook.concurrency).sum()
}

/// The log names keys only: prefixes of subscribers are not for it.
fn log(report: &ReloadReport) {
    let mut keys: Vec<&str> = report.changes.iter().map(|change| change.key.as_str()).collect();
    keys.dedup();
    let (keys, digest) = (keys.join(", "), &*report.digest);
    match (report.result, &report.message) {
        (ReloadResult::Applied, _) => tracing::info!(
            keys,
            digest,
            ended_flows = report.ended_flows,
            uncharged_flows = report.uncharged_flows,
            "reloaded the configuration"
        ),
        (ReloadResult::Unchanged, _) => tracing::info!(digest, "reload: the configuration has not changed"),
        (ReloadResult::Checked, _) => tracing::info!(keys, "reload: checked, and nothing applied"),
        (result, message) => tracing::error!(
            result = result.label(),
            keys,
            reason = message.as_deref().unwrap_or_default(),
            "reload: the configuration before stays in force"
        ),
    }
}

/// Reloads at each SIGHUP. SIGUSR1 and SIGUSR2, which would end the process, do nothing. The handlers are in place when
/// this returns.
///
/// # Errors
/// The system refuses a handler.
pub fn on_signals(handle: ReloadHandle) -> std::io::Result<tokio::task::JoinHandle<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup())?;
    let (mut first, mut second) = (signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?);
    Ok(tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(()) = hangup.recv() => {
                    tracing::info!("SIGHUP: reading the configuration again");
                    handle.request();
                }
                Some(()) = first.recv() => tracing::info!("SIGUSR1 means nothing here"),
                Some(()) = second.recv() => tracing::info!("SIGUSR2 means nothing here"),
                else => return,
            }
        }
    }))
}
