//! The configuration file as typed. Every key, its text in the reference, and its default are defined here, once.

mod hook;
mod interface;

use std::{net::SocketAddr, path::PathBuf};

pub use hook::RawHook;
pub use interface::RawInterface;
use monitor_common::abi::{
    limits::{self, DEFAULT_RECORD_BUFFER_BYTES},
    settings::InspectionDepth,
};
use peertally_core::words::{KernelLog, LogFormat, LogLevel, Metric, OnExit, PolicyDirection, XdpMode};
use serde::Deserialize;

use super::values::{Amount, BoundedCount, DAY, DepthText, DurationText, HOUR, Prefix, SECOND, table, tables};

/// A configuration file.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Raw {
    /// Interfaces to attach to: every one that carries subscribers' traffic, on the access and on the core side.
    /// Attach to the parent of VLAN subinterfaces, and name those that differ in its `vlans`.
    #[serde(deserialize_with = "tables")]
    pub interfaces: Vec<RawInterface>,
    /// Which addresses are subscribers.
    #[serde(deserialize_with = "table")]
    pub subscribers: Subscribers,
    /// Tunnels whose inner addresses are charged. Anybody can send a packet with any addresses inside it, so in all
    /// other tunnels only an outer address in a pool is charged.
    #[serde(deserialize_with = "tables")]
    pub tunnels: Vec<RawTunnels>,
    /// How the XDP program is attached.
    pub xdp_mode: XdpMode,
    /// Address and port of metrics and health.
    pub listen: SocketAddr,
    /// How deep payloads are inspected. `headers` finds no P2P protocol. `watchlist` also reports which subscribers
    /// name content of `watchlist_file`. Each change to or from `watchlist` is recorded in `audit.jsonl` in
    /// `state_dir`.
    pub inspection: DepthText,
    /// File with the content hashes of notices received, one per line: 40 hexadecimal digits (BitTorrent info hash,
    /// SHA-1), 32 (eDonkey), or 32 or 39 characters of base 32 (Gnutella, Direct Connect). Read at the start
    /// and by each reload.
    #[cfg_attr(test, schemars(example = &"/etc/peertally/watchlist"))]
    pub watchlist_file: Option<PathBuf>,
    /// Whether the interfaces carry one direction of each flow only. Every flow then counts as answered. That is weaker
    /// evidence, because anybody can send packets to a subscriber: every event names it. A flow that was charged so
    /// stays charged until it ends, also after the key was changed.
    pub one_way: bool,
    /// Verdicts by behaviour only.
    #[serde(deserialize_with = "table")]
    pub heuristic: RawHeuristic,
    /// Sizes of the kernel's tables.
    #[serde(deserialize_with = "table")]
    pub capacity: Capacity,
    /// Bound of the work for new flows and inspections: a flood of packets that each open a flow costs at most a part
    /// of each core. Packets beyond the bound are shed: they pass and count at node level, but open no flow and count
    /// under no subscriber. All CPUs together open at most `capacity.flows / 4` new flows a second.
    #[serde(deserialize_with = "table")]
    pub shedding: RawShedding,
    /// Time between two drains of the kernel's tables. Policies and metrics change at this pace.
    // Below 100 ms a drain of a million tallies takes a large part of a core. Above an hour policy windows are too
    // coarse.
    pub drain_interval: DurationText<100, HOUR>,
    /// Time without traffic after which a tally gives its place in the kernel's table back. Its counters go into the
    /// store and go on from there when the subscriber comes back within 31 days. Never shorter than the longest
    /// `window` of a policy, unless more than 70 % of `capacity.tallies` are in use: then the tallies without traffic
    /// for longest go first.
    // Below two minutes a tally might leave while its flow is active.
    pub tally_age: DurationText<120_000, { 31 * DAY }>,
    /// Exported metrics.
    #[serde(deserialize_with = "table")]
    pub metrics: Metrics,
    /// Files of records in `state_dir`: `audit.jsonl` and `watchlist-hits.jsonl`.
    #[serde(deserialize_with = "table")]
    pub records: Records,
    /// Which flow each subscriber was charged with, under keyed hashes: `peertally records` looks them up for a notice.
    #[serde(deserialize_with = "table")]
    pub verdict_records: RawVerdictRecords,
    /// Name of this node in events. Default: the host name.
    #[cfg_attr(test, schemars(example = &"edge-1"))]
    pub node: Option<String>,
    /// Directory for state that must survive a restart.
    pub state_dir: PathBuf,
    /// Unix socket that `peertally status` and `peertally reload` ask.
    pub control_socket: PathBuf,
    /// File with the 32-byte key of the subscriber pseudonyms. The first start creates it. Whoever has the key can link
    /// pseudonyms to addresses. Default: `pseudonym.key` in `state_dir`.
    #[cfg_attr(test, schemars(example = &"/var/lib/peertally/pseudonym.key"))]
    pub pseudonym_key_file: Option<PathBuf>,
    /// Time after which a new pseudonym key is made, and every subscriber gets a new pseudonym; at least an hour. 0:
    /// never, because series and cases then keep their names. The last 12 keys are kept beside the present one, so that
    /// `peertally resolve` finds the subscribers of older events.
    pub pseudonym_rotation: DurationText<0, { 3_650 * DAY }>,
    /// Whether the program stays attached when the agent ends. Traffic passes either way.
    pub on_exit: OnExit,
    /// Time that deliveries in progress get when the agent ends.
    pub shutdown_grace: DurationText<0, HOUR>,
    /// Log of the agent.
    #[serde(deserialize_with = "table")]
    pub log: Log,
    /// Addresses for which no policy ever fires.
    #[cfg_attr(test, schemars(example = ["192.0.2.10", "2001:db8:1::/48"]))]
    pub allow: Vec<Prefix>,
    /// What becomes of events.
    #[serde(deserialize_with = "table")]
    pub events: RawEvents,
    /// Thresholds.
    #[serde(deserialize_with = "tables")]
    pub policies: Vec<RawPolicy>,
    /// Receivers of events.
    #[serde(deserialize_with = "tables")]
    pub hooks: Vec<RawHook>,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            subscribers: Subscribers::default(),
            tunnels: Vec::new(),
            xdp_mode: XdpMode::Native,
            listen: SocketAddr::from(([127, 0, 0, 1], 9847)),
            inspection: DepthText(InspectionDepth::Framing),
            watchlist_file: None,
            one_way: false,
            heuristic: RawHeuristic::default(),
            capacity: Capacity::default(),
            shedding: RawShedding::default(),
            drain_interval: DurationText::from_secs(10),
            tally_age: DurationText::from_secs(24 * 3600),
            metrics: Metrics::default(),
            records: Records::default(),
            verdict_records: RawVerdictRecords::default(),
            node: None,
            state_dir: PathBuf::from("/var/lib/peertally"),
            control_socket: PathBuf::from(super::DEFAULT_CONTROL_SOCKET),
            pseudonym_key_file: None,
            pseudonym_rotation: DurationText::from_secs(0),
            on_exit: OnExit::Leave,
            shutdown_grace: DurationText::from_secs(5),
            log: Log::default(),
            allow: Vec::new(),
            events: RawEvents::default(),
            policies: Vec::new(),
            hooks: Vec::new(),
        }
    }
}

