//! The agent's end, orderly or not, changes nothing for traffic and loses no count.

use std::{
    collections::BTreeMap,
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use peertally_lab::{self as lab, Agent, Counters, INTERNET_V4, Lab, WebServer, bittorrent_exchange, xdp};
use peertally_tests::executable;

const MEGABYTE: usize = 1 << 20;
const CHUNK: usize = 1 << 16;
const KEYS: &str = "drain_interval = \"200ms\"\n";
const PATIENCE: Duration = Duration::from_secs(20);

/// Counters of the router's interfaces.
type Interfaces = BTreeMap<String, Counters>;

/// Frames that the router's interfaces have received since `before`.
fn frames(lab: &Lab, before: &Interfaces) -> Result<u64> {
    let received = |counters: &Interfaces| -> u64 {
        counters.iter().filter(|(name, _)| *name != "lo").map(|(_, counters)| counters.rx_packets).sum()
    };
    Ok(received(&lab.router().counters()?) - received(before))
}

/// Waits until the agent has counted exactly the frames received since `before`.
fn agrees(lab: &Lab, agent: &Agent<'_>, before: &Interfaces) -> Result<()> {
    let mut last = String::new();
    lab::wait_for("agreement with the interfaces", PATIENCE, Duration::from_millis(200), || {
        let totals = agent.node_totals()?;
        let received = frames(lab, before)?;
        last = format!("{totals:?}, {received} frames received");
        Ok(totals.packets + totals.skipped == received)
    })
    .with_context(|| last)
}

#[test]
fn a_killed_agent_loses_nothing() -> Result<()> {
    if !lab::require("a_killed_agent_loses_nothing", &["nginx", "openssl", "curl"]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let _web = WebServer::start(&lab, MEGABYTE)?;
    let url = format!("http://{INTERNET_V4}/file");
    let (mut agent, before) = Agent::start_before_traffic(&lab, &executable()?, KEYS)?;
    let program = xdp(lab.router(), "acc1")?.context("an attached program")?;
    lab::fetch(lab.subscriber(1), &url)?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), MEGABYTE)?;
    agrees(&lab, &agent, &before)?;
    let counted = agent.metrics()?;
    // Traffic that the agent has not drained yet, and traffic while there is none.
    bittorrent_exchange(lab.subscriber(1), lab.internet(), MEGABYTE)?;
    agent.process().kill()?;
    ensure!(xdp(lab.router(), "acc1")?.is_some_and(|xdp| xdp.id == program.id), "the program is gone with the agent");
    ensure!(lab::fetch(lab.subscriber(1), &url)? == MEGABYTE as u64, "traffic stopped with the agent");
    bittorrent_exchange(lab.subscriber(1), lab.internet(), MEGABYTE)?;
    drop(agent);

    let agent = Agent::start(&lab, &executable()?, KEYS)?;
    agrees(&lab, &agent, &before)?;
    let resumed = agent.metrics()?;
    let counters = counted.samples().iter().filter(|sample| {
        // What counts the kernel's work; the agent's own work starts anew, as a process's counters do.
        [
            "peertally_traffic_packets_total",
            "peertally_traffic_bytes_total",
            "peertally_traffic_flows_total",
            "peertally_skipped_packets_total",
        ]
        .contains(&sample.name.as_str())
    });
    for sample in counters {
        let labels: Vec<_> = sample.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let now = resumed.sum(&sample.name, &labels) as f64;
        ensure!(now >= sample.value, "{} {labels:?} went down from {} to {now}", sample.name, sample.value);
    }
    lab.close()
}

/// Names of the pins that start so.
fn pins(lab: &Lab, start: &str) -> Result<Vec<String>> {
    let found = lab::output(lab.router_command("find").args(["/sys/fs/bpf/peertally", "-name", &format!("{start}*")]))?;
    Ok(String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned).collect())
}

/// Sends datagrams of new and of known flows until told to end, and now and then a connection with a BitTorrent
/// handshake: every stage has work at any moment.
fn send_until(done: &AtomicBool, lab: &Lab) -> Result<u64> {
    let mut sent = 0;
    while !done.load(Ordering::Relaxed) {
        bittorrent_exchange(lab.subscriber(1), lab.internet(), CHUNK)?;
        sent += send_datagrams(lab.subscriber(1))?;
    }
    Ok(sent)
}

