//! The laboratory itself: transfers of real clients arrive without any agent, and nothing is left behind.

use std::{fs, path::Path, time::Duration};

use anyhow::{Result, ensure};
use peertally_tests::lab::{
    self, Amule, Aria2, DnsServer, EdonkeyServer, INTERNET_V4, INTERNET_V6, IpReference, LIBTORRENT_PORT, Lab,
    Libtorrent, TRACKER_PORT, Tracker, Transmission, WebServer,
};

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
fn torrents_arrive() -> Result<()> {
    if !lab::require(
        "torrents_arrive",
        &["transmission-daemon", "transmission-create", "opentracker", "aria2c", "curl"],
    ) {
        return Ok(());
    }
    let lab = Lab::new(2)?;
    let announce = format!("http://{INTERNET_V4}:{TRACKER_PORT}/announce");
    let transfer = lab::make_torrent(&lab, "http", 8 * MEGABYTE, &announce)?;
    let mut tracker = Tracker::start(&lab, &[&transfer])?;
    let seeder = Transmission::start(&lab, lab.internet(), &transfer.seed, &["--no-utp", "-O"])?;
    seeder.add(&transfer)?;
    tracker.wait_seeded(&lab, &transfer)?;
    let downloads = lab.subdirectory("downloads-transmission")?;
    let mut leecher = Transmission::start(&lab, lab.subscriber(1), &downloads, &["--no-utp", "-O"])?;
    leecher.add(&transfer)?;
    let downloads = lab.subdirectory("downloads-aria2")?;
    let mut aria2 = Aria2::start(&lab, lab.subscriber(2), &transfer, &downloads, &["--enable-dht=false"])?;
    aria2.wait_complete(&transfer, Duration::from_secs(60))?;
    leecher.wait_complete(Duration::from_secs(60))?;
    ensure!(leecher.has(&transfer)?, "Transmission's copy differs");
    ensure!(leecher.reported()?.received >= transfer.bytes, "{:?}", leecher.reported()?);
    drop((leecher, seeder, aria2));
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
    // With native XDP a veth counts bytes behind the Ethernet header (drivers/net/veth.c, veth_xdp_rcv).
    ensure!(
        core == (count.packets, count.bytes) && count.other == 0,
        "{core:?} by the interface, {count:?} by tcpdump"
    );
    lab.close()
}

#[test]
fn libtorrent_finds_its_peer_by_dht_and_transfers_by_utp() -> Result<()> {
    let name = "libtorrent_finds_its_peer_by_dht_and_transfers_by_utp";
    if !lab::require(name, &["transmission-create", "/usr/lib/python3/dist-packages/libtorrent.egg-info"]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let transfer = lab::make_torrent(&lab, "utp", 4 * MEGABYTE, "http://192.0.2.1/announce")?;
    let node = format!("{INTERNET_V4}:{LIBTORRENT_PORT}");
    let utp_only = ["enable_outgoing_tcp=False", "enable_incoming_tcp=False", "enable_dht=True", "--trackerless"];
    let mut seeder = Libtorrent::start(&lab, lab.internet(), &transfer, &transfer.seed, &utp_only)?;
    seeder.wait_complete(&transfer, Duration::from_secs(30))?;
    let downloads = lab.subdirectory("downloads")?;
    let options = [&utp_only[..], &["--node", &node]].concat();
    let mut leecher = Libtorrent::start(&lab, lab.subscriber(1), &transfer, &downloads, &options)?;
    leecher.wait_complete(&transfer, Duration::from_secs(90))?;
    ensure!(leecher.reported()?.received > transfer.bytes, "{:?}", leecher.reported()?);
    lab.close()
}

#[test]
fn amule_transfers() -> Result<()> {
    if !lab::require("amule_transfers", &["amuled", "amulecmd", "openssl"]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let _server = EdonkeyServer::start(lab.internet())?;
    let seeder = Amule::start(&lab, lab.internet(), INTERNET_V4, 150_000)?;
    let mut leecher = Amule::start(&lab, lab.subscriber(1), INTERNET_V4, 0)?;
    leecher.download(&seeder.link(INTERNET_V4)?)?;
    leecher.wait_complete(&seeder, Duration::from_secs(120))?;
    drop((leecher, seeder));
    lab.close()
}
