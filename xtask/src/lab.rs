//! `cargo xtask lab`: real clients between namespaces; the agent's labels are compared with ground truth.
//!
//! Each scenario has a lab of its own: a subscriber with the client, a router with the agent, an internet with
//! its counterparts. Touches nothing of the machine's own network and removes what it made, also on Ctrl-C. Fails if a
//! scenario misses its expectation or cannot run.

use std::{
    path::PathBuf,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use peertally_lab::{self as lab, Scenario, ScenarioOutcome, Share};

use crate::{
    live_run::{agent_to_run, end_on_signals},
    setup::{self, Need, is_root},
};

/// Arguments of `lab`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only these clients, or scenarios (CLIENT-MODE-IPVERSION); all when none is given
    #[arg(value_name = "CLIENT")]
    pub clients: Vec<String>,
    /// List the scenarios and exit
    #[arg(long)]
    pub list: bool,
    /// Save the router's traffic as SCENARIO.pcap here
    #[arg(long, value_name = "DIR")]
    pub capture: Option<PathBuf>,
    /// Number of scenarios to run in parallel
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    pub jobs: usize,
    /// Use this `peertally` instead of building one
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
}

/// Runs the chosen scenarios.
///
/// # Errors
/// One of them falls short, or cannot be played.
pub fn run(arguments: &Arguments) -> Result<()> {
    let scenarios = chosen(lab::scenarios(), &arguments.clients)?;
    if arguments.list {
        for scenario in &scenarios {
            println!("{:36} expected: {}", scenario.name(), scenario.expected);
        }
        return Ok(());
    }
    ensure!(
        is_root(),
        "the lab makes network namespaces and loads an XDP program, and needs root: run `sudo -E cargo xtask lab`"
    );
    setup::ensure(&[Need::Lab])?;
    let binary = agent_to_run(arguments.binary.as_deref())?;
    let interrupted = end_on_signals()?;
    println!(
        "\n{:14}{:16}{:6}{:>10}{:>9}{:>9}{:>12}  {:14}{:>5}  verdict",
        "client", "mode", "ip", "P2P bytes", "labelled", "then", "no payload", "expected", "s"
    );
    let start = Instant::now();
    let mut short = 0;
    lab::play_all(&scenarios, arguments.jobs, &binary, arguments.capture.as_deref(), |scenario, result| {
        if !report(scenario, result) {
            short += 1;
        }
    });
    if interrupted.load(Ordering::Relaxed) {
        bail!("interrupted; everything was removed");
    }
    println!(
        "\n{} scenarios in {} s. `labelled`: share of the P2P bytes with a P2P label. `then`: the same after the first \
         transfer,\nfrom when on the client is known. `no payload`: IP bytes of connections that were refused or not \
         answered.",
        scenarios.len(),
        seconds(start.elapsed()),
    );
    ensure!(short == 0, "{short} of {} scenarios fell short", scenarios.len());
    Ok(())
}

/// Scenarios of the named clients, and those named themselves.
fn chosen(scenarios: Vec<Scenario>, names: &[String]) -> Result<Vec<Scenario>> {
    let is = |scenario: &Scenario, name: &str| scenario.client == name || scenario.name() == name;
    for name in names {
        ensure!(
            scenarios.iter().any(|scenario| is(scenario, name)),
            "no client or scenario is called {name}: see `cargo xtask lab --list`"
        );
    }
    Ok(scenarios
        .into_iter()
        .filter(|scenario| names.is_empty() || names.iter().any(|name| is(scenario, name)))
        .collect())
}

/// Prints the row of one scenario; whether it met its expectation.
fn report(scenario: &Scenario, result: Result<ScenarioOutcome>) -> bool {
    let head = format!("{:14}{:16}{:6}", scenario.client, scenario.mode, scenario.ip.to_string());
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(error) => {
            println!("{head}NOT PLAYED: {error:#}");
            return false;
        }
    };
    let judged = outcome.judge(scenario);
    let then = outcome.after_mark.map_or_else(|| "-".to_owned(), percent);
    println!(
        "{head}{:>10}{:>9}{then:>9}{:>12}  {:14}{:>5}  {}",
        outcome.overall.p2p,
        percent(outcome.overall),
        outcome.bare_bytes,
        scenario.expected.to_string(),
        seconds(outcome.time),
        if judged.is_ok() { "ok" } else { "SHORT" }
    );
    details(&outcome);
    if let Err(error) = &judged {
        println!("    {}", format!("{error:#}").lines().next().unwrap_or_default());
    }
    judged.is_ok()
}

fn details(outcome: &ScenarioOutcome) {
    let labels =
        outcome.labels.iter().map(|((protocol, confidence), bytes)| format!("{protocol}/{confidence} {bytes}"));
    let labels = labels.collect::<Vec<_>>().join(", ");
    println!("    {}", if labels.is_empty() { "no label" } else { &labels });
    if outcome.unanswered > 0 {
        println!("    {} bytes with a label count for no subscriber", outcome.unanswered);
    }
    for flow in &outcome.unlabelled {
        println!("    unlabelled: {flow}");
    }
}

/// Rounded down: 100 % means all.
fn percent(share: Share) -> String {
    format!("{:.1} %", (share.value() * 1000.0).floor() / 10.0)
}

fn seconds(time: Duration) -> String {
    time.as_secs().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_by_client_and_by_name() {
        let all = lab::scenarios();
        let count = all.len();
        let names =
            |names: &[&str]| chosen(all.clone(), &names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert_eq!(names(&[]).expect("all").len(), count);
        assert!(names(&["aria2"]).expect("a client").iter().all(|scenario| scenario.client == "aria2"));
        assert_eq!(names(&["aria2-tcp-plain-ipv4"]).expect("a scenario").len(), 1);
        assert!(names(&["no-such"]).is_err());
    }
}