fn send_datagrams(subscriber: &lab::Namespace) -> Result<u64> {
    subscriber.inside(|| {
        let mut sent = 0;
        for _ in 0..10 {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            for number in 0..20_u8 {
                let payload: Vec<u8> = (0..200_u8).map(|index| index.wrapping_mul(number | 1) ^ 0x5a).collect();
                socket.send_to(&payload, (INTERNET_V4, 40_000))?;
                sent += 1;
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(sent)
    })
}

#[test]
fn a_swap_of_the_programs_under_traffic_loses_nothing() -> Result<()> {
    if !lab::require("a_swap_of_the_programs_under_traffic_loses_nothing", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let leaving = format!("{KEYS}on_exit = \"leave\"\n");
    let (mut agent, before) = Agent::start_before_traffic(&lab, &executable()?, &leaving)?;
    let done = AtomicBool::new(false);
    let sent = thread::scope(|scope| -> Result<u64> {
        let sender = scope.spawn(|| send_until(&done, &lab));
        let swaps = lab::repetitions(10);
        let swapped = (0..swaps).try_for_each(|number| {
            let old = pins(&lab, "stages_")?;
            ensure!(old.len() == 1, "one set of programs has one table of stages: {old:?}");
            if number % 2 == 0 {
                agent.process().kill()?;
            } else {
                let status = agent.process().terminate(PATIENCE)?;
                ensure!(status.success(), "{status}: {}", agent.process().log());
            }
            agent = Agent::start(&lab, &executable()?, &leaving)?;
            let new = pins(&lab, "stages_")?;
            ensure!(new.len() == 1 && new != old, "the old table of stages is left, or still in use: {old:?}, {new:?}");
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        let sent = sender.join().expect("no panic")?;
        swapped.map(|()| sent)
    })?;
    agrees(&lab, &agent, &before)?;
    // A pin that somebody removed is made again: without it, the kernel would empty the table with the agent's end.
    let [pin] = pins(&lab, "stages_")?.try_into().map_err(|pins| anyhow::anyhow!("one table of stages: {pins:?}"))?;
    lab::run(lab.router_command("rm").arg(&pin))?;
    lab::wait_for("the pin of the stages", PATIENCE, Duration::from_millis(100), || {
        Ok(pins(&lab, "stages_")? == [pin.clone()])
    })?;
    let metrics = agent.metrics()?;
    for event in ["stage_missing", "internal_error"] {
        let count = metrics.sum("peertally_kernel_events_total", &[("event", event)]);
        ensure!(count == 0, "{count} times {event} of {sent} datagrams");
    }
    println!("{} swaps, {sent} datagrams and {} frames in all", lab::repetitions(10), frames(&lab, &before)?);
    drop(agent);
    let detached = lab::output(lab.router_command(executable()?.to_str().context("a path in UTF-8")?).arg("detach"))?;
    ensure!(detached.status.success(), "{}", String::from_utf8_lossy(&detached.stderr));
    ensure!(pins(&lab, "stages_")?.is_empty(), "a table of stages is left");
    lab.close()
}

#[test]
fn an_agent_that_leaves_is_taken_over_from() -> Result<()> {
    if !lab::require("an_agent_that_leaves_is_taken_over_from", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let leaving = format!("{KEYS}on_exit = \"leave\"\n");
    let (mut agent, before) = Agent::start_before_traffic(&lab, &executable()?, &leaving)?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), MEGABYTE)?;
    let status = agent.process().terminate(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", agent.process().log());
    drop(agent);
    ensure!(xdp(lab.router(), "core0")?.is_some_and(|xdp| xdp.native), "the program did not stay");
    bittorrent_exchange(lab.subscriber(1), lab.internet(), MEGABYTE)?;

    let mut agent = Agent::start(&lab, &executable()?, &format!("{KEYS}on_exit = \"detach\"\n"))?;
    agrees(&lab, &agent, &before)?;
    let status = agent.process().terminate(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", agent.process().log());
    for interface in ["acc1", "core0"] {
        ensure!(xdp(lab.router(), interface)?.is_none(), "{interface} has still a program");
    }
    let pins = lab::output(lab.router_command("find").args(["/sys/fs/bpf/peertally", "-not", "-type", "d"]))?;
    ensure!(pins.stdout.is_empty(), "pins are left: {}", String::from_utf8_lossy(&pins.stdout));
    // Traffic goes on without any program.
    bittorrent_exchange(lab.subscriber(1), lab.internet(), MEGABYTE)?;
    lab.close()
}
