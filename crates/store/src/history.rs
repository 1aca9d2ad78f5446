//! What policies measure, by span of time. See [`peertally_core::policy::recorder`].
//!
//! A commit has the measures of some drains and the readings that they were computed from. Spans that no window begins
//! with any more become part of the one before, and spans that no window reaches back to are removed: a bounded number
//! of rows at each commit. Readers see a span that is part of another one as if all its rows had been moved.

use std::time::Duration;

use monitor_common::abi::{
    remotes::RemoteSet,
    tally::{TallyKey, Totals},
};
use peertally_core::policy::{
    Sum,
    recorder::{KeptMeasures, Measure, Measures, Reading, Span},
};
use rusqlite::{Connection, OptionalExtension as _, Result, Row, Transaction, params};

use crate::{
    booked::{bytes_of, key_of, totals_of},
    clock::Moment,
};

/// Rows that each commit moves or removes at least, if so many wait for it.
const LEAST_MOVED: usize = 20_000;

/// Measures that are kept at most. Beyond it, the oldest span is removed, and windows that reach back to it are shorter
/// after a restart.
pub const MOST_MEASURES: u64 = 16_000_000;

/// Amount above which sums in the tables might leave 63 bits.
const LARGEST: u64 = 1 << 60;

/// Time after which everything is too old for any window: stands for one that cannot be told, and for all longer ones.
const TOO_OLD: Duration = Duration::from_secs(34 * 24 * 3600);

/// What a commit did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Measures and readings that were written.
    pub written: u64,
    /// Measures that were moved to an earlier span, or removed.
    pub moved: u64,
    /// Spans that a window may reach back to, and that were removed because there are too many measures.
    pub evicted: u64,
    /// Measures that are kept, as of the last time they were counted; `None` if they were not counted now.
    pub kept: Option<u64>,
}

/// A span as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptSpan {
    /// The span.
    pub span: Span,
    /// Its end, in milliseconds since 1970.
    pub ended_ms: i64,
}

const fn counts(totals: &Totals) -> [i64; 5] {
    let Totals { flows, packets_up, bytes_up, packets_down, bytes_down } = *totals;
    let mut counts = [flows, packets_up, bytes_up, packets_down, bytes_down];
    let mut index = 0;
    while index < counts.len() {
        if counts[index] > LARGEST {
            counts[index] = LARGEST;
        }
        index += 1;
    }
    [counts[0] as i64, counts[1] as i64, counts[2] as i64, counts[3] as i64, counts[4] as i64]
}

