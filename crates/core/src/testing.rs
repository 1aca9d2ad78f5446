//! A data path for tests: a test adds traffic, and a drain turns it into a snapshot as the real one does.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use monitor_common::abi::{
    protocol::{Confidence, Protocol, Verdict},
    reason::Reason,
    remotes::RemoteSet,
    rule::Rule,
    spoofing::SpoofReason,
    tally::{Direction, TallyKey, Totals},
};

use crate::booked::{self, BookedTally, BookedTotals, BookingError, ReplacedTables};
use crate::snapshot::{
    AgeingCounts, Attachment, AttachmentChange, Counts, InterfaceCount, NodeRow, Origin, Reconciled, RunningProgram,
    SharedKeys, Snapshot, TableUse, TallyChange,
};

/// Counters of a data path that only a test adds to.
#[derive(Debug)]
pub struct Kernel {
    keys: Arc<Vec<TallyKey>>,
    slots: HashMap<TallyKey, usize>,
    totals: Vec<Totals>,
    drained: Vec<Totals>,
    remotes: Vec<RemoteSet>,
    node: Vec<NodeRow>,
    tables: u64,
    start: (Instant, SystemTime),
    last: Option<Duration>,
}

/// Totals that are all up or down bytes, in packets of 1000 bytes.
#[must_use]
pub fn bytes(up: u64, down: u64) -> Totals {
    Totals {
        flows: 0,
        packets_up: up.div_ceil(1000),
        bytes_up: up,
        packets_down: down.div_ceil(1000),
        bytes_down: down,
    }
}

/// The key of an address's tally.
///
/// # Panics
/// When the text is no address.
#[must_use]
pub fn key(address: &str, protocol: Protocol, confidence: Confidence) -> TallyKey {
    let address = match address.parse().expect("an address") {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    TallyKey {
        address: address.octets(),
        realm: 0,
        prefix_len: 128,
        protocol: protocol as u8,
        confidence: confidence as u8,
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self::new()
    }
}

impl Kernel {
    /// A kernel that has counted nothing.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "tests start at any time; all later times are relative to it")]
    pub fn new() -> Self {
        let start = (Instant::now(), SystemTime::now());
        let since = start.1.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            tables: since.as_nanos() as u64 >> 1,
            keys: Arc::new(vec![TallyKey::CATCH_ALL]),
            slots: HashMap::new(),
            totals: vec![Totals::default()],
            drained: vec![Totals::default()],
            remotes: vec![RemoteSet::EMPTY],
            node: Vec::new(),
            start,
            last: None,
        }
    }

    /// Counts traffic for a key.
    pub fn count(&mut self, key: TallyKey, more: Totals) {
        let slot = self.slot(key);
        let total = &mut self.totals[slot];
        total.flows += more.flows;
        total.packets_up += more.packets_up;
        total.bytes_up += more.bytes_up;
        total.packets_down += more.packets_down;
        total.bytes_down += more.bytes_down;
    }

    /// Adds remotes for a key.
    pub fn add_remotes(&mut self, key: TallyKey, remotes: RemoteSet) {
        let slot = self.slot(key);
        self.remotes[slot].unite(remotes);
    }

    fn slot(&mut self, key: TallyKey) -> usize {
        *self.slots.entry(key).or_insert_with(|| {
            Arc::make_mut(&mut self.keys).push(key);
            self.totals.push(Totals::default());
            self.drained.push(Totals::default());
            self.remotes.push(RemoteSet::EMPTY);
            self.totals.len() - 1
        })
    }

    /// Gives the first two slots of subscribers to each other, as when both were removed and came again.
    pub fn swap_hands(&mut self) {
        if self.keys.len() > 2 {
            let keys = Arc::make_mut(&mut self.keys);
            keys.swap(1, 2);
            self.slots.insert(keys[1], 1);
            self.slots.insert(keys[2], 2);
        }
    }

    /// The next drain is the first one of another agent.
    pub fn restart(&mut self) {
        self.last = None;
    }

    /// Tables that were made anew: nothing was counted in them.
    pub fn make_anew(&mut self) {
        self.tables += 1;
        self.keys = Arc::new(vec![TallyKey::CATCH_ALL]);
        self.slots.clear();
        (self.totals, self.drained) = (vec![Totals::default()], vec![Totals::default()]);
        self.remotes = vec![RemoteSet::EMPTY];
        self.last = None;
    }

    /// A time since the start, as an instant.
    #[must_use]
    pub fn instant(&self, at: Duration) -> Instant {
        self.start.0 + at
    }

    /// Counts at node level.
    pub fn count_node(&mut self, interface: &str, direction: Direction, verdict: Verdict, bytes: u64) {
        let same = |row: &NodeRow| &*row.interface == interface && row.direction == direction && row.verdict == verdict;
        match self.node.iter_mut().find(|row| same(row)) {
            Some(row) => {
                row.bytes += bytes;
                row.packets += 1;
            }
            None => self.node.push(NodeRow {
                interface: interface.into(),
                direction,
                verdict,
                packets: 1,
                bytes,
                flows: 1,
                unanswered: Counts::default(),
            }),
        }
    }

    /// Takes some of what an interface has counted, and makes it nobody's.
    ///
    /// # Panics
    /// When nothing was counted.
    pub fn unanswer(&mut self, unanswered: Counts) {
        self.node.last_mut().expect("something was counted").unanswered = unanswered;
    }

    /// Drains at a time since the start.
    pub fn drain_at(&mut self, at: Duration) -> Snapshot {
        let changes = self
            .totals
            .iter()
            .zip(&self.drained)
            .zip(&mut self.remotes)
            .enumerate()
            .filter(|(_, ((now, before), remotes))| now != before || !remotes.is_empty())
            .map(|(slot, ((now, before), remotes))| TallyChange {
                slot: slot as u32,
                delta: Totals {
                    flows: now.flows - before.flows,
                    packets_up: now.packets_up - before.packets_up,
                    bytes_up: now.bytes_up - before.bytes_up,
                    packets_down: now.packets_down - before.packets_down,
                    bytes_down: now.bytes_down - before.bytes_down,
                },
                remotes: std::mem::take(remotes),
            })
            .collect();
        self.drained.clone_from(&self.totals);
        let interval = self.last.map(|last| at - last).unwrap_or_default();
        self.last = Some(at);
        Snapshot {
            taken_at: self.start.1 + at,
            taken: self.start.0 + at,
            interval,
            drain_duration: Duration::from_millis(3),
            keys: Arc::clone(&self.keys),
            totals: Arc::new(self.totals.clone()),
            changes,
            node: self.node.clone(),
            skipped: Reason::ALL.iter().map(|reason| (*reason, 0)).collect(),
            events: vec![("tally_refused", 0)],
            shed: vec![InterfaceCount { interface: "eth0".into(), packets: 3, bytes: 300 }],
            spoofed: vec![(
                SpoofReason::Spoofed,
                vec![InterfaceCount { interface: "eth0".into(), packets: 4, bytes: 400 }],
            )],
            rules: vec![(Rule::UtpSyn, 3), (Rule::MseAssociation, 1)],
            tables: vec![TableUse { name: "tallies", entries: self.keys.len() as u64, capacity: 1024 }],
            shared_keys: SharedKeys::default(),
            origin: Origin { tables: self.tables, bases: Arc::default() },
            ageing: AgeingCounts::default(),
            pending: Counts::default(),
            watchlist: Vec::new(),
            hits: Vec::new(),
            attachments: vec![Attachment { interface: "eth0".into(), role: "access", mode: "native", detail: None }],
            reconciled: Reconciled {
                changes: vec![AttachmentChange { interface: "eth0".into(), change: "attached", count: 1 }],
                failed_queries: 0,
                others: vec![RunningProgram {
                    interface: "eth9".into(),
                    mode: "native",
                    program: 9,
                    pins: "v1".into(),
                }],
            },
        }
    }
}

