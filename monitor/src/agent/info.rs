//! Static facts of the running agent, for the status and the landing page.

use std::{path::PathBuf, sync::Arc};

use crate::config::Resolved;

/// Static facts of the running agent.
#[derive(Clone, Debug)]
pub struct AgentInfo {
    /// Node name.
    pub node: Arc<str>,
    /// Configuration file.
    pub config: Option<PathBuf>,
    /// Inspection depth.
    pub inspection: &'static str,
    /// What subscribers are charged on.
    pub evidence: &'static str,
    /// Where metrics are.
    pub listen: String,
    /// Whether `/metrics/subscribers` exists.
    pub subscriber_metrics: bool,
}

impl AgentInfo {
    /// Taken from a configuration.
    #[must_use]
    pub fn of(resolved: &Resolved) -> Self {
        Self {
            node: Arc::clone(&resolved.node),
            config: resolved.source.clone(),
            inspection: resolved.datapath.inspection.label(),
            evidence: resolved.evidence().label(),
            listen: resolved.listen.to_string(),
            subscriber_metrics: resolved.subscriber_metrics,
        }
    }
}
