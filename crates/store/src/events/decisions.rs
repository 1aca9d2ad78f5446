//! Decisions of people about events.

use rusqlite::{Result, Transaction, params};

use super::{
    CoolDown, Decision, EventKind, EventState, cool,
    deliveries::{HOOK_REMOVED, Settled},
    set_state, state,
};
use crate::clock::Moment;

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
    /// No hook that is configured would get the event.
    #[error(
        "event {id} cannot be {done}: none of its hooks ({}) is configured; configure one of them again, under the same \
         name{or}",
        hooks.join(", ")
    )]
    NoHook {
        /// The event.
        id: String,
        /// Hooks that would have to deliver it.
        hooks: Vec<String>,
        /// What was asked for.
        done: &'static str,
        /// Another next step, or empty.
        or: &'static str,
    },
}

/// What a decision changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// Hooks whose delivery is queued now.
    pub queued: Vec<String>,
    /// The standing that the decision gave; `None`: it changed none.
    pub settled: Option<Settled>,
}

/// Carries out a decision of a person, and records it. `known` are the hooks that are configured: only they deliver.
///
/// # Errors
/// Those of SQLite; the inner error says why the decision does not fit.
pub fn decide(
    transaction: &Transaction<'_>,
    id: &str,
    decision: Decision,
    user: &str,
    known: &[String],
    now: &Moment,
) -> Result<std::result::Result<Decided, Refusal>> {
    let Some(found) = state(transaction, id)? else { return Ok(Err(Refusal::Unknown(id.to_owned()))) };
    let refuse = |fits, done| Ok(Err(Refusal::State { id: id.to_owned(), state: found.state, fits, done }));
    let mut queued = Vec::new();
    match decision {
        Decision::Release | Decision::Redeliver => {
            let is_release = decision == Decision::Release;
            let (fits, done) = if is_release {
                ("held events", "released")
            } else {
                ("dead events, and delivered ones that a hook failed to deliver,", "redelivered")
            };
            let hooks = undelivered(transaction, id)?;
            let is_fitting = match found.state {
                EventState::Held => is_release,
                EventState::Dead | EventState::Delivered => !is_release && !hooks.is_empty(),
                _ => false,
            };
            if !is_fitting {
                return refuse(fits, done);
            }
            let (own, gone): (Vec<String>, Vec<String>) = hooks.into_iter().partition(|hook| known.contains(hook));
            if own.is_empty() {
                let or = if found.state == EventState::Delivered { "" } else { ", or discard the event" };
                return Ok(Err(Refusal::NoHook { id: id.to_owned(), hooks: gone, done, or }));
            }
            requeue(transaction, id, &own, now)?;
            end(transaction, id, &gone)?;
            if found.state != EventState::Delivered {
                set_state(transaction, id, EventState::Queued, now)?;
            }
            queued = own;
        }
        Decision::Discard => {
            if !matches!(found.state, EventState::Held | EventState::Dead) {
                return refuse("held and dead events", "discarded");
            }
            set_state(transaction, id, EventState::Discarded, now)?;
            // Without a cool-down, the subscriber would fire again with the next packet. A dead event ended before.
            if found.state == EventState::Held && found.kind == EventKind::Fired {
                let (length, subject) = (found.cool_down, found.subject.clone());
                cool(transaction, &CoolDown { until: now.after(length), length, subject })?;
            }
        }
    }
    transaction
        .prepare_cached("INSERT INTO decisions (time_ms, user, event, decision) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![now.wall_ms, user, id, decision])?;
    // A delivered event is over for its policy, however often it is delivered again; so is a dead one.
    let is_over =
        found.state == EventState::Delivered || decision == Decision::Discard && found.state == EventState::Dead;
    let settled = if is_over || found.kind != EventKind::Fired {
        None
    } else {
        Some(Settled::read(transaction, found.subject, now)?)
    };
    Ok(Ok(Decided { queued, settled }))
}

/// Hooks that an event waits for, or that failed to deliver it. Those of a delivered event that wait are on their way.
fn undelivered(transaction: &Transaction<'_>, event: &str) -> Result<Vec<String>> {
    let mut statement = transaction.prepare_cached(
        "SELECT hook FROM deliveries JOIN events ON id = event WHERE event = ?1 \
         AND (deliveries.state = 'failed' OR (deliveries.state = 'queued' AND events.state = 'held')) ORDER BY hook",
    )?;
    let rows = statement.query_map([event], |row| row.get(0))?;
    rows.collect()
}

/// Makes the deliveries to some hooks due now, with all attempts before them.
fn requeue(transaction: &Transaction<'_>, event: &str, hooks: &[String], now: &Moment) -> Result<()> {
    let mut statement = transaction.prepare_cached(
        "UPDATE deliveries SET state = 'queued', attempts = 0, due_ms = ?3 WHERE event = ?1 AND hook = ?2",
    )?;
    hooks.iter().try_for_each(|hook| statement.execute(params![event, hook, now.wall_ms]).map(drop))
}

/// Ends the deliveries to hooks that are not configured.
fn end(transaction: &Transaction<'_>, event: &str, hooks: &[String]) -> Result<()> {
    let mut statement = transaction.prepare_cached(
        "UPDATE deliveries SET state = 'failed', reason = ?3 WHERE event = ?1 AND hook = ?2 AND state = 'queued'",
    )?;
    hooks.iter().try_for_each(|hook| statement.execute(params![event, hook, HOOK_REMOVED]).map(drop))
}