/// Books in memory. A clone stands for the same books, which outlive the agents of a test.
#[derive(Clone, Debug, Default)]
pub struct MemoryBooks(Arc<Mutex<Books>>);

/// What [`MemoryBooks`] hold.
#[derive(Debug, Default)]
pub struct Books {
    tables: Option<u64>,
    /// Numbers of the tables that were carried.
    carried: Vec<u64>,
    /// Booked totals.
    pub totals: HashMap<TallyKey, Totals>,
    /// The latest batch.
    pub latest: Vec<(u32, TallyKey)>,
    /// Whether each call fails.
    pub fails: bool,
    /// Whether the end of a commit is not told.
    pub silent: bool,
    outcome: Option<bool>,
}

impl MemoryBooks {
    /// The books, locked.
    pub fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn check(&self, action: &'static str) -> Result<(), BookingError> {
        if self.fails { Err(BookingError { action, source: "the test says so".into() }) } else { Ok(()) }
    }
}

impl BookedTotals for MemoryBooks {
    fn open(&mut self, tables: u64) -> Result<Vec<(u32, TallyKey)>, BookingError> {
        let mut books = self.lock();
        books.check("open")?;
        books.outcome = None;
        if books.tables.replace(tables).is_some_and(|before| before != tables) {
            books.totals.clear();
        }
        Ok(books.latest.clone())
    }

    fn carry(&mut self, replaced: Vec<ReplacedTables>, tables: u64) -> Result<(), BookingError> {
        let mut books = self.lock();
        books.check("carry")?;
        let latest = std::mem::take(&mut books.latest);
        let before = books.tables.replace(tables);
        for ReplacedTables { number, tallies, leaving } in replaced {
            if books.carried.contains(&number) {
                continue;
            }
            books.carried.push(number);
            let is_booked = |tally: &BookedTally| before == Some(number) && latest.contains(&(tally.slot, tally.key));
            for tally in tallies.iter().chain(leaving.iter().filter(|tally| !is_booked(tally))) {
                booked::add(books.totals.entry(tally.key).or_default(), &tally.totals);
            }
        }
        Ok(())
    }

    fn book(&mut self, batch: Vec<BookedTally>) {
        let mut books = self.lock();
        books.outcome = Some(!books.fails);
        if !books.fails {
            for BookedTally { key, totals, .. } in &batch {
                booked::add(books.totals.entry(*key).or_default(), totals);
            }
            books.latest = batch.into_iter().map(|each| (each.slot, each.key)).collect();
        }
    }

    fn forget_batch(&mut self) {
        let mut books = self.lock();
        books.outcome = Some(!books.fails);
        if !books.fails {
            books.latest.clear();
        }
    }

    fn outcome(&mut self) -> Option<Result<(), BookingError>> {
        let mut books = self.lock();
        if books.silent {
            return None;
        }
        let failed = || BookingError { action: "write", source: "the test says so".into() };
        books.outcome.take().map(|done| if done { Ok(()) } else { Err(failed()) })
    }

    fn bases(&mut self, keys: &[TallyKey]) -> Result<Vec<Totals>, BookingError> {
        let books = self.lock();
        books.check("read")?;
        Ok(keys.iter().map(|key| books.totals.get(key).copied().unwrap_or_default()).collect())
    }
}
