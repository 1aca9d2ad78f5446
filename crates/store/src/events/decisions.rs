//! Decisions of people about events.

use rusqlite::{Result, Transaction, params};

use super::{CoolDown, Decision, DeliveryState, EventKind, EventState, Subject, cool, set_state, state};
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