fn ns(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

fn time(row: &Row<'_>, at: usize) -> Result<Duration> {
    Ok(Duration::from_nanos(row.get::<_, i64>(at)?.max(0).unsigned_abs()))
}

/// Writes what was measured until `now`, then moves and removes some of what is old.
///
/// # Errors
/// Those of SQLite.
pub fn commit(transaction: &Transaction<'_>, measures: &Measures, now: &Moment, most: u64) -> Result<Committed> {
    let begins = write_spans(transaction, measures, now)?;
    write_measures(transaction, &measures.measures)?;
    write_readings(transaction, measures)?;
    if begins {
        write_starts(transaction, &measures.starts)?;
    }
    transaction
        .prepare_cached("INSERT OR REPLACE INTO history_state VALUES (1, ?1, ?2, ?3, ?4, ?5)")?
        .execute(params![measures.tables.cast_signed(), ns(measures.until), &*now.boot, now.boot_ms, now.wall_ms])?;
    let written = measures.measures.len() + measures.readings.len();
    let moved = tidy(transaction, LEAST_MOVED.max(2 * measures.measures.len()))?;
    let (kept, evicted) = if begins { bound(transaction, most)? } else { (None, 0) };
    Ok(Committed { written: written as u64, moved, evicted, kept })
}

/// Writes the spans; returns whether one began.
fn write_spans(transaction: &Transaction<'_>, measures: &Measures, now: &Moment) -> Result<bool> {
    let known: i64 = transaction
        .prepare_cached("SELECT coalesce(max(number), 0) FROM history_spans")?
        .query_row([], |row| row.get(0))?;
    let mut write = transaction.prepare_cached(
        "INSERT INTO history_spans VALUES (?1, ?2, ?3, ?4, NULL)
         ON CONFLICT (number) DO UPDATE SET ended_ns = ?3, ended_ms = ?4",
    )?;
    for span in &measures.spans {
        let since = i64::try_from(measures.until.saturating_sub(span.ended).as_millis()).unwrap_or(i64::MAX);
        let ended_ms = now.wall_ms.saturating_sub(since);
        write.execute(params![span.number.cast_signed(), ns(span.begun), ns(span.ended), ended_ms])?;
    }
    Ok(measures.spans.last().is_some_and(|span| span.number.cast_signed() > known))
}

const ADD: &str = "ON CONFLICT (span, key) DO UPDATE SET flows = flows + excluded.flows, \
    packets_up = packets_up + excluded.packets_up, bytes_up = bytes_up + excluded.bytes_up, \
    packets_down = packets_down + excluded.packets_down, bytes_down = bytes_down + excluded.bytes_down, \
    remotes = remotes | excluded.remotes";

fn write_measures(transaction: &Transaction<'_>, measures: &[Measure]) -> Result<()> {
    let mut write =
        transaction.prepare_cached(&format!("INSERT INTO history VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) {ADD}"))?;
    for Measure { span, key, sum } in measures {
        let [flows, packets_up, bytes_up, packets_down, bytes_down] = counts(&sum.totals);
        let (span, remotes) = (span.cast_signed(), sum.remotes.0.cast_signed());
        write.execute(params![span, bytes_of(key), flows, packets_up, bytes_up, packets_down, bytes_down, remotes])?;
    }
    Ok(())
}

fn write_readings(transaction: &Transaction<'_>, measures: &Measures) -> Result<()> {
    if measures.forget_readings {
        transaction.execute("DELETE FROM history_readings", [])?;
    }
    let mut write =
        transaction.prepare_cached("INSERT OR REPLACE INTO history_readings VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    for Reading { slot, key, totals } in &measures.readings {
        let Totals { flows, packets_up, bytes_up, packets_down, bytes_down } = totals;
        let [flows, packets_up, bytes_up, packets_down, bytes_down] =
            [flows, packets_up, bytes_up, packets_down, bytes_down].map(|count| count.cast_signed());
        write.execute(params![slot, bytes_of(key), flows, packets_up, bytes_up, packets_down, bytes_down])?;
    }
    Ok(())
}

fn write_starts(transaction: &Transaction<'_>, starts: &[(Duration, Duration)]) -> Result<()> {
    transaction.prepare_cached("DELETE FROM history_starts")?.execute([])?;
    let mut write = transaction.prepare_cached("INSERT OR IGNORE INTO history_starts VALUES (?1, ?2)")?;
    for (window, begun) in starts {
        write.execute([ns(*window), ns(*begun)])?;
    }
    Ok(())
}

/// Moves or removes at most so many measures of spans that are not needed as they are; returns how many.
fn tidy(transaction: &Transaction<'_>, most: usize) -> Result<u64> {
    let mut moved = 0;
    while moved < most as u64 {
        let waiting: Option<(i64, i64)> = transaction
            .prepare_cached("SELECT number, part_of FROM history_spans WHERE part_of IS NOT NULL LIMIT 1")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((number, part_of)) = waiting else {
            if find_unneeded(transaction)? {
                continue;
            }
            break;
        };
        let left = most as u64 - moved;
        let rows = move_measures(transaction, number, part_of, left)?;
        moved += rows;
        if rows < left {
            transaction.prepare_cached("DELETE FROM history_spans WHERE number = ?1")?.execute([number])?;
        }
    }
    Ok(moved)
}

/// Moves measures of a span to an earlier one, or removes them; returns how many.
fn move_measures(transaction: &Transaction<'_>, from: i64, to: i64, most: u64) -> Result<u64> {
    let last: Option<[u8; 23]> = transaction
        .prepare_cached("SELECT key FROM history WHERE span = ?1 ORDER BY key LIMIT 1 OFFSET ?2")?
        .query_row([from, most.saturating_sub(1).cast_signed()], |row| row.get(0))
        .optional()?;
    let last = last.map_or_else(|| vec![0xff; 24], |key| key.to_vec());
    if to > 0 {
        transaction
            .prepare_cached(&format!(
                "INSERT INTO history SELECT ?2, key, flows, packets_up, bytes_up, packets_down, bytes_down, remotes \
                 FROM history WHERE span = ?1 AND key <= ?3 ORDER BY key {ADD}"
            ))?
            .execute(params![from, to, last])?;
    }
    let rows = transaction
        .prepare_cached("DELETE FROM history WHERE span = ?1 AND key <= ?2")?
        .execute(params![from, last])?;
    Ok(rows as u64)
}

/// Marks one span that is not needed as it is; `false` if there is none. The latest one still grows.
fn find_unneeded(transaction: &Transaction<'_>) -> Result<bool> {
    let removed = transaction
        .prepare_cached(
            "UPDATE history_spans SET part_of = 0 WHERE number = (SELECT min(number) FROM history_spans) \
             AND number <> (SELECT max(number) FROM history_spans) \
             AND begun_ns < (SELECT min(begun_ns) FROM history_starts)",
        )?
        .execute([])?;
    if removed > 0 {
        return Ok(true);
    }
    let found: Option<(i64, i64, i64)> = transaction
        .prepare_cached(
            "SELECT number, (SELECT max(number) FROM history_spans AS earlier WHERE earlier.number < later.number), \
             ended_ns FROM history_spans AS later WHERE number > (SELECT min(number) FROM history_spans) \
             AND number < (SELECT max(number) FROM history_spans) \
             AND begun_ns NOT IN (SELECT begun_ns FROM history_starts) ORDER BY number LIMIT 1",
        )?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((number, earlier, ended_ns)) = found else { return Ok(false) };
    transaction
        .prepare_cached(
            "UPDATE history_spans SET ended_ns = ?2, \
             ended_ms = (SELECT ended_ms FROM history_spans WHERE number = ?3) WHERE number = ?1",
        )?
        .execute([earlier, ended_ns, number])?;
    transaction
        .prepare_cached("UPDATE history_spans SET part_of = ?2 WHERE number = ?1")?
        .execute([number, earlier])?;
    Ok(true)
}

/// Counts the measures, and gives the oldest span up if there are too many.
fn bound(transaction: &Transaction<'_>, most: u64) -> Result<(Option<u64>, u64)> {
    let kept: i64 = transaction.prepare_cached("SELECT count(*) FROM history")?.query_row([], |row| row.get(0))?;
    let kept = kept.unsigned_abs();
    if kept <= most {
        return Ok((Some(kept), 0));
    }
    let evicted = transaction
        .prepare_cached(
            "UPDATE history_spans SET part_of = 0 WHERE number <> (SELECT max(number) FROM history_spans) AND \
             (SELECT min(number) FROM history_spans WHERE part_of IS NULL) IN (number, part_of) RETURNING 1",
        )?
        .query_map([], |row| row.get::<_, i64>(0))?
        .count()
        .min(1);
    Ok((Some(kept), evicted as u64))
}

/// What earlier agents left, but for the measures, and the time of the history's clock at `now`; `None` if nothing was
/// kept yet.
///
/// The time that has passed since is told by the clock that runs since the boot. After a reboot the wall clock tells
/// it, and it is not shorter than the time since the boot. If the wall clock was set back meanwhile, nobody knows how
/// old the measures are: they are then older than any window.
///
/// # Errors
/// Those of SQLite.
pub fn kept(connection: &Connection, now: &Moment) -> Result<Option<(KeptMeasures, Duration)>> {
    let state = connection
        .prepare_cached("SELECT tables, until_ns, boot, boot_ms, wall_ms FROM history_state")?
        .query_row([], |row| {
            let boot: String = row.get(2)?;
            let moment = Moment { boot: boot.into(), boot_ms: row.get(3)?, wall_ms: row.get(4)? };
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), time(row, 1)?, moment))
        })
        .optional()?;
    let Some((tables, until, moment)) = state else { return Ok(None) };
    let passed = u64::try_from(now.ms_since(&moment)).map_or(TOO_OLD, Duration::from_millis);
    let same_boot = now.boot == moment.boot && !now.boot.is_empty();
    let since_boot = Duration::from_millis(now.boot_ms.max(0).unsigned_abs());
    let passed = if same_boot { passed } else { passed.max(since_boot) }.min(TOO_OLD);
    let mut starts = connection.prepare_cached("SELECT window_ns, begun_ns FROM history_starts ORDER BY 1, 2")?;
    let starts = starts.query_map([], |row| Ok((time(row, 0)?, time(row, 1)?)))?.collect::<Result<_>>()?;
    let mut readings = connection.prepare_cached(
        "SELECT flows, packets_up, bytes_up, packets_down, bytes_down, slot, key FROM history_readings ORDER BY slot",
    )?;
    let readings = readings.query_map([], |row| {
        Ok(Reading { slot: row.get(5)?, key: key_of(&row.get(6)?), totals: totals_of(row, 0)? })
    })?;
    let readings = readings.collect::<Result<_>>()?;
    let spans = spans(connection)?.into_iter().map(|kept| kept.span).collect();
    Ok(Some((KeptMeasures { tables, until, spans, starts, readings }, until + passed)))
}

