//! Totals of replaced tables: added once each, in the books of the tables that took their place.

use std::collections::HashSet;

use monitor_common::abi::tally::TallyKey;
use peertally_core::booked::{BookedTally, ReplacedTables};
use rusqlite::{Transaction, params};

use super::{LIVE, add, latest_batch, open, tables_of};

/// Adds what replaced tables have counted to the books, and hands them on to the tables with the number `tables`.
pub(super) fn carry(
    transaction: &Transaction<'_>,
    replaced: &[ReplacedTables],
    tables: i64,
    now_s: i64,
) -> rusqlite::Result<()> {
    let known = |number| replaced.iter().any(|each| each.number.cast_signed() == number);
    let before = tables_of(transaction)?;
    let booked = match before {
        Some(before) if before == tables => Vec::new(),
        Some(before) if known(before) => latest_batch(transaction)?,
        // The books are of tables that were removed.
        _ => open(transaction, tables)?,
    };
    let booked: HashSet<(u32, TallyKey)> = booked.into_iter().collect();
    if before != Some(tables) {
        transaction.execute_batch("DELETE FROM booked_batch; DELETE FROM booked_tables;")?;
        transaction.execute("INSERT INTO booked_tables VALUES (?1)", [tables])?;
        // No key is in the new tables yet.
        transaction.execute("UPDATE booked_totals SET booked_s = ?1 WHERE booked_s = ?2", params![now_s, LIVE])?;
    }
    for ReplacedTables { number, tallies, leaving } in replaced {
        let number = number.cast_signed();
        let first = transaction.execute("INSERT OR IGNORE INTO carried_tables VALUES (?1)", [number])?;
        if first == 0 {
            continue;
        }
        let is_booked = |tally: &BookedTally| before == Some(number) && booked.contains(&(tally.slot, tally.key));
        for tally in tallies.iter().chain(leaving.iter().filter(|tally| !is_booked(tally))) {
            add(transaction, &tally.key, &tally.totals, now_s)?;
        }
    }
    Ok(())
}
