//! `cargo xtask demo`: the main job on real traffic, from an empty machine to a result a person can read.
//!
//! Three subscribers, a router and an internet, each in a network namespace. `peertally run` watches the router while
//! real clients transfer a file by BitTorrent while ordinary web traffic runs. Touches nothing of the machine's own
//! network and removes what it made, also on Ctrl-C. Fails when BitTorrent was not seen, when ordinary traffic was
//! labelled, when the counts do not agree with the kernel's and the clients' own, or when anything stays on the
//! machine.

mod live;
mod participants;
mod report;
mod verdict;

use std::{
    io::Write as _,
    path::PathBuf,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use peertally_lab::{self as lab, Agent, HttpServer, LISTEN, Lab};

use crate::{
    live_run::{agent_to_run, end_on_signals},
    setup::{self, Need, is_root},
};
use participants::Participants;

/// Longest time from the start of the transfers to the report.
const LONGEST: Duration = Duration::from_secs(75);
/// Shortest, so that there is something to watch.
const SHORTEST: Duration = Duration::from_secs(12);
/// IP bytes of P2P protocol traffic within a minute at which the demonstration's policy fires.
const THRESHOLD_MEGABYTES: u64 = 10;

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Use this `peertally` instead of building one
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
}

/// Runs the demonstration.
///
/// # Errors
/// A step failed; the message names it.
pub fn run(arguments: &Arguments) -> Result<()> {
    ensure!(
        is_root(),
        "the demonstration makes network namespaces and loads an XDP program, and needs root: run `sudo -E cargo xtask demo`"
    );
    step(1, "Install what is missing");
    setup::ensure(&[Need::Demo])?;
    step(2, "Build peertally (release)");
    let binary = agent_to_run(arguments.binary.as_deref())?;
    // From here on there is something to remove. Before, a signal ends the demonstration as it ends any program.
    let interrupted = end_on_signals()?;
    step(3, "Make the network: three subscribers, a router, an internet");
    let lab = Lab::new(3)?;
    println!("  namespaces {0}-s1, {0}-s2, {0}-s3, {0}-rtr, {0}-net; nothing outside them is touched", lab.name());
    let shown = show(&lab, &binary);
    if let Err(error) = &shown {
        println!("\nSTOPPED: {error:#}");
    }
    step(6, "Clean up");
    lab.close().context("clean up")?;
    println!("  processes ended, namespaces, XDP programs and scratch files removed");
    if interrupted.load(Ordering::Relaxed) {
        bail!("interrupted; everything was removed");
    }
    shown
}

fn step(number: u8, text: &str) {
    println!("\n[{number}/6] {text}");
}

/// The demonstration proper, in a network that the caller removes.
fn show(lab: &Lab, binary: &std::path::Path) -> Result<()> {
    step(4, "Start the clients and servers");
    let mut participants = Participants::assemble(lab)?;
    let event_file = lab.directory().join("event.json");
    let webhook = HttpServer::start(lab.router(), ([127, 0, 0, 1], 0).into(), |_| Some(204))?;
    let configuration = format!(
        r#"drain_interval = "1s"
on_exit = "detach"

[metrics]
subscribers = true

[[policies]]
name = "demo"
protocols = ["bittorrent"]
metric = "bytes"
threshold = "{THRESHOLD_MEGABYTES} MB"
window = "1m"
hooks = ["to-file", "to-web"]

[[hooks]]
name = "to-file"
exec = ["/usr/bin/tee", "-a", {event_file:?}]

[[hooks]]
name = "to-web"
webhook = "http://{}/p2p"
"#,
        webhook.address()
    );
    let mut agent = Agent::start(lab, binary, &configuration)?;
    let before = lab.router().counters()?;
    println!("  router     peertally run, native XDP on {}", lab.interfaces().join(", "));
    println!("  look in    nsenter --net={} curl -s http://{LISTEN}/metrics", lab.router().path().display());
    step(5, "Watch: two subscribers transfer a file by BitTorrent, two browse the web");
    println!("  BitTorrent starts slowly: clients let each other in every ten seconds");
    let start = Instant::now();
    participants.play(|participants| {
        let mut screen = live::Screen::new();
        lab::wait_for("complete transfers and an event", LONGEST, Duration::from_secs(1), || {
            agent.process().ensure_running()?;
            let subscribers = agent.subscribers()?;
            let events = webhook.requests().len();
            screen.show(start.elapsed(), &subscribers, participants, events);
            std::io::stdout().flush()?;
            Ok(start.elapsed() >= SHORTEST && events > 0 && event_file.exists() && participants.complete()?)
        })
    })?;
    let reported = participants.leave()?;
    let result = report::gather(lab, &agent, &before, reported, &event_file, &webhook)?;
    report::print(&result);
    println!("  /metrics   was at http://{LISTEN}/metrics on the router; the first lines of what it said last:");
    report::print_metrics(&agent)?;
    let status = agent.process().terminate(Duration::from_secs(20))?;
    ensure!(status.success(), "the agent did not end well ({status}): {}", agent.process().log());
    verdict::give(&verdict::findings(&result))
}
