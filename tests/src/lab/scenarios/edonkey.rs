//! eDonkey and Kad: two aMule clients, with a stand-in server or with each other as contacts. IPv4 alone: the protocol
//! has four bytes for an address.

use std::time::Duration;

use anyhow::Result;

use super::super::{
    Amule, AmuleSetup, EdonkeyServer, Expected, INTERNET_V4, IpVersion, Scenario, Stage, subscriber_v4,
};

/// aMule starts a download at about 10 kB/s.
const BYTES: usize = 150_000;
/// Longest time for one transfer; a pair that meets is done within a minute.
const PATIENCE: Duration = Duration::from_secs(60);

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
    scenario(
        "kad-obfuscated",
        // Kad has clear words where a client starts from an address alone or meets contacts of before version 6. Here it starts
        // from a `nodes.dat` with identifiers, which are the keys of the very first messages.
        Expected::Measured(
            "every message is ciphered, the first ones included, and nothing else of the client is on the wire",
        ),
        |stage| kad(stage, true),
    ),
];

/// The subscriber downloads what a client on the internet shares.
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

/// Two clients that know each other's address find each other in Kad, and one searches.
fn kad(stage: &Stage<'_>, obfuscated: bool) -> Result<()> {
    let setup = |kad| AmuleSetup { kad: Some(kad), obfuscated, shared: BYTES, ..AmuleSetup::default() };
    let (own, others) = (subscriber_v4(1), INTERNET_V4);
    let mut other = Amule::set_up(stage.lab, stage.lab.internet(), setup([others, own]))?;
    let mut subscriber = Amule::set_up(stage.lab, stage.lab.subscriber(1), setup([own, others]))?;
    subscriber.wait_kad()?;
    other.wait_kad()?;
    subscriber.search_kad("image")
}
