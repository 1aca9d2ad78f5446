//! The table of scenarios, for tests and `cargo xtask lab`.

mod bittorrent;
mod direct_connect;
mod edonkey;
mod libtorrent;
mod node;
mod soulseek;

use super::scenario::Scenario;

/// Every scenario, by client.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    [
        bittorrent::SCENARIOS,
        libtorrent::SCENARIOS,
        edonkey::SCENARIOS,
        direct_connect::SCENARIOS,
        soulseek::SCENARIOS,
        node::SCENARIOS,
    ]
    .concat()
}
