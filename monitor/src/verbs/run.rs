//! `peertally run`: attach, drain at a steady pace, publish, call hooks, and end in order.
//!
//! Everything that can be refused is refused before anything is attached. The data path is a [`Datapath`]; it is used
//! by one thread of its own, so that no map is read on the reactor. Whatever happens to the agent, traffic passes.

#[cfg(test)]
mod tests;

use std::{future::Future, io, sync::Arc, time::Duration};

use monitor_common::abi::settings::InspectionDepth;
use peertally_core::{
    analysis::Analysis,
    exit::{Exit, ExitCause},
    words::OnExit,
};
use peertally_datapath::{
    Datapath,
    owned::{self, OwnedError},
};
use peertally_store::{Store, StoreError, booked::StoredTotals, verdict_records::Bounds};
use tokio::sync::{Mutex, oneshot, watch};

use crate::{
    agent::{
        AgentInfo, AgentState, Heartbeat,
        audit::{Audit, AuditAction, AuditError},
        connection_counts::ListenerName,
        consequences::Consequences,
        depth_record,
        drain_loop::DrainLoop,
        heartbeat,
        history_keeper::HistoryKeeper,
        hit_log::{HitLog, HitLogOptions},
        logging,
        pseudonym_key::{self, KeyRotation, PseudonymKeyError},
        reload::{self, ReloadHandle, Reloader, Reread},
        service_manager,
        state::Kept,
        store_stats::{StoreObserver, StoreStats},
        verdict_records::{RecordOptions, VerdictRecords},
    },
    config::{self, ConfigError, Resolved, RunArgs},
    deliver::{DispatchError, Dispatcher, book::EventBook},
    export::collector::{commit_histogram, drain_histogram},
    listen::{
        addresses::{self, ControlSocket, ListenError},
        connections::Limits,
        descriptors::{self, DescriptorError},
        http::{self, HttpContext},
        serve,
    },
    verbs::{
        detach::is_state_file,
        plan::{Plan, PlanError},
    },
};

