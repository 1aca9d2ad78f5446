//! Direct Connect: two clients that meet at a hub, a search, and a download between them.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;

use super::super::{
    ADC_PORT, AdcHub, Expected, IpVersion, NMDC_PORT, Ncdc, NmdcHub, Scenario, Stage, Transfer, make_file,
};

/// Not a multiple of ncdc's blocks: ncdc 1.23.1 never takes such a file out of its folder of unfinished ones.
const BYTES: usize = 1_500_001;
/// Longest time for the search and for the transfer.
const PATIENCE: Duration = Duration::from_secs(30);

const fn scenario(mode: &'static str, ip: IpVersion, play: fn(&Stage<'_>) -> Result<()>) -> Scenario {
    Scenario {
        client: "ncdc",
        mode,
        ip,
        programs: &["ncdc", "uhub", "tmux", "tcpdump"],
        protocols: &["directconnect"],
        expected: Expected::All,
        play,
    }
}

/// The scenarios.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("adc-plain", IpVersion::V4, |stage| adc(stage, "disabled")),
    scenario("adc-plain", IpVersion::V6, |stage| adc(stage, "disabled")),
    Scenario {
        expected: Expected::Signalling("the peers' connection is TLS from its first byte, like any other TLS"),
        ..scenario("adc-tls", IpVersion::V4, |stage| adc(stage, "prefer"))
    },
    scenario("nmdc-plain", IpVersion::V4, nmdc),
];

fn adc(stage: &Stage<'_>, policy: &str) -> Result<()> {
    let _hub = AdcHub::start(stage.lab)?;
    meet(stage, &format!("adc://{}/", SocketAddr::new(stage.internet(), ADC_PORT)), policy)
}

fn nmdc(stage: &Stage<'_>) -> Result<()> {
    let _hub = NmdcHub::start(stage.lab.internet())?;
    meet(stage, &format!("dchub://{}/", SocketAddr::new(stage.internet(), NMDC_PORT)), "disabled")
}

fn meet(stage: &Stage<'_>, url: &str, policy: &str) -> Result<()> {
    let wanted: Transfer = make_file(stage.lab, "laboratory_image", BYTES)?;
    // Clients without a share are not welcome everywhere.
    let own: Transfer = make_file(stage.lab, "other_thing", 1000)?;
    let seeder = Ncdc::start(stage.lab, stage.lab.internet(), "seeder", stage.internet(), policy, &wanted.seed)?;
    let mut leecher =
        Ncdc::start(stage.lab, stage.lab.subscriber(1), "leecher", stage.subscriber(), policy, &own.seed)?;
    seeder.join(url)?;
    leecher.join(url)?;
    leecher.download(&wanted, PATIENCE)
}