/// All spans, oldest first.
///
/// # Errors
/// Those of SQLite.
pub fn spans(connection: &Connection) -> Result<Vec<KeptSpan>> {
    let mut spans = connection.prepare_cached(
        "SELECT number, begun_ns, ended_ns, ended_ms FROM history_spans WHERE part_of IS NULL ORDER BY number",
    )?;
    let rows = spans.query_map([], |row| {
        let span = Span { number: row.get::<_, i64>(0)?.cast_unsigned(), begun: time(row, 1)?, ended: time(row, 2)? };
        Ok(KeptSpan { span, ended_ms: row.get(3)? })
    })?;
    rows.collect()
}

/// Calls `found` with each measure, in the order of the spans. One whose span is part of another one has the number of
/// that.
///
/// # Errors
/// Those of SQLite.
pub fn measures(connection: &Connection, mut found: impl FnMut(&Measure)) -> Result<()> {
    let mut statement = connection.prepare(
        "SELECT flows, packets_up, bytes_up, packets_down, bytes_down, coalesce(part_of, number), key, remotes \
         FROM history_spans JOIN history ON span = number WHERE part_of IS NOT 0 ORDER BY number",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let key: TallyKey = key_of(&row.get(6)?);
        let remotes = RemoteSet(row.get::<_, i64>(7)?.cast_unsigned());
        let span = row.get::<_, i64>(5)?.cast_unsigned();
        found(&Measure { span, key, sum: Sum { totals: totals_of(row, 0)?, remotes } });
    }
    Ok(())
}
