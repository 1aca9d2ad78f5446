//! The XDP program of an interface, by `ip`.

use std::process::Command;

use anyhow::{Context, Result};

use super::{netns::Namespace, process::output};

/// An attached XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xdp {
    /// Program id.
    pub id: u64,
    /// Whether it runs in the driver.
    pub native: bool,
}

/// Mode of a program in the driver (`XDP_ATTACHED_DRV`, linux/if_link.h).
const DRIVER: u64 = 1;

/// The program of `interface` in `namespace`.
///
/// # Errors
/// There is no such interface.
pub fn xdp(namespace: &Namespace, interface: &str) -> Result<Option<Xdp>> {
    let shown =
        output(Command::new("ip").args(["-n", namespace.name(), "-json", "-details", "link", "show", interface]))?;
    let links: serde_json::Value = serde_json::from_slice(&shown.stdout).context("ip's JSON")?;
    let xdp = &links[0]["xdp"];
    Ok(xdp["prog"]["id"].as_u64().map(|id| Xdp { id, native: xdp["mode"].as_u64() == Some(DRIVER) }))
}
