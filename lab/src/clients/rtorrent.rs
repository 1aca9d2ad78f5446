//! rtorrent: BitTorrent over TCP, DHT, message stream encryption.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;

use super::super::{Lab, netns::Namespace, process::Process, torrent::Transfer, wait::wait_for};

/// Port for peers and DHT.
const PORT: u16 = 6881;

/// An rtorrent client.
#[derive(Debug)]
pub struct Rtorrent {
    process: Process,
    directory: PathBuf,
}

impl Rtorrent {
    /// Starts one with `settings` (lines of its configuration file).
    ///
    /// # Errors
    /// The client does not start.
    pub fn start(lab: &Lab, namespace: &Namespace, settings: &str) -> Result<Self> {
        let directory = lab.subdirectory(&format!("rtorrent-{}", namespace.name()))?;
        for folder in ["downloads", "session", "watch"] {
            fs::create_dir_all(directory.join(folder))?;
        }
        fs::write(directory.join(".rtorrent.rc"), configuration(&directory, settings))?;
        let mut command = namespace.command("rtorrent");
        command.env("HOME", &directory).env("TERM", "dumb").current_dir(&directory);
        let process = Process::spawn("rtorrent", &directory, &mut command)?;
        Ok(Self { process, directory })
    }

    /// Adds a torrent: by the folder that the client watches.
    ///
    /// # Errors
    /// The file system's.
    pub fn add(&self, transfer: &Transfer) -> Result<()> {
        let name = format!("{}.torrent", transfer.file);
        // Whole at once: the client must not read half a file.
        let whole = self.directory.join(&name);
        fs::copy(&transfer.torrent, &whole)?;
        Ok(fs::rename(&whole, self.directory.join("watch").join(&name))?)
    }

    /// Waits until the whole file has arrived.
    ///
    /// # Errors
    /// The client takes longer than `timeout`.
    pub fn wait_has(&mut self, transfer: &Transfer, timeout: Duration) -> Result<()> {
        wait_for("complete file", timeout, Duration::from_millis(200), || {
            self.process.ensure_running()?;
            transfer.arrived(&self.directory.join("downloads"))
        })
    }
}

fn configuration(directory: &Path, settings: &str) -> String {
    let directory = directory.display();
    format!(
        "system.daemon.set = true
directory.default.set = {directory}/downloads
session.path.set = {directory}/session
network.port_range.set = {PORT}-{PORT}
network.port_random.set = no
dht.port.set = {PORT}
schedule2 = watch, 1, 1, ((load.start, \"{directory}/watch/*.torrent\"))
{settings}
"
    )
}
