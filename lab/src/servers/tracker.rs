//! opentracker, a BitTorrent tracker of Debian.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::Result;

use super::super::{Lab, http::http_get, process::Process, torrent::Transfer, wait::wait_for};

/// Port of the tracker, TCP and UDP.
pub const TRACKER_PORT: u16 = 6969;

/// opentracker on the internet host, HTTP and UDP on port [`TRACKER_PORT`].
#[derive(Debug)]
pub struct Tracker {
    process: Process,
}

impl Tracker {
    /// Starts it for `transfers` alone: Debian's build serves what its whitelist names.
    ///
    /// # Errors
    /// The server does not start.
    pub fn start(lab: &Lab, transfers: &[&Transfer]) -> Result<Self> {
        let directory = lab.subdirectory("tracker")?;
        let hashes = transfers.iter().map(|transfer| transfer.info_hash()).collect::<Result<Vec<_>>>()?;
        fs::write(directory.join("whitelist"), hashes.join("\n") + "\n")?;
        let port = TRACKER_PORT.to_string();
        let mut command = lab.internet().command("opentracker");
        command.current_dir(&directory);
        command
            .args(["-i", "0.0.0.0", "-p", &port, "-P", &port, "-u", "nobody", "-w", "whitelist", "-d"])
            .arg(&directory);
        let mut process = Process::spawn("opentracker", &directory, &mut command)?;
        wait_for("tracker", Duration::from_secs(20), Duration::from_millis(50), || {
            process.ensure_running()?;
            lab.internet().inside(|| Ok(TcpStream::connect(("127.0.0.1", TRACKER_PORT)).is_ok()))
        })?;
        Ok(Self { process })
    }

    /// Waits until it knows somebody who has all of `transfer`: a leecher that asks then finds it at once.
    ///
    /// # Errors
    /// Nobody announces it.
    pub fn wait_seeded(&mut self, lab: &Lab, transfer: &Transfer) -> Result<()> {
        let hash = transfer.info_hash()?;
        let escaped: String =
            hash.as_bytes().chunks(2).map(|pair| format!("%{}", String::from_utf8_lossy(pair))).collect();
        let tracker = SocketAddr::from((Ipv4Addr::LOCALHOST, TRACKER_PORT));
        wait_for("announce of a seeder", Duration::from_secs(60), Duration::from_millis(200), || {
            self.process.ensure_running()?;
            let (_status, answer) = http_get(lab.internet(), tracker, &format!("/scrape?info_hash={escaped}"))?;
            Ok(answer.contains("8:completei") && !answer.contains("8:completei0e"))
        })
    }

    /// Output so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }
}
