//! Crowds at the agent's doors, under a low limit of open files: idle connections, readers that stop, and users who may
//! not ask. Scrapes go on, and the core loses nothing.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use peertally_lab::{self as lab, Agent, LISTEN, Lab, bittorrent_exchange};
use peertally_tests::executable;

const MEGABYTE: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);
/// Files that the agent may open: far fewer than there are idle connections.
const FILES: u64 = 320;
/// Idle connections, as many as would take every descriptor of systemd's default limit.
const IDLE: usize = 1_015;

fn connect(lab: &Lab) -> Result<TcpStream> {
    lab.router().inside(|| TcpStream::connect_timeout(&LISTEN, PATIENCE).context("connect"))
}

#[test]
fn idle_connections_and_readers_that_stop_keep_nobody_out() -> Result<()> {
    if !lab::require("idle_connections_and_readers_that_stop_keep_nobody_out", &["prlimit"]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let file = lab.directory().join("event.json");
    let toml = format!(
        "drain_interval = \"200ms\"\n[metrics]\nsubscribers = true\n\
         [[policies]]\nname = \"much\"\nprotocols = [\"bittorrent\"]\nthreshold = \"2 MB\"\nwindow = \"1m\"\nhooks = [\"file\"]\n\
         [[hooks]]\nname = \"file\"\nexec = [\"/usr/bin/tee\", {file:?}]\n"
    );
    let mut agent = Agent::start_with_files(&lab, &executable()?, &toml, FILES)?;
    let mut idle = Vec::new();
    for number in 0..IDLE {
        let mut stream = connect(&lab)?;
        if number % 2 == 0 {
            // Half a request is no more than none. The agent may have closed the connection before.
            let _closed = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost:");
        }
        idle.push(stream);
    }
    for _ in 0..20 {
        ensure!(agent.get("/metrics")?.0 == 200, "a scrape fails");
    }
    // The core opens what it needs: a netlink socket for each drain, pipes for a hook.
    bittorrent_exchange(lab.subscriber(1), lab.internet(), 3 * MEGABYTE)?;
    lab::wait_for("the event", PATIENCE, PAUSE, || {
        Ok(fs::read_to_string(&file).is_ok_and(|text| text.trim_end().ends_with('}')))
    })
    .with_context(|| agent.process().log())?;
    ensure!(agent.get("/readyz")?.0 == 200, "not ready");
    let metrics = agent.metrics()?;
    let given_up = |reason: &str| {
        metrics.sum("peertally_connections_given_up_total", &[("listener", "metrics"), ("reason", reason)])
    };
    ensure!(given_up("displaced") > 0, "no idle connection made room");
    ensure!(given_up("no_descriptor") == 0, "the process ran out of descriptors");
    ensure!(metrics.sum("peertally_hook_dropped_total", &[]) == 0, "an event was lost");
    let log = agent.process().log();
    ensure!(!log.contains("detached by something else") && !log.contains("Too many open files"), "{log}");
    drop(idle);
    drop(agent);
    lab.close()
}

/// Subscribers with a row: more text than the kernel's buffers of a connection take.
const SUBSCRIBERS: u32 = 20_000;
const ALL_SUBSCRIBERS: &[u8] = b"GET /metrics/subscribers HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn readers_that_stop_are_given_up_and_keep_root_from_nothing() -> Result<()> {
    if !lab::require("readers_that_stop_are_given_up_and_keep_root_from_nothing", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let toml = "drain_interval = \"200ms\"\none_way = true\n[metrics]\nsubscribers = true\n";
    let agent = Agent::start(&lab, &executable()?, toml)?;
    lab.internet().inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for number in 0..SUBSCRIBERS {
            // The router has no route to most of them: what comes back is no matter.
            let _unreachable = socket.send_to(b"x", (Ipv4Addr::from(0x6440_0000 + number), 9));
        }
        Ok(())
    })?;
    lab::wait_for("rows", PATIENCE, PAUSE, || Ok(agent.subscribers()?.len() >= SUBSCRIBERS as usize / 2))?;
    let mut stopped = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(&lab)?;
        stream.write_all(ALL_SUBSCRIBERS)?;
        // The answer has begun, so the reader has its place.
        stream.read_exact(&mut [0; 12])?;
        stopped.push(stream);
    }
    ensure!(agent.get("/metrics/subscribers")?.0 == 503, "two readers at a time");
    for _ in 0..5 {
        agent.subscribers().context("the control socket has places of its own")?;
    }
    ensure!(agent.get("/metrics")?.0 == 200 && agent.get("/readyz")?.0 == 200);
    let given_up = |reason: &str| -> Result<u64> {
        let labels = [("listener", "metrics"), ("reason", reason)];
        Ok(agent.metrics()?.sum("peertally_connections_given_up_total", &labels))
    };
    lab::wait_for("both given up", PATIENCE, PAUSE, || Ok(given_up("write_timeout")? == 2))?;
    ensure!(given_up("too_many_streams")? == 1, "the third reader is counted");
    // The honest twin: readers that take all get all, as often as they ask.
    for _ in 0..5 {
        let mut stream = connect(&lab)?;
        stream.write_all(ALL_SUBSCRIBERS)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("0\r\n\r\n"), "{} bytes", answer.len());
    }
    ensure!(given_up("write_timeout")? == 2);
    drop((stopped, agent));
    lab.close()
}

#[test]
fn too_low_a_limit_of_open_files_is_refused_with_the_number_that_is_needed() -> Result<()> {
    if !lab::require("too_low_a_limit_of_open_files_is_refused_with_the_number_that_is_needed", &["prlimit"]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let file = lab::configuration(&lab, "")?;
    let mut command = lab.router_command("prlimit");
    command.arg("--nofile=100:100").arg(executable()?).args(["run", "--config"]).arg(file);
    let (code, said) = Agent::refusal(&lab, &mut command)?;
    ensure!(code == 69 && said.contains("LimitNOFILE=216"), "{code}: {said}");
    lab.close()
}
