//! BitTorrent: a seeder on the internet, a leecher at the subscriber's, and a tracker.
//!
//! In a forced mode both ends refuse a clear peer wire. As real clients do, they still announce to the tracker and take
//! part in the DHT. Two files are transferred, and the mark lies between them: the first stands for the client's first
//! minute, which takes seconds on the lab's links.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;

use super::super::{
    AnnounceServer, Aria2, Ctorrent, Expected, IpVersion, Qbittorrent, Rtorrent, Scenario, Stage, TRACKER_PORT,
    Tracker, Transfer, Transmission, clients::transmission::TRANSMISSION_PORT, make_torrent, wait_for,
};

pub(super) const MEGABYTE: usize = 1 << 20;
/// Longest time for one transfer.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

const BITTORRENT: &[&str] = &["bittorrent"];

/// Options of seeder, tracker, torrents and client.
macro_rules! programs {
    ($($client:literal),*) => {
        &["transmission-daemon", "transmission-create", "opentracker", "tcpdump", $($client),*]
    };
}

pub(super) const fn scenario(
    client: &'static str,
    mode: &'static str,
    ip: IpVersion,
    programs: &'static [&'static str],
    play: fn(&Stage<'_>) -> Result<()>,
) -> Scenario {
    Scenario { client, mode, ip, programs, protocols: BITTORRENT, expected: Expected::All, play }
}

pub(super) const fn forced(scenario: Scenario) -> Scenario {
    Scenario { expected: Expected::AfterMark(0.9), ..scenario }
}

const TRANSMISSION: &[&str] = programs!("transmission-remote");
const ARIA2: &[&str] = programs!("aria2c");
const RTORRENT: &[&str] = programs!("rtorrent");
const CTORRENT: &[&str] = programs!("ctorrent");
const QBITTORRENT: &[&str] = programs!("qbittorrent-nox", "curl");

/// The scenarios.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("transmission", "tcp-plain", IpVersion::V4, TRANSMISSION, |stage| transmission(stage, PLAIN_TCP)),
    scenario("transmission", "tcp-plain", IpVersion::V6, TRANSMISSION, |stage| transmission(stage, PLAIN_TCP)),
    scenario("transmission", "utp-plain", IpVersion::V4, TRANSMISSION, |stage| transmission(stage, PLAIN_UTP)),
    forced(scenario("transmission", "tcp-forced", IpVersion::V4, TRANSMISSION, |stage| {
        transmission_forced(stage, FORCED_TCP)
    })),
    forced(scenario("transmission", "tcp-forced", IpVersion::V6, TRANSMISSION, |stage| {
        transmission_forced(stage, FORCED_TCP)
    })),
    forced(scenario("transmission", "utp-forced", IpVersion::V4, TRANSMISSION, |stage| {
        transmission_forced(stage, FORCED_UTP)
    })),
    scenario("aria2", "tcp-plain", IpVersion::V4, ARIA2, aria2),
    scenario("aria2", "tcp-plain", IpVersion::V6, ARIA2, aria2),
    forced(scenario("aria2", "tcp-forced", IpVersion::V4, ARIA2, aria2_forced)),
    forced(scenario("aria2", "tcp-seeding", IpVersion::V4, ARIA2, aria2_seeding)),
    forced(scenario("aria2", "tcp-forced", IpVersion::V6, ARIA2, aria2_forced)),
    scenario("rtorrent", "tcp-plain", IpVersion::V4, RTORRENT, rtorrent),
    scenario("rtorrent", "tcp-plain", IpVersion::V6, RTORRENT, rtorrent),
    forced(scenario("rtorrent", "tcp-forced", IpVersion::V4, RTORRENT, rtorrent_forced)),
    forced(scenario("rtorrent", "tcp-forced", IpVersion::V6, RTORRENT, rtorrent_forced)),
    // Debian's ctorrent has IPv4 alone: it looks names up with gethostbyname(3) and knows no other family of addresses.
    scenario("ctorrent", "tcp-plain", IpVersion::V4, CTORRENT, ctorrent),
    scenario("qbittorrent", "tcp-plain", IpVersion::V4, QBITTORRENT, qbittorrent),
    forced(scenario("qbittorrent", "tcp-forced", IpVersion::V6, QBITTORRENT, qbittorrent_forced)),
];

/// transmission-daemon(1): clear text preferred, DHT off.
const PLAIN_TCP: &[&str] = &["-et", "--no-utp", "-O"];
const PLAIN_UTP: &[&str] = &["-et", "--utp", "-o"];
/// Clear text refused, DHT on.
const FORCED_TCP: &[&str] = &["-er", "--no-utp", "-o"];
const FORCED_UTP: &[&str] = &["-er", "--utp", "-o"];

/// Files, their torrents and their tracker.
struct Swarm {
    transfers: Vec<Transfer>,
    tracker: AnyTracker,
}

enum AnyTracker {
    /// Debian's opentracker, which has no IPv6.
    Real(Tracker),
    StandIn(AnnounceServer),
}

