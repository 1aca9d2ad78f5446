//! Another capacity, and tables of an older schema: what was counted goes on, under traffic.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use peertally_lab::{self as lab, Agent, Counters, Lab, Process, bittorrent_exchange, xdp};
use peertally_tests::executable;

const CHUNK: usize = 1 << 16;
const KEYS: &str = "drain_interval = \"200ms\"\non_exit = \"leave\"\n";
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(200);
/// Sizes that grow and shrink, each alone and together: flows, tallies, peers.
const SIZES: [(u32, u32, u32); 4] =
    [(131_072, 65_536, 65_536), (262_144, 131_072, 131_072), (65_536, 131_072, 131_072), (65_536, 16_384, 4096)];

/// Counters of the router's interfaces.
type Interfaces = BTreeMap<String, Counters>;

fn configuration((flows, tallies, peers): (u32, u32, u32)) -> String {
    format!("{KEYS}[capacity]\nflows = {flows}\ntallies = {tallies}\npeers = {peers}\n")
}

/// Waits until the agent has counted exactly the frames that the router's interfaces have received since `before`.
fn agrees(lab: &Lab, agent: &Agent<'_>, before: &Interfaces) -> Result<()> {
    let mut last = String::new();
    lab::wait_for("agreement with the interfaces", PATIENCE, PAUSE, || {
        let totals = agent.node_totals()?;
        let received = |counters: &Interfaces| -> u64 {
            counters.iter().filter(|(name, _)| *name != "lo").map(|(_, counters)| counters.rx_packets).sum()
        };
        let received = received(&lab.router().counters()?) - received(before);
        last = format!("{totals:?}, {received} frames received");
        Ok(totals.packets + totals.skipped == received)
    })
    .with_context(|| last)
}

/// Series that count the kernel's work, by their names and labels.
type Series = BTreeMap<(String, BTreeMap<String, String>), f64>;

fn series(agent: &Agent<'_>) -> Result<Series> {
    let metrics = agent.metrics()?;
    let counts = metrics.samples().iter().filter(|sample| {
        ["peertally_traffic_", "peertally_skipped_", "peertally_kernel_events_", "peertally_rule_verdicts_"]
            .iter()
            .any(|start| sample.name.starts_with(start))
            && sample.name.ends_with("_total")
    });
    Ok(counts.map(|sample| ((sample.name.clone(), sample.labels.clone()), sample.value)).collect())
}

fn none_is_down(before: &Series, after: &Series) -> Result<()> {
    for (key, value) in before {
        let now = after.get(key).copied().unwrap_or_default();
        ensure!(now >= *value, "{key:?} went down from {value} to {now}");
    }
    Ok(())
}

/// Packets of the rows of subscribers, both ways, by protocol and confidence.
type Rows = BTreeMap<(String, String), u64>;

fn rows(agent: &Agent<'_>) -> Result<Rows> {
    let mut rows = Rows::new();
    for row in agent.subscribers()? {
        *rows.entry((row.protocol, row.confidence)).or_default() += row.packets_up + row.packets_down;
    }
    Ok(rows)
}

/// Whether the rows of the only subscriber that is charged are what its interfaces say. A row may be absent: its
/// subscriber had no such traffic since the tables were made.
fn rows_agree(agent: &Agent<'_>) -> Result<Rows> {
    let mut last = String::new();
    let mut found = Rows::new();
    lab::wait_for("rows that agree with the interfaces", PATIENCE, PAUSE, || {
        found = rows(agent)?;
        let metrics = agent.metrics()?;
        let charged = found.iter().map(|((protocol, confidence), packets)| {
            let labels = [("protocol", protocol.as_str()), ("confidence", confidence.as_str())];
            let all = metrics.sum("peertally_traffic_packets_total", &labels);
            (*packets, all - metrics.sum("peertally_unanswered_packets_total", &labels))
        });
        let charged: Vec<(u64, u64)> = charged.collect();
        last = format!("{found:?}: rows and interfaces {charged:?}");
        Ok(charged.iter().all(|(row, interfaces)| row == interfaces))
    })
    .with_context(|| last)?;
    Ok(found)
}

fn leave(agent: &mut Agent<'_>) -> Result<()> {
    ensure!(agent.process().terminate(PATIENCE)?.success(), "{}", agent.process().log());
    Ok(())
}

fn pins(lab: &Lab, start: &str) -> Result<Vec<String>> {
    let mut find = lab.router_command("find");
    let found = lab::output(find.args(["/sys/fs/bpf/peertally", "-name", &format!("{start}*"), "-printf", "%P\n"]))?;
    Ok(String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned).collect())
}

