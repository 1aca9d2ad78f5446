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
    let agent = Agent::start(&lab, &executable()?, "drain_interval = \"500ms\"\n[metrics]\nsubscribers = true\n")?;
    let prometheus = Prometheus::start(&lab)?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), 2 * MEGABYTE)?;
    plain_exchange(lab.subscriber(1), lab.internet(), MEGABYTE)?;
    lab.settle()?;
    let bytes = agent.metrics()?.sum("peertally_traffic_bytes_total", &[("protocol", "bittorrent")]);
    lab::wait_for("the scraped counter", Duration::from_secs(30), Duration::from_millis(200), || {
        let values = prometheus.query("sum(peertally_traffic_bytes_total{protocol=\"bittorrent\"})")?;
        Ok(values == [bytes as f64] && bytes > 2 * MEGABYTE as u64)
    })?;
    ensure!(prometheus.query("up{job=\"peertally\"}")? == [1.0], "the scrape failed");
    for path in ["/metrics", "/metrics/subscribers"] {
        let (status, body) = agent.get(path)?;
        ensure!(status == 200, "{path} answers {status}");
        promtool_check(&body)?;
    }
    ensure!(agent.get("/livez")?.0 == 200 && agent.get("/readyz")?.0 == 200, "not alive or not ready");
    drop((prometheus, agent));
    lab.close()
}
