//! Peers of the web: WebTorrent with its tracker, and libp2p over TCP and WebSocket.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};

use super::super::{Expected, IpVersion, NodePeer, Scenario, Stage, make_file, tools::NODE_INSTALLED};

const BYTES: usize = 1 << 20;
/// Longest time for one transfer.
const PATIENCE: Duration = Duration::from_secs(60);
const TRACKER_PORT: u16 = 8000;
const LIBP2P_PORT: u16 = 4001;

const PROGRAMS: &[&str] = &["node", NODE_INSTALLED, "tcpdump"];

const fn libp2p(mode: &'static str, ip: IpVersion, play: fn(&Stage<'_>) -> Result<()>) -> Scenario {
    Scenario { client: "libp2p", mode, ip, programs: PROGRAMS, protocols: &["libp2p"], expected: Expected::All, play }
}

const fn webtorrent_over(ip: IpVersion) -> Scenario {
    Scenario {
        client: "webtorrent",
        mode: "ws-tracker",
        ip,
        programs: PROGRAMS,
        protocols: &["webtorrent"],
        expected: Expected::Signalling("the file goes by WebRTC, as video calls do: DTLS, and STUN before it"),
        play: webtorrent,
    }
}

/// The scenarios.
pub(super) const SCENARIOS: &[Scenario] = &[
    webtorrent_over(IpVersion::V4),
    webtorrent_over(IpVersion::V6),
    libp2p("tcp-noise", IpVersion::V4, |stage| request(stage, "tcp", "noise")),
    libp2p("tcp-tls", IpVersion::V6, |stage| request(stage, "tcp", "tls")),
    libp2p("ws-noise", IpVersion::V4, |stage| request(stage, "ws", "noise")),
];

fn webtorrent(stage: &Stage<'_>) -> Result<()> {
    let script = "webtorrent_peer.js";
    let start =
        |namespace, role: &str, arguments: &[&str]| NodePeer::start(stage.lab, namespace, role, script, arguments);
    let mut transfer = make_file(stage.lab, "laboratory", BYTES)?;
    let mut tracker = start(stage.lab.internet(), "tracker", &[&TRACKER_PORT.to_string()])?;
    tracker.wait_line()?;
    let announce = format!("ws://{}", SocketAddr::new(stage.internet(), TRACKER_PORT));
    let file = transfer.seed.join(&transfer.file);
    transfer.torrent = stage.lab.directory().join("laboratory.torrent");
    let text = |path: &std::path::Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
    let (file, torrent) = (text(&file)?, text(&transfer.torrent)?);
    let mut seeder = start(stage.lab.internet(), "seed", &[&file, &announce, &torrent])?;
    seeder.wait_line()?;
    let downloads = stage.lab.subdirectory("downloads")?;
    let mut leecher = start(stage.lab.subscriber(1), "get", &[&torrent, &text(&downloads)?])?;
    leecher.wait_has(&transfer, &downloads, PATIENCE)
}

fn request(stage: &Stage<'_>, transport: &str, encryption: &str) -> Result<()> {
    let script = "libp2p_peer.js";
    let transfer = make_file(stage.lab, "laboratory", BYTES)?;
    let text = |path: &std::path::Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
    let (address, port) = (stage.internet().to_string(), LIBP2P_PORT.to_string());
    let file = text(&transfer.seed.join(&transfer.file))?;
    let arguments = [transport, encryption, &address, &port, &file];
    let mut listener = NodePeer::start(stage.lab, stage.lab.internet(), "listen", script, &arguments)?;
    let reachable = listener.wait_line()?;
    let downloads = stage.lab.subdirectory("downloads")?;
    let copy = text(&downloads.join(&transfer.file))?;
    let arguments = [transport, encryption, &reachable, &copy];
    let mut getter = NodePeer::start(stage.lab, stage.lab.subscriber(1), "get", script, &arguments)?;
    getter.wait_has(&transfer, &downloads, PATIENCE)
}
