//! `policies test` beside a running agent and without one.

use super::{Seen, configuration, configuration_text, start};
use crate::verbs::{
    Format,
    policies::{self, PoliciesCommand, TestArgs},
};

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_tested_beside_an_agent_and_without_one() {
    let directory = tempfile::tempdir().expect("directory");
    let path = |name: &str| directory.path().join(name);
    let policy = |threshold: &str| {
        format!("[[policies]]\nname = \"new\"\nthreshold = \"{threshold}\"\nwindow = \"1h\"\ncool_down = \"1h\"\n")
    };
    let files = [("low.toml", "1 kB"), ("high.toml", "900 GB")].map(|(name, threshold)| {
        let file = path(name);
        std::fs::write(&file, configuration_text(directory.path()) + &policy(threshold)).expect("written");
        file
    });
    let test = |file: &std::path::Path| {
        let args = TestArgs { config: Some(file.to_owned()), since: None, format: Format::Json };
        let text = policies::main(&PoliciesCommand::Test(args)).expect("tested");
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON")
    };
    // The agent has no policy: its history is enough.
    let running = start(configuration(directory.path(), ""), Seen { bytes: 2000, ..Seen::default() }).await;
    running.wait_for("/metrics", "peertally_history_measures 1\n").await;
    let beside = test(&files[0]);
    running.stop().await.0.expect("a clean end");
    for tested in [beside, test(&files[0])] {
        let fired = tested["fired"].as_array().expect("a list");
        assert_eq!(fired.len(), 1, "{tested}");
        assert!(fired[0]["value"].as_u64() >= fired[0]["threshold"].as_u64(), "{tested}");
        assert!(!tested.to_string().contains("10.0.0.1"), "pseudonyms only");
        assert!(tested["policies"][0]["whole_since"].is_null(), "the history is younger than the window");
    }
    assert_eq!(test(&files[1])["fired"].as_array().map(Vec::len), Some(0));
}
