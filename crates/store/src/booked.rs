//! Totals of tallies that left the kernel's table, by key. See [`peertally_core::booked`].

mod carry;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, TryRecvError},
    },
    time::{Duration, SystemTime},
};

use monitor_common::abi::tally::{TallyKey, Totals};
use peertally_core::booked::{BookedTally, BookedTotals, BookingError, ReplacedTables};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use crate::{Store, StoreError};

/// Totals of a key that is out of the kernel's table for so long are forgotten: as long as the longest window of a
/// policy. A counter that comes back later starts anew.
pub const KEPT: Duration = Duration::from_secs(31 * 24 * 3600);

/// Time of booking of totals whose key is in the kernel's table: they are the base of a live counter, and never old.
const LIVE: i64 = i64::MAX;
/// Keys that one write marks as live at most, and totals that it forgets.
const SLICE: usize = 4096;

/// Bytes of a key.
const KEY: usize = 23;
/// Keys that are looked up one by one; for more, the table is read once.
const LOOKED_UP: usize = 20_000;

/// Booked totals in the store.
pub struct StoredTotals {
    store: Store,
    reader: Option<Connection>,
    ended: Option<Receiver<Result<(), StoreError>>>,
    /// Keys that came back to the kernel's table and are not marked as live yet, with their bases.
    unmarked: Arc<Mutex<Vec<Base>>>,
}

/// A key and its booked totals.
type Base = ([u8; KEY], Totals);

impl StoredTotals {
    /// The totals in a store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, reader: None, ended: None, unmarked: Arc::default() }
    }

    /// Hands in a write; [`BookedTotals::outcome`] tells how it ended.
    fn submit(&mut self, write: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()> + Send + 'static) {
        self.submit_then(write, |_| {});
    }

    fn submit_then(
        &mut self,
        write: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()> + Send + 'static,
        then: impl FnOnce(&Result<(), StoreError>) + Send + 'static,
    ) {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.ended = Some(receiver);
        self.store.writer().submit(write, move |outcome| {
            then(&outcome);
            // A later write may have taken the place of this one.
            let _gone = sender.send(outcome);
        });
    }

    fn reader(&mut self) -> Result<&Connection, StoreError> {
        if self.reader.is_none() {
            self.reader = Some(self.store.reader()?);
        }
        Ok(self.reader.as_ref().expect("it was opened above"))
    }
}

fn failed<E: std::error::Error + Send + Sync + 'static>(action: &'static str) -> impl FnOnce(E) -> BookingError {
    move |source| BookingError { action, source: Box::new(source) }
}

pub(crate) fn bytes_of(key: &TallyKey) -> [u8; KEY] {
    let mut bytes = [0; KEY];
    bytes[..16].copy_from_slice(&key.address);
    bytes[16..20].copy_from_slice(&key.realm.to_be_bytes());
    bytes[20..].copy_from_slice(&[key.prefix_len, key.protocol, key.confidence]);
    bytes
}

pub(crate) fn key_of(bytes: &[u8; KEY]) -> TallyKey {
    let (mut address, mut realm) = ([0; 16], [0; 4]);
    address.copy_from_slice(&bytes[..16]);
    realm.copy_from_slice(&bytes[16..20]);
    TallyKey {
        address,
        realm: u32::from_be_bytes(realm),
        prefix_len: bytes[20],
        protocol: bytes[21],
        confidence: bytes[22],
    }
}