#[test]
fn another_capacity_goes_on_with_what_was_counted() -> Result<()> {
    if !lab::require("another_capacity_goes_on_with_what_was_counted", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let (mut agent, before) = Agent::start_before_traffic(&lab, &executable()?, &configuration(SIZES[0]))?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let sender = scope.spawn(|| -> Result<u32> {
            let mut exchanges = 0;
            while !done.load(Ordering::Relaxed) {
                bittorrent_exchange(lab.subscriber(1), lab.internet(), CHUNK)?;
                exchanges += 1;
            }
            Ok(exchanges)
        });
        let changed = SIZES.iter().cycle().skip(1).take(lab::repetitions(4) as usize).enumerate();
        let outcome = changed.map(|(number, sizes)| {
            let counted = series(&agent)?;
            if number % 2 == 0 {
                agent.process().kill()?;
            } else {
                leave(&mut agent)?;
            }
            agent = Agent::start(&lab, &executable()?, &configuration(*sizes))?;
            none_is_down(&counted, &series(&agent)?)?;
            lab::wait_for("removed tables", PATIENCE, PAUSE, || Ok(pins(&lab, "replaced_")?.is_empty()))
        });
        let outcome = outcome.collect::<Result<Vec<()>>>();
        done.store(true, Ordering::Relaxed);
        println!("{} exchanges", sender.join().expect("no panic")?);
        outcome.map(drop)
    })?;
    agrees(&lab, &agent, &before)?;
    ensure!(pins(&lab, "next")?.is_empty() && pins(&lab, "last")?.is_empty(), "a folder is left");

    // The subscriber's rows go on from what they were, in tables that never saw its first packets.
    let counted = rows_agree(&agent)?;
    ensure!(counted.iter().any(|((protocol, _), packets)| protocol == "bittorrent" && *packets > 0), "{counted:?}");
    leave(&mut agent)?;
    let mut agent = Agent::start(&lab, &executable()?, &configuration(SIZES[3]))?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), CHUNK)?;
    agrees(&lab, &agent, &before)?;
    let now = rows_agree(&agent)?;
    ensure!(now.iter().any(|(key, packets)| counted.get(key).is_some_and(|before| packets > before)), "{now:?}");
    leave(&mut agent)?;
    lab.close()
}

/// Pins of the process's mount namespace that start so.
fn sees(agent: u32, start: &str) -> bool {
    let base = format!("/proc/{agent}/root/sys/fs/bpf/peertally");
    let versions = fs::read_dir(base).into_iter().flatten().filter_map(Result::ok);
    let names = versions.flat_map(|version| fs::read_dir(version.path()).into_iter().flatten().filter_map(Result::ok));
    names.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with(start))
}

#[test]
fn a_start_with_another_capacity_may_be_killed_at_any_moment() -> Result<()> {
    if !lab::require("a_start_with_another_capacity_may_be_killed_at_any_moment", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let (mut agent, before) = Agent::start_before_traffic(&lab, &executable()?, &configuration(SIZES[0]))?;
    let mut present = 0;
    for number in 0..lab::repetitions(4) as usize {
        bittorrent_exchange(lab.subscriber(1), lab.internet(), CHUNK)?;
        agrees(&lab, &agent, &before)?;
        let counted = series(&agent)?;
        leave(&mut agent)?;
        let file = lab::configuration(&lab, &configuration(SIZES[(present + 1) % SIZES.len()]))?;
        let mut command = lab.router_command(executable()?.to_str().context("a path in UTF-8")?);
        let mut killed = Process::spawn("killed", lab.directory(), command.args(["run", "--config"]).arg(file))?;
        let moment = ["next", "last", "replaced_", "replaced_0"][number % 4];
        lab::wait_for(moment, PATIENCE, Duration::ZERO, || {
            killed.ensure_running()?;
            Ok(sees(killed.id(), moment) || sees(killed.id(), "replaced_"))
        })
        .with_context(|| killed.log())?;
        killed.kill()?;
        bittorrent_exchange(lab.subscriber(1), lab.internet(), CHUNK)?;
        // The next one has the sizes of before, or again others.
        present = if number % 2 == 0 { present } else { (present + 2) % SIZES.len() };
        agent = Agent::start(&lab, &executable()?, &configuration(SIZES[present]))?;
        none_is_down(&counted, &series(&agent)?)?;
        bittorrent_exchange(lab.subscriber(1), lab.internet(), CHUNK)?;
        agrees(&lab, &agent, &before)?;
        rows_agree(&agent)?;
        ensure!(pins(&lab, "replaced_")?.is_empty() && pins(&lab, "next")?.is_empty(), "tables are left");
    }
    leave(&mut agent)?;
    lab.close()
}

#[test]
fn a_start_that_is_refused_leaves_tables_and_program_as_they_were() -> Result<()> {
    if !lab::require("a_start_that_is_refused_leaves_tables_and_program_as_they_were", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let (mut agent, before) = Agent::start_before_traffic(&lab, &executable()?, &configuration(SIZES[0]))?;
    bittorrent_exchange(lab.subscriber(1), lab.internet(), CHUNK)?;
    leave(&mut agent)?;
    let found = pins(&lab, "")?;
    let program = xdp(lab.router(), "acc1")?.context("a program")?.id;
    // The kernel has no native mode for a bridge: the program is swapped on some interfaces, and refused on this one.
    lab.router().ip("link add zz0 type bridge")?;
    lab.router().ip("link set zz0 up")?;
    let refused = format!("{}\n[[interfaces]]\nname = \"zz0\"\nrole = \"access\"\n", configuration(SIZES[3]));
    let file = lab::configuration(&lab, &refused)?;
    let mut command = lab.router_command(executable()?.to_str().context("a path in UTF-8")?);
    let (code, said) = Agent::refusal(&lab, command.args(["run", "--config"]).arg(file))?;
    ensure!(code == 69 && said.contains("zz0"), "{code}: {said}");
    ensure!(xdp(lab.router(), "acc1")?.map(|xdp| xdp.id) == Some(program), "another program counts");
    bittorrent_exchange(lab.subscriber(1), lab.internet(), CHUNK)?;
    // What was counted for a moment waits for the next start; the number of the interface is kept.
    let kept = |pins: Vec<String>| -> BTreeSet<String> {
        pins.into_iter().filter(|pin| !pin.contains("replaced_") && !pin.contains("interface_")).collect()
    };
    let left = kept(pins(&lab, "")?);
    ensure!(kept(found.clone()) == left, "{found:?}, then {left:?}");
    let mut agent = Agent::start(&lab, &executable()?, &configuration(SIZES[0]))?;
    agrees(&lab, &agent, &before)?;
    rows_agree(&agent)?;
    leave(&mut agent)?;
    lab.close()
}
