//! A reload while traffic flows: pools, policies and refusals, with every packet counted.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use peertally_lab::{self as lab, Agent, Counters, Lab, bittorrent_exchange, subscriber_v4};
use peertally_tests::executable;
use rustix::process::Signal;

const CHUNK: usize = 1 << 16;
const MEGABYTE: usize = 1 << 20;
const KEYS: &str = "drain_interval = \"200ms\"\n";
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);

type Interfaces = BTreeMap<String, Counters>;

fn file(lab: &Lab) -> PathBuf {
    lab.directory().join("peertally.toml")
}

/// Runs `peertally reload`; its exit code and its words.
fn reload(lab: &Lab, arguments: &[&str]) -> Result<(i32, String)> {
    let socket = lab.directory().join("control.sock");
    let mut command: Command = lab.router_command(executable()?.to_str().context("a path in UTF-8")?);
    command.arg("reload").args(arguments).arg("--socket").arg(&socket);
    let output = lab::output(&mut command)?;
    let words = [output.stdout, output.stderr].concat();
    Ok((output.status.code().context("an exit code")?, String::from_utf8_lossy(&words).into_owned()))
}

fn applied(agent: &Agent<'_>, result: &str) -> Result<u64> {
    Ok(agent.metrics()?.sum("peertally_reloads_total", &[("result", result)]))
}

/// Waits until the agent has counted exactly the frames received since `before`.
fn agrees(lab: &Lab, agent: &Agent<'_>, before: &Interfaces) -> Result<()> {
    let received = |counters: &Interfaces| -> u64 {
        counters.iter().filter(|(name, _)| *name != "lo").map(|(_, counters)| counters.rx_packets).sum()
    };
    let mut last = String::new();
    lab::wait_for("agreement with the interfaces", PATIENCE, PAUSE, || {
        let totals = agent.node_totals()?;
        let received = received(&lab.router().counters()?) - received(before);
        last = format!("{totals:?}, {received} frames received");
        Ok(totals.packets + totals.skipped == received)
    })
    .with_context(|| last)
}

/// Bytes of a block under P2P protocols.
fn p2p_bytes(agent: &Agent<'_>, block: &str) -> Result<u64> {
    let rows = agent.subscribers()?.into_iter().filter(|row| row.subscriber == block && row.is_p2p());
    Ok(rows.map(|row| row.bytes_up + row.bytes_down).sum())
}

/// The pool of the lab's subscribers in blocks of another length, and back.
fn cut(text: &str, long: bool) -> String {
    let at = text.find("[[subscribers.pools]]").expect("a pool");
    let (before, pools) = text.split_at(at);
    let (from, to) = if long { ("assign = 28\n", "assign = 32\n") } else { ("assign = 32\n", "assign = 28\n") };
    format!("{before}{}", pools.replace(from, to))
}

