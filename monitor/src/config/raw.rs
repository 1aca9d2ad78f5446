//! The configuration file as typed. Every key, its text in the reference, and its default are defined here, once.

mod hook;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

pub use hook::RawHook;
use monitor_common::limits;
use serde::Deserialize;

use super::values::{Prefix, Quantity, Span};
use crate::words::{Inspection, KernelLog, LogFormat, LogLevel, Metric, OnExit, PolicyDirection, Role, XdpMode};

/// A configuration file.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Raw {
    /// Interfaces to attach to: every one that carries subscribers' traffic, on the access and on the core side.
    /// Attach to the parent of VLAN subinterfaces.
    pub interfaces: Vec<RawInterface>,
    /// Which addresses are subscribers.
    pub subscribers: Subscribers,
    /// How the XDP program is attached.
    pub xdp_mode: XdpMode,
    /// Address and port of metrics and health.
    pub listen: SocketAddr,
    /// How deep packets are looked into. `headers` finds no P2P protocol. `watchlist` also answers which subscribers name content
    /// of `watchlist_file`; each change of the depth to or from it is recorded in `audit.jsonl` in `state_dir`.
    pub inspection: Inspection,
    /// File with the content hashes of notices received, one a line: 40 hexadecimal digits (BitTorrent info hash, SHA-1), 32
    /// (eDonkey), or 32 or 39 characters of base 32 (Gnutella, Direct Connect). Read at the start.
    #[cfg_attr(test, schemars(example = &"/etc/peertally/watchlist"))]
    pub watchlist_file: Option<PathBuf>,
    /// Verdicts by behaviour alone.
    pub heuristic: RawHeuristic,
    /// Sizes of the kernel's tables.
    pub capacity: Capacity,
    /// Time between two readings of the kernel's tables. Policies and metrics move at this pace.
    pub drain_interval: Span,
    /// What is exported.
    pub metrics: Metrics,
    /// Name of this node in events. Default: the host name.
    #[cfg_attr(test, schemars(example = &"edge-1"))]
    pub node: Option<String>,
    /// Directory of what must survive a restart.
    pub state_dir: PathBuf,
    /// Unix socket that `peertally status` asks.
    pub control_socket: PathBuf,
    /// File with the 32-byte key of the subscriber pseudonyms. It is created on the first start; who has it can link
    /// pseudonyms to addresses. Default: `pseudonym.key` in `state_dir`.
    #[cfg_attr(test, schemars(example = &"/var/lib/peertally/pseudonym.key"))]
    pub pseudonym_key_file: Option<PathBuf>,
    /// What happens to the attached program when the agent ends. Traffic passes either way.
    pub on_exit: OnExit,
    /// Time that deliveries under way get when the agent ends.
    pub shutdown_grace: Span,
    /// Log of the agent.
    pub log: Log,
    /// Addresses no policy ever fires on.
    #[cfg_attr(test, schemars(example = ["192.0.2.10", "2001:db8:1::/48"]))]
    pub allow: Vec<Prefix>,
    /// Thresholds.
    pub policies: Vec<RawPolicy>,
    /// What policies call.
    pub hooks: Vec<RawHook>,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            subscribers: Subscribers::default(),
            xdp_mode: XdpMode::Native,
            listen: SocketAddr::from(([127, 0, 0, 1], 9847)),
            inspection: Inspection::Framing,
            watchlist_file: None,
            heuristic: RawHeuristic::default(),
            capacity: Capacity::default(),
            drain_interval: Span(Duration::from_secs(10)),
            metrics: Metrics::default(),
            node: None,
            state_dir: PathBuf::from("/var/lib/peertally"),
            control_socket: PathBuf::from("/run/peertally/control.sock"),
            pseudonym_key_file: None,
            on_exit: OnExit::Leave,
            shutdown_grace: Span(Duration::from_secs(5)),
            log: Log::default(),
            allow: Vec::new(),
            policies: Vec::new(),
            hooks: Vec::new(),
        }
    }
}

/// One interface.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RawInterface {
    /// Name, as `ip link` shows it.
    #[cfg_attr(test, schemars(example = &"eth0"))]
    pub name: String,
    /// Which side it faces. Direction comes from the addresses; but from a packet that comes in on a `core` interface with a
    /// subscriber's address as its source, which may be forged, no endpoint is learned.
    #[serde(default = "access")]
    pub role: Role,
    /// Number of the realm that its packets' addresses belong to, such as a VRF: equal addresses of two realms are two subscribers.
    /// Interfaces that one subscriber's packets come in on, of the access and of the core side, need the same.
    #[serde(default)]
    pub realm: u32,
}

fn access() -> Role {
    Role::Access
}

