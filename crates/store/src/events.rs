//! Events, their deliveries, and the cool-downs that deliveries begin.
//!
//! An event is in exactly one state. Only deliveries that are `queued` are made. The functions that write are for the
//! writer's transactions.

mod decisions;
mod deliveries;
mod lists;
mod standings;
mod words;

use std::time::Duration;

pub use decisions::{Decided, Refusal, decide};
pub use deliveries::{
    EndedDeliveries, HOOK_REMOVED, Outgoing, Settled, Waiting, delivered, end_stranded, fail_unknown_hooks, failed,
    outgoing, waiting,
};
pub use lists::{
    Active, DeliveryRow, EventRow, PRUNE_SLICE, active, begin_active, counts, end_active, end_active_of, list,
    passed_since, prune,
};
use peertally_core::subscriber::Subscriber;
use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Result, Row, Transaction, params, types::Type};
pub use standings::{CoolDown, Standing, cool, cool_downs, pending, standing};
pub use words::{Decision, DeliveryState, EventKind, EventState};

use crate::clock::Moment;

/// A new event.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Identifier.
    pub id: String,
    /// What it says.
    pub kind: EventKind,
    /// The event that a `cleared` one ends.
    pub fired: Option<String>,
    /// Name of the policy.
    pub policy: String,
    /// Digest of what the policy measures.
    pub measures: String,
    /// The subscriber.
    pub subscriber: Subscriber,
    /// When it was made.
    pub time: Moment,
    /// Time after the first delivery without another event.
    pub cool_down: Duration,
    /// First state: queued, held or logged.
    pub state: EventState,
    /// Why it is held, or empty.
    pub reason: &'static str,
    /// Hooks that get it.
    pub hooks: Vec<String>,
    /// JSON form.
    pub message: String,
}

/// A policy and the subscriber whom it fired for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// Name of the policy.
    pub policy: String,
    /// The subscriber.
    pub subscriber: Subscriber,
}

fn insert_statement<'a>(transaction: &'a Transaction<'_>) -> Result<CachedStatement<'a>> {
    transaction.prepare_cached(
        "INSERT INTO events (id, kind, fired, policy, measures, address, realm, prefix_len, time_ms, cool_down_ms, \
         state, state_ms, reason, message, was_held) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?9, ?12, ?13, ?14)",
    )
}

/// Adds an event, and a delivery for each hook.
///
/// # Errors
/// Those of SQLite.
pub fn insert(transaction: &Transaction<'_>, event: &NewEvent) -> Result<()> {
    let Subscriber { address, realm, prefix_len } = event.subscriber;
    insert_statement(transaction)?.execute(params![
        event.id,
        event.kind,
        event.fired,
        event.policy,
        event.measures,
        address,
        realm,
        prefix_len,
        event.time.wall_ms,
        ms(event.cool_down),
        event.state,
        event.reason,
        event.message,
        event.state == EventState::Held,
    ])?;
    let mut delivery = transaction
        .prepare_cached("INSERT INTO deliveries (event, hook, state, due_ms) VALUES (?1, ?2, 'queued', ?3)")?;
    for hook in &event.hooks {
        delivery.execute(params![event.id, hook, event.time.wall_ms])?;
    }
    Ok(())
}

struct Found {
    kind: EventKind,
    state: EventState,
    subject: Subject,
    cool_down: Duration,
}

fn state(connection: &Connection, event: &str) -> Result<Option<Found>> {
    let mut statement = connection.prepare_cached(
        "SELECT policy, address, realm, prefix_len, kind, state, cool_down_ms FROM events WHERE id = ?1",
    )?;
    statement
        .query_row([event], |row| {
            Ok(Found {
                subject: subject(row)?,
                kind: row.get(4)?,
                state: row.get(5)?,
                cool_down: Duration::from_millis(row.get::<_, i64>(6)?.unsigned_abs()),
            })
        })
        .optional()
}

fn set_state(transaction: &Transaction<'_>, event: &str, state: EventState, now: &Moment) -> Result<()> {
    let mut statement =
        transaction.prepare_cached("UPDATE events SET state = ?2, state_ms = ?3, reason = '' WHERE id = ?1")?;
    statement.execute(params![event, state, now.wall_ms]).map(|_| ())
}

/// The first four columns.
fn subject(row: &Row<'_>) -> Result<Subject> {
    let bytes: Vec<u8> = row.get(1)?;
    let address = bytes.try_into().map_err(|_| rusqlite::Error::InvalidColumnType(1, "address".into(), Type::Blob))?;
    Ok(Subject { policy: row.get(0)?, subscriber: Subscriber { address, realm: row.get(2)?, prefix_len: row.get(3)? } })
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