pub(crate) fn totals_of(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Totals> {
    let count = |at: usize| row.get::<_, i64>(first + at).map(i64::cast_unsigned);
    Ok(Totals {
        flows: count(0)?,
        packets_up: count(1)?,
        bytes_up: count(2)?,
        packets_down: count(3)?,
        bytes_down: count(4)?,
    })
}

/// Unix time in seconds.
fn now_s() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

fn add(transaction: &Transaction<'_>, key: &TallyKey, totals: &Totals, now_s: i64) -> rusqlite::Result<()> {
    let mut add = transaction.prepare_cached(
        "INSERT INTO booked_totals VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (key) DO UPDATE SET flows = flows + ?2, packets_up = packets_up + ?3, bytes_up = bytes_up + ?4,
         packets_down = packets_down + ?5, bytes_down = bytes_down + ?6, booked_s = ?7",
    )?;
    let Totals { flows, packets_up, bytes_up, packets_down, bytes_down } = totals;
    let [flows, packets_up, bytes_up, packets_down, bytes_down] =
        [flows, packets_up, bytes_up, packets_down, bytes_down].map(|count| count.cast_signed());
    add.execute(params![bytes_of(key), flows, packets_up, bytes_up, packets_down, bytes_down, now_s])?;
    Ok(())
}

fn book(transaction: &Transaction<'_>, batch: &[BookedTally], now_s: i64) -> rusqlite::Result<()> {
    let mut remember = transaction.prepare_cached("INSERT INTO booked_batch VALUES (?1, ?2)")?;
    for BookedTally { slot, key, totals } in batch {
        add(transaction, key, totals, now_s)?;
        remember.execute(params![slot, bytes_of(key)])?;
    }
    Ok(())
}

/// Marks totals as bases of live counters. Totals that were forgotten meanwhile are there again.
fn mark(transaction: &Transaction<'_>, bases: &[Base]) -> rusqlite::Result<()> {
    let mut mark = transaction.prepare_cached(
        "INSERT INTO booked_totals VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (key) DO UPDATE SET booked_s = ?7",
    )?;
    for (key, totals) in bases {
        let Totals { flows, packets_up, bytes_up, packets_down, bytes_down } = totals;
        let [flows, packets_up, bytes_up, packets_down, bytes_down] =
            [flows, packets_up, bytes_up, packets_down, bytes_down].map(|count| count.cast_signed());
        mark.execute(params![key, flows, packets_up, bytes_up, packets_down, bytes_down, LIVE])?;
    }
    Ok(())
}

/// Forgets old totals, as many as one write may.
fn forget(transaction: &Transaction<'_>, now_s: i64) -> rusqlite::Result<()> {
    let oldest = now_s - KEPT.as_secs().cast_signed();
    let mut statement = transaction.prepare_cached(
        "DELETE FROM booked_totals WHERE key IN (SELECT key FROM booked_totals WHERE booked_s < ?1 LIMIT ?2)",
    )?;
    statement.execute(params![oldest, SLICE as i64]).map(drop)
}

/// Number of the tables that the books are of.
fn tables_of(transaction: &Transaction<'_>) -> rusqlite::Result<Option<i64>> {
    transaction.query_row("SELECT number FROM booked_tables", [], |row| row.get(0)).optional()
}

/// Slots and keys of the latest batch.
fn latest_batch(transaction: &Transaction<'_>) -> rusqlite::Result<Vec<(u32, TallyKey)>> {
    let mut rows = transaction.prepare("SELECT slot, key FROM booked_batch")?;
    let batch = rows.query_map([], |row| Ok((row.get(0)?, key_of(&row.get(1)?))))?;
    batch.collect()
}

fn open(transaction: &Transaction<'_>, tables: i64) -> rusqlite::Result<Vec<(u32, TallyKey)>> {
    if tables_of(transaction)? != Some(tables) {
        transaction.execute_batch(
            "DELETE FROM booked_totals; DELETE FROM booked_batch; DELETE FROM booked_tables; DELETE FROM carried_tables;",
        )?;
        transaction.execute("INSERT INTO booked_tables VALUES (?1)", [tables])?;
    }
    latest_batch(transaction)
}

impl BookedTotals for StoredTotals {
    fn open(&mut self, tables: u64) -> Result<Vec<(u32, TallyKey)>, BookingError> {
        let opened = self.store.writer().write(move |transaction| open(transaction, tables.cast_signed()));
        opened.map_err(failed("open"))
    }

    fn carry(&mut self, replaced: Vec<ReplacedTables>, tables: u64) -> Result<(), BookingError> {
        let write =
            move |transaction: &Transaction<'_>| carry::carry(transaction, &replaced, tables.cast_signed(), now_s());
        self.store.writer().write(write).map_err(failed("carry"))
    }

    fn book(&mut self, batch: Vec<BookedTally>) {
        let mut waiting = self.unmarked.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.is_empty() {
            // A key that leaves again has no live counter.
            let leaving: HashSet<[u8; KEY]> = batch.iter().map(|booked| bytes_of(&booked.key)).collect();
            waiting.retain(|(key, _)| !leaving.contains(key));
        }
        let rest = waiting.len().saturating_sub(SLICE);
        let bases = Arc::new(waiting.split_off(rest));
        // Before every live key is marked, nobody knows which totals are old.
        let all_marked = waiting.is_empty();
        drop(waiting);
        let (own, unmarked) = (Arc::clone(&bases), Arc::clone(&self.unmarked));
        let write = move |transaction: &Transaction<'_>| {
            mark(transaction, &own)?;
            book(transaction, &batch, now_s())?;
            if all_marked { forget(transaction, now_s()) } else { Ok(()) }
        };
        self.submit_then(write, move |outcome| {
            if outcome.is_err() {
                unmarked.lock().unwrap_or_else(PoisonError::into_inner).extend(bases.iter());
            }
        });
    }

    fn forget_batch(&mut self) {
        self.submit(|transaction| transaction.execute("DELETE FROM booked_batch", []).map(drop));
    }

    fn outcome(&mut self) -> Option<Result<(), BookingError>> {
        let ended = match self.ended.as_ref()?.try_recv() {
            Ok(ended) => ended.map_err(failed("write")),
            Err(TryRecvError::Empty) => return None,
            Err(error @ TryRecvError::Disconnected) => Err(failed("write")(error)),
        };
        self.ended = None;
        Some(ended)
    }

    fn bases(&mut self, keys: &[TallyKey]) -> Result<Vec<Totals>, BookingError> {
        let reader = self.reader().map_err(failed("read"))?;
        let found = bases(reader, keys).map_err(failed("read"))?;
        let unmarked = keys.iter().zip(&found).filter(|(_, base)| !base.is_marked && base.totals != Totals::default());
        let unmarked = unmarked.map(|(key, base)| (bytes_of(key), base.totals));
        self.unmarked.lock().unwrap_or_else(PoisonError::into_inner).extend(unmarked);
        Ok(found.into_iter().map(|base| base.totals).collect())
    }
}

