//! Transfers of real clients across the router. Labels must be right, and counts must agree with clients and kernel.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, bail, ensure};
use peertally_lab::{
    self as lab, Agent, Amule, Aria2, Counters, DnsServer, EdonkeyServer, INTERNET_V4, INTERNET_V6, LIBTORRENT_PORT,
    Lab, Libtorrent, SubscriberRow, TRACKER_PORT, Tracker, Transmission, WebServer,
};
use peertally_tests::executable;

const MEGABYTE: usize = 1 << 20;
const KEYS: &str = "drain_interval = \"500ms\"\non_exit = \"detach\"\n[metrics]\nsubscribers = true\n";
const PATIENCE: Duration = Duration::from_secs(120);
/// Largest difference of totals from a client's report.
const TOLERANCE: f64 = 0.01;
/// Headers of IPv4 (20) and TCP with the time stamp option that Linux always asks for (20 + 12, RFC 7323).
const TCP_HEADERS: u64 = 52;
/// Headers of IPv4 (20), UDP (8) and uTP (20, BEP 29).
const UTP_HEADERS: u64 = 48;

/// Sum of the rows of subscriber `number` that `which` takes.
fn sum(rows: &[SubscriberRow], number: u8, which: impl Fn(&SubscriberRow) -> bool) -> SubscriberRow {
    let empty = SubscriberRow {
        subscriber: lab::subscriber_v4(number).to_string(),
        protocol: String::new(),
        confidence: String::new(),
        flows: 0,
        packets_up: 0,
        bytes_up: 0,
        packets_down: 0,
        bytes_down: 0,
    };
    rows.iter().filter(|row| row.is_of(number) && which(row)).fold(empty, |sum, row| SubscriberRow {
        flows: sum.flows + row.flows,
        packets_up: sum.packets_up + row.packets_up,
        bytes_up: sum.bytes_up + row.bytes_up,
        packets_down: sum.packets_down + row.packets_down,
        bytes_down: sum.bytes_down + row.bytes_down,
        ..sum
    })
}

/// Payload that `row`'s subscriber received for the first time: packets have headers of `headers` bytes, and the other
/// side sent `resent` packets again, which a client does not report.
fn payload_down(row: &SubscriberRow, headers: u64, resent: u64) -> u64 {
    let payload = row.bytes_down - headers * row.packets_down;
    payload - resent * (payload / row.packets_down.max(1))
}

fn near(what: &str, counted: u64, reported: u64) -> Result<()> {
    let difference = counted.abs_diff(reported) as f64 / reported.max(1) as f64;
    ensure!(
        difference <= TOLERANCE,
        "{what}: {counted} counted, {reported} reported: {:.2} % apart",
        difference * 100.0
    );
    Ok(())
}

/// Every tally, once every packet is drained and counted as the interfaces count.
fn settle(lab: &Lab, agent: &Agent<'_>, before: &BTreeMap<String, Counters>) -> Result<Vec<SubscriberRow>> {
    lab.settle()?;
    agent.settled(before)
}

#[test]
fn transmission_beside_ordinary_traffic() -> Result<()> {
    let programs = ["transmission-daemon", "transmission-create", "opentracker", "nginx", "openssl", "curl"];
    if !lab::require("transmission_beside_ordinary_traffic", &programs) {
        return Ok(());
    }
    let lab = Lab::new(2)?;
    let announce = format!("http://{INTERNET_V4}:{TRACKER_PORT}/announce");
    let transfer = lab::make_torrent(&lab, "http", 16 * MEGABYTE, &announce)?;
    let mut tracker = Tracker::start(&lab, &[&transfer])?;
    // Plain peer wire over TCP, no DHT.
    let options = ["-et", "--no-utp", "-O"];
    let seeder = Transmission::start(&lab, lab.internet(), &transfer.seed, &options)?;
    seeder.add(&transfer)?;
    let _web = WebServer::start(&lab, MEGABYTE)?;
    let dns = DnsServer::start(lab.internet(), INTERNET_V4)?;
    tracker.wait_seeded(&lab, &transfer)?;
    let (agent, before) = Agent::start_before_traffic(&lab, &executable()?, KEYS)?;

    let downloads = lab.subdirectory("downloads")?;
    let mut leecher = Transmission::start(&lab, lab.subscriber(1), &downloads, &options)?;
    leecher.add(&transfer)?;
    let mut web_bytes = 0;
    for url in [format!("http://{INTERNET_V4}/file"), format!("https://[{INTERNET_V6}]/file")] {
        ensure!(dns.look_up(lab.subscriber(2), "www.example.org")? == INTERNET_V4);
        web_bytes += lab::fetch(lab.subscriber(2), &url)?;
    }
    leecher.wait_complete(PATIENCE)?;
    ensure!(leecher.has(&transfer)?, "the copy differs");
    let reported = leecher.reported()?;
    drop((leecher, seeder));
    let rows = settle(&lab, &agent, &before)?;

    let torrent = sum(&rows, 1, |row| row.protocol == "bittorrent");
    let resent = lab.internet().tcp_resent()?;
    near("Transmission", payload_down(&torrent, TCP_HEADERS, resent), reported.received)?;
    ensure!(torrent.flows > 0 && torrent.bytes_up > 0, "{torrent:?}");
    let rest = sum(&rows, 1, |row| row.protocol != "bittorrent");
    ensure!(rest.bytes_up + rest.bytes_down < 10_000, "not BitTorrent: {rest:?} of {rows:?}");

    let labelled = sum(&rows, 2, SubscriberRow::is_p2p);
    ensure!(labelled.packets_up + labelled.packets_down == 0, "ordinary traffic is labelled: {rows:?}");
    let ordinary = sum(&rows, 2, |row| row.protocol == "unclassified");
    ensure!(ordinary.bytes_down > web_bytes && ordinary.bytes_down < web_bytes * 11 / 10, "{ordinary:?}, {web_bytes}");
    lab.close()
}