impl Swarm {
    /// One file for each of `sizes`.
    fn new(stage: &Stage<'_>, sizes: &[usize]) -> Result<Self> {
        let announce = format!("http://{}/announce", SocketAddr::new(stage.internet(), TRACKER_PORT));
        let transfers = sizes
            .iter()
            .enumerate()
            .map(|(number, bytes)| make_torrent(stage.lab, &format!("file{number}"), *bytes, &announce));
        let transfers: Vec<_> = transfers.collect::<Result<_>>()?;
        let tracker = match stage.ip {
            IpVersion::V4 => AnyTracker::Real(Tracker::start(stage.lab, &transfers.iter().collect::<Vec<_>>())?),
            IpVersion::V6 => AnyTracker::StandIn(AnnounceServer::start(stage.lab.internet(), stage.internet())?),
        };
        Ok(Self { transfers, tracker })
    }

    /// Starts a seeder of every file, and waits until the tracker knows that it has them.
    fn seed<'a>(&mut self, stage: &Stage<'a>, options: &[&str]) -> Result<Transmission<'a>> {
        let folder = stage.lab.subdirectory("seeder")?;
        let seeder = Transmission::start(stage.lab, stage.lab.internet(), &folder, options)?;
        for transfer in &self.transfers {
            seeder.seed(transfer)?;
        }
        self.wait_seeded(stage)?;
        Ok(seeder)
    }

    /// Waits until the tracker knows somebody who has each file.
    fn wait_seeded(&mut self, stage: &Stage<'_>) -> Result<()> {
        match &mut self.tracker {
            AnyTracker::Real(tracker) => {
                for transfer in &self.transfers {
                    tracker.wait_seeded(stage.lab, transfer)?;
                }
            }
            AnyTracker::StandIn(server) => {
                let wanted = self.transfers.len();
                wait_for("announce of a seeder", PATIENCE, Duration::from_millis(100), || {
                    Ok(server.seeded() == wanted)
                })?;
            }
        }
        Ok(())
    }
}

/// The seeder as a DHT node.
fn node(stage: &Stage<'_>) -> SocketAddr {
    SocketAddr::new(stage.internet(), TRANSMISSION_PORT)
}

const ONE_FILE: &[usize] = &[2 * MEGABYTE];
const TWO_FILES: &[usize] = &[MEGABYTE, 3 * MEGABYTE];

fn transmission(stage: &Stage<'_>, options: &[&str]) -> Result<()> {
    let mut swarm = Swarm::new(stage, ONE_FILE)?;
    let _seeder = swarm.seed(stage, options)?;
    let downloads = stage.lab.subdirectory("downloads")?;
    let mut leecher = Transmission::start(stage.lab, stage.lab.subscriber(1), &downloads, options)?;
    leecher.add(&swarm.transfers[0])?;
    leecher.wait_has(&swarm.transfers[0], PATIENCE)
}

fn transmission_forced(stage: &Stage<'_>, options: &[&str]) -> Result<()> {
    let mut swarm = Swarm::new(stage, TWO_FILES)?;
    let _seeder = swarm.seed(stage, options)?;
    let downloads = stage.lab.subdirectory("downloads")?;
    Transmission::bootstrap(stage.lab, stage.lab.subscriber(1), &[node(stage)])?;
    let mut leecher = Transmission::start(stage.lab, stage.lab.subscriber(1), &downloads, options)?;
    leecher.add(&swarm.transfers[0])?;
    leecher.wait_has(&swarm.transfers[0], PATIENCE)?;
    stage.mark()?;
    leecher.add(&swarm.transfers[1])?;
    leecher.wait_has(&swarm.transfers[1], PATIENCE)
}

fn aria2(stage: &Stage<'_>) -> Result<()> {
    let mut swarm = Swarm::new(stage, ONE_FILE)?;
    let _seeder = swarm.seed(stage, PLAIN_TCP)?;
    let downloads = stage.lab.subdirectory("downloads")?;
    let options = ["--enable-dht=false"];
    let mut leecher = Aria2::start(stage.lab, stage.lab.subscriber(1), &swarm.transfers[0], &downloads, &options)?;
    leecher.wait_complete(&swarm.transfers[0], PATIENCE)
}

/// aria2 takes its torrents when it starts: the second file is the client's second start.
fn aria2_forced(stage: &Stage<'_>) -> Result<()> {
    let mut swarm = Swarm::new(stage, TWO_FILES)?;
    let _seeder = swarm.seed(stage, FORCED_TCP)?;
    let downloads = stage.lab.subdirectory("downloads")?;
    let node = node(stage);
    let encrypted = ["--bt-require-crypto=true", "--bt-min-crypto-level=arc4"];
    let dht = match stage.ip {
        IpVersion::V4 => vec!["--enable-dht=true".to_owned(), format!("--dht-entry-point={node}")],
        IpVersion::V6 => vec![
            "--enable-dht=false".to_owned(),
            "--enable-dht6=true".to_owned(),
            format!("--dht-listen-addr6={}", stage.subscriber()),
            format!("--dht-entry-point6={node}"),
        ],
    };
    // The DHT's port is the peers' port, as by default.
    let options: Vec<&str> =
        encrypted.into_iter().chain(dht.iter().map(String::as_str)).chain(["--dht-listen-port=6881"]).collect();
    for (number, transfer) in swarm.transfers.iter().enumerate() {
        if number > 0 {
            stage.mark()?;
        }
        let mut leecher = Aria2::start(stage.lab, stage.lab.subscriber(1), transfer, &downloads, &options)?;
        leecher.wait_complete(transfer, PATIENCE)?;
    }
    Ok(())
}

