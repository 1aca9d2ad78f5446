//! Every scenario of `cargo xtask lab`: real clients, their plain and their encrypted modes, IPv4 and IPv6.

use std::{fs, path::Path, sync::Mutex};

use anyhow::{Result, ensure};
use peertally_lab::{self as lab, Expected, Scenario};
use peertally_tests::executable;

/// Scenarios at a time: they mostly wait for their clients.
const JOBS: usize = 3;

/// Clients by network, a test each.
const BITTORRENT: &[&str] = &["transmission", "aria2", "libtorrent", "rtorrent", "ctorrent", "qbittorrent"];
const EDONKEY: &[&str] = &["amule"];
const SOULSEEK: &[&str] = &["aioslsk"];
const NODE: &[&str] = &["webtorrent", "libp2p"];
const DIRECT_CONNECT: &[&str] = &["ncdc"];

fn of(clients: &[&str]) -> Vec<Scenario> {
    lab::scenarios().into_iter().filter(|scenario| clients.contains(&scenario.client)).collect()
}

fn play(test: &str, clients: &[&str]) -> Result<()> {
    let mut scenarios = of(clients);
    scenarios.retain(|scenario| match scenario.expected {
        // Nothing could fail: `cargo xtask lab` shows what it measures.
        Expected::Measured(why) => {
            println!("SKIPPED: {} is only measured: {why}", scenario.name());
            false
        }
        _ => true,
    });
    let programs: Vec<_> = scenarios.iter().flat_map(|scenario| scenario.programs).copied().collect();
    if !lab::require(test, &programs) {
        return Ok(());
    }
    let problems = Mutex::new(Vec::new());
    // What fell short is kept, to be replayed.
    let captures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lab");
    lab::play_all(&scenarios, JOBS, &executable()?, Some(&captures), |scenario, result| {
        let capture = captures.join(format!("{}.pcap", scenario.name()));
        let judged = result.and_then(|outcome| {
            println!(
                "{}: {:?}, after the mark {:?}, {:?}, {} s",
                scenario.name(),
                outcome.overall,
                outcome.after_mark,
                outcome.labels,
                outcome.time.as_secs()
            );
            outcome.judge(scenario)
        });
        if judged.is_ok() {
            fs::remove_file(&capture).ok();
        }
        if let Err(error) = judged {
            let error = error.context(format!("capture: {}", capture.display()));
            problems
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .push(format!("{}: {error:#}", scenario.name()));
        }
    });
    let problems = problems.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    ensure!(problems.is_empty(), "{} of {} fell short:\n{}", problems.len(), scenarios.len(), problems.join("\n"));
    Ok(())
}

#[test]
fn every_scenario_belongs_to_a_test() {
    let tested = [BITTORRENT, EDONKEY, DIRECT_CONNECT, SOULSEEK, NODE].concat();
    for scenario in lab::scenarios() {
        assert!(tested.contains(&scenario.client), "{} is in no test", scenario.name());
    }
    for client in tested {
        assert!(!of(&[client]).is_empty(), "{client} has no scenario");
    }
}

#[test]
fn bittorrent() -> Result<()> {
    play("bittorrent", BITTORRENT)
}

#[test]
fn edonkey() -> Result<()> {
    play("edonkey", EDONKEY)
}

#[test]
fn webtorrent_and_libp2p() -> Result<()> {
    play("webtorrent_and_libp2p", NODE)
}

#[test]
fn soulseek() -> Result<()> {
    play("soulseek", SOULSEEK)
}

#[test]
fn direct_connect() -> Result<()> {
    play("direct_connect", DIRECT_CONNECT)
}
