//! Lists of events, and the removal of old ones.

use peertally_core::subscriber::Subscriber;
use rusqlite::{Connection, Result, Transaction, params};

use super::{DeliveryState, EventKind, EventState, Subject, subject};
use crate::clock::Moment;

/// An event as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// Identifier.
    pub id: String,
    /// What it says.
    pub kind: EventKind,
    /// What became of it.
    pub state: EventState,
    /// Why it is held, or empty.
    pub reason: String,
    /// Policy and subscriber.
    pub subject: Subject,
    /// When it was made, in milliseconds since 1970.
    pub time_ms: i64,
    /// When its state began, in milliseconds since 1970.
    pub state_ms: i64,
    /// JSON form.
    pub message: String,
    /// Its hooks: name, state, attempts, reason of the last failure.
    pub deliveries: Vec<DeliveryRow>,
}

/// A delivery as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRow {
    /// Name of the hook.
    pub hook: String,
    /// What became of it.
    pub state: DeliveryState,
    /// Attempts so far.
    pub attempts: u32,
    /// Why the last attempt failed, or empty.
    pub reason: String,
}

/// An event that was delivered and whose subscriber did not fall below the threshold since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active {
    /// The event.
    pub id: String,
    /// Policy and subscriber.
    pub subject: Subject,
    /// Digest of what the policy measured.
    pub measures: String,
}

/// Events, newest first; only those in a state if one is given.
///
/// # Errors
/// Those of SQLite.
pub fn list(connection: &Connection, only: Option<EventState>, limit: u32) -> Result<Vec<EventRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT policy, address, realm, prefix_len, id, kind, state, reason, time_ms, state_ms, message FROM events \
         WHERE ?1 IS NULL OR state = ?1 ORDER BY time_ms DESC, id DESC LIMIT ?2",
    )?;
    let rows = statement.query_map(params![only, limit], |row| {
        Ok(EventRow {
            subject: subject(row)?,
            id: row.get(4)?,
            kind: row.get(5)?,
            state: row.get(6)?,
            reason: row.get(7)?,
            time_ms: row.get(8)?,
            state_ms: row.get(9)?,
            message: row.get(10)?,
            deliveries: Vec::new(),
        })
    })?;
    let mut events: Vec<EventRow> = rows.collect::<Result<_>>()?;
    let mut deliveries = connection
        .prepare_cached("SELECT hook, state, attempts, reason FROM deliveries WHERE event = ?1 ORDER BY hook")?;
    for event in &mut events {
        let rows = deliveries.query_map([&event.id], |row| {
            Ok(DeliveryRow { hook: row.get(0)?, state: row.get(1)?, attempts: row.get(2)?, reason: row.get(3)? })
        })?;
        event.deliveries = rows.collect::<Result<_>>()?;
    }
    Ok(events)
}

/// Number of events by state.
///
/// # Errors
/// Those of SQLite.
pub fn counts(connection: &Connection) -> Result<Vec<(EventState, i64)>> {
    let mut statement = connection.prepare_cached("SELECT state, count(*) FROM events GROUP BY state")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

/// Events that wait for their subscribers to fall below the threshold.
///
/// # Errors
/// Those of SQLite.
pub fn active(connection: &Connection) -> Result<Vec<Active>> {
    let mut statement = connection.prepare_cached(
        "SELECT policy, address, realm, prefix_len, id, measures FROM events WHERE is_active = 1 ORDER BY id",
    )?;
    let rows =
        statement.query_map([], |row| Ok(Active { subject: subject(row)?, id: row.get(4)?, measures: row.get(5)? }))?;
    rows.collect()
}

/// Ends the wait of all events of a policy and a subscriber for the subscriber to fall below the threshold.
///
/// # Errors
/// Those of SQLite.
pub fn end_active_of(transaction: &Transaction<'_>, subject: &Subject) -> Result<()> {
    let Subscriber { address, realm, prefix_len } = subject.subscriber;
    transaction
        .prepare_cached(
            "UPDATE events SET is_active = 0 \
             WHERE is_active = 1 AND policy = ?1 AND address = ?2 AND realm = ?3 AND prefix_len = ?4",
        )?
        .execute(params![subject.policy, address, realm, prefix_len])
        .map(drop)
}

/// Begins the wait of an event without hooks for its subscriber to fall below the threshold.
///
/// # Errors
/// Those of SQLite.
pub fn begin_active(transaction: &Transaction<'_>, event: &str) -> Result<()> {
    transaction.prepare_cached("UPDATE events SET is_active = 1 WHERE id = ?1")?.execute([event]).map(drop)
}

/// Ends the wait of a delivered event for its subscriber to fall below the threshold.
///
/// # Errors
/// Those of SQLite.
pub fn end_active(transaction: &Transaction<'_>, event: &str) -> Result<()> {
    transaction.prepare_cached("UPDATE events SET is_active = 0 WHERE id = ?1")?.execute([event]).map(|_| ())
}

/// Times in milliseconds since 1970 of a policy's fired events that passed the ceiling, since a time: those that were
/// not held at first. Events of policies without hooks do not pass it.
///
/// # Errors
/// Those of SQLite.
pub fn passed_since(connection: &Connection, since_ms: i64) -> Result<Vec<(String, i64)>> {
    let mut statement = connection.prepare_cached(
        "SELECT policy, time_ms FROM events WHERE kind = 'fired' AND time_ms >= ?1 AND was_held = 0 AND state <> 'logged' \
         ORDER BY time_ms",
    )?;
    let rows = statement.query_map([since_ms], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

/// Events that one call of [`prune`] removes at most, so that no other write waits for long.
pub const PRUNE_SLICE: usize = 1000;

/// Removes events that ended before a time, and cool-downs that are over, [`PRUNE_SLICE`] of each at most. Returns how
/// many events, and whether there may be more of either.
///
/// # Errors
/// Those of SQLite.
pub fn prune(transaction: &Transaction<'_>, before_ms: i64, now: &Moment) -> Result<(usize, bool)> {
    let limit = PRUNE_SLICE as i64;
    let cool_downs = transaction
        .prepare_cached(
            "DELETE FROM cool_downs WHERE (policy, address, realm, prefix_len) IN \
             (SELECT policy, address, realm, prefix_len FROM cool_downs \
             WHERE until_wall_ms < ?1 AND (boot <> ?2 OR until_boot_ms < ?3) LIMIT ?4)",
        )?
        .execute(params![now.wall_ms, &*now.boot, now.boot_ms, limit])?;
    let events = transaction
        .prepare_cached(
            "DELETE FROM events WHERE id IN (SELECT id FROM events \
             WHERE state IN ('delivered', 'dead', 'discarded', 'logged') AND state_ms < ?1 \
             AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event = id AND deliveries.state = 'queued' \
             AND events.state = 'delivered') LIMIT ?2)",
        )?
        .execute(params![before_ms, limit])?;
    Ok((events, events == PRUNE_SLICE || cool_downs == PRUNE_SLICE))
}
