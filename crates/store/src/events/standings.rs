//! Why policies do not fire for subscribers: cool-downs, and events that wait.

use std::time::Duration;

use peertally_core::subscriber::Subscriber;
use rusqlite::{Connection, OptionalExtension as _, Result, Row, Transaction, params};

use super::{Subject, ms, subject};
use crate::clock::Moment;

/// A cool-down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoolDown {
    /// Policy and subscriber.
    pub subject: Subject,
    /// Its end.
    pub until: Moment,
    /// Its length.
    pub length: Duration,
}

/// Why a policy does not fire for a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may fire.
    Free,
    /// An event waits: for a delivery, or for a person.
    Pending,
    /// A cool-down lasts; this time is left of it.
    Cooling(Duration),
}

/// Begins a cool-down in place of an older one.
///
/// # Errors
/// Those of SQLite.
pub fn cool(transaction: &Transaction<'_>, cool_down: &CoolDown) -> Result<()> {
    let Subscriber { address, realm, prefix_len } = cool_down.subject.subscriber;
    let until = &cool_down.until;
    transaction.prepare_cached("INSERT OR REPLACE INTO cool_downs VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?.execute(
        params![
            cool_down.subject.policy,
            address,
            realm,
            prefix_len,
            &*until.boot,
            until.boot_ms,
            until.wall_ms,
            ms(cool_down.length),
        ],
    )?;
    Ok(())
}

/// Cool-downs that last, with what is left of them. A corrected wall clock never makes one longer than it was.
///
/// # Errors
/// Those of SQLite.
pub fn cool_downs(connection: &Connection, now: &Moment) -> Result<Vec<(Subject, Duration)>> {
    let mut statement = connection.prepare_cached(
        "SELECT policy, address, realm, prefix_len, boot, until_boot_ms, until_wall_ms, length_ms FROM cool_downs",
    )?;
    let rows = statement.query_map([], |row| Ok((subject(row)?, left(row, 4, now)?)))?;
    rows.filter(|row| row.as_ref().map_or(true, |(_, left)| !left.is_zero())).collect()
}

/// What is left of a cool-down whose boot, ends and length are the columns from `first` on.
fn left(row: &Row<'_>, first: usize, now: &Moment) -> Result<Duration> {
    let boot: String = row.get(first)?;
    let until = Moment { boot: boot.into(), boot_ms: row.get(first + 1)?, wall_ms: row.get(first + 2)? };
    let left = until.ms_since(now).clamp(0, row.get::<_, i64>(first + 3)?.max(0));
    Ok(Duration::from_millis(left.unsigned_abs()))
}

/// Why a policy does not fire for a subscriber. A waiting event goes before a cool-down.
///
/// # Errors
/// Those of SQLite.
pub fn standing(connection: &Connection, subject: &Subject, now: &Moment) -> Result<Standing> {
    let Subject { policy, subscriber: Subscriber { address, realm, prefix_len } } = subject;
    let own = params![policy, address, realm, prefix_len];
    // The condition of the index `events_pending`.
    let waits: bool = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM events WHERE kind = 'fired' AND state IN ('queued', 'held') \
             AND policy = ?1 AND address = ?2 AND realm = ?3 AND prefix_len = ?4)",
        )?
        .query_row(own, |row| row.get(0))?;
    if waits {
        return Ok(Standing::Pending);
    }
    let left = connection
        .prepare_cached(
            "SELECT boot, until_boot_ms, until_wall_ms, length_ms FROM cool_downs \
             WHERE policy = ?1 AND address = ?2 AND realm = ?3 AND prefix_len = ?4",
        )?
        .query_row(own, |row| left(row, 0, now))
        .optional()?;
    Ok(left.filter(|left| !left.is_zero()).map_or(Standing::Free, Standing::Cooling))
}

/// Policies and subscribers with an event that waits: for a delivery, or for a person.
///
/// # Errors
/// Those of SQLite.
pub fn pending(connection: &Connection) -> Result<Vec<Subject>> {
    let mut statement = connection.prepare_cached(
        "SELECT policy, address, realm, prefix_len FROM events WHERE kind = 'fired' AND state IN ('queued', 'held')",
    )?;
    let rows = statement.query_map([], subject)?;
    rows.collect()
}
