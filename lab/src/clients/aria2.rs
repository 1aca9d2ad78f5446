//! aria2: BitTorrent over TCP, DHT, message stream encryption.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;

use super::super::{Lab, netns::Namespace, process::Process, torrent::Transfer, wait::wait_for};

/// An aria2 client.
#[derive(Debug)]
pub struct Aria2 {
    process: Process,
    downloads: PathBuf,
}

impl Aria2 {
    /// Starts one that transfers `transfer` to or from `downloads`, with `options` (aria2c(1)).
    ///
    /// # Errors
    /// The client does not start.
    pub fn start(
        lab: &Lab,
        namespace: &Namespace,
        transfer: &Transfer,
        downloads: &Path,
        options: &[&str],
    ) -> Result<Self> {
        let directory = lab.subdirectory(&format!("aria2-{}", namespace.name()))?;
        let mut command = namespace.command("aria2c");
        command.args([
            "--no-conf",
            "--listen-port=6881",
            "--seed-ratio=0",
            "--check-integrity",
            "--file-allocation=none",
        ]);
        command.args(["--bt-enable-lpd=false", "--enable-dht6=false", "--allow-overwrite"]);
        command.arg(format!("--dht-file-path={}", directory.join("dht").display()));
        command.args(options).arg("-d").arg(downloads).arg(&transfer.torrent);
        let process = Process::spawn("aria2", &directory, &mut command)?;
        Ok(Self { process, downloads: downloads.to_owned() })
    }

    /// Waits until the whole file has arrived.
    ///
    /// # Errors
    /// The client takes longer than `timeout`.
    pub fn wait_complete(&mut self, transfer: &Transfer, timeout: Duration) -> Result<()> {
        wait_for("complete file", timeout, Duration::from_millis(200), || {
            self.process.ensure_running()?;
            transfer.arrived(&self.downloads)
        })
    }
}
