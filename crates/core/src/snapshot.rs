//! Result of one drain of the kernel's maps: the value that metrics, thresholds and the control socket work from.
//!
//! Produced by the drain task only; everybody else holds an `Arc<Snapshot>` and never touches a map.

use std::{
    collections::{HashMap, HashSet},
    ops::AddAssign,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use monitor_common::abi::{
    protocol::Verdict,
    reason::Reason,
    remotes::RemoteSet,
    rule::Rule,
    spoofing::SpoofReason,
    tally::{Direction, TallyKey, Totals},
    watch::WatchHit,
};

use crate::booked;

/// One drain.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Wall-clock time of the drain.
    pub taken_at: SystemTime,
    /// Monotonic time of the drain, for its age.
    pub taken: Instant,
    /// Time since the drain before; zero for the first.
    pub interval: Duration,
    /// How long the drain took.
    pub drain_duration: Duration,
    /// Key of each tally, by slot. Slot 0 is [`TallyKey::CATCH_ALL`].
    pub keys: Arc<Vec<TallyKey>>,
    /// Cumulative counters of each tally, by slot; same length as `keys`. They never go down, restarts included.
    pub totals: Arc<Vec<Totals>>,
    /// Slots that are no rows of their own.
    pub shared_keys: SharedKeys,
    /// Where the totals begin.
    pub origin: Origin,
    /// Tallies that moved since the drain before, by slot, in slot order. Nothing once the drain was evaluated: it
    /// would only be kept.
    pub changes: Vec<TallyChange>,
    /// Node-level counters that are not zero.
    pub node: Vec<NodeRow>,
    /// Frames that were not counted as IP, by reason; every reason is listed.
    pub skipped: Vec<(Reason, u64)>,
    /// Kernel-side events (evictions, refusals, races), by label; every event is listed.
    pub events: Vec<(&'static str, u64)>,
    /// Packets of the slow path that were shed, by interface; every monitored interface is listed.
    pub shed: Vec<InterfaceCount>,
    /// Packets in the name of a subscriber who is not there, by reason and interface; every monitored interface is
    /// listed.
    pub spoofed: Vec<(SpoofReason, Vec<InterfaceCount>)>,
    /// Flows by the rule that labelled them; rules without flows are left out.
    pub rules: Vec<(Rule, u64)>,
    /// Fill of each table.
    pub tables: Vec<TableUse>,
    /// Tallies that left the table.
    pub ageing: AgeingCounts,
    /// IP packets and bytes of flows under inspection, or not answered yet: counted, in no other number.
    pub pending: Counts,
    /// Watchlist hits so far, by subscriber block, protocol and confidence; none in other depths.
    pub watchlist: Vec<(TallyKey, u64)>,
    /// Watchlist hits since the drain before, with their monotonic times.
    pub hits: Vec<WatchHit>,
    /// Where the program is attached.
    pub attachments: Vec<Attachment>,
    /// What else is known of attachments.
    pub reconciled: Reconciled,
}

/// What comparing the configured interfaces with those of the kernel has led to, in this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Changes so far.
    pub changes: Vec<AttachmentChange>,
    /// Comparisons that failed because the kernel could not be asked. The attachments are those of the last answer
    /// then.
    pub failed_queries: u64,
    /// Programs of Peertally on interfaces that are not configured, or of another version.
    pub others: Vec<RunningProgram>,
}

/// How often the program was attached to an interface or taken off it, for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachmentChange {
    /// Interface name.
    pub interface: Arc<str>,
    /// `attached`, `swapped`, `mode_changed`; or why it was taken off: `gone`, `moved`, `not_configured`; or `refused`.
    pub change: &'static str,
    /// How often.
    pub count: u64,
}

/// A program of Peertally on an XDP hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningProgram {
    /// Present name of the interface.
    pub interface: Arc<str>,
    /// Mode of the program.
    pub mode: &'static str,
    /// Id of the program.
    pub program: u32,
    /// Version of the pins that hold it, such as `v10`; `none` if they are not in the BPF file system seen here.
    pub pins: Arc<str>,
}

impl RunningProgram {
    /// Whether its pins are in the BPF file system seen here.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        *self.pins != *"none"
    }
}

