//! Options that other rooms take from a resolved configuration, each record made in one place.

use std::sync::Arc;

use peertally_core::{analysis::AnalysisOptions, policy::event::EventSource, words::Evidence};

use super::Resolved;

impl Resolved {
    /// Options of the analysis of drains.
    #[must_use]
    pub fn analysis_options(&self) -> AnalysisOptions {
        AnalysisOptions {
            policies: self.policies.clone(),
            top_k: self.top_k,
            source: EventSource {
                node: Arc::clone(&self.node),
                inspection: self.datapath.inspection,
                evidence: self.evidence(),
            },
        }
    }

    /// What subscribers are charged on.
    #[must_use]
    pub const fn evidence(&self) -> Evidence {
        Evidence::of(self.datapath.one_way)
    }
}
