//! The table of scenarios, for tests and `cargo xtask lab`.

mod bittorrent;
mod direct_connect;
mod libtorrent;

use super::scenario::Scenario;

/// Every scenario, by client.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    [bittorrent::SCENARIOS, libtorrent::SCENARIOS, direct_connect::SCENARIOS].concat()
}
