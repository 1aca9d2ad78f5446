//! The lab itself: traffic passes without any agent, its counts agree, and nothing stays.

use std::{
    env, fs,
    io::{self, BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use peertally_lab::{self as lab, DnsServer, INTERNET_V4, INTERNET_V6, IpReference, Lab, Process, WebServer};

const MEGABYTE: usize = 1 << 20;

#[test]
fn removes_itself() -> Result<()> {
    if !lab::require("removes_itself", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let (name, directory) = (lab.name().to_owned(), lab.directory().to_owned());
    lab.close()?;
    ensure!(!directory.exists(), "{} is left", directory.display());
    for role in ["rtr", "net", "s1"] {
        ensure!(!Path::new("/run/netns").join(format!("{name}-{role}")).exists(), "{name}-{role} is left");
    }
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    ensure!(!mounts.contains(&name), "a mount is left");
    Ok(())
}

/// Set for the process that [`guard_removes_what_a_killed_owner_left`] kills.
const OWNER_VARIABLE: &str = "PEERTALLY_TEST_OWNER";

fn hold_a_lab() -> Result<()> {
    let lab = Lab::new(1)?;
    let _sleeper = Process::spawn("sleeper", lab.directory(), lab.subscriber(1).command("sleep").arg("600"))?;
    println!("\n{}", lab.name());
    io::stdin().read_line(&mut String::new())?;
    Ok(())
}

#[test]
fn guard_removes_what_a_killed_owner_left() -> Result<()> {
    if !lab::require("guard_removes_what_a_killed_owner_left", &[]) {
        return Ok(());
    }
    if env::var_os(OWNER_VARIABLE).is_some() {
        return hold_a_lab();
    }
    let mut owner = Command::new(env::current_exe()?)
        .args(["--exact", "--nocapture", "guard_removes_what_a_killed_owner_left"])
        .env(OWNER_VARIABLE, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(owner.stdout.take().context("a pipe")?).lines();
    let prefix = format!("pt-{}-", owner.id());
    let name = lines.map_while(Result::ok).find(|line| line.starts_with(&prefix)).context("a lab's name")?;
    let namespaces = || -> Result<usize> {
        let all = fs::read_dir("/run/netns")?.flatten();
        Ok(all.filter(|entry| entry.file_name().to_string_lossy().starts_with(&name)).count())
    };
    ensure!(namespaces()? == 3, "{name} has {} namespaces", namespaces()?);
    owner.kill()?;
    owner.wait()?;
    lab::wait_for("end of the lab", Duration::from_secs(20), Duration::from_millis(50), || {
        Ok(namespaces()? == 0 && !env::temp_dir().join(format!("peertally-lab-{name}")).exists())
    })
}

#[test]
fn ordinary_traffic_passes() -> Result<()> {
    if !lab::require("ordinary_traffic_passes", &["nginx", "openssl", "curl", "tcpdump"]) {
        return Ok(());
    }
    let lab = Lab::new(2)?;
    let _web = WebServer::start(&lab, MEGABYTE)?;
    let dns = DnsServer::start(lab.internet(), INTERNET_V4)?;
    let before = lab.router().counters()?;
    let reference = IpReference::start(lab.internet(), lab.directory())?;
    for number in [1, 2] {
        let subscriber = lab.subscriber(number);
        ensure!(dns.look_up(subscriber, "www.example.org")? == INTERNET_V4);
        for url in [format!("http://{INTERNET_V4}/file"), format!("https://[{INTERNET_V6}]/file")] {
            ensure!(lab::fetch(subscriber, &url)? == MEGABYTE as u64, "{url} is incomplete");
        }
    }
    lab.settle()?;
    let count = reference.stop()?;
    let after = lab.router().counters()?;
    let core =
        (after["core0"].rx_packets - before["core0"].rx_packets, after["core0"].rx_bytes - before["core0"].rx_bytes);
    ensure!(core.0 == count.packets + count.other, "frames: {core:?} by the interface, {count:?} by tcpdump");
    // Without XDP a veth counts the 14 bytes of the Ethernet header.
    ensure!(count.other == 0 && core.1 == count.bytes + 14 * count.packets, "bytes: {core:?}, {count:?}");
    lab.close()
}

#[test]
fn native_xdp_sees_every_frame() -> Result<()> {
    if !lab::require("native_xdp_sees_every_frame", &["nginx", "openssl", "curl", "tcpdump", "xdp-filter"]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    for interface in ["acc1", "core0"] {
        lab::run(lab.router_command("xdp-filter").args(["load", "-m", "native", "-p", "allow", interface]))?;
    }
    let _web = WebServer::start(&lab, MEGABYTE)?;
    lab.settle()?;
    let before = lab.router().counters()?;
    let reference = IpReference::start(lab.internet(), lab.directory())?;
    ensure!(lab::fetch(lab.subscriber(1), &format!("https://{INTERNET_V4}/file"))? == MEGABYTE as u64);
    lab.settle()?;
    let count = reference.stop()?;
    let after = lab.router().counters()?;
    let core =
        (after["core0"].rx_packets - before["core0"].rx_packets, after["core0"].rx_bytes - before["core0"].rx_bytes);
    // With native XDP a veth counts bytes after the Ethernet header (drivers/net/veth.c, veth_xdp_rcv).
    ensure!(
        core == (count.packets, count.bytes) && count.other == 0,
        "{core:?} by the interface, {count:?} by tcpdump"
    );
    lab.close()
}
