//! Soulseek: two clients, a stand-in server, a search and a download. IPv4 alone: the server's messages have four bytes
//! for an address.

use std::time::Duration;

use anyhow::Result;

use super::super::{
    Aioslsk, Expected, INTERNET_V4, IpVersion, Scenario, SoulseekServer, Stage, make_file, tools::PYTHON,
};

const BYTES: usize = 2 << 20;
/// Longest time for the search and the transfer.
const PATIENCE: Duration = Duration::from_secs(60);

const fn scenario(mode: &'static str, play: fn(&Stage<'_>) -> Result<()>) -> Scenario {
    Scenario {
        client: "aioslsk",
        mode,
        ip: IpVersion::V4,
        programs: &[PYTHON, "tcpdump"],
        protocols: &["soulseek"],
        expected: Expected::All,
        play,
    }
}

/// The scenarios. What is obfuscated can be checked on the wire, so it is no less certain.
pub(super) const SCENARIOS: &[Scenario] =
    &[scenario("plain", |stage| download(stage, false)), scenario("obfuscated", |stage| download(stage, true))];

fn download(stage: &Stage<'_>, obfuscated: bool) -> Result<()> {
    let _server = SoulseekServer::start(stage.lab.internet())?;
    let wanted = make_file(stage.lab, "laboratory", BYTES)?;
    let downloads = stage.lab.subdirectory("downloads")?;
    let start = |namespace, name, folder, arguments: &[&str]| {
        Aioslsk::start(stage.lab, namespace, name, INTERNET_V4, folder, obfuscated, arguments)
    };
    let _sharing = start(stage.lab.internet(), "sharing", &wanted.seed, &[])?;
    let mut leecher = start(stage.lab.subscriber(1), "subscriber", &downloads, &["--get", "laboratory", "sharing"])?;
    leecher.wait_has(&wanted, PATIENCE)
}
