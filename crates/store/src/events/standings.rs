//! Why policies do not fire for subscribers: cool-downs, and events that wait.

use std::time::Duration;

use peertally_core::subscriber::Subscriber;
use rusqlite::{Connection, Result, Transaction, params};

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
    let rows = statement.query_map([], |row| {
        let boot: String = row.get(4)?;
        let until = Moment { boot: boot.into(), boot_ms: row.get(5)?, wall_ms: row.get(6)? };
        let left = until.ms_since(now).clamp(0, row.get::<_, i64>(7)?.max(0));
        Ok((subject(row)?, Duration::from_millis(left.unsigned_abs())))
    })?;
    rows.filter(|row| row.as_ref().map_or(true, |(_, left)| !left.is_zero())).collect()
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
