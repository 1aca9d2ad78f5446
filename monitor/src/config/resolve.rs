//! Turns typed keys into settings: overlays, ranges, references between keys.

use std::{
    collections::HashSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use monitor_common::abi::{
    limits::{MAX_POOLS, MAX_TUNNEL_ENDPOINTS},
    settings::{Heuristic, InspectionDepth, Shedding},
};
use peertally_core::{
    interface::Interface,
    policy::{Policy, ceiling::CeilingRule},
    pool::{DEFAULT_ASSIGN_IPV4, DEFAULT_ASSIGN_IPV6, Pool},
    words::{KernelLog, OnExit, XdpMode},
};
use peertally_datapath::{TableSizes, object::LoadOptions};

use super::{
    ConfigError, Problem, Rotation, digest,
    locate::Locator,
    raw::{Log, Raw, RawPool},
    values::Ranged,
};
use crate::deliver::HookConfig;

mod hooks;
mod interfaces;
mod policies;

/// Shortest life of a pseudonym key.
const LEAST_ROTATION: Duration = Duration::from_secs(3600);

/// Resolved configuration. [`super::raw`] documents each part.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The file it came from, if any.
    pub source: Option<PathBuf>,
    /// Name of this node in events.
    pub node: Arc<str>,
    /// Interfaces to attach to; may be empty, which [`Resolved::require_interfaces`] refuses.
    pub interfaces: Vec<Interface>,
    /// Attach mode.
    pub xdp_mode: XdpMode,
    /// Address of metrics and health.
    pub listen: SocketAddr,
    /// File of the watchlist; there exactly when the inspection depth is `watchlist`.
    pub watchlist_file: Option<PathBuf>,
    /// Settings of the program and its tables. The attachment adds interfaces and the place of the pins.
    pub datapath: LoadOptions,
    /// Time between drains.
    pub drain_interval: Duration,
    /// Time without traffic after which a tally gives its place back, without policies' windows.
    pub tally_age: Duration,
    /// Rank at which a subscriber is exported; 0 for none.
    pub top_k: usize,
    /// Whether `/metrics/subscribers` exists.
    pub subscriber_metrics: bool,
    /// Directory for state that must survive a restart.
    pub state_dir: PathBuf,
    /// Size and number of files of records.
    pub rotation: Rotation,
    /// Watchlist hits of one subscriber that are written in an hour.
    pub hits_per_hour: u64,
    /// Bounds of verdict records.
    pub verdict_records: VerdictRecordBounds,
    /// Unix socket of the control interface.
    pub control_socket: PathBuf,
    /// Key of the pseudonyms.
    pub pseudonym_key_file: PathBuf,
    /// Age at which the key is replaced; `None` for never.
    pub pseudonym_rotation: Option<Duration>,
    /// Whether the attached program stays at the end.
    pub on_exit: OnExit,
    /// Time for deliveries in progress at the end.
    pub shutdown_grace: Duration,
    /// Log settings.
    pub log: Log,
    /// How many events of a policy go to its hooks.
    pub ceiling: CeilingRule,
    /// How long events are kept after they ended.
    pub keep_events: Duration,
    /// Policies.
    pub policies: Vec<Policy>,
    /// Hooks.
    pub hooks: Vec<HookConfig>,
    /// Name of each hook, and a digest of what was typed for it.
    pub hook_digests: Vec<(Arc<str>, String)>,
    /// Addresses for which no policy fires; those of each policy begin with them.
    pub allow: Vec<IpNet>,
    /// Digest of the file and of its watchlist; empty without a file.
    pub digest: String,
}

/// Bounds of verdict records. Whether there are any, the data path's options say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictRecordBounds {
    /// Records of one subscriber in an hour.
    pub per_hour: u64,
    /// How long they are kept.
    pub keep: Duration,
    /// How many are kept.
    pub max_records: u64,
}

