//! libtorrent at both ends: torrents of BitTorrent v2, and every shape of message stream encryption.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::Result;

use super::super::{
    AnnounceServer, IpVersion, LIBTORRENT_PORT, Libtorrent, Scenario, Stage, TRACKER_PORT, Transfer,
    clients::libtorrent::make_v2_torrent, make_torrent, wait_for,
};
use super::bittorrent::{MEGABYTE, PATIENCE, forced, scenario};

const PROGRAMS: &[&str] = &["transmission-create", "/usr/lib/python3/dist-packages/libtorrent.egg-info", "tcpdump"];

/// Settings of libtorrent (settings_pack): enc_policy 0 forces, 2 forbids encryption; enc_level 1 is the handshake with
/// clear payload, 2 is RC4.
const TCP: [&str; 2] = ["enable_outgoing_utp=False", "enable_incoming_utp=False"];
const UTP: [&str; 2] = ["enable_outgoing_tcp=False", "enable_incoming_tcp=False"];
const PLAIN: [&str; 3] = ["out_enc_policy=2", "in_enc_policy=2", "enable_dht=False"];
const RC4: [&str; 4] = ["out_enc_policy=0", "in_enc_policy=0", "allowed_enc_level=2", "enable_dht=True"];
const CLEAR_PAYLOAD: [&str; 4] = ["out_enc_policy=0", "in_enc_policy=0", "allowed_enc_level=1", "enable_dht=False"];

/// The scenarios.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("libtorrent", "hybrid-utp", IpVersion::V4, PROGRAMS, |stage| once(stage, "hybrid", &UTP, &PLAIN)),
    scenario("libtorrent", "v2-tcp", IpVersion::V6, PROGRAMS, |stage| once(stage, "v2", &TCP, &PLAIN)),
    scenario("libtorrent", "tcp-halfclear", IpVersion::V4, PROGRAMS, |stage| once(stage, "v1", &TCP, &CLEAR_PAYLOAD)),
    forced(scenario("libtorrent", "tcp-forced", IpVersion::V4, PROGRAMS, |stage| twice(stage, &TCP, &RC4))),
    forced(scenario("libtorrent", "utp-forced", IpVersion::V6, PROGRAMS, |stage| twice(stage, &UTP, &RC4))),
];

fn make(stage: &Stage<'_>, kind: &str, name: &str, bytes: usize) -> Result<Transfer> {
    let announce = format!("http://{}/announce", SocketAddr::new(stage.internet(), TRACKER_PORT));
    match kind {
        "v1" => make_torrent(stage.lab, name, bytes, &announce),
        kind => make_v2_torrent(stage.lab, kind, name, bytes, &announce),
    }
}

/// Waits until the tracker knows a seeder in `swarms` swarms.
fn wait_seeded(tracker: &AnnounceServer, swarms: usize) -> Result<()> {
    wait_for("announce of a seeder", PATIENCE, Duration::from_millis(100), || Ok(tracker.seeded() >= swarms))
}

fn once(stage: &Stage<'_>, kind: &str, transport: &[&str], encryption: &[&str]) -> Result<()> {
    let transfer = make(stage, kind, "file", 2 * MEGABYTE)?;
    let tracker = AnnounceServer::start(stage.lab.internet(), stage.internet())?;
    let options = [transport, encryption].concat();
    let _seeder = Libtorrent::start(stage.lab, stage.lab.internet(), &transfer, &transfer.seed, &options)?;
    wait_seeded(&tracker, 1)?;
    let downloads = stage.lab.subdirectory("downloads")?;
    let mut leecher = Libtorrent::start(stage.lab, stage.lab.subscriber(1), &transfer, &downloads, &options)?;
    leecher.wait_complete(&transfer, PATIENCE)
}

/// Two files in one session: the second torrent is put in its place after the mark.
fn twice(stage: &Stage<'_>, transport: &[&str], encryption: &[&str]) -> Result<()> {
    let first = make(stage, "v1", "file0", MEGABYTE)?;
    let second = make(stage, "v1", "file1", 3 * MEGABYTE)?;
    let tracker = AnnounceServer::start(stage.lab.internet(), stage.internet())?;
    let options = [transport, encryption].concat();
    let path = |path: &std::path::Path| path.display().to_string();
    let also = ["--also".to_owned(), path(&second.torrent), path(&second.seed)];
    let seeding: Vec<&str> = options.iter().copied().chain(also.iter().map(String::as_str)).collect();
    let _seeder = Libtorrent::start(stage.lab, stage.lab.internet(), &first, &first.seed, &seeding)?;
    wait_seeded(&tracker, 2)?;
    let downloads = stage.lab.subdirectory("downloads")?;
    let later = stage.lab.directory().join("later.torrent");
    let node = SocketAddr::new(stage.internet(), LIBTORRENT_PORT).to_string();
    let also = ["--also".to_owned(), path(&later), path(&downloads), "--node".to_owned(), node];
    let leeching: Vec<&str> = options.iter().copied().chain(also.iter().map(String::as_str)).collect();
    let mut leecher = Libtorrent::start(stage.lab, stage.lab.subscriber(1), &first, &downloads, &leeching)?;
    leecher.wait_complete(&first, PATIENCE)?;
    stage.mark()?;
    fs::rename(&second.torrent, &later)?;
    leecher.wait_complete(&second, PATIENCE)
}
