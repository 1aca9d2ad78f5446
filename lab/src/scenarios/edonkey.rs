//! eDonkey and Kad: aMule clients, with a stand-in server or with each other as contacts. IPv4 alone: the protocol has
//! four bytes for an address.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::super::{
    Amule, AmuleSetup, EdonkeyServer, Expected, INTERNET_V4, IpVersion, KadSetup, Scenario, Stage, subscriber_v4,
    wait_for,
};

/// aMule starts a download at about 10 kB/s.
const BYTES: usize = 150_000;
/// Longest time for one transfer. Most take half a minute; a client that finds no upload slot asks again after a while.
const PATIENCE: Duration = Duration::from_secs(150);

/// Nodes of Kad in addition to the first, which is [`INTERNET_V4`]. Clients take few contacts of one network.
const KAD_NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 2), Ipv4Addr::new(203, 0, 113, 3)];
/// Searches of the subscriber, for more than a minute.
const KAD_WORDS: [&str; 4] = ["debian", "image", "music", "lecture"];
/// Time from one search to the next: somebody reads what was found. In life, too, a node is asked now and then, not all
/// the time: a lookup asks each node once, and nodes drop more than ten such questions a minute of one address.
const KAD_PAUSE: Duration = Duration::from_secs(20);

const fn scenario(mode: &'static str, expected: Expected, play: fn(&Stage<'_>) -> Result<()>) -> Scenario {
    Scenario {
        client: "amule",
        mode,
        ip: IpVersion::V4,
        programs: &["amuled", "amulecmd", "openssl", "tcpdump"],
        protocols: &["edonkey", "kademlia"],
        expected,
        play,
    }
}

/// The scenarios.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("plain", Expected::All, |stage| download(stage, false)),
    scenario("obfuscated", Expected::AfterMark(0.9), |stage| download(stage, true)),
    scenario("kad-plain", Expected::All, |stage| kad(stage, false)),
    scenario("kad-obfuscated", Expected::AfterMark(0.9), |stage| kad(stage, true)),
];

/// The subscriber downloads a file from a client on the internet.
fn download(stage: &Stage<'_>, obfuscated: bool) -> Result<()> {
    let server = EdonkeyServer::start(stage.lab.internet())?;
    let setup = AmuleSetup { server: Some(INTERNET_V4), obfuscated, ..AmuleSetup::default() };
    let other = Amule::set_up(stage.lab, stage.lab.internet(), AmuleSetup { shared: BYTES, ..setup })?;
    server.wait_offered()?;
    let mut subscriber = Amule::set_up(stage.lab, stage.lab.subscriber(1), setup)?;
    stage.mark()?;
    let link = if obfuscated { other.obfuscated_link(INTERNET_V4)? } else { other.link(INTERNET_V4)? };
    subscriber.download(&link)?;
    subscriber.wait_complete(&other, PATIENCE)
}

/// The subscriber asks a node of Kad for contacts and searches with all of them. It knows nothing but that node's
/// address, so this question and its answer are in clear in every mode; further contacts come with their identifiers,
/// which are keys.
fn kad(stage: &Stage<'_>, obfuscated: bool) -> Result<()> {
    let (lab, internet) = (stage.lab, stage.lab.internet());
    let setup =
        |own, contacts| AmuleSetup { kad: Some(KadSetup { own, contacts }), obfuscated, ..AmuleSetup::default() };
    let mut nodes = Vec::new();
    for node in KAD_NODES {
        internet.ip(&format!("addr add {node}/32 dev eth0"))?;
        lab.router().ip(&format!("route add {node}/32 via {INTERNET_V4}"))?;
        nodes.push(Amule::set_up(lab, internet, setup(node, &[]))?);
    }
    let mut first = Amule::set_up(lab, internet, setup(INTERNET_V4, &KAD_NODES))?;
    first.wait_kad()?;
    let mut subscriber = Amule::set_up(lab, lab.subscriber(1), setup(subscriber_v4(1), &[]))?;
    subscriber.bootstrap_kad(INTERNET_V4)?;
    subscriber.wait_kad()?;
    stage.mark()?;
    for word in KAD_WORDS {
        subscriber.search_kad(word)?;
        let start = Instant::now();
        wait_for("next search", 2 * KAD_PAUSE, Duration::from_millis(250), || Ok(start.elapsed() >= KAD_PAUSE))?;
    }
    Ok(())
}
