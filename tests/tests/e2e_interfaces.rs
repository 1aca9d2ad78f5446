//! The program runs on the interfaces that are configured and on no other, whatever becomes of them.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, UdpSocket},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use peertally_lab::{self as lab, Agent, Lab, Namespace, Process, configuration, xdp};
use peertally_tests::executable;

const KEYS: &str = "drain_interval = \"200ms\"\non_exit = \"leave\"\n";
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);
/// Exit code of a refusal by the kernel, or by what it has.
const UNAVAILABLE: i32 = 69;
/// Addresses outside the pools: their packets are counted by interface at once.
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NEAR_MAC: &str = "02:00:00:00:aa:01";

/// Makes an interface `name` of the router, whose other end is `name` with a `p` in the subscriber's namespace. It
/// carries nothing but what [`send`] sends.
fn make(lab: &Lab, name: &str, index: Option<u32>) -> Result<()> {
    let (router, far) = (lab.router(), lab.subscriber(1));
    let index = index.map(|index| format!(" index {index}")).unwrap_or_default();
    router
        .ip(&format!("link add {name}{index} address {NEAR_MAC} type veth peer name {name}p netns {}", far.name()))?;
    for (namespace, interface) in [(router, name.to_owned()), (far, format!("{name}p"))] {
        namespace.write_sysctl(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "1")?;
        namespace.ip(&format!("link set {interface} up"))?;
    }
    Ok(())
}

fn remove(lab: &Lab, name: &str) -> Result<()> {
    lab.router().ip(&format!("link del {name}"))
}

/// Sends datagrams to the router's interface `name`.
fn send(lab: &Lab, name: &str, datagrams: u64) -> Result<()> {
    let far = lab.subscriber(1);
    far.ip(&format!("addr replace {FAR}/24 dev {name}p"))?;
    far.ip(&format!("neigh replace {NEAR} lladdr {NEAR_MAC} nud permanent dev {name}p"))?;
    far.inside(|| {
        let socket = UdpSocket::bind((FAR, 0))?;
        for _ in 0..datagrams {
            socket.send_to(&[0x5a; 100], (NEAR, 40_000))?;
        }
        Ok(())
    })?;
    far.ip(&format!("addr del {FAR}/24 dev {name}p"))
}

fn interface(name: &str, role: &str) -> String {
    format!("\n[[interfaces]]\nname = \"{name}\"\nrole = \"{role}\"\n")
}

fn counted(agent: &Agent<'_>, name: &str) -> Result<u64> {
    Ok(agent.metrics()?.sum("peertally_traffic_packets_total", &[("interface", name)]))
}

/// Waits until exactly so many packets are counted under a name.
fn counts(agent: &Agent<'_>, name: &str, packets: u64) -> Result<()> {
    let mut last = 0;
    lab::wait_for(&format!("{packets} packets under {name}"), PATIENCE, PAUSE, || {
        last = counted(agent, name)?;
        Ok(last == packets)
    })
    .with_context(|| format!("{last} packets"))
}

fn attached(lab: &Lab, name: &str) -> Result<u64> {
    lab::wait_for_some(
        &format!("program on {name}"),
        PATIENCE,
        PAUSE,
        || Ok(xdp(lab.router(), name)?.map(|xdp| xdp.id)),
    )
}

fn free(namespace: &Namespace, name: &str) -> Result<()> {
    lab::wait_for(&format!("{name} without a program"), PATIENCE, PAUSE, || Ok(xdp(namespace, name)?.is_none()))
}

/// Waits until the agent says that it is ready, or why it is not.
fn says(agent: &Agent<'_>, path: &str, status: u16, words: &str) -> Result<()> {
    let mut last = String::new();
    lab::wait_for(&format!("{status} with `{words}`"), PATIENCE, PAUSE, || {
        let (found, body) = agent.get(path)?;
        let fits = found == status && body.contains(words);
        last = format!("{found}: {body}");
        Ok(fits)
    })
    .with_context(|| last)
}