#[test]
fn reloads_under_traffic_lose_no_packet_and_no_counter_goes_down() -> Result<()> {
    if !lab::require("reloads_under_traffic_lose_no_packet_and_no_counter_goes_down", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let (mut agent, before) = Agent::start_before_traffic(&lab, &executable()?, KEYS)?;
    let done = AtomicBool::new(false);
    let reloads = u64::from(lab::repetitions(2));
    thread::scope(|scope| -> Result<()> {
        let sender = scope.spawn(|| -> Result<()> {
            while !done.load(Ordering::Relaxed) {
                bittorrent_exchange(lab.subscriber(1), lab.internet(), CHUNK)?;
            }
            Ok(())
        });
        let mut counted = agent.metrics()?;
        let reloaded = (0..reloads).try_for_each(|number| -> Result<()> {
            let text = fs::read_to_string(file(&lab))?;
            fs::write(file(&lab), cut(&text, number % 2 == 1))?;
            if number % 2 == 0 {
                let (exit, words) = reload(&lab, &[])?;
                ensure!(exit == 0 && words.contains("subscribers.pools"), "exit code {exit}: {words}");
            } else {
                agent.process().signal(Signal::HUP)?;
            }
            lab::wait_for("a reload", PATIENCE, PAUSE, || Ok(applied(&agent, "applied")? == number + 1))
                .with_context(|| agent.process().log())?;
            let now = agent.metrics()?;
            for sample in counted.samples().iter().filter(|sample| sample.name.starts_with("peertally_traffic_")) {
                let labels: Vec<_> =
                    sample.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                let value = now.sum(&sample.name, &labels) as f64;
                ensure!(
                    value >= sample.value || sample.name.ends_with("_rows"),
                    "{} {labels:?} went down from {} to {value}",
                    sample.name,
                    sample.value
                );
            }
            counted = now;
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        sender.join().expect("no panic")?;
        reloaded
    })?;
    agrees(&lab, &agent, &before)?;
    let internal = agent.metrics()?.sum("peertally_kernel_events_total", &[("event", "internal_error")]);
    ensure!(internal == 0, "{internal} internal errors");
    println!("{reloads} reloads");
    lab.close()
}

#[test]
fn a_pool_that_is_cut_otherwise_or_removed_changes_who_is_charged() -> Result<()> {
    if !lab::require("a_pool_that_is_cut_otherwise_or_removed_changes_who_is_charged", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let (mut agent, before) = Agent::start_before_traffic(&lab, &executable()?, KEYS)?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), MEGABYTE)?;
    agrees(&lab, &agent, &before)?;
    let address = subscriber_v4(1);
    let (single, wide) =
        (format!("{address}/32"), format!("{}/28", std::net::Ipv4Addr::from_bits(address.to_bits() & !15)));
    let first = p2p_bytes(&agent, &single)?;
    ensure!(first > MEGABYTE as u64, "{first} bytes of {single}");

    let text = fs::read_to_string(file(&lab))?;
    fs::write(file(&lab), cut(&text, false))?;
    let (exit, words) = reload(&lab, &["--check"])?;
    ensure!(exit == 0 && words.contains("nothing was applied") && applied(&agent, "applied")? == 0, "{exit}: {words}");
    let (exit, words) = reload(&lab, &[])?;
    ensure!(exit == 0 && words.contains("/32 -> /28"), "{exit}: {words}");
    bittorrent_exchange(lab.subscriber(1), lab.internet(), MEGABYTE)?;
    agrees(&lab, &agent, &before)?;
    let (old, new) = (p2p_bytes(&agent, &single)?, p2p_bytes(&agent, &wide)?);
    ensure!(old == first && new > MEGABYTE as u64, "{old} of {single} after {first}, {new} of {wide}");

    // Mistakes and what needs a restart leave the configuration in force, signals leave the agent.
    for (bad, words_of_it) in [("nonsense = 1\n", "nonsense"), ("one_way = true\n", "needs a restart")] {
        fs::write(file(&lab), format!("{bad}{text}"))?;
        let (exit, words) = reload(&lab, &[])?;
        ensure!(exit == 64 && words.contains(words_of_it), "{exit}: {words}");
    }
    agent.process().signal(Signal::USR1)?;
    agent.process().signal(Signal::USR2)?;
    // A pool that no packet has an address of: the subscriber's is gone.
    let at = text.find("[[subscribers.pools]]").context("a pool")?;
    fs::write(file(&lab), format!("{}[[subscribers.pools]]\nprefix = \"198.51.100.0/24\"\n", &text[..at]))?;
    agent.process().signal(Signal::HUP)?;
    lab::wait_for("a reload", PATIENCE, PAUSE, || Ok(applied(&agent, "applied")? == 2))
        .with_context(|| agent.process().log())?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), MEGABYTE)?;
    agrees(&lab, &agent, &before)?;
    ensure!((p2p_bytes(&agent, &single)?, p2p_bytes(&agent, &wide)?) == (old, new), "a removed pool was charged");
    agent.process().ensure_running()?;

    // At a start, too: the pool of before comes back in other blocks, while the tables are those of before.
    fs::write(file(&lab), &text)?;
    agent.process().terminate(PATIENCE)?;
    drop(agent);
    let agent = Agent::start(&lab, &executable()?, KEYS)?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), MEGABYTE)?;
    agrees(&lab, &agent, &before)?;
    ensure!(p2p_bytes(&agent, &single)? > old && p2p_bytes(&agent, &wide)? == new, "the subscriber did not come back");
    lab.close()
}
