//! Options that other rooms take from a resolved configuration, each record made in one place.

use std::sync::Arc;

use peertally_core::analysis::AnalysisOptions;

use super::Resolved;

impl Resolved {
    /// Options of the analysis of drains.
    #[must_use]
    pub fn analysis_options(&self) -> AnalysisOptions {
        AnalysisOptions {
            policies: self.policies.clone(),
            top_k: self.top_k,
            node: Arc::clone(&self.node),
            inspection: self.datapath.inspection,
        }
    }
}
