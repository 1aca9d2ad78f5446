//! ctorrent (Enhanced CTorrent): BitTorrent over TCP over IPv4, without encryption and DHT.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;

use super::super::{Lab, netns::Namespace, process::Process, torrent::Transfer, wait::wait_for};

/// A ctorrent client: one process a torrent.
#[derive(Debug)]
pub struct Ctorrent {
    process: Process,
    downloads: PathBuf,
}

impl Ctorrent {
    /// Starts one that downloads `transfer`.
    ///
    /// # Errors
    /// The client does not start.
    pub fn start(lab: &Lab, namespace: &Namespace, transfer: &Transfer) -> Result<Self> {
        let downloads = lab.subdirectory(&format!("ctorrent-{}", namespace.name()))?;
        let mut command = namespace.command("ctorrent");
        // -e: hours that it seeds afterwards.
        command.args(["-e", "1", "-p", "6881"]).arg(&transfer.torrent).current_dir(&downloads);
        let process = Process::spawn("ctorrent", lab.directory(), &mut command)?;
        Ok(Self { process, downloads })
    }

    /// Waits until the whole file has arrived.
    ///
    /// # Errors
    /// The client takes longer than `timeout`.
    pub fn wait_has(&mut self, transfer: &Transfer, timeout: Duration) -> Result<()> {
        wait_for("complete file", timeout, Duration::from_millis(200), || {
            self.process.ensure_running()?;
            transfer.arrived(&self.downloads)
        })
    }
}