/// The subscriber has the file: others connect to the port that it announced to the tracker.
fn aria2_seeding(stage: &Stage<'_>) -> Result<()> {
    let mut swarm = Swarm::new(stage, ONE_FILE)?;
    let transfer = swarm.transfers[0].clone();
    let options =
        ["--bt-require-crypto=true", "--bt-min-crypto-level=arc4", "--enable-dht=false", "--bt-seed-unverified=true"];
    let _seeder = Aria2::start(stage.lab, stage.lab.subscriber(1), &transfer, &transfer.seed, &options)?;
    swarm.wait_seeded(stage)?;
    stage.mark()?;
    let downloads = stage.lab.subdirectory("downloads")?;
    let mut other = Transmission::start(stage.lab, stage.lab.internet(), &downloads, FORCED_TCP)?;
    other.add(&transfer)?;
    other.wait_has(&transfer, PATIENCE)
}

fn rtorrent(stage: &Stage<'_>) -> Result<()> {
    let mut swarm = Swarm::new(stage, ONE_FILE)?;
    let _seeder = swarm.seed(stage, PLAIN_TCP)?;
    let settings = "dht.mode.set = disable\nprotocol.encryption.set = none";
    let mut leecher = Rtorrent::start(stage.lab, stage.lab.subscriber(1), settings)?;
    leecher.add(&swarm.transfers[0])?;
    leecher.wait_has(&swarm.transfers[0], PATIENCE)
}

/// Settings of rtorrent that refuse clear text, DHT on.
fn rtorrent_encrypted(stage: &Stage<'_>) -> String {
    format!(
        "dht.mode.set = on
schedule2 = node, 3, 60, ((dht.add_node, \"{}\"))
protocol.encryption.set = allow_incoming,try_outgoing,require,require_RC4",
        node(stage)
    )
}

fn rtorrent_forced(stage: &Stage<'_>) -> Result<()> {
    let mut swarm = Swarm::new(stage, TWO_FILES)?;
    let _seeder = swarm.seed(stage, FORCED_TCP)?;
    let mut leecher = Rtorrent::start(stage.lab, stage.lab.subscriber(1), &rtorrent_encrypted(stage))?;
    leecher.add(&swarm.transfers[0])?;
    leecher.wait_has(&swarm.transfers[0], PATIENCE)?;
    stage.mark()?;
    leecher.add(&swarm.transfers[1])?;
    leecher.wait_has(&swarm.transfers[1], PATIENCE)
}

fn ctorrent(stage: &Stage<'_>) -> Result<()> {
    let mut swarm = Swarm::new(stage, ONE_FILE)?;
    let _seeder = swarm.seed(stage, PLAIN_TCP)?;
    let mut leecher = Ctorrent::start(stage.lab, stage.lab.subscriber(1), &swarm.transfers[0])?;
    leecher.wait_has(&swarm.transfers[0], PATIENCE)
}

/// Session\Encryption of qBittorrent 4.5: 1 requires it, 2 forbids it.
fn qbittorrent(stage: &Stage<'_>) -> Result<()> {
    let mut swarm = Swarm::new(stage, ONE_FILE)?;
    let _seeder = swarm.seed(stage, PLAIN_TCP)?;
    let settings = "Session\\Encryption=2\nSession\\BTProtocol=TCP\nSession\\DHTEnabled=false";
    let mut leecher = Qbittorrent::start(stage.lab, stage.lab.subscriber(1), settings)?;
    leecher.add(&swarm.transfers[0])?;
    leecher.wait_has(&swarm.transfers[0], PATIENCE)
}

fn qbittorrent_forced(stage: &Stage<'_>) -> Result<()> {
    let mut swarm = Swarm::new(stage, TWO_FILES)?;
    let _seeder = swarm.seed(stage, FORCED_TCP)?;
    let settings = "Session\\Encryption=1\nSession\\BTProtocol=TCP\nSession\\DHTEnabled=true";
    let mut leecher = Qbittorrent::start(stage.lab, stage.lab.subscriber(1), settings)?;
    leecher.add(&swarm.transfers[0])?;
    leecher.wait_has(&swarm.transfers[0], PATIENCE)?;
    stage.mark()?;
    leecher.add(&swarm.transfers[1])?;
    leecher.wait_has(&swarm.transfers[1], PATIENCE)
}
