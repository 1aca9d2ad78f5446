//! The two metrics endpoints over a snapshot of many subscribers, without the network: the text is the cost.

use std::{fmt::Write as _, hint::black_box, path::Path, time::Duration};

use anyhow::Result;
use monitor_common::abi::settings::InspectionDepth;
use peertally::{
    agent::{AgentState, pseudonym_key},
    config::{self, Overrides},
    export::{
        collector::{Exposition, drain_histogram},
        subscribers::{self, Shard},
    },
    listen::encoding::Encoding,
};
use peertally_core::{analysis::Analysis, words::Evidence};
use serde_json::{Value, json};

use crate::{clock::cpu_time, median, ms, snapshot::snapshot};

/// Subscribers with one tally each.
const SUBSCRIBERS: u32 = 100_000;
/// Runs; the median is taken over them.
const RUNS: usize = 5;

/// Times both endpoints.
pub(crate) fn measure() -> Result<Value> {
    let snapshot = snapshot(SUBSCRIBERS);
    let folder = tempfile::tempdir()?;
    let pseudonyms = pseudonym_key::open(&folder.path().join("key"))?;
    let per_subscriber = |encoding: Encoding| {
        runs(|| {
            let (mut bytes, mut writer) = (0, encoding.writer());
            subscribers::write(&snapshot, &pseudonyms, Shard::ALL, |piece| {
                bytes += writer.piece(piece).expect("memory does not fail").map_or(0, |encoded| encoded.len());
                true
            });
            bytes + writer.finish().expect("memory does not fail").len()
        })
    };
    let (written, compressed) = (per_subscriber(Encoding::Identity), per_subscriber(Encoding::Gzip));
    let resolved = config::parse(Path::new("bench.toml"), "", &Overrides::default())?;
    let state = AgentState::new(InspectionDepth::Framing, Evidence::Answered, Vec::new(), drain_histogram());
    let (published, _events) = Analysis::new(resolved.analysis_options(), pseudonyms).take(snapshot, Default::default);
    state.publish(published);
    let exposition = Exposition::new(state);
    let node = runs(|| exposition.text().len());
    let per_subscriber = plain(written.1);
    let mut compressed = row("/metrics/subscribers", compressed, per_subscriber);
    compressed["encoding"] = json!("gzip");
    Ok(json!([row("/metrics", node, plain(node.1)), row("/metrics/subscribers", written, per_subscriber), compressed]))
}

/// Time to write lines of the same form and length in all, of nothing that had to be looked up.
fn plain(bytes: usize) -> Duration {
    let (took, _) = runs(|| {
        let (mut line, mut written, mut number) = (String::new(), 0, 0u64);
        while written < bytes {
            line.clear();
            number += 1;
            let (subscriber, value) = (number << 20, number * 1400);
            let _cannot_fail =
                writeln!(line, "plain_bytes_total{{subscriber=\"{subscriber:016x}\",direction=\"up\"}} {value}");
            written += black_box(&line).len();
        }
        written
    });
    took
}

fn runs(mut run: impl FnMut() -> usize) -> (Duration, usize) {
    let mut times = Vec::new();
    let mut bytes = 0;
    for _ in 0..RUNS {
        let start = cpu_time();
        bytes = run();
        times.push(cpu_time() - start);
    }
    (median(times), bytes)
}

fn row(endpoint: &str, (time, bytes): (Duration, usize), reference: Duration) -> Value {
    json!({
        "endpoint": endpoint,
        "subscribers": SUBSCRIBERS,
        "ms": ms(time),
        "reference_ms": ms(reference),
        "bytes": bytes,
    })
}