/// Which addresses are subscribers.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Subscribers {
    /// Address pools. Default: the private ranges of RFC 1918, the shared range of RFC 6598 and `fd00::/8` (RFC 4193).
    pub pools: Vec<RawPool>,
}

/// One address pool.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RawPool {
    /// The pool, such as `100.64.0.0/10`.
    #[cfg_attr(test, schemars(example = &"100.64.0.0/10"))]
    pub prefix: Prefix,
    /// Prefix length of the block that one subscriber gets. Default: 32 for IPv4, 56 for IPv6.
    #[serde(default)]
    #[cfg_attr(test, schemars(example = 32))]
    pub assign: Option<u8>,
}

/// Sizes of the kernel's tables. Memory is reserved at the start: 64 bytes a flow, 64 bytes a tally, 16 bytes an endpoint.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Capacity {
    /// Flows remembered at a time; rounded up to a power of two.
    pub flows: u32,
    /// Tallies, one per subscriber block, protocol and confidence.
    pub tallies: u32,
    /// P2P endpoints and subscribers remembered for `association`; rounded up to a power of two. What was not seen for 40 minutes is
    /// forgotten.
    pub endpoints: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { flows: limits::DEFAULT_FLOWS, tallies: limits::DEFAULT_TALLIES, endpoints: limits::DEFAULT_ENDPOINTS }
    }
}

/// The `heuristic` confidence tier: encrypted connections that open as BitTorrent's MSE does count as BitTorrent, when one
/// subscriber opens them to many remote endpoints and has a certain BitTorrent flow in the same time.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RawHeuristic {
    /// Whether it is on. Behaviour proves little: see `docs/detection.md` before switching it on.
    pub enabled: bool,
    /// Distinct remote endpoints it takes.
    pub endpoints: u32,
    /// Time within which they and the certain flow must fall.
    pub window: Span,
}

impl Default for RawHeuristic {
    fn default() -> Self {
        Self { enabled: false, endpoints: 8, window: Span(Duration::from_secs(60)) }
    }
}

/// What is exported.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Subscribers with most P2P bytes that `/metrics` shows under a pseudonym. A subscriber enters at this rank and
    /// leaves at twice this rank. 0: none.
    pub top_k: u32,
    /// Whether `/metrics/subscribers` exists: every subscriber, under a pseudonym.
    pub subscribers: bool,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { top_k: 50, subscribers: false }
    }
}

/// Log of the agent, on standard error.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// How lines are written.
    pub format: LogFormat,
    /// The least important line that is written.
    pub level: LogLevel,
    /// Messages of the XDP program about rare events.
    pub kernel_log: KernelLog,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: LogLevel::Info, kernel_log: KernelLog::Off }
    }
}

/// A threshold on one subscriber's traffic.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RawPolicy {
    /// Name in events and metrics; letters, digits, `-`, `_` and `.`.
    #[cfg_attr(test, schemars(example = &"heavy-p2p"))]
    pub name: String,
    /// Protocols that count together. Default: every P2P protocol but `libp2p`, which must be named.
    #[serde(default)]
    #[cfg_attr(test, schemars(example = ["bittorrent", "edonkey"]))]
    pub protocols: Vec<String>,
    /// The weakest verdict that counts: `heuristic`, `association`, `structural` or `signature`.
    #[serde(default = "structural")]
    pub min_confidence: String,
    /// What is measured.
    #[serde(default = "bytes")]
    pub metric: Metric,
    /// Whose packets are measured. `flows` have no direction: leave it away.
    #[serde(default = "both")]
    pub direction: PolicyDirection,
    /// The policy fires when the window holds at least this much: a whole number, or bytes with a unit (`"10 GiB"`).
    #[cfg_attr(test, schemars(example = &"10 GiB"))]
    pub threshold: Quantity,
    /// Length of the sliding window; at least `drain_interval`.
    #[cfg_attr(test, schemars(example = &"1h"))]
    pub window: Span,
    /// Time after firing during which the policy does not fire again for the same subscriber.
    #[serde(default = "one_hour")]
    pub cool_down: Span,
    /// Addresses this policy does not fire on, beside the common allow list.
    #[serde(default)]
    pub allow: Vec<Prefix>,
    /// Names of the hooks to call. Empty: events are only counted and logged.
    #[serde(default)]
    #[cfg_attr(test, schemars(example = ["tell"]))]
    pub hooks: Vec<String>,
}

fn structural() -> String {
    "structural".to_owned()
}
fn bytes() -> Metric {
    Metric::Bytes
}
fn both() -> PolicyDirection {
    PolicyDirection::Both
}
fn one_hour() -> Span {
    Span(Duration::from_secs(3600))
}
