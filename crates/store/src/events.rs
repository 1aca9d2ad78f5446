//! Events, their deliveries, and the cool-downs that deliveries begin.
//!
//! An event is in exactly one state. Only deliveries that are `queued` are made. The functions that write are for the
//! writer's transactions.

use std::time::Duration;

use peertally_core::subscriber::Subscriber;
use rusqlite::{
    CachedStatement, Connection, OptionalExtension as _, Result, Row, Transaction, params,
    types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, Type, ValueRef},
};

use crate::clock::Moment;

/// Declares an enum whose values are words in the tables.
macro_rules! words {
    ($(#[$doc:meta])* $Name:ident { $($(#[$value_doc:meta])* $Value:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $Name { $($(#[$value_doc])* $Value,)* }

        impl $Name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$Value,)*];

            /// The word in the tables, in JSON and in metrics.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$Value => $word,)* }
            }
        }

        impl ToSql for $Name {
            fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
                Ok(self.label().into())
            }
        }

        impl FromSql for $Name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                let word = value.as_str()?;
                let found = Self::ALL.iter().copied().find(|each| each.label() == word);
                found.ok_or(rusqlite::types::FromSqlError::InvalidType)
            }
        }
    };
}

words! {
    /// What an event says.
    EventKind {
        /// The subscriber reached the threshold.
        Fired = "fired",
        /// The subscriber fell below the threshold again.
        Cleared = "cleared",
    }
}

words! {
    /// What became of an event.
    EventState {
        /// Waits for its first successful delivery.
        Queued = "queued",
        /// Waits for a person.
        Held = "held",
        /// A hook delivered it.
        Delivered = "delivered",
        /// Every hook failed.
        Dead = "dead",
        /// A person discarded it.
        Discarded = "discarded",
        /// Its policy has no hooks.
        Logged = "logged",
    }
}

words! {
    /// What became of an event at one hook.
    DeliveryState {
        /// Waits for the next attempt.
        Queued = "queued",
        /// The receiver has it.
        Delivered = "delivered",
        /// The last attempt failed.
        Failed = "failed",
    }
}

words! {
    /// Decision of a person about an event.
    Decision {
        /// Deliver a held event.
        Release = "release",
        /// Never deliver a held or dead event.
        Discard = "discard",
        /// Deliver again where the last attempt failed.
        Redeliver = "redeliver",
    }
}

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

/// A delivery that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The event.
    pub event: String,
    /// Attempts so far.
    pub attempts: u32,
    /// When the next attempt is due, in milliseconds since 1970.
    pub due_ms: i64,
    /// When the event was made, in milliseconds since 1970.
    pub time_ms: i64,
}

/// An event as a hook needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// What it says.
    pub kind: EventKind,
    /// Name of the policy.
    pub policy: String,
    /// JSON form.
    pub message: String,
}

/// How an attempt changed the state of its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Nothing changed: another hook delivered the event before, or will try.
    Nothing,
    /// The first delivery; the cool-down begins.
    Delivered(CoolDown),
    /// Every hook failed; the subscriber may fire again.
    Dead(Subject),
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

/// Why a decision cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such event.
    #[error("there is no event {0}; `peertally events` lists them")]
    Unknown(String),
    /// The event is in a state that the decision does not fit.
    #[error("event {id} is {}: only {fits} can be {done}", state.label())]
    State {
        /// The event.
        id: String,
        /// Its state.
        state: EventState,
        /// States that fit.
        fits: &'static str,
        /// What was asked for.
        done: &'static str,
    },
}

/// What a decision changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// Policy and subscriber.
    pub subject: Subject,
    /// Hooks whose delivery is queued now.
    pub queued: Vec<String>,
    /// The cool-down that a discarded event begins.
    pub cool_down: Option<CoolDown>,
}

fn insert_statement<'a>(transaction: &'a Transaction<'_>) -> Result<CachedStatement<'a>> {
    transaction.prepare_cached(
        "INSERT INTO events (id, kind, fired, policy, measures, address, realm, prefix_len, time_ms, cool_down_ms, \
         state, state_ms, reason, message) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?9, ?12, ?13)",
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
    ])?;
    let mut delivery = transaction
        .prepare_cached("INSERT INTO deliveries (event, hook, state, due_ms) VALUES (?1, ?2, 'queued', ?3)")?;
    for hook in &event.hooks {
        delivery.execute(params![event.id, hook, event.time.wall_ms])?;
    }
    Ok(())
}

