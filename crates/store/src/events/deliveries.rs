//! Deliveries: what waits for a hook, and how an attempt ended.

use rusqlite::{Connection, OptionalExtension as _, Result, Transaction, params};

use super::{CoolDown, DeliveryState, EventKind, EventState, Subject, cool, set_state, state};
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