#[test]
fn aria2_by_udp_tracker() -> Result<()> {
    if !lab::require("aria2_by_udp_tracker", &["transmission-daemon", "transmission-create", "opentracker", "aria2c"]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let transfer = lab::make_torrent(&lab, "udp", 4 * MEGABYTE, &format!("udp://{INTERNET_V4}:{TRACKER_PORT}"))?;
    let mut tracker = Tracker::start(&lab, &[&transfer])?;
    let seeder = Transmission::start(&lab, lab.internet(), &transfer.seed, &["-et", "-O"])?;
    seeder.add(&transfer)?;
    tracker.wait_seeded(&lab, &transfer)?;
    let (agent, before) = Agent::start_before_traffic(&lab, &executable()?, KEYS)?;
    let downloads = lab.subdirectory("downloads")?;
    let mut leecher = Aria2::start(&lab, lab.subscriber(1), &transfer, &downloads, &["--enable-dht=true"])?;
    leecher.wait_complete(&transfer, PATIENCE)?;
    drop((leecher, seeder));
    let rows = settle(&lab, &agent, &before)?;
    let torrent = sum(&rows, 1, |row| row.protocol == "bittorrent");
    // aria2 reports only that it has the file.
    let resent = lab.internet().tcp_resent()?;
    near("aria2", payload_down(&torrent, TCP_HEADERS, resent), transfer.bytes)?;
    lab.close()
}

#[test]
fn libtorrent_by_utp() -> Result<()> {
    let programs = ["transmission-create", "/usr/lib/python3/dist-packages/libtorrent.egg-info"];
    if !lab::require("libtorrent_by_utp", &programs) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let transfer = lab::make_torrent(&lab, "utp", 4 * MEGABYTE, "http://192.0.2.1/announce")?;
    let utp_only = ["enable_outgoing_tcp=False", "enable_incoming_tcp=False", "enable_dht=True", "--trackerless"];
    let mut seeder = Libtorrent::start(&lab, lab.internet(), &transfer, &transfer.seed, &utp_only)?;
    seeder.wait_complete(&transfer, Duration::from_secs(30))?;
    let (agent, before) = Agent::start_before_traffic(&lab, &executable()?, KEYS)?;
    let downloads = lab.subdirectory("downloads")?;
    // A peer that is known, and a DHT of two nodes: how long two nodes take to find each other alone is up to chance.
    let node = format!("{INTERNET_V4}:{LIBTORRENT_PORT}");
    let options = [&utp_only[..], &["--node", &node, "--peer", &node]].concat();
    let mut leecher = Libtorrent::start(&lab, lab.subscriber(1), &transfer, &downloads, &options)?;
    leecher.wait_complete(&transfer, PATIENCE)?;
    let (reported, resent) = (leecher.reported()?, seeder.resent_packets()?);
    drop((leecher, seeder));
    let rows = settle(&lab, &agent, &before)?;
    let torrent = sum(&rows, 1, |row| row.protocol == "bittorrent");
    near("libtorrent", payload_down(&torrent, UTP_HEADERS, resent), reported.received)?;
    let rest = sum(&rows, 1, |row| row.protocol != "bittorrent");
    ensure!(rest.bytes_up + rest.bytes_down < 10_000, "not BitTorrent: {rest:?} of {rows:?}");
    lab.close()
}

/// aMule asks a source that was not ready again only after minutes: a pair that did not meet is started afresh.
const AMULE_ATTEMPTS: u32 = 3;
/// Longest time for one pair; one that meets is done within a minute.
const AMULE_PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn amule() -> Result<()> {
    if !lab::require("amule", &["amuled", "amulecmd", "openssl"]) {
        return Ok(());
    }
    for attempt in 1..=AMULE_ATTEMPTS {
        match amule_transfer()? {
            None => return Ok(()),
            Some(problem) => println!("attempt {attempt}: the clients did not meet: {problem:#}"),
        }
    }
    bail!("the clients did not meet in {AMULE_ATTEMPTS} attempts")
}

/// One transfer and its count; what kept the clients apart, if that failed.
fn amule_transfer() -> Result<Option<anyhow::Error>> {
    let lab = Lab::new(1)?;
    let server = EdonkeyServer::start(lab.internet())?;
    let seeder = Amule::start(&lab, lab.internet(), INTERNET_V4, 150_000)?;
    if let Err(problem) = server.wait_offered() {
        drop(seeder);
        lab.close()?;
        return Ok(Some(problem));
    }
    let (agent, before) = Agent::start_before_traffic(&lab, &executable()?, KEYS)?;
    let mut leecher = Amule::start(&lab, lab.subscriber(1), INTERNET_V4, 0)?;
    leecher.download(&seeder.link(INTERNET_V4)?)?;
    let met = leecher.wait_complete(&seeder, AMULE_PATIENCE);
    drop((leecher, seeder));
    if let Err(problem) = met {
        drop(agent);
        lab.close()?;
        return Ok(Some(problem));
    }
    let rows = settle(&lab, &agent, &before)?;
    let donkey = sum(&rows, 1, |row| row.protocol == "edonkey");
    ensure!(donkey.bytes_down > 150_000 && donkey.flows >= 2, "{donkey:?} of {rows:?}");
    let rest = sum(&rows, 1, |row| row.protocol != "edonkey" && row.protocol != "kademlia");
    ensure!(rest.bytes_up + rest.bytes_down < 10_000, "not eDonkey: {rest:?} of {rows:?}");
    lab.close()?;
    Ok(None)
}
