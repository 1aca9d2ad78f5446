//! The tables of the store, as numbered steps: a store of any older version is brought to the present one at its
//! opening. A step that was released is never changed; another one follows it.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::{StoreError, failure::sql_error};

/// One step from a version to the next one.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// What it makes, in a few words.
    pub name: &'static str,
    /// SQL statements.
    pub sql: &'static str,
}

/// Every step, in order. The version of a store (`user_version`) is the number of steps that it went through.
pub const MIGRATIONS: &[Migration] = &[
    Migration { name: "facts of the node", sql: include_str!("migrations/0001_facts.sql") },
    Migration { name: "events and cool-downs", sql: include_str!("migrations/0002_events.sql") },
    Migration { name: "totals of tallies that left", sql: include_str!("migrations/0003_booked.sql") },
    Migration { name: "what policies measure", sql: include_str!("migrations/0004_history.sql") },
    Migration { name: "events that wait, by subscriber", sql: include_str!("migrations/0005_pending.sql") },
    Migration { name: "events that ended", sql: include_str!("migrations/0006_ended.sql") },
    Migration { name: "tables whose totals were carried", sql: include_str!("migrations/0007_carried.sql") },
    Migration { name: "verdict records", sql: include_str!("migrations/0008_verdict_records.sql") },
];

/// Version of the tables that this program reads and writes.
pub const VERSION: u32 = MIGRATIONS.len() as u32;

/// `application_id` of the file: "PTLY".
pub const APPLICATION_ID: i32 = i32::from_be_bytes(*b"PTLY");

/// Version of a store; 0 for an empty file.
///
/// # Errors
/// [`StoreError::Foreign`] for a database of another program, [`StoreError::Sql`], [`StoreError::Damaged`].
pub fn version(connection: &Connection, path: &Path) -> Result<u32, StoreError> {
    let pragma = |name: &str| -> Result<i32, StoreError> {
        connection.pragma_query_value(None, name, |row| row.get(0)).map_err(sql_error("read", path))
    };
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(sql_error("read", path))?;
    let is_empty = application == 0 && version == 0 && tables == 0;
    if application != APPLICATION_ID && !is_empty {
        return Err(StoreError::Foreign { path: path.to_owned(), found: application });
    }
    Ok(version.unsigned_abs())
}

/// Brings a store to the version of `steps`, each step in a transaction of its own.
///
/// # Errors
/// [`StoreError::Newer`] for a store of a newer version, and those of [`version`].
pub fn migrate(connection: &mut Connection, path: &Path, steps: &[Migration]) -> Result<(), StoreError> {
    let (found, known) = (version(connection, path)?, steps.len() as u32);
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    for (index, step) in steps.iter().enumerate().skip(found as usize) {
        let failed = || sql_error("migrate", path);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed())?;
        transaction.execute_batch(step.sql).map_err(failed())?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed())?;
        transaction.pragma_update(None, "user_version", index as u32 + 1).map_err(failed())?;
        transaction.commit().map_err(failed())?;
    }
    Ok(())
}
