//! The record of the inspection depth and the watchlist: prepared before they come into force, written afterwards.

use std::{sync::Arc, time::Duration};

use monitor_common::abi::settings::InspectionDepth;

use super::{
    AgentState,
    audit::{Audit, AuditAction, AuditError, DepthChange, Prepared},
    record_counts::RecordKind,
};
use crate::config::Resolved;

/// Time between attempts to write the record.
const AUDIT_RETRY: Duration = Duration::from_secs(1);

/// Makes room for a record of the inspection depth, if it changes. Only the depth `watchlist` needs the record to
/// start.
///
/// # Errors
/// [`AuditError`], if the depth is `watchlist`.
pub fn prepare(resolved: &Resolved) -> Result<Option<Prepared>, AuditError> {
    let audit = Audit::new(&resolved.state_dir, resolved.rotation);
    let watching = resolved.datapath.inspection == InspectionDepth::Watchlist;
    let change = DepthChange {
        inspection: resolved.datapath.inspection.label().to_owned(),
        watchlist_entries: resolved.datapath.watchlist.count(),
        watchlist_digest: if watching { resolved.datapath.watchlist.digest.clone() } else { String::new() },
    };
    match audit.prepare(AuditAction::InForce, &change) {
        Ok(prepared) => Ok(prepared),
        Err(error) if watching => Err(error),
        // Looking less deep needs no record to be safe, and must not fail for the lack of one.
        Err(error) => {
            tracing::warn!(%error, "cannot record the inspection depth");
            Ok(None)
        }
    }
}

/// Records the inspection depth, now that it is in force. The record has its space; a disk that fails all the same is
/// tried again until it takes it.
pub async fn record(mut prepared: Prepared, state: Arc<AgentState>) {
    while let Err(error) = prepared.commit() {
        state.records.set_waiting(RecordKind::Audit, 1);
        if state.records.failed(RecordKind::Audit, error.to_string()) {
            tracing::error!(%error, "cannot record the inspection depth that is in force; will retry");
        }
        tokio::time::sleep(AUDIT_RETRY).await;
    }
    state.records.set_waiting(RecordKind::Audit, 0);
    state.records.written(RecordKind::Audit, 1, 0);
    let was_failing = state.records.recovered(RecordKind::Audit);
    let DepthChange { inspection, watchlist_entries, .. } = prepared.change();
    tracing::warn!(
        depth = inspection,
        entries = watchlist_entries,
        was_failing,
        "the inspection depth changed; the audit file records it"
    );
}