/// Time open scrapes get at the end.
const HTTP_GRACE: Duration = Duration::from_secs(1);

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address is taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The folder of the state cannot be trusted.
    #[error(transparent)]
    Owned(#[from] OwnedError),
    /// Too few descriptors.
    #[error(transparent)]
    Descriptors(#[from] DescriptorError),
    /// The pseudonym key.
    #[error(transparent)]
    Pseudonyms(#[from] PseudonymKeyError),
    /// The tables do not fit into the machine.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The hooks cannot be started.
    #[error(transparent)]
    Hook(#[from] DispatchError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The data path.
    #[error("{0}")]
    Kernel(Box<dyn ExitCause>),
    /// The audit file.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The runtime cannot start.
    #[error("cannot start the agent's threads: {0}; check the limits of this service (`ulimit -u`, `ulimit -n`)")]
    Runtime(#[source] io::Error),
    /// The capabilities of the service cannot be kept from the programs that hooks start.
    #[error(
        "cannot keep the agent's capabilities from hooks: {0}; allow `prctl` in the system call filter of this service"
    )]
    Ambient(#[source] io::Error),
    /// A part of the agent ended by a bug.
    #[error("the {0} ended unexpectedly; this is a bug, please report it with the log (traffic is not affected)")]
    Bug(&'static str),
}

impl RunError {
    fn kernel(error: impl ExitCause) -> Self {
        Self::Kernel(Box::new(error))
    }
}

impl ExitCause for RunError {
    fn exit(&self) -> Exit {
        match self {
            Self::Config(error) => error.exit(),
            Self::Plan(error) => error.exit(),
            Self::Listen(error) => error.exit(),
            Self::Descriptors(error) => error.exit(),
            Self::Owned(error) => error.exit(),
            Self::Audit(error) => error.exit(),
            Self::Pseudonyms(error) => error.exit(),
            Self::Runtime(_) | Self::Ambient(_) => Exit::Unavailable,
            Self::Store(error) | Self::Hook(DispatchError::Store(error)) => store_exit(error),
            Self::Hook(DispatchError::Read(_)) => Exit::Unavailable,
            Self::Hook(DispatchError::Hook(_)) => Exit::Usage,
            Self::Kernel(error) => error.exit(),
            Self::Bug(_) => Exit::Bug,
        }
    }
}

/// Exit code of an error of the store.
pub(super) fn store_exit(error: &StoreError) -> Exit {
    if error.is_permission() { Exit::Rights } else { Exit::Unavailable }
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// [`RunError`]; nothing stays attached that this call attached, unless the agent ran and was to leave it.
pub fn main<D: Datapath>(
    args: &RunArgs,
    start: impl FnOnce(&Resolved) -> Result<D, D::Error> + Send + 'static,
) -> Result<(), RunError> {
    let resolved = config::load(args.config.as_deref(), &args.overrides())?;
    resolved.require_interfaces()?;
    logging::start(&resolved.log);
    resolved.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    Plan::new(&resolved)?.check()?;
    // A service manager gives a user's process its capabilities as ambient ones, which children inherit. They are of
    // each thread, so this is done before there are others.
    rustix::thread::clear_ambient_capability_set().map_err(|errno| RunError::Ambient(errno.into()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("peertally")
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    runtime.block_on(async {
        let stop = stop_signal().map_err(RunError::Runtime)?;
        let (file, overrides) = (args.config.clone(), args.overrides());
        let reread = Arc::new(move || config::load(file.as_deref(), &overrides));
        serve_reloading(resolved, start, stop, None, reread).await
    })
}

/// Ends with the first SIGTERM or SIGINT; the handlers are in place when this returns.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: shutting down"),
            _ = interrupt.recv() => tracing::info!("SIGINT: shutting down"),
        }
    })
}

/// [`serve_reloading`] with the configuration's own file.
#[cfg(test)]
async fn serve<D: Datapath>(
    resolved: Resolved,
    start: impl FnOnce(&Resolved) -> Result<D, D::Error> + Send + 'static,
    stop: impl Future<Output = ()>,
    bound: Option<oneshot::Sender<std::net::SocketAddr>>,
) -> Result<(), RunError> {
    let file = resolved.source.clone();
    let reread = Arc::new(move || config::load(file.as_deref(), &config::Overrides::default()));
    serve_reloading(resolved, start, stop, bound, reread).await
}

/// Runs the agent until `stop` is done. `bound` receives the address of metrics, for a configuration with port 0.
async fn serve_reloading<D: Datapath>(
    resolved: Resolved,
    start: impl FnOnce(&Resolved) -> Result<D, D::Error> + Send + 'static,
    stop: impl Future<Output = ()>,
    bound: Option<oneshot::Sender<std::net::SocketAddr>>,
    reread: Reread,
) -> Result<(), RunError> {
    let (reload, requests) = ReloadHandle::new();
    let signals = reload::on_signals(reload.clone()).map_err(RunError::Runtime)?;
    let resolved = Arc::new(resolved);
    let deliveries = resolved.hooks.iter().map(|hook| hook.concurrency).sum();
    let connections = descriptors::metrics_connections(descriptors::raise_limit(), deliveries)?;
    let tcp = addresses::tcp(resolved.listen)?;
    let address = tcp.local_addr().map_err(RunError::Runtime)?;
    let (control, _control_socket) = ControlSocket::bind(&resolved.control_socket)?;
    owned::folder_of(&resolved.state_dir, is_state_file)?;
    let pseudonyms = pseudonym_key::open(&resolved.pseudonym_key_file)?;
    let store_stats = StoreStats::new(commit_histogram());
    let store = Store::open(&resolved.state_dir, StoreObserver(Arc::clone(&store_stats)))?;
    let totals = StoredTotals::new(store.clone());
    let record_store = store.clone();
    let book = EventBook::new(store)?;
    let mut dispatcher = Dispatcher::new(&resolved.hooks, &book)?;
    let mut analysis = Analysis::new(resolved.analysis_options(), pseudonyms.clone());
    let consequences =
        Consequences::new(Arc::clone(&book), dispatcher.stats().to_vec(), resolved.ceiling, resolved.keep_events)
            .map_err(DispatchError::Read)?;
    consequences.restore(&mut analysis).map_err(DispatchError::Read)?;
    let history = HistoryKeeper::open(book.store().clone(), &mut analysis)?;
    let state = AgentState::new(
        resolved.datapath.inspection,
        resolved.evidence(),
        dispatcher.stats().to_vec(),
        drain_histogram(),
    );
    state.set_pseudonym_key(pseudonyms.key_id());
    let firings = Arc::clone(consequences.counts());
    state.keep(Kept { book, firings, store: store_stats, history: Arc::clone(history.counts()) });
    let heartbeat = Arc::new(Heartbeat::new(heartbeat::limit(resolved.drain_interval)));
    let info = AgentInfo { listen: address.to_string(), ..AgentInfo::of(&resolved) };
    let context =
        HttpContext::new(Arc::clone(&state), pseudonyms.clone(), Arc::clone(&heartbeat), info).with_reload(reload);

    let key_file = &resolved.pseudonym_key_file;
    let rotation = resolved.pseudonym_rotation.map(|period| KeyRotation::new(key_file, period, pseudonyms.clone()));
    let key_rotation = rotation.transpose()?;
    let prepared = depth_record::prepare(&resolved)?;
    let watching = resolved.datapath.inspection == InspectionDepth::Watchlist;
    let hit_log = if watching { Some(open_hit_log(&resolved, &state)?) } else { None };

    let bounds = resolved.verdict_records;
    let options =
        RecordOptions { hourly: bounds.per_hour, bounds: Bounds { keep: bounds.keep, most: bounds.max_records } };
    let recording = resolved.datapath.record_bytes != 0;
    let verdict_records = recording.then(|| VerdictRecords::new(record_store, pseudonyms, options, Arc::clone(&state)));

    let starting = Arc::clone(&resolved);
    let mut datapath = tokio::task::spawn_blocking(move || start(&starting))
        .await
        .map_err(|_| RunError::Bug("attaching task"))?
        .map_err(RunError::kernel)?;
    if let Some(prepared) = prepared {
        tokio::spawn(depth_record::record(prepared, Arc::clone(&state)));
    }
    datapath.age_tallies(resolved.age_of_tallies(), Box::new(totals)).map_err(RunError::kernel)?;

    let tcp = tokio::net::TcpListener::from_std(tcp).map_err(RunError::Runtime)?;
    let control = tokio::net::UnixListener::from_std(control).map_err(RunError::Runtime)?;
    // A start that fails has delivered nothing: it may be tried again and again.
    dispatcher.begin();
    let dispatcher = Arc::new(Mutex::new(dispatcher));
    let (end_http, http_ends) = watch::channel(());
    let servers = [
        serve::spawn(
            ListenerName::Metrics,
            Limits::of(connections),
            tcp,
            http::public(&context),
            Arc::clone(&state),
            http_ends.clone(),
        ),
        serve::spawn(
            ListenerName::Control,
            Limits::of(descriptors::CONTROL_CONNECTIONS),
            control,
            http::control(&context),
            Arc::clone(&state),
            http_ends,
        ),
    ];
    state.set_configuration(&resolved.digest);
    let reloaded_state = Arc::clone(&state);
    let watchdog = service_manager::start(Arc::clone(&state), Arc::clone(&heartbeat));
    let drain_loop = DrainLoop {
        analysis,
        state,
        consequences,
        history,
        heartbeat,
        interval: resolved.drain_interval,
        on_exit: resolved.on_exit,
        hit_log,
        verdict_records,
        key_rotation,
    };
    let (end_drain, mut drain) = drain_loop.spawn(datapath).map_err(RunError::Runtime)?;
    let reloader =
        Reloader::new(Arc::clone(&resolved), reread, reloaded_state, end_drain.0.clone(), Arc::clone(&dispatcher));
    let reloader = tokio::spawn(reloader.run(requests));
    tracing::info!(metrics = %format_args!("http://{address}/metrics"), "counting");
    if let Some(bound) = bound {
        // The receiver may not wait for it.
        let _gone = bound.send(address);
    }

    let ended = tokio::select! {
        () = stop => None,
        ended = &mut drain => Some(ended),
    };
    service_manager::stopping();
    watchdog.abort();
    signals.abort();
    reloader.abort();
    drop(end_drain);
    let ended = match ended {
        Some(ended) => ended,
        None => drain.await,
    };
    let outcome = ended.map_or(Err(RunError::Bug("drain loop")), |ended| ended.map_err(RunError::Kernel));
    dispatcher.lock().await.finish(resolved.shutdown_grace).await;
    drop(end_http);
    for mut server in servers {
        if tokio::time::timeout(HTTP_GRACE, &mut server).await.is_err() {
            server.abort();
        }
    }
    let detached = outcome.is_ok() && resolved.on_exit == OnExit::Detach;
    let action = if detached { AuditAction::Detached } else { AuditAction::LeftInForce };
    let audit = Audit::new(&resolved.state_dir, resolved.rotation);
    if let Err(error) = audit.record_end(action) {
        tracing::error!(%error, "cannot record how the watchlist was left");
    }
    tracing::info!("shut down");
    outcome
}

fn open_hit_log(resolved: &Resolved, state: &Arc<AgentState>) -> Result<HitLog, OwnedError> {
    let options = HitLogOptions {
        path: resolved.state_dir.join("watchlist-hits.jsonl"),
        watchlist: Arc::clone(&resolved.datapath.watchlist),
        evidence: resolved.evidence(),
        pools: resolved.datapath.pools.clone(),
        hourly: resolved.hits_per_hour,
        rotation: resolved.rotation,
    };
    HitLog::open(options, Arc::clone(state))
}