impl Snapshot {
    /// Counters of a slot's row; `None` for a slot that is no row of its own.
    #[must_use]
    pub fn row(&self, slot: usize) -> Option<Totals> {
        let mut totals = *self.totals.get(slot)?;
        if self.shared_keys.is_empty() {
            return Some(totals);
        }
        let slot = slot as u32;
        if self.shared_keys.successors.contains_key(&slot) || self.shared_keys.without_base.contains(&slot) {
            return None;
        }
        if let Some(before) = self.shared_keys.predecessors.get(&slot)
            && let Some(more) = self.totals.get(*before as usize)
        {
            booked::add(&mut totals, more);
        }
        Some(totals)
    }
}

/// Where the totals of a snapshot begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Number of the kernel's tables: tables that were made anew have another one.
    pub tables: u64,
    /// By slot: the part of its totals that was counted before the slot was taken, in another slot of that key.
    pub bases: Arc<HashMap<u32, Totals>>,
}

impl Snapshot {
    /// What a slot has counted since its key took it.
    #[must_use]
    pub fn since_taken(&self, slot: u32) -> Totals {
        let totals = self.totals.get(slot as usize).copied().unwrap_or_default();
        self.origin.bases.get(&slot).map_or(totals, |base| booked::subtract(&totals, base))
    }
}

/// Slots whose counters are shown elsewhere, or not yet. A tally that leaves the table has two slots, if its subscriber
/// comes back meanwhile.
#[derive(Clone, Debug, Default)]
pub struct SharedKeys {
    /// The later slot of the key of a slot that leaves.
    pub successors: HashMap<u32, u32>,
    /// The leaving slot of the key of a later one.
    pub predecessors: HashMap<u32, u32>,
    /// Slots whose booked totals are not known yet: shown without them, the counter would go down.
    pub without_base: HashSet<u32>,
}

impl SharedKeys {
    /// Whether each slot is a row of its own.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.successors.is_empty() && self.without_base.is_empty()
    }
}

/// Tallies that left the table, since the start of the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgeingCounts {
    /// Tallies whose totals were booked, and whose slots were given back.
    pub retired: u64,
    /// Tallies that are to leave, but belong to a flow that goes on.
    pub held: u64,
    /// Attempts to book, to read what was booked, or to take a tally out of use that failed.
    pub failures: u64,
}

/// How far a tally moved between two drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TallyChange {
    /// Index into [`Snapshot::keys`].
    pub slot: u32,
    /// Counters since the drain before.
    pub delta: Totals,
    /// Hosts that its flows went to since the drain before.
    pub remotes: RemoteSet,
}

/// Node-level counters of one interface, direction and verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// Interface name.
    pub interface: Arc<str>,
    /// Direction as the pools define it.
    pub direction: Direction,
    /// Protocol and confidence.
    pub verdict: Verdict,
    /// IP packets.
    pub packets: u64,
    /// IP bytes.
    pub bytes: u64,
    /// Flows by the direction of their first packet.
    pub flows: u64,
    /// The part of these counters that no subscriber is charged for: nobody answered, or not by a subscriber's doing.
    pub unanswered: Counts,
}

/// Packets that were counted apart on one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceCount {
    /// Interface name.
    pub interface: Arc<str>,
    /// IP packets.
    pub packets: u64,
    /// IP bytes.
    pub bytes: u64,
}

/// Fill of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableUse {
    /// Table name: `flows`, `tallies`, `peers`, `reassembly`, `pools`.
    pub name: &'static str,
    /// Entries in use.
    pub entries: u64,
    /// Entries it can hold.
    pub capacity: u64,
}

impl TableUse {
    /// Part in use, from 0 to 1.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        if self.capacity == 0 { 0.0 } else { self.entries as f64 / self.capacity as f64 }
    }
}

/// Plain counters of flows, and of their IP packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Flows.
    pub flows: u64,
    /// IP packets.
    pub packets: u64,
    /// IP bytes.
    pub bytes: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.flows += more.flows;
        self.packets += more.packets;
        self.bytes += more.bytes;
    }
}

/// Where and how the program is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Interface name.
    pub interface: Arc<str>,
    /// `access` or `core`.
    pub role: &'static str,
    /// XDP mode read back from the kernel: `native` or `generic`; `none` where the program is no longer attached.
    pub mode: &'static str,
    /// Why the program is not there, or what else is to be known.
    pub detail: Option<Arc<str>>,
}

impl Attachment {
    /// Whether the program is still there.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.mode != "none"
    }
}