/// Values of flags and environment; each replaces the key of the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--interface`.
    pub interfaces: Vec<Interface>,
    /// `--subscribers`.
    pub pools: Vec<Pool>,
    /// `--xdp-mode`.
    pub xdp_mode: Option<XdpMode>,
    /// `--listen`.
    pub listen: Option<SocketAddr>,
    /// Name of this host, for a file that gives no `node`.
    pub host_name: Option<String>,
}

impl Resolved {
    /// Time without traffic after which tallies leave. A tally that left has no window, so no policy's is longer.
    #[must_use]
    pub fn age_of_tallies(&self) -> Duration {
        self.policies.iter().map(|policy| policy.window).fold(self.tally_age, Duration::max)
    }

    /// Refuses a configuration that names no interface: `run` has nothing to attach to.
    ///
    /// # Errors
    /// The problem, with the next step.
    pub fn require_interfaces(&self) -> Result<(), ConfigError> {
        if !self.interfaces.is_empty() {
            return Ok(());
        }
        Err(ConfigError::Invalid(vec![Problem {
            place: self.source.clone().map(|file| (file, None)),
            key: "interfaces".to_owned(),
            message: "no interface is given; add --interface NAME (see `ip link`) or an [[interfaces]] entry"
                .to_owned(),
        }]))
    }
}

/// Collects problems while values are read.
struct Checker<'a> {
    locator: &'a Locator<'a>,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn problem(&mut self, path: &str, message: impl Into<String>) {
        self.problems.push(self.locator.problem(path, message));
    }

    /// Checks a value against the range of its type.
    fn ranged<T: Ranged>(&mut self, path: &str, typed: &T) -> T::Value {
        if let Some(fault) = typed.fault() {
            self.problem(path, fault);
        }
        typed.value()
    }

    /// Checks a name that becomes a label value, and that no other entry has it.
    fn name(&mut self, path: &str, name: &str, seen: &mut HashSet<String>) -> Arc<str> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
            self.problem(path, format!("`{name}` is not a name; use 1 to 64 letters, digits, `-`, `_` and `.`"));
        } else if !seen.insert(name.to_owned()) {
            self.problem(path, format!("`{name}` is used twice; give each entry its own name"));
        }
        name.into()
    }

    /// Checks that a path does not depend on the directory the agent was started in.
    fn absolute(&mut self, path: &str, value: &Path) -> PathBuf {
        if !value.is_absolute() {
            self.problem(path, format!("`{}` is not an absolute path; start it with `/`", value.display()));
        }
        value.to_owned()
    }
}