/// Deliveries of a hook that wait, the earliest first. Those of held events do not.
///
/// # Errors
/// Those of SQLite.
pub fn waiting(connection: &Connection, hook: &str) -> Result<Vec<Waiting>> {
    let mut statement = connection.prepare_cached(
        "SELECT event, attempts, due_ms, time_ms FROM deliveries JOIN events ON id = event \
         WHERE hook = ?1 AND deliveries.state = 'queued' AND events.state IN ('queued', 'delivered') ORDER BY due_ms, event",
    )?;
    let rows = statement.query_map([hook], |row| {
        Ok(Waiting { event: row.get(0)?, attempts: row.get(1)?, due_ms: row.get(2)?, time_ms: row.get(3)? })
    })?;
    rows.collect()
}

/// An event for a hook; `None` if its delivery does not wait any more.
///
/// # Errors
/// Those of SQLite.
pub fn outgoing(connection: &Connection, event: &str, hook: &str) -> Result<Option<Outgoing>> {
    let mut statement = connection.prepare_cached(
        "SELECT kind, policy, message FROM events JOIN deliveries ON event = id \
         WHERE id = ?1 AND hook = ?2 AND deliveries.state = 'queued' AND events.state IN ('queued', 'delivered')",
    )?;
    statement
        .query_row(params![event, hook], |row| {
            Ok(Outgoing { kind: row.get(0)?, policy: row.get(1)?, message: row.get(2)? })
        })
        .optional()
}

/// Notes a successful delivery. The first one of a fired event begins the cool-down.
///
/// # Errors
/// Those of SQLite.
pub fn delivered(transaction: &Transaction<'_>, event: &str, hook: &str, now: &Moment) -> Result<Settled> {
    transaction
        .prepare_cached(
            "UPDATE deliveries SET state = 'delivered', attempts = attempts + 1, reason = '' WHERE event = ?1 AND hook = ?2",
        )?
        .execute(params![event, hook])?;
    let Some(found) = state(transaction, event)? else { return Ok(Settled::Nothing) };
    if found.state == EventState::Delivered {
        return Ok(Settled::Nothing);
    }
    set_state(transaction, event, EventState::Delivered, now)?;
    if found.kind == EventKind::Cleared {
        return Ok(Settled::Nothing);
    }
    transaction.prepare_cached("UPDATE events SET is_active = 1 WHERE id = ?1")?.execute([event])?;
    let cool_down = CoolDown { until: now.after(found.cool_down), length: found.cool_down, subject: found.subject };
    cool(transaction, &cool_down)?;
    Ok(Settled::Delivered(cool_down))
}

/// Notes a failed attempt: the next one is due at `due_ms`, or there is none.
///
/// # Errors
/// Those of SQLite.
pub fn failed(
    transaction: &Transaction<'_>,
    event: &str,
    hook: &str,
    reason: &str,
    due_ms: Option<i64>,
    now: &Moment,
) -> Result<Settled> {
    let next = if due_ms.is_some() { DeliveryState::Queued } else { DeliveryState::Failed };
    transaction
        .prepare_cached(
            "UPDATE deliveries SET state = ?3, attempts = attempts + 1, reason = ?4, due_ms = coalesce(?5, due_ms) \
             WHERE event = ?1 AND hook = ?2",
        )?
        .execute(params![event, hook, next, reason, due_ms])?;
    if due_ms.is_some() { Ok(Settled::Nothing) } else { end_if_all_failed(transaction, event, now) }
}

/// Ends the deliveries to hooks that are not configured any more; returns those whose events are dead by that.
///
/// # Errors
/// Those of SQLite.
pub fn fail_unknown_hooks(transaction: &Transaction<'_>, known: &[String], now: &Moment) -> Result<Vec<Subject>> {
    let mut statement = transaction.prepare("SELECT event, hook FROM deliveries WHERE state = 'queued'")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let waiting: Vec<(String, String)> = rows.collect::<Result<_>>()?;
    let mut dead = Vec::new();
    for (event, hook) in waiting.into_iter().filter(|(_, hook)| !known.contains(hook)) {
        if let Settled::Dead(subject) = failed(transaction, &event, &hook, "hook_removed", None, now)? {
            dead.push(subject);
        }
    }
    Ok(dead)
}

fn end_if_all_failed(transaction: &Transaction<'_>, event: &str, now: &Moment) -> Result<Settled> {
    let left: u32 = transaction
        .prepare_cached("SELECT count(*) FROM deliveries WHERE event = ?1 AND state <> 'failed'")?
        .query_row([event], |row| row.get(0))?;
    match state(transaction, event)? {
        Some(found) if left == 0 && found.state == EventState::Queued => {
            set_state(transaction, event, EventState::Dead, now)?;
            let is_fired = found.kind == EventKind::Fired;
            Ok(if is_fired { Settled::Dead(found.subject) } else { Settled::Nothing })
        }
        _ => Ok(Settled::Nothing),
    }
}