/// Which addresses are subscribers.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Subscribers {
    /// Address pools. Default: the private ranges of RFC 1918, the shared range of RFC 6598 and `fd00::/8` (RFC 4193).
    #[serde(deserialize_with = "tables")]
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
    /// Whether other routers serve subscribers of the pool, too. It changes a label only: a packet with such a source
    /// that arrives on a `core` interface, and counts for no flow, has the reason `core_source`, else `spoofed`.
    #[serde(default)]
    pub shared: bool,
}

/// Endpoints of tunnels.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RawTunnels {
    /// Addresses and prefixes of the machines that the tunnels end on, such as base stations and gateways of a GTP-U
    /// network. Both outer addresses of a packet must lie in prefixes of these lists. Name only addresses that nobody
    /// can forge: the network must drop packets with such a source that come from subscribers or from outside. At most
    /// 1,024 in all lists together.
    #[cfg_attr(test, schemars(example = ["192.0.2.0/28", "2001:db8:ffff::/64"]))]
    pub endpoints: Vec<Prefix>,
}

/// Sizes of the kernel's tables. Memory is reserved at the start: 96 bytes a flow, 184 bytes a tally, 16 bytes a peer.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Capacity {
    /// Flows in the flow table; rounded up to a power of two.
    pub flows: BoundedCount<{ 1 << 10 }, { 1 << 26 }>,
    /// Tallies, one per subscriber block, protocol and confidence.
    pub tallies: BoundedCount<{ 1 << 10 }, { 1 << 24 }>,
    /// Entries of the peer cache: P2P endpoints and subscribers remembered for `association`, rounded up to a power of
    /// two. Entries expire after 40 minutes.
    pub peers: BoundedCount<{ 1 << 10 }, { 1 << 26 }>,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            flows: BoundedCount(limits::DEFAULT_FLOWS.into()),
            tallies: BoundedCount(limits::DEFAULT_TALLIES.into()),
            peers: BoundedCount(limits::DEFAULT_PEERS.into()),
        }
    }
}