/// Checks everything; see [`super::load`].
pub(super) fn resolve(raw: &Raw, overrides: &Overrides, locator: &Locator<'_>) -> Result<Resolved, ConfigError> {
    let mut check = Checker { locator, problems: Vec::new() };
    let pools = pools(raw, overrides, &mut check);
    let interfaces = interfaces::resolve(raw, overrides, &pools, &mut check);
    let tunnel_endpoints = tunnel_endpoints(raw, &pools, &mut check);
    let watching = raw.inspection.0 == InspectionDepth::Watchlist;
    let watchlist_file = raw.watchlist_file.as_deref().map(|file| check.absolute("watchlist_file", file));
    if watching && watchlist_file.is_none() {
        check.problem("inspection", "`watchlist` needs a list; name its file in `watchlist_file`, or use `framing`");
    }
    let flows = check.ranged("capacity.flows", &raw.capacity.flows);
    let tallies = check.ranged("capacity.tallies", &raw.capacity.tallies);
    let peers = check.ranged("capacity.peers", &raw.capacity.peers);
    let endpoints = check.ranged("heuristic.endpoints", &raw.heuristic.endpoints);
    let window = check.ranged("heuristic.window", &raw.heuristic.window);
    let heuristic = Heuristic { endpoints: endpoints as u32, window_s: window.as_secs() as u16 };
    let packets_per_second = check.ranged("shedding.packets_per_second", &raw.shedding.packets_per_second);
    let shedding = Shedding { packets_per_second: packets_per_second as u32 };
    let drain_interval = check.ranged("drain_interval", &raw.drain_interval);
    let tally_age = check.ranged("tally_age", &raw.tally_age);
    let top_k = check.ranged("metrics.top_k", &raw.metrics.top_k);
    let file_megabytes = check.ranged("records.file_megabytes", &raw.records.file_megabytes);
    let files = check.ranged("records.files", &raw.records.files);
    let hits_per_hour = check.ranged("records.hits_per_hour", &raw.records.hits_per_hour);
    let typed = &raw.verdict_records;
    let record_kilobytes = check.ranged("verdict_records.buffer_kilobytes", &typed.buffer_kilobytes);
    let verdict_records = VerdictRecordBounds {
        per_hour: check.ranged("verdict_records.per_hour", &typed.per_hour),
        keep: check.ranged("verdict_records.keep", &typed.keep),
        max_records: check.ranged("verdict_records.max_records", &typed.max_records),
    };
    let pseudonym_rotation = check.ranged("pseudonym_rotation", &raw.pseudonym_rotation);
    if !pseudonym_rotation.is_zero() && pseudonym_rotation < LEAST_ROTATION {
        check.problem(
            "pseudonym_rotation",
            "a key that is younger than an hour is not replaced; write 0s, or at least 1h",
        );
    }
    let shutdown_grace = check.ranged("shutdown_grace", &raw.shutdown_grace);
    let state_dir = check.absolute("state_dir", &raw.state_dir);
    let control_socket = check.absolute("control_socket", &raw.control_socket);
    let pseudonym_key_file = match &raw.pseudonym_key_file {
        Some(file) => check.absolute("pseudonym_key_file", file),
        None => state_dir.join("pseudonym.key"),
    };
    let node = raw.node.clone().or_else(|| overrides.host_name.clone()).unwrap_or_else(|| "localhost".to_owned());
    if node.is_empty() || node.len() > 255 || node.chars().any(char::is_control) {
        check.problem("node", "a node name has 1 to 255 printable characters");
    }
    let hooks = hooks::resolve(raw, &mut check);
    let policies = policies::resolve(raw, &mut check);
    let ceiling = CeilingRule {
        events: check.ranged("events.ceiling", &raw.events.ceiling) as usize,
        interval: check.ranged("events.ceiling_interval", &raw.events.ceiling_interval),
    };
    let keep_events = check.ranged("events.keep", &raw.events.keep);
    if !check.problems.is_empty() {
        return Err(ConfigError::Invalid(check.problems));
    }
    Ok(Resolved {
        source: locator.path().map(Path::to_owned),
        node: node.into(),
        interfaces,
        xdp_mode: overrides.xdp_mode.unwrap_or(raw.xdp_mode),
        listen: overrides.listen.unwrap_or(raw.listen),
        watchlist_file: watchlist_file.filter(|_| watching),
        datapath: LoadOptions {
            sizes: TableSizes {
                flows: (flows as u32).next_power_of_two(),
                tallies: tallies as u32,
                peers: (peers as u32).next_power_of_two(),
            },
            pools,
            tunnel_endpoints,
            inspection: raw.inspection.0,
            one_way: raw.one_way,
            heuristic: raw.heuristic.enabled.then_some(heuristic),
            shedding: raw.shedding.enabled.then_some(shedding),
            log_level: log_level(raw.log.kernel_log),
            record_bytes: record_kilobytes as u32 * 1_024,
            ..LoadOptions::default()
        },
        drain_interval,
        tally_age,
        top_k: top_k as usize,
        subscriber_metrics: raw.metrics.subscribers,
        state_dir,
        rotation: Rotation { file_bytes: file_megabytes * 1_000_000, files: files as usize },
        hits_per_hour,
        verdict_records,
        control_socket,
        pseudonym_key_file,
        pseudonym_rotation: Some(pseudonym_rotation).filter(|period| !period.is_zero()),
        on_exit: raw.on_exit,
        shutdown_grace,
        log: raw.log.clone(),
        ceiling,
        keep_events,
        policies,
        hook_digests: raw
            .hooks
            .iter()
            .map(|hook| (hook.name.as_str().into(), digest(&[&format!("{hook:?}")])))
            .collect(),
        allow: raw.allow.iter().map(|prefix| prefix.0).collect(),
        digest: String::new(),
        hooks,
    })
}