/// Carries out a decision of a person, and records it.
///
/// # Errors
/// Those of SQLite; the inner error says why the decision does not fit.
pub fn decide(
    transaction: &Transaction<'_>,
    id: &str,
    decision: Decision,
    user: &str,
    now: &Moment,
) -> Result<std::result::Result<Decided, Refusal>> {
    let Some(found) = state(transaction, id)? else { return Ok(Err(Refusal::Unknown(id.to_owned()))) };
    let refuse = |fits, done| Ok(Err(Refusal::State { id: id.to_owned(), state: found.state, fits, done }));
    let mut decided = Decided { subject: found.subject.clone(), queued: Vec::new(), cool_down: None };
    match decision {
        Decision::Release => {
            if found.state != EventState::Held {
                return refuse("held events", "released");
            }
            set_state(transaction, id, EventState::Queued, now)?;
            decided.queued = requeue(transaction, id, DeliveryState::Queued, now)?;
        }
        Decision::Discard => {
            if !matches!(found.state, EventState::Held | EventState::Dead) {
                return refuse("held and dead events", "discarded");
            }
            set_state(transaction, id, EventState::Discarded, now)?;
            // Without a cool-down, the subscriber would fire again with the next packet. A dead event ended before.
            if found.state == EventState::Held && found.kind == EventKind::Fired {
                let (length, subject) = (found.cool_down, found.subject);
                let cool_down = CoolDown { until: now.after(length), length, subject };
                cool(transaction, &cool_down)?;
                decided.cool_down = Some(cool_down);
            }
        }
        Decision::Redeliver => {
            if !matches!(found.state, EventState::Dead | EventState::Delivered) {
                return refuse("dead events, and delivered ones that a hook failed to deliver,", "redelivered");
            }
            decided.queued = requeue(transaction, id, DeliveryState::Failed, now)?;
            if decided.queued.is_empty() {
                return refuse("dead events, and delivered ones that a hook failed to deliver,", "redelivered");
            }
            if found.state == EventState::Dead {
                set_state(transaction, id, EventState::Queued, now)?;
            }
        }
    }
    transaction
        .prepare_cached("INSERT INTO decisions (time_ms, user, event, decision) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![now.wall_ms, user, id, decision])?;
    Ok(Ok(decided))
}

/// Makes the deliveries in a state due now, with all attempts before them; returns their hooks.
fn requeue(transaction: &Transaction<'_>, event: &str, from: DeliveryState, now: &Moment) -> Result<Vec<String>> {
    let mut statement = transaction.prepare_cached(
        "UPDATE deliveries SET state = 'queued', attempts = 0, due_ms = ?3 WHERE event = ?1 AND state = ?2 RETURNING hook",
    )?;
    let rows = statement.query_map(params![event, from, now.wall_ms], |row| row.get(0))?;
    rows.collect()
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

/// Ends the wait of a delivered event for its subscriber to fall below the threshold.
///
/// # Errors
/// Those of SQLite.
pub fn end_active(transaction: &Transaction<'_>, event: &str) -> Result<()> {
    transaction.prepare_cached("UPDATE events SET is_active = 0 WHERE id = ?1")?.execute([event]).map(|_| ())
}

/// Times in milliseconds since 1970 of a policy's fired events that were not held at first, since a time.
///
/// # Errors
/// Those of SQLite.
pub fn passed_since(connection: &Connection, since_ms: i64) -> Result<Vec<(String, i64)>> {
    let mut statement = connection.prepare_cached(
        "SELECT policy, time_ms FROM events WHERE kind = 'fired' AND time_ms >= ?1 AND state <> 'held' ORDER BY time_ms",
    )?;
    let rows = statement.query_map([since_ms], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
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

/// Removes events that ended before a time, and cool-downs that are over; returns how many events.
///
/// # Errors
/// Those of SQLite.
pub fn prune(transaction: &Transaction<'_>, before_ms: i64, now: &Moment) -> Result<usize> {
    transaction
        .prepare_cached("DELETE FROM cool_downs WHERE until_wall_ms < ?1 AND (boot <> ?2 OR until_boot_ms < ?3)")?
        .execute(params![now.wall_ms, &*now.boot, now.boot_ms])?;
    transaction
        .prepare_cached(
            "DELETE FROM events WHERE state_ms < ?1 AND state IN ('delivered', 'dead', 'discarded', 'logged') \
             AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event = id AND deliveries.state = 'queued' \
             AND events.state = 'delivered')",
        )?
        .execute([before_ms])
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
