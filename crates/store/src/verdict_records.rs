//! Verdict records: which flows a subscriber was charged with, for whoever has to match a notice with a flow.
//!
//! Rows hold no address: the subscriber, its own address and the remote are keyed hashes (`peertally-core`,
//! `Pseudonyms`).

use std::time::Duration;

use rusqlite::{Connection, Row, Transaction, params};

/// Bytes of a keyed hash.
pub const HASH_BYTES: usize = 12;
/// Rows that one write removes at most, beside as many as it inserts.
pub const SLICE: usize = 4_096;

/// A keyed hash of a subscriber or of an address.
pub type Hash = [u8; HASH_BYTES];

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRecord {
    /// When the flow first charged the subscriber, in milliseconds since 1970.
    pub time_ms: i64,
    /// Name of the key of the hashes.
    pub key: String,
    /// The subscriber's pseudonym.
    pub subscriber: Hash,
    /// The subscriber's own address in the flow. For a subscriber of one address that is the pseudonym.
    pub own: Hash,
    /// Port of the subscriber's end.
    pub own_port: u16,
    /// The other end's address.
    pub remote: Hash,
    /// Port of the other end.
    pub remote_port: u16,
    /// IP protocol number.
    pub transport: u8,
    /// Number of the P2P protocol.
    pub protocol: u8,
    /// Number of the confidence.
    pub confidence: u8,
    /// Number of the rule.
    pub rule: u8,
    /// Whether the flow was answered; not on a router that sees one direction only.
    pub answered: bool,
}

/// How long and how many rows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Age at which a row is removed.
    pub keep: Duration,
    /// Rows that are kept at most, the latest ones.
    pub most: u64,
}

/// Rows that a write removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Older than is kept.
    pub expired: usize,
    /// More than are kept.
    pub excess: usize,
}

impl Removed {
    /// Whether there may be more to remove.
    #[must_use]
    pub const fn is_partial(&self) -> bool {
        self.expired >= SLICE || self.excess >= SLICE
    }
}

/// Inserts rows, and removes a slice of those that are not kept any more.
///
/// # Errors
/// [`rusqlite::Error`]; then the transaction is to be undone.
pub fn write(
    transaction: &Transaction<'_>,
    rows: &[KeptRecord],
    bounds: &Bounds,
    now_ms: i64,
) -> rusqlite::Result<Removed> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO verdict_records (time_ms, key, subscriber, own, own_port, remote, remote_port, transport, protocol,
         confidence, rule, answered) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?;
    for row in rows {
        let own = (row.own != row.subscriber).then_some(row.own);
        insert.execute(params![
            row.time_ms,
            row.key,
            row.subscriber,
            own,
            row.own_port,
            row.remote,
            row.remote_port,
            row.transport,
            row.protocol,
            row.confidence,
            row.rule,
            row.answered
        ])?;
    }
    let limit = (SLICE + rows.len()) as i64;
    let keep_ms = i64::try_from(bounds.keep.as_millis()).unwrap_or(i64::MAX);
    let expired = transaction.prepare_cached(
        "DELETE FROM verdict_records WHERE id IN (SELECT id FROM verdict_records WHERE time_ms < ?1 ORDER BY time_ms LIMIT ?2)",
    )?.execute([now_ms.saturating_sub(keep_ms), limit])?;
    // Numbers have gaps where rows expired, so these are at most as many rows as are kept.
    let excess = transaction
        .prepare_cached(
            "DELETE FROM verdict_records WHERE id IN (SELECT id FROM verdict_records
         WHERE id <= (SELECT max(id) FROM verdict_records) - ?1 ORDER BY id LIMIT ?2)",
        )?
        .execute([i64::try_from(bounds.most).unwrap_or(i64::MAX), limit])?;
    Ok(Removed { expired, excess })
}

/// Which rows are wanted.
#[derive(Clone, Debug)]
pub struct Query {
    /// Hashes of the subscriber or of its own address, any of them.
    pub own: Vec<Hash>,
    /// Port of the subscriber's end.
    pub own_port: Option<u16>,
    /// Hashes of the other end, any of them; empty for all.
    pub remote: Vec<Hash>,
    /// Earliest and latest time, in milliseconds since 1970.
    pub time_ms: (i64, i64),
    /// Rows at most, the latest ones.
    pub limit: u32,
}

/// The rows that match, latest first.
///
/// # Errors
/// [`rusqlite::Error`].
pub fn find(connection: &Connection, query: &Query) -> rusqlite::Result<Vec<KeptRecord>> {
    let mut select = connection.prepare(
        "SELECT time_ms, key, subscriber, own, own_port, remote, remote_port, transport, protocol, confidence, rule, answered
         FROM verdict_records WHERE (subscriber = ?1 OR own = ?1) AND time_ms BETWEEN ?2 AND ?3
         AND (?4 IS NULL OR own_port = ?4) ORDER BY time_ms DESC",
    )?;
    let mut found = Vec::new();
    for own in &query.own {
        let rows = select.query_map(params![own, query.time_ms.0, query.time_ms.1, query.own_port], kept)?;
        let mut taken = 0;
        for row in rows {
            let row = row?;
            if query.remote.is_empty() || query.remote.contains(&row.remote) {
                found.push(row);
                taken += 1;
                if taken == query.limit {
                    break;
                }
            }
        }
    }
    found.sort_by_key(|row| std::cmp::Reverse(row.time_ms));
    found.truncate(query.limit as usize);
    Ok(found)
}

fn kept(row: &Row<'_>) -> rusqlite::Result<KeptRecord> {
    let subscriber: Hash = row.get(2)?;
    Ok(KeptRecord {
        time_ms: row.get(0)?,
        key: row.get(1)?,
        subscriber,
        own: row.get::<_, Option<Hash>>(3)?.unwrap_or(subscriber),
        own_port: row.get(4)?,
        remote: row.get(5)?,
        remote_port: row.get(6)?,
        transport: row.get(7)?,
        protocol: row.get(8)?,
        confidence: row.get(9)?,
        rule: row.get(10)?,
        answered: row.get(11)?,
    })
}
