//! Deliveries: what waits for a hook, and how an attempt ended.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, Result, Transaction, params};

use super::{
    CoolDown, DeliveryState, EventKind, EventState, Standing, Subject, cool, set_state, standings::standing, state,
};
use crate::clock::Moment;

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

/// A policy and a subscriber whose standing a change of an event gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Policy and subscriber.
    pub subject: Subject,
    /// Why the policy does not fire from now on, or that it may.
    pub standing: Standing,
}

impl Settled {
    /// The standing after a change of the subject's event.
    pub(super) fn read(connection: &Connection, subject: Subject, now: &Moment) -> Result<Self> {
        let standing = standing(connection, &subject, now)?;
        Ok(Self { subject, standing })
    }
}

/// Deliveries that ended because their hooks are not configured any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndedDeliveries {
    /// Deliveries by name of the hook.
    pub by_hook: BTreeMap<String, u64>,
    /// Subjects whose events are dead by that.
    pub dead: Vec<Settled>,
}

/// Why a delivery failed whose hook is not configured any more.
pub const HOOK_REMOVED: &str = "hook_removed";

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

/// Notes a successful delivery. The first one of a fired event begins the cool-down. `None`: no standing changed.
///
/// # Errors
/// Those of SQLite.
pub fn delivered(transaction: &Transaction<'_>, event: &str, hook: &str, now: &Moment) -> Result<Option<Settled>> {
    transaction
        .prepare_cached(
            "UPDATE deliveries SET state = 'delivered', attempts = attempts + 1, reason = '' WHERE event = ?1 AND hook = ?2",
        )?
        .execute(params![event, hook])?;
    let Some(found) = state(transaction, event)? else { return Ok(None) };
    if found.state == EventState::Delivered {
        return Ok(None);
    }
    set_state(transaction, event, EventState::Delivered, now)?;
    if found.kind == EventKind::Cleared {
        return Ok(None);
    }
    transaction.prepare_cached("UPDATE events SET is_active = 1 WHERE id = ?1")?.execute([event])?;
    let cool_down = CoolDown { until: now.after(found.cool_down), length: found.cool_down, subject: found.subject };
    cool(transaction, &cool_down)?;
    Settled::read(transaction, cool_down.subject, now).map(Some)
}

/// Notes a failed attempt: the next one is due at `due_ms`, or there is none. `None`: no standing changed.
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
) -> Result<Option<Settled>> {
    let next = if due_ms.is_some() { DeliveryState::Queued } else { DeliveryState::Failed };
    transaction
        .prepare_cached(
            "UPDATE deliveries SET state = ?3, attempts = attempts + 1, reason = ?4, due_ms = coalesce(?5, due_ms) \
             WHERE event = ?1 AND hook = ?2",
        )?
        .execute(params![event, hook, next, reason, due_ms])?;
    if due_ms.is_some() { Ok(None) } else { end_if_nothing_waits(transaction, event, now) }
}

/// Ends the deliveries to hooks that are not configured any more.
///
/// # Errors
/// Those of SQLite.
pub fn fail_unknown_hooks(transaction: &Transaction<'_>, known: &[String], now: &Moment) -> Result<EndedDeliveries> {
    let mut statement = transaction.prepare(
        "SELECT event, hook FROM deliveries JOIN events ON id = event \
         WHERE deliveries.state = 'queued' AND events.state IN ('queued', 'held', 'delivered')",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let waiting: Vec<(String, String)> = rows.collect::<Result<_>>()?;
    let mut ended = EndedDeliveries::default();
    for (event, hook) in waiting.into_iter().filter(|(_, hook)| !known.contains(hook)) {
        transaction
            .prepare_cached("UPDATE deliveries SET state = 'failed', reason = ?3 WHERE event = ?1 AND hook = ?2")?
            .execute(params![event, hook, HOOK_REMOVED])?;
        ended.dead.extend(end_if_nothing_waits(transaction, &event, now)?);
        *ended.by_hook.entry(hook).or_default() += 1;
    }
    Ok(ended)
}

/// Ends queued events that no hook will get: none of their deliveries waits. Returns their subjects.
///
/// # Errors
/// Those of SQLite.
pub fn end_stranded(transaction: &Transaction<'_>, now: &Moment) -> Result<Vec<Settled>> {
    let mut statement = transaction.prepare(
        "SELECT id FROM events WHERE state = 'queued' \
         AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event = id AND deliveries.state = 'queued')",
    )?;
    let stranded: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_>>()?;
    let mut dead = Vec::new();
    for event in stranded {
        dead.extend(end_if_nothing_waits(transaction, &event, now)?);
    }
    Ok(dead)
}

/// Ends a queued event whose last delivery failed.
fn end_if_nothing_waits(transaction: &Transaction<'_>, event: &str, now: &Moment) -> Result<Option<Settled>> {
    let left: u32 = transaction
        .prepare_cached("SELECT count(*) FROM deliveries WHERE event = ?1 AND state <> 'failed'")?
        .query_row([event], |row| row.get(0))?;
    match state(transaction, event)? {
        Some(found) if left == 0 && found.state == EventState::Queued => {
            set_state(transaction, event, EventState::Dead, now)?;
            if found.kind != EventKind::Fired {
                return Ok(None);
            }
            Settled::read(transaction, found.subject, now).map(Some)
        }
        _ => Ok(None),
    }
}