/// The `heuristic` confidence tier: encrypted connections that open as BitTorrent's MSE does count as BitTorrent, if
/// one subscriber opens them to many remote endpoints and has a certain BitTorrent flow in that time.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RawHeuristic {
    /// Whether the heuristic tier is on. Behaviour proves little: read `docs/detection.md` first.
    pub enabled: bool,
    /// Distinct remote endpoints required.
    pub endpoints: BoundedCount<1, { limits::MSE_CANDIDATE_BUCKETS as u64 }>,
    /// Time window for these connections and the certain flow.
    pub window: DurationText<SECOND, { 40 * 60 * SECOND }>,
}

impl Default for RawHeuristic {
    fn default() -> Self {
        Self { enabled: false, endpoints: BoundedCount(8), window: DurationText::from_secs(60) }
    }
}

/// Bound of the work for new flows and inspections.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RawShedding {
    /// Whether packets are shed.
    pub enabled: bool,
    /// Packets a second that may open a flow or be inspected, for each CPU. The default takes at most 0.4 of a core of
    /// the processor of `docs/performance.md`.
    pub packets_per_second: BoundedCount<1_000, 100_000_000>,
}

impl Default for RawShedding {
    fn default() -> Self {
        Self { enabled: true, packets_per_second: BoundedCount(500_000) }
    }
}

/// Exported metrics.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Subscribers with most P2P bytes that `/metrics` shows under a pseudonym. A subscriber enters at this rank and
    /// leaves at twice this rank. 0: none.
    pub top_k: BoundedCount<0, 1_000>,
    /// Whether `/metrics/subscribers` exists. It lists every subscriber under a pseudonym.
    pub subscribers: bool,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { top_k: BoundedCount(50), subscribers: false }
    }
}

/// Files of records. Each line holds the digest of the line before; `peertally audit verify` checks them.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Records {
    /// Size of a file in megabytes, after which a new one is begun and the old one gets the ending `.1`.
    pub file_megabytes: BoundedCount<1, 1_000_000>,
    /// Older files that are kept of each kind.
    pub files: BoundedCount<1, 1_000>,
    /// Watchlist hits of one subscriber that are written in an hour. Further ones are counted only.
    pub hits_per_hour: BoundedCount<1, 1_000_000>,
}

impl Default for Records {
    fn default() -> Self {
        Self { file_megabytes: BoundedCount(64), files: BoundedCount(16), hits_per_hour: BoundedCount(1_000) }
    }
}