/// Number of a level in aya-log.
const fn log_level(level: KernelLog) -> u8 {
    match level {
        KernelLog::Off => 0,
        KernelLog::Info => 3,
        KernelLog::Debug => 4,
    }
}

fn pools(raw: &Raw, overrides: &Overrides, check: &mut Checker<'_>) -> Vec<Pool> {
    let mut seen = HashSet::new();
    let mut pools = Vec::new();
    let typed = &raw.subscribers.pools;
    if overrides.pools.is_empty() && typed.is_empty() {
        return default_pools();
    }
    if overrides.pools.is_empty() {
        for (index, pool) in typed.iter().enumerate() {
            match pool_of(pool) {
                Ok(pool) => pools.push((format!("subscribers.pools[{index}].prefix"), pool)),
                Err(message) => check.problem(&format!("subscribers.pools[{index}].assign"), message),
            }
        }
    } else {
        pools.extend(overrides.pools.iter().map(|pool| ("--subscribers".to_owned(), *pool)));
    }
    for (path, pool) in &pools {
        if !seen.insert((pool.address, pool.prefix_len)) {
            check.problem(path, format!("the pool {}/{} is given twice", pool.address, pool.prefix_len));
        }
    }
    let limit = MAX_POOLS as usize;
    if pools.len() > limit {
        check.problem("subscribers.pools", format!("{} pools exceed the maximum of {limit}", pools.len()));
    }
    pools.into_iter().map(|(_, pool)| pool).collect()
}

fn pool_of(raw: &RawPool) -> Result<Pool, String> {
    let prefix = raw.prefix.0;
    let default = if prefix.addr().is_ipv4() { DEFAULT_ASSIGN_IPV4 } else { DEFAULT_ASSIGN_IPV6 };
    let assign = raw.assign.unwrap_or(default.max(prefix.prefix_len()));
    let pool = format!("{prefix}/{assign}").parse::<Pool>().map_err(|error| error.to_string())?;
    Ok(Pool { shared: raw.shared, ..pool })
}

fn tunnel_endpoints(raw: &Raw, pools: &[Pool], check: &mut Checker<'_>) -> Vec<IpNet> {
    let mut seen = HashSet::new();
    let mut endpoints = Vec::new();
    for (entry, tunnels) in raw.tunnels.iter().enumerate() {
        if tunnels.endpoints.is_empty() {
            let path = format!("tunnels[{entry}].endpoints");
            check.problem(&path, "the list is empty; name the addresses that the tunnels end on, or remove the entry");
        }
        for (index, prefix) in tunnels.endpoints.iter().map(|prefix| prefix.0).enumerate() {
            let path = format!("tunnels[{entry}].endpoints[{index}]");
            let pool = pools.iter().find(|pool| pool.prefix().contains(&prefix));
            if prefix.prefix_len() == 0 {
                check.problem(
                    &path,
                    format!(
                        "{prefix} names every address, so anybody could charge any subscriber; name the endpoints only"
                    ),
                );
            } else if let Some(pool) = pool {
                check.problem(
                    &path,
                    format!(
                        "{prefix} lies in the pool {}: its addresses are subscribers and charged themselves, so the entry \
                         has no effect; remove it, or choose pools without it",
                        pool.prefix()
                    ),
                );
            } else if !seen.insert(prefix) {
                check.problem(&path, format!("{prefix} is given twice"));
            }
            endpoints.push(prefix);
        }
    }
    let limit = MAX_TUNNEL_ENDPOINTS as usize;
    if endpoints.len() > limit {
        check.problem("tunnels", format!("{} endpoints exceed the maximum of {limit}", endpoints.len()));
    }
    endpoints
}

/// Private and shared addresses: the subscribers of a node without a configuration.
fn default_pools() -> Vec<Pool> {
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fd00::/8"]
        .iter()
        .map(|text| text.parse().expect("the default pools are well-formed"))
        .collect()
}
