//! Decisions of a person about events, on the control socket: `POST /events/ID/release`, `discard` or `redeliver`.

use axum::{
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use peertally_store::events::{Decision, EventState, Refusal};
use serde::Deserialize;

use super::HttpContext;
use crate::{agent::AgentState, deliver::book::DecisionError};

/// Events that wait for a person.
pub(super) fn held(state: &AgentState) -> u64 {
    state.kept().map_or(0, |kept| kept.book.count(EventState::Held))
}

/// Who decides.
#[derive(Deserialize)]
pub(super) struct Decider {
    #[serde(default)]
    user: String,
}

pub(super) async fn decide(
    State(context): State<HttpContext>,
    Path((id, decision)): Path<(String, String)>,
    Query(decider): Query<Decider>,
) -> Response {
    let Some(decision) = Decision::ALL.iter().copied().find(|each| each.label() == decision) else {
        let text = "this is no decision; use release, discard or redeliver\n";
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let Some(book) = context.state.kept().map(|kept| kept.book.clone()) else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the agent is starting\n").into_response();
    };
    let user = if decider.user.is_empty() { "unknown".to_owned() } else { decider.user };
    match tokio::task::spawn_blocking(move || book.decide(&id, decision, &user)).await {
        Ok(Ok(_)) => "done\n".into_response(),
        Ok(Err(error)) => {
            let status = match &error {
                DecisionError::Refused(Refusal::Unknown(_)) => StatusCode::NOT_FOUND,
                DecisionError::Refused(Refusal::State { .. } | Refusal::NoHook { .. }) => StatusCode::CONFLICT,
                DecisionError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (status, format!("{error}\n")).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
