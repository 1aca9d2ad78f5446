//! A policy fires on real traffic and its hooks get the event; hooks that hang, fail or do not listen harm nothing.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use peertally_lab::{self as lab, Agent, HttpServer, Lab, bittorrent_exchange, plain_exchange};
use peertally_tests::executable;

const MEGABYTE: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

fn policy(hooks: &[&str]) -> String {
    format!(
        "drain_interval = \"200ms\"\n[[policies]]\nname = \"much\"\nprotocols = [\"bittorrent\"]\nthreshold = \"2 MB\"\n\
         window = \"1m\"\nhooks = {hooks:?}\n"
    )
}

#[test]
fn hooks_get_the_event() -> Result<()> {
    if !lab::require("hooks_get_the_event", &[]) {
        return Ok(());
    }
    let lab = Lab::new(2)?;
    let file = lab.directory().join("event.json");
    // The first answer is an error: the second attempt brings the same event.
    let receiver = HttpServer::start(lab.router(), ([127, 0, 0, 1], 0).into(), |number| {
        Some(if number == 0 { 503 } else { 204 })
    })?;
    let hooks = format!(
        "[[hooks]]\nname = \"file\"\nexec = [\"/usr/bin/tee\", \"-a\", {file:?}]\n\
         [[hooks]]\nname = \"web\"\nretry_delay = \"100ms\"\nsubscriber = \"both\"\n[hooks.webhook]\nurl = \"http://{}/notify\"\n",
        receiver.address()
    );
    let agent = Agent::start(&lab, &executable()?, &(policy(&["file", "web"]) + &hooks))?;
    // As much traffic of no protocol fires nothing, nor does less than the threshold.
    plain_exchange(lab.subscriber(1), lab.internet(), 4 * MEGABYTE)?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), MEGABYTE)?;
    bittorrent_exchange(lab.subscriber(2), lab.internet(), 3 * MEGABYTE)?;
    lab::wait_for("both deliveries", PATIENCE, PAUSE, || {
        Ok(receiver.requests().len() >= 2 && fs::read_to_string(&file).is_ok_and(|text| text.trim_end().ends_with('}')))
    })
    .with_context(|| format!("{:?}", receiver.requests()))?;
    let written: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file)?).context("one event")?;
    let requests = receiver.requests();
    ensure!(requests.len() == 2 && requests[0].body == requests[1].body, "{requests:?}");
    ensure!(requests[0].target == "POST /notify", "{requests:?}");
    let sent: serde_json::Value = serde_json::from_str(&requests[1].body)?;
    ensure!(sent["id"] == written["id"], "two events: {sent} and {written}");
    for event in [&sent, &written] {
        ensure!(event["policy"] == "much" && event["subscriber"]["block"] == "100.64.2.2/32", "{event}");
        ensure!(event["value"].as_u64().is_some_and(|value| value >= 2_000_000), "{event}");
        ensure!(event["protocols"][0]["protocol"] == "bittorrent", "{event}");
        ensure!(event["protocols"][0]["confidence"] == "signature", "{event}");
        ensure!(event["remotes"]["estimate"] == 1 && event["remotes"]["standard_error"] == 1, "{event}");
    }
    drop(agent);
    lab.close()
}

#[test]
fn bad_hooks_harm_nothing() -> Result<()> {
    if !lab::require("bad_hooks_harm_nothing", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let file = lab.directory().join("event.json");
    let silent = HttpServer::start(lab.router(), ([127, 0, 0, 1], 0).into(), |_| None)?;
    let failing = HttpServer::start(lab.router(), ([127, 0, 0, 1], 0).into(), |_| Some(500))?;
    let missing = lab.directory().join("no-such-program");
    let hooks = format!(
        r#"
[[hooks]]
name = "hangs"
exec = ["/bin/sh", "-c", "sleep 600"]
timeout = "1s"
[[hooks]]
name = "fails"
retries = 1
retry_delay = "50ms"
[hooks.exec]
command = ["/bin/false"]
[[hooks]]
name = "deaf"
exec = ["/bin/true"]
[[hooks]]
name = "missing"
exec = [{missing:?}]
[[hooks]]
name = "silent"
webhook = "http://{}/"
timeout = "1s"
retries = 1
retry_delay = "50ms"
[[hooks]]
name = "failing"
webhook = "http://{}/"
retries = 2
retry_delay = "50ms"
[[hooks]]
name = "good"
exec = ["/usr/bin/tee", {file:?}]
"#,
        silent.address(),
        failing.address()
    );
    let names = ["hangs", "fails", "deaf", "missing", "silent", "failing", "good"];
    let mut agent = Agent::start(&lab, &executable()?, &(policy(&names) + &hooks))?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), 3 * MEGABYTE)?;
    lab::wait_for("the good hook's event", PATIENCE, PAUSE, || {
        Ok(fs::read_to_string(&file).is_ok_and(|text| text.trim_end().ends_with('}')))
    })?;
    // Each bad hook is counted as such, and the agent goes on counting.
    let bad = ["hangs", "fails", "missing", "silent", "failing"];
    lab::wait_for("counted failures", PATIENCE, PAUSE, || {
        let metrics = agent.metrics()?;
        Ok(bad.iter().all(|hook| metrics.sum("peertally_hook_failures_total", &[("hook", hook)]) > 0))
    })
    .with_context(|| agent.get("/metrics").map(|(_, body)| body).unwrap_or_default())?;
    ensure!(failing.requests().len() == 3, "{} attempts of 3", failing.requests().len());
    let before = agent.node_totals()?.packets;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), MEGABYTE)?;
    lab::wait_for("further counting", PATIENCE, PAUSE, || Ok(agent.node_totals()?.packets > before + 700))?;
    ensure!(agent.get("/readyz")?.0 == 200, "not ready any more");
    // The program that hung is gone with all it started.
    lab::wait_for("end of the hanging hook", PATIENCE, PAUSE, || {
        let pids = lab::output(std::process::Command::new("ip").args(["netns", "pids", lab.router().name()]))?;
        let text = String::from_utf8_lossy(&pids.stdout).into_owned();
        let names = text.lines().map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default());
        Ok(!names.into_iter().any(|name| name.trim() == "sleep"))
    })?;
    ensure!(agent.process().terminate(PATIENCE)?.success(), "{}", agent.process().log());
    drop(agent);
    lab.close()
}