/// Totals in the store.
#[derive(Clone, Copy, Default)]
struct Found {
    totals: Totals,
    /// Whether they are marked as the base of a live counter.
    is_marked: bool,
}

impl Found {
    /// The columns from the totals on, as [`COLUMNS`] has them.
    fn of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { totals: totals_of(row, 0)?, is_marked: row.get::<_, i64>(6)? == LIVE })
    }
}

const COLUMNS: &str = "SELECT flows, packets_up, bytes_up, packets_down, bytes_down, key, booked_s FROM booked_totals";

fn bases(reader: &Connection, keys: &[TallyKey]) -> rusqlite::Result<Vec<Found>> {
    let mut found = vec![Found::default(); keys.len()];
    let some: bool = reader.query_row("SELECT EXISTS (SELECT 1 FROM booked_totals)", [], |row| row.get(0))?;
    if !some {
        return Ok(found);
    }
    if keys.len() <= LOOKED_UP {
        let mut one = reader.prepare_cached(&format!("{COLUMNS} WHERE key = ?1"))?;
        for (key, found) in keys.iter().zip(&mut found) {
            if let Some(base) = one.query_row([bytes_of(key)], Found::of).optional()? {
                *found = base;
            }
        }
        return Ok(found);
    }
    let wanted: HashMap<[u8; KEY], usize> = keys.iter().map(bytes_of).zip(0..).collect();
    let mut all = reader.prepare_cached(COLUMNS)?;
    let mut rows = all.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(index) = wanted.get(&row.get::<_, [u8; KEY]>(5)?) {
            found[*index] = Found::of(row)?;
        }
    }
    Ok(found)
}