/// Names of the pins and records of this version that start so.
fn pins(lab: &Lab, start: &str) -> Result<Vec<String>> {
    let mut find = lab.router_command("find");
    let found = lab::output(find.args(["/sys/fs/bpf/peertally", "-name", &format!("{start}*"), "-printf", "%f\n"]))?;
    Ok(String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned).collect())
}

fn peertally(lab: &Lab, verb: &[&str]) -> Result<(i32, String)> {
    let mut command = lab.router_command(executable()?.to_str().context("a path in UTF-8")?);
    let done = lab::output(command.args(verb))?;
    let said = [done.stdout, done.stderr].concat();
    Ok((done.status.code().context("an exit code")?, String::from_utf8_lossy(&said).into_owned()))
}

fn leave(agent: &mut Agent<'_>) -> Result<()> {
    let status = agent.process().terminate(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", agent.process().log());
    Ok(())
}

/// Every series of traffic, by its labels.
fn series(agent: &Agent<'_>) -> Result<BTreeMap<String, f64>> {
    let metrics = agent.metrics()?;
    let traffic = metrics.samples().iter().filter(|sample| sample.name.starts_with("peertally_traffic_packets"));
    Ok(traffic.map(|sample| (format!("{:?}", sample.labels), sample.value)).collect())
}

#[test]
fn an_interface_made_anew_is_counted_under_its_name_in_all_its_lives() -> Result<()> {
    if !lab::require("an_interface_made_anew_is_counted_under_its_name_in_all_its_lives", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    make(&lab, "x0", None)?;
    let mut agent = Agent::start(&lab, &executable()?, &format!("{KEYS}{}", interface("x0", "access")))?;
    let (mut sent, mut before) = (0, BTreeMap::new());
    let lives = lab::repetitions(4);
    for life in 0..lives {
        attached(&lab, "x0")?;
        send(&lab, "x0", 20)?;
        sent += 20;
        counts(&agent, "x0", sent)?;
        let now = series(&agent)?;
        for (labels, value) in &before {
            ensure!(now.get(labels).is_some_and(|now| now >= value), "{labels} went down from {value} to {now:?}");
        }
        before = now;
        remove(&lab, "x0")?;
        // Twin: an interface that is not configured is nobody's.
        make(&lab, "y0", None)?;
        send(&lab, "y0", 20)?;
        says(&agent, "/readyz", 503, "there is no such interface")?;
        ensure!(xdp(lab.router(), "y0")?.is_none(), "a program on y0");
        remove(&lab, "y0")?;
        if life % 2 == 1 {
            // A restart while it is away is no other than one while it is there.
            leave(&mut agent)?;
            drop(agent);
            let file = lab.directory().join("peertally.toml");
            let mut command = lab.router_command(executable()?.to_str().context("a path in UTF-8")?);
            command.args(["run", "--config"]).arg(file);
            drop(Process::spawn("killed", lab.directory(), &mut command)?);
            make(&lab, "x0", None)?;
            agent = Agent::start(&lab, &executable()?, &format!("{KEYS}{}", interface("x0", "access")))?;
        } else {
            make(&lab, "x0", None)?;
        }
    }
    attached(&lab, "x0")?;
    counts(&agent, "x0", sent)?;
    let links = pins(&lab, "link_")?;
    ensure!(links.len() == 3 && pins(&lab, "attached_")?.len() == 3, "stale pins: {links:?}");
    let labels: Vec<String> = series(&agent)?.into_keys().collect();
    let strange = labels.iter().find(|labels| labels.contains("other") || labels.contains("\"if"));
    ensure!(strange.is_none(), "a label that is no name: {strange:?}");
    println!("{lives} lives, {sent} datagrams");
    lab.close()
}

#[test]
fn an_interface_made_anew_does_not_wait_for_a_drain() -> Result<()> {
    if !lab::require("an_interface_made_anew_does_not_wait_for_a_drain", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    make(&lab, "x0", None)?;
    let keys = format!("drain_interval = \"1h\"\n{}", interface("x0", "access"));
    let agent = Agent::start(&lab, &executable()?, &keys)?;
    remove(&lab, "x0")?;
    make(&lab, "x0", None)?;
    attached(&lab, "x0")?;
    drop(agent);
    lab.close()
}

#[test]
fn an_index_that_is_reused_inherits_nothing() -> Result<()> {
    if !lab::require("an_index_that_is_reused_inherits_nothing", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    make(&lab, "x0", Some(77))?;
    make(&lab, "y0", Some(78))?;
    let toml = format!("{KEYS}{}{}", interface("x0", "access"), interface("y0", "core"));
    let agent = Agent::start(&lab, &executable()?, &toml)?;
    send(&lab, "x0", 30)?;
    send(&lab, "y0", 5)?;
    counts(&agent, "x0", 30)?;
    counts(&agent, "y0", 5)?;
    remove(&lab, "x0")?;
    remove(&lab, "y0")?;
    // Not configured: it has an index that was counted.
    make(&lab, "z0", Some(78))?;
    says(&agent, "/readyz", 503, "there is no such interface")?;
    send(&lab, "z0", 10)?;
    ensure!(xdp(lab.router(), "z0")?.is_none(), "a program on z0");
    remove(&lab, "z0")?;
    make(&lab, "y0", Some(77))?;
    attached(&lab, "y0")?;
    send(&lab, "y0", 7)?;
    // Equal to 77 in its low 16 bits, which is all that the program knows.
    make(&lab, "x0", Some(77 + 65_536))?;
    says(&agent, "/readyz", 503, "cannot distinguish")?;
    send(&lab, "x0", 11)?;
    counts(&agent, "y0", 12)?;
    counts(&agent, "x0", 30)?;
    remove(&lab, "x0")?;
    make(&lab, "x0", Some(78))?;
    attached(&lab, "x0")?;
    send(&lab, "x0", 3)?;
    counts(&agent, "x0", 33)?;
    counts(&agent, "y0", 12)?;
    drop(agent);
    lab.close()
}

#[test]
fn a_renamed_interface_counts_on_until_another_one_has_its_name() -> Result<()> {
    if !lab::require("a_renamed_interface_counts_on_until_another_one_has_its_name", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    make(&lab, "x0", None)?;
    let toml = format!("{KEYS}{}", interface("x0", "access"));
    let mut agent = Agent::start(&lab, &executable()?, &toml)?;
    let far = lab.subscriber(1);
    lab.router().ip("link set x0 down")?;
    lab.router().ip("link set x0 name z0")?;
    lab.router().ip("link set z0 up")?;
    far.ip("link set x0p down")?;
    far.ip("link set x0p name z0p")?;
    far.ip("link set z0p up")?;
    send(&lab, "z0", 10)?;
    counts(&agent, "x0", 10)?;
    says(&agent, "/readyz", 200, "ok")?;
    leave(&mut agent)?;
    send(&lab, "z0", 10)?;
    drop(agent);
    let agent = Agent::start(&lab, &executable()?, &toml)?;
    send(&lab, "z0", 10)?;
    counts(&agent, "x0", 30)?;
    // The name that is configured wins.
    make(&lab, "x0", None)?;
    attached(&lab, "x0")?;
    free(lab.router(), "z0")?;
    send(&lab, "z0", 10)?;
    send(&lab, "x0", 1)?;
    counts(&agent, "x0", 31)?;
    drop(agent);
    lab.close()
}

#[test]
fn an_interface_that_moves_is_let_go_and_attached_again_when_it_is_back() -> Result<()> {
    if !lab::require("an_interface_that_moves_is_let_go_and_attached_again_when_it_is_back", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    make(&lab, "x0", None)?;
    let agent = Agent::start(&lab, &executable()?, &format!("{KEYS}{}", interface("x0", "access")))?;
    send(&lab, "x0", 10)?;
    counts(&agent, "x0", 10)?;
    lab.router().ip(&format!("link set x0 netns {}", lab.internet().name()))?;
    free(lab.internet(), "x0")?;
    lab.internet().ip("link set x0 up")?;
    send(&lab, "x0", 10)?;
    says(&agent, "/readyz", 503, "there is no such interface")?;
    says(&agent, "/metrics", 200, "peertally_xdp_changes_total{interface=\"x0\",change=\"moved\"} 1")?;
    lab.internet().ip(&format!("link set x0 netns {}", lab.router().name()))?;
    lab.router().ip("link set x0 up")?;
    attached(&lab, "x0")?;
    send(&lab, "x0", 10)?;
    counts(&agent, "x0", 20)?;
    says(&agent, "/readyz", 200, "ok")?;
    drop(agent);
    lab.close()
}

#[test]
fn the_mode_asked_for_is_in_force_after_a_take_over() -> Result<()> {
    if !lab::require("the_mode_asked_for_is_in_force_after_a_take_over", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let native = |expected: bool| -> Result<()> {
        for name in ["acc1", "core0"] {
            let found = xdp(lab.router(), name)?;
            ensure!(found.is_some_and(|xdp| xdp.native == expected), "{name}: {found:?}");
        }
        Ok(())
    };
    for (mode, expected) in [("generic", false), ("auto", false), ("native", true), ("auto", true), ("generic", false)]
    {
        let mut agent = Agent::start(&lab, &executable()?, &format!("{KEYS}xdp_mode = \"{mode}\"\n"))?;
        native(expected).context(mode)?;
        leave(&mut agent)?;
        native(expected).context(mode)?;
    }
    lab.close()
}

#[test]
fn an_interface_taken_out_of_the_configuration_is_let_go() -> Result<()> {
    if !lab::require("an_interface_taken_out_of_the_configuration_is_let_go", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    make(&lab, "x0", None)?;
    let mut agent = Agent::start(&lab, &executable()?, &format!("{KEYS}{}", interface("x0", "access")))?;
    send(&lab, "x0", 10)?;
    counts(&agent, "x0", 10)?;
    leave(&mut agent)?;
    drop(agent);
    let program = attached(&lab, "x0")?;
    // A start that fails leaves it as it is.
    let file = configuration(&lab, &format!("{KEYS}{}", interface("nowhere7", "access")))?;
    let (code, said) = peertally(&lab, &["run", "--config", file.to_str().context("UTF-8")?])?;
    ensure!(code == UNAVAILABLE && said.contains("nowhere7"), "{code}: {said}");
    ensure!(attached(&lab, "x0")? == program, "the program of x0 was touched");
    let mut agent = Agent::start(&lab, &executable()?, KEYS)?;
    free(lab.router(), "x0")?;
    ensure!(agent.process().log().contains("not configured any more"), "{}", agent.process().log());
    send(&lab, "x0", 10)?;
    ensure!(pins(&lab, "link_")?.len() == 2, "the pin of x0 is left");
    says(&agent, "/metrics", 200, "peertally_xdp_changes_total{interface=\"x0\",change=\"not_configured\"} 1")?;
    // Its counts stay, and are no other interface's.
    counts(&agent, "x0", 10)?;
    drop(agent);
    lab.close()
}

#[test]
fn another_network_namespace_does_not_take_over() -> Result<()> {
    if !lab::require("another_network_namespace_does_not_take_over", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let mut agent = Agent::start(&lab, &executable()?, KEYS)?;
    leave(&mut agent)?;
    drop(agent);
    let program = attached(&lab, "acc1")?;
    let file = lab.directory().join("other.toml");
    let text = fs::read_to_string(lab.directory().join("peertally.toml"))?.replace("\"acc1\"", "\"eth0\"");
    let (kept, _) = text.split_once("[[interfaces]]\nname = \"core0\"").context("the core interface")?;
    fs::write(&file, format!("{kept}[[subscribers.pools]]\nprefix = \"100.64.0.0/16\"\n"))?;
    // The mounts of the router, with their BPF file system, in the network namespace of the subscriber.
    let router = lab.router_command("true");
    let mounts = router.get_args().find(|each| each.to_string_lossy().starts_with("--mount="));
    let mut command = lab.subscriber(1).command("nsenter");
    command.arg(mounts.context("the router's mounts")?).arg(executable()?);
    let (code, said) = Agent::refusal(&lab, command.args(["run", "--config"]).arg(file))?;
    ensure!(code == UNAVAILABLE && said.contains("network namespace"), "{code}: {said}");
    ensure!(said.contains("net:[") && said.contains("nsenter --net=/proc/"), "the namespace is not named: {said}");
    ensure!(attached(&lab, "acc1")? == program, "the program was taken over");
    ensure!(xdp(lab.subscriber(1), "eth0")?.is_none(), "attached in the other namespace");
    // Twin: its own namespace takes over.
    let agent = Agent::start(&lab, &executable()?, KEYS)?;
    ensure!(attached(&lab, "acc1")? != program, "not taken over");
    drop(agent);
    lab.close()
}

#[test]
fn a_start_that_fails_touches_no_other_version() -> Result<()> {
    if !lab::require("a_start_that_fails_touches_no_other_version", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let mut agent = Agent::start(&lab, &executable()?, KEYS)?;
    leave(&mut agent)?;
    drop(agent);
    let program = attached(&lab, "acc1")?;
    let folder = pins(&lab, "v")?.pop().context("a folder of pins")?;
    let base = "/sys/fs/bpf/peertally";
    lab::run(lab.router_command("mv").args([format!("{base}/{folder}"), format!("{base}/v3")]))?;
    let before = pins(&lab, "")?;
    // An interface that cannot be native, and one that is another version's.
    let text = fs::read_to_string(lab.directory().join("peertally.toml"))?;
    let file = lab.directory().join("loopback.toml");
    let (kept, _) = text.split_once("[[interfaces]]\nname = \"acc1\"").context("the access interface")?;
    let loopback = interface("lo", "access");
    fs::write(&file, format!("{kept}{loopback}[[subscribers.pools]]\nprefix = \"100.64.0.0/16\"\n"))?;
    let (code, said) = peertally(&lab, &["run", "--config", file.to_str().context("UTF-8")?])?;
    ensure!(code == UNAVAILABLE && said.contains("Nothing was attached"), "{code}: {said}");
    let own = lab.directory().join("peertally.toml");
    let (code, said) = peertally(&lab, &["run", "--config", own.to_str().context("UTF-8")?])?;
    ensure!(code == UNAVAILABLE && said.contains("another version") && said.contains("v3"), "{code}: {said}");
    ensure!(pins(&lab, "")? == before, "{before:?} became {:?}", pins(&lab, "")?);
    ensure!(attached(&lab, "acc1")? == program, "the program of the other version is gone");
    // An agent that runs beside it says so.
    let pool = "[[subscribers.pools]]\nprefix = \"100.64.0.0/16\"\n";
    make(&lab, "x0", None)?;
    fs::write(&file, format!("{kept}{}{pool}", interface("x0", "access")))?;
    let mut command = lab.router_command(executable()?.to_str().context("UTF-8")?);
    let process = Process::spawn("beside", lab.directory(), command.args(["run", "--config"]).arg(&file))?;
    let other = "peertally_xdp_other_programs{interface=\"acc1\",mode=\"native\",pins=\"v3\"} 1";
    lab::wait_for("the other version's program", PATIENCE, PAUSE, || {
        let said = lab::http_get(lab.router(), lab::LISTEN, "/metrics");
        Ok(said.is_ok_and(|(_, body)| body.contains(other)))
    })
    .with_context(|| process.log())?;
    drop(process);
    let (code, said) = peertally(&lab, &["detach"])?;
    ensure!(code == 0 && said.contains("/v3/"), "{code}: {said}");
    free(lab.router(), "acc1")?;
    lab.close()
}

#[test]
fn a_start_that_is_killed_at_any_point_leaves_nothing_that_the_next_one_mistakes() -> Result<()> {
    if !lab::require("a_start_that_is_killed_at_any_point_leaves_nothing_that_the_next_one_mistakes", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    make(&lab, "x0", None)?;
    let toml = format!("{KEYS}{}", interface("x0", "access"));
    let file = configuration(&lab, &toml)?;
    // Pins come one after the other: 23 maps, records, stages, links.
    for point in (1..=30_usize).step_by(if lab::repetitions(1) == 1 { 5 } else { 1 }) {
        let mut command = lab.router_command(executable()?.to_str().context("a path in UTF-8")?);
        let mut process = Process::spawn("killed", lab.directory(), command.args(["run", "--config"]).arg(&file))?;
        lab::wait_for("a point of the start", PATIENCE, Duration::ZERO, || {
            process.ensure_running()?;
            Ok(pins(&lab, "")?.len() > point + 1)
        })?;
        process.kill()?;
        let mut agent = Agent::start(&lab, &executable()?, &toml)?;
        send(&lab, "x0", 40)?;
        counts(&agent, "x0", 40).with_context(|| format!("killed at point {point}"))?;
        leave(&mut agent)?;
        drop(agent);
        let (code, said) = peertally(&lab, &["detach"])?;
        ensure!(code == 0, "{code}: {said}");
        free(lab.router(), "x0")?;
    }
    lab.close()
}

#[test]
fn detach_beside_a_running_agent_refuses() -> Result<()> {
    if !lab::require("detach_beside_a_running_agent_refuses", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let mut agent = Agent::start(&lab, &executable()?, KEYS)?;
    let program = attached(&lab, "acc1")?;
    let (code, said) = peertally(&lab, &["detach"])?;
    let process = format!("process {}", agent.process().id());
    ensure!(code == UNAVAILABLE && said.contains(&process), "no `{process}` in {code}: {said}");
    ensure!(attached(&lab, "acc1")? == program, "detached");
    let state = lab.directory().join("state");
    let file = lab.directory().join("peertally.toml");
    let purge = ["detach", "--purge", "--config", file.to_str().context("UTF-8")?];
    let (code, said) = peertally(&lab, &purge)?;
    ensure!(code == UNAVAILABLE && state.join("pseudonym.key").exists(), "{code}: {said}");
    leave(&mut agent)?;
    let (_, said) = peertally(&lab, &["status"])?;
    ensure!(said.contains("acc1 (native, pins v"), "what counts on is not named: {said}");
    let (code, said) = peertally(&lab, &purge)?;
    ensure!(code == 0 && said.contains("link_") && said.contains("pseudonym.key"), "{code}: {said}");
    ensure!(!state.join("pseudonym.key").exists(), "the key is left: {said}");
    free(lab.router(), "acc1")?;
    lab.close()
}

#[test]
fn a_foreign_program_held_by_a_link_gets_advice_that_works() -> Result<()> {
    if !lab::require("a_foreign_program_held_by_a_link_gets_advice_that_works", &["bpftool"]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let mut agent = Agent::start(&lab, &executable()?, KEYS)?;
    leave(&mut agent)?;
    drop(agent);
    // A program whose pins are nowhere we look is anybody's.
    let pin = pins(&lab, "link_")?.pop().context("a pinned link")?;
    let folder = pins(&lab, "v")?.pop().context("a folder of pins")?;
    lab::run(lab.router_command("mkdir").arg("/sys/fs/bpf/somebody"))?;
    let base = format!("/sys/fs/bpf/peertally/{folder}");
    lab::run(lab.router_command("mv").args([format!("{base}/{pin}"), "/sys/fs/bpf/somebody/link".to_owned()]))?;
    let file = configuration(&lab, KEYS)?;
    let (code, said) = peertally(&lab, &["run", "--config", file.to_str().context("UTF-8")?])?;
    ensure!(code == UNAVAILABLE, "{code}: {said}");
    let (_, advice) = said.split_once("`bpftool link detach id ").with_context(|| said.clone())?;
    let id = advice.split('`').next().context("an id")?;
    // It is no more than advice: the program is there until somebody follows it.
    let free_before = ["acc1", "core0"].map(|name| xdp(lab.router(), name).ok().flatten().is_none());
    ensure!(free_before == [false, false], "{free_before:?}");
    lab::run(lab.router_command("bpftool").args(["link", "detach", "id", id]))?;
    let agent = Agent::start(&lab, &executable()?, KEYS)?;
    says(&agent, "/readyz", 200, "ok")?;
    drop(agent);
    lab.close()
}

#[test]
fn pins_of_a_private_mount_namespace_are_said_to_end_with_it() -> Result<()> {
    if !lab::require("pins_of_a_private_mount_namespace_are_said_to_end_with_it", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    // The lab's router has mounts of its own, as after `ip netns exec`.
    let mut agent = Agent::start(&lab, &executable()?, KEYS)?;
    ensure!(agent.process().log().contains("this mount namespace's own"), "{}", agent.process().log());
    leave(&mut agent)?;
    let log = agent.process().log();
    ensure!(log.contains("with the last process of that namespace"), "{log}");
    ensure!(!log.contains("stays attached and keeps counting"), "{log}");
    // Seen from outside, there are no pins, and the program is there: `detach` says so and touches nothing.
    let mut outside = lab.router().command("unshare");
    outside.args(["--mount", "--propagation", "private", "/bin/sh", "-c"]);
    let detach = "mount -t tmpfs tmpfs /run && mount -t sysfs sysfs /sys && exec \"$0\" detach";
    let done = lab::output(outside.arg(detach).arg(executable()?))?;
    let said = String::from_utf8_lossy(&done.stdout);
    ensure!(said.contains("still attached: `acc1`") && said.contains("still attached: `core0`"), "{said} {done:?}");
    attached(&lab, "acc1")?;
    lab.close()
}

#[test]
fn a_question_that_fails_is_not_taken_for_an_answer() -> Result<()> {
    if !lab::require("a_question_that_fails_is_not_taken_for_an_answer", &["prlimit"]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let mut agent = Agent::start(&lab, &executable()?, KEYS)?;
    let process = agent.process().id().to_string();
    let limit = |descriptors: &str| {
        lab::run(Command::new("prlimit").args(["--pid", &process, &format!("--nofile={descriptors}:")]))
    };
    // No pin can be opened.
    limit("4")?;
    lab::wait_for("a failed question", PATIENCE, PAUSE, || {
        agent.process().ensure_running()?;
        Ok(agent.process().log().contains("cannot ask the kernel where the program is attached"))
    })
    .with_context(|| agent.process().log())?;
    limit("1024")?;
    says(&agent, "/readyz", 200, "ok")?;
    let log = agent.process().log();
    ensure!(!log.contains("the program is not attached"), "a false alarm: {log}");
    lab::wait_for("a counted failure", PATIENCE, PAUSE, || {
        Ok(agent.metrics()?.sum("peertally_xdp_query_failures_total", &[]) > 0)
    })?;
    ensure!(agent.metrics()?.sum("peertally_xdp_attached", &[("mode", "native")]) == 2, "not shown as attached");
    // Twin: what is asked and answered is said.
    make(&lab, "x0", None)?;
    drop(agent);
    let agent = Agent::start(&lab, &executable()?, &format!("{KEYS}{}", interface("x0", "access")))?;
    remove(&lab, "x0")?;
    says(&agent, "/readyz", 503, "`x0`: there is no such interface")?;
    ensure!(agent.metrics()?.sum("peertally_xdp_query_failures_total", &[]) == 0, "a failure without a reason");
    drop(agent);
    lab.close()
}
