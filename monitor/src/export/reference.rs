//! Generates `docs/metrics.md` from the metric definitions and checks that the committed one is current.

use std::fmt::Write;

use peertally_core::analysis::node::MAX_ROWS;

use super::definitions::ALL;
use crate::generated::assert_current;

#[test]
fn the_documented_table_is_current() {
    let mut out = format!(
        "# Metrics\n\n\
         Generated from `monitor/src/export/definitions.rs` by `UPDATE_DOCS=1 cargo test -p monitor`; a test fails when it is not current. Another\n\
         test compares it with a scrape.\n\n\
         `/metrics` shows the last drain and its age, so a scrape costs the kernel nothing. Counters never go down while the kernel's tables exist,\n\
         not even over restarts of the agent. Subscribers appear under keyed pseudonyms only.\n\n\
         Series of `/metrics` are bounded: {MAX_ROWS} rows of interface, direction and verdict, with the rest under interface `other`,\n\
         `metrics.top_k` x protocols x 2 for the top subscribers, and a fixed number for each hook, policy, table, reason, event and interface.\n\
         `/metrics/subscribers` exists only with `metrics.subscribers = true`; `?shard=i/n` gives a fixed part of the subscribers.\n\
         Both endpoints are compressed for clients that accept gzip.\n\n\
         `/livez` answers 200 while the agent's drain loop runs. `/readyz` answers 200 after the first drain, as long as the program is\n\
         attached to every interface. Further lines do not make it less ready: packets that are [shed](architecture.md#shedding), events that wait for a\n\
         person, records that cannot be written, and tables that are nearly full.\n",
    );
    for endpoint in ["/metrics", "/metrics/subscribers"] {
        let _infallible =
            write!(out, "\n## `{endpoint}`\n\n| name | type | unit | labels | meaning |\n|---|---|---|---|---|\n");
        for each in ALL.iter().filter(|each| each.endpoint == endpoint) {
            let labels: Vec<String> = each.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, kind, unit, help) = (each.name, each.kind.label(), each.unit, each.help);
            let _infallible = writeln!(out, "| `{name}` | {kind} | {unit} | {} | {help} |", labels.join(", "));
        }
    }
    assert_current("docs/metrics.md", &out);
}
