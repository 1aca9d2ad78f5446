//! A real Prometheus on the router that scrapes the agent, and promtool's check of the exposition.

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{Lab, agent::LISTEN, http::http_get, process::Process, wait::wait_for};

const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

/// A Prometheus server that scrapes the agent every second.
#[derive(Debug)]
pub struct Prometheus<'a> {
    lab: &'a Lab,
    _process: Process,
}

impl<'a> Prometheus<'a> {
    /// Starts it on the router.
    ///
    /// # Errors
    /// Prometheus does not start.
    pub fn start(lab: &'a Lab) -> Result<Self> {
        let directory = lab.subdirectory("prometheus")?;
        let configuration = directory.join("prometheus.yml");
        fs::write(
            &configuration,
            format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: peertally\n  static_configs: [{{targets: ['{LISTEN}']}}]\n"
            ),
        )?;
        let mut command = lab.router().command("prometheus");
        command.arg(format!("--config.file={}", configuration.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.join("data").display()));
        command.arg(format!("--web.listen-address={ADDRESS}"));
        let mut process = Process::spawn("prometheus", &directory, &mut command)?;
        wait_for("Prometheus", Duration::from_secs(60), Duration::from_millis(100), || {
            process.ensure_running()?;
            Ok(http_get(lab.router(), ADDRESS, "/-/ready").is_ok_and(|(status, _)| status == 200))
        })?;
        Ok(Self { lab, _process: process })
    }

    /// Evaluates an expression; gives the value of each series.
    ///
    /// # Errors
    /// Prometheus refuses it.
    pub fn query(&self, expression: &str) -> Result<Vec<f64>> {
        let escaped: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (status, body) = http_get(self.lab.router(), ADDRESS, &format!("/api/v1/query?query={escaped}"))?;
        ensure!(status == 200, "Prometheus answers {status} to `{expression}`: {body}");
        let answer: serde_json::Value = serde_json::from_str(&body).context("Prometheus' JSON")?;
        let series = answer["data"]["result"].as_array().context("a list of series")?;
        series
            .iter()
            .map(|one| one["value"][1].as_str().and_then(|value| value.parse().ok()).context("a value"))
            .collect()
    }
}

/// Passes an exposition to `promtool check metrics`; complaints are the error.
///
/// # Errors
/// promtool has complaints.
pub fn promtool_check(exposition: &str) -> Result<()> {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start promtool")?;
    promtool.stdin.take().context("a pipe")?.write_all(exposition.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success() && text.trim().is_empty(), "promtool check metrics: {text}");
    Ok(())
}
