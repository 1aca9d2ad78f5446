//! A real Prometheus scrapes the agent, and promtool finds nothing to complain about.

use std::time::Duration;

use anyhow::{Result, ensure};
use peertally_lab::{self as lab, Agent, Lab, Prometheus, bittorrent_exchange, plain_exchange, promtool_check};
use peertally_tests::executable;

const MEGABYTE: usize = 1 << 20;

#[test]
fn prometheus_scrapes_the_agent() -> Result<()> {
    if !lab::require("prometheus_scrapes_the_agent", &["prometheus", "promtool"]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let toml = "drain_interval = \"500ms\"\n[metrics]\nsubscribers = true\n";
    let (agent, before) = Agent::start_before_traffic(&lab, &executable()?, toml)?;
    let prometheus = Prometheus::start(&lab)?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), 2 * MEGABYTE)?;
    plain_exchange(lab.subscriber(1), lab.internet(), MEGABYTE)?;
    lab.settle()?;
    agent.settled(&before)?;
    let bytes = agent.metrics()?.sum("peertally_traffic_bytes_total", &[("protocol", "bittorrent")]);
    ensure!(bytes > 2 * MEGABYTE as u64, "{bytes} bytes of BitTorrent");
    lab::wait_for("the scraped counter", Duration::from_secs(30), Duration::from_millis(200), || {
        Ok(prometheus.query("sum(peertally_traffic_bytes_total{protocol=\"bittorrent\"})")? == [bytes as f64])
    })?;
    // A scrape that took longer than its second on a busy machine is followed by one that does not.
    lab::wait_for("a good scrape", Duration::from_secs(30), Duration::from_millis(200), || {
        Ok(prometheus.query("up{job=\"peertally\"}")? == [1.0])
    })?;
    for path in ["/metrics", "/metrics/subscribers"] {
        let (status, body) = agent.get(path)?;
        ensure!(status == 200, "{path} answers {status}");
        promtool_check(&body)?;
    }
    ensure!(agent.get("/livez")?.0 == 200 && agent.get("/readyz")?.0 == 200, "not alive or not ready");
    drop((prometheus, agent));
    lab.close()
}