/// Verdict records in the store: one for each flow that charges a subscriber with P2P protocol traffic. They hold
/// times, ports, protocol and rule, and no address: subscriber, own address and remote are hashed with the pseudonym
/// key.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RawVerdictRecords {
    /// Room for records in the kernel until the agent reads them, in kilobytes of 1,024 bytes, 80 bytes each; rounded
    /// up to a power of two. 0: no records are made.
    pub buffer_kilobytes: BoundedCount<0, 65_536>,
    /// Records of one subscriber that are kept of an hour. Further ones are counted only.
    pub per_hour: BoundedCount<1, 1_000_000>,
    /// How long records are kept.
    pub keep: DurationText<HOUR, { 3650 * DAY }>,
    /// Records that are kept at most, the latest ones; about 150 bytes each.
    pub max_records: BoundedCount<1_000, 10_000_000_000>,
}

impl Default for RawVerdictRecords {
    fn default() -> Self {
        Self {
            buffer_kilobytes: BoundedCount(DEFAULT_RECORD_BUFFER_BYTES as u64 / 1_024),
            per_hour: BoundedCount(100),
            keep: DurationText::from_secs(31 * 24 * 3600),
            max_records: BoundedCount(10_000_000),
        }
    }
}

/// Log of the agent, on standard error.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Format of the lines.
    pub format: LogFormat,
    /// Lowest level that is logged.
    pub level: LogLevel,
    /// Messages of the XDP program about rare events.
    pub kernel_log: KernelLog,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: LogLevel::Info, kernel_log: KernelLog::Off }
    }
}

/// What becomes of events.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RawEvents {
    /// Events of one policy in `ceiling_interval` that go to its hooks. Further ones are held for a person:
    /// `peertally events --held` lists them.
    pub ceiling: BoundedCount<1, 1_000_000>,
    /// Interval of `ceiling`.
    pub ceiling_interval: DurationText<SECOND, DAY>,
    /// How long events are kept after they ended: delivered, dead, discarded, or made by a policy without hooks.
    pub keep: DurationText<HOUR, { 3650 * DAY }>,
}

impl Default for RawEvents {
    fn default() -> Self {
        Self {
            ceiling: BoundedCount(20),
            ceiling_interval: DurationText::from_secs(600),
            keep: DurationText::from_secs(90 * 24 * 3600),
        }
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
    /// Classes of protocols that count together: `filesharing`, `video`, `storage`, `sync`, `transport`, `updates`.
    /// Default: `["filesharing", "video"]`, unless `protocols` names protocols.
    #[serde(default)]
    #[cfg_attr(test, schemars(example = ["filesharing", "video"]))]
    pub classes: Option<Vec<String>>,
    /// Protocols that count together. They are added to those of `classes` if both keys are given.
    #[serde(default)]
    #[cfg_attr(test, schemars(example = ["libp2p"]))]
    pub protocols: Vec<String>,
    /// The weakest verdict that counts: `heuristic`, `association`, `structural` or `signature`.
    #[serde(default = "structural")]
    pub min_confidence: String,
    /// Measured quantity.
    #[serde(default = "bytes")]
    pub metric: Metric,
    /// Which direction is measured. `flows` have no direction: omit the key.
    #[serde(default = "both")]
    pub direction: PolicyDirection,
    /// The policy fires when the window holds at least this much: a whole number, or bytes with a unit (`"10 GiB"`).
    #[cfg_attr(test, schemars(example = &"10 GiB"))]
    pub threshold: Amount,
    /// Length of the sliding window; at least `drain_interval`.
    #[cfg_attr(test, schemars(example = &"1h"))]
    pub window: DurationText<100, { 31 * DAY }>,
    /// Time after the first successful delivery during which the policy does not fire again for that subscriber. While
    /// an event waits for its delivery or for a person, the policy does not fire again for that subscriber either.
    #[serde(default = "one_hour")]
    pub cool_down: DurationText<0, { 365 * DAY }>,
    /// Addresses for which this policy does not fire, in addition to the common allow list.
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
fn one_hour() -> DurationText<0, { 365 * DAY }> {
    DurationText::from_secs(3600)
}
