//! libtorrent sessions (`python3-libtorrent`): uTP and DHT.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use super::super::{
    Lab,
    netns::Namespace,
    process::{Process, run},
    torrent::{Reported, Transfer, make_file},
    wait::{wait_for, wait_for_some},
};

/// The script that holds the session.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/libtorrent_peer.py");
/// The script that makes torrents of BitTorrent v2.
const MAKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/make_torrent.py");
/// Debian's interpreter: another one on the path would not find Debian's module.
pub(in super::super) const PYTHON: &str = "/usr/bin/python3";
/// Port of every session; each has a namespace of its own.
pub const LIBTORRENT_PORT: u16 = 6881;

/// As `make_torrent`, of BitTorrent v2 (BEP 52): `kind` is `hybrid` or `v2`.
///
/// # Errors
/// libtorrent's.
pub(in super::super) fn make_v2_torrent(
    lab: &Lab,
    kind: &str,
    name: &str,
    bytes: usize,
    announce: &str,
) -> Result<Transfer> {
    let transfer = make_file(lab, name, bytes)?;
    let mut command = Command::new(PYTHON);
    command.args([MAKER, kind]).arg(transfer.seed.join(&transfer.file)).arg(&transfer.torrent).arg(announce);
    run(&mut command)?;
    Ok(transfer)
}

/// A libtorrent session.
#[derive(Debug)]
pub struct Libtorrent {
    process: Process,
    downloads: PathBuf,
}

impl Libtorrent {
    /// Starts one that transfers `transfer` to or from `downloads`, with `options` of the script.
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
        let name = format!("libtorrent-{}", namespace.name());
        let mut command = namespace.command(PYTHON);
        command.arg(SCRIPT).arg(&transfer.torrent).arg(downloads).arg(LIBTORRENT_PORT.to_string()).args(options);
        let process = Process::spawn(&name, lab.directory(), &mut command)?;
        let mut session = Self { process, downloads: downloads.to_owned() };
        wait_for("libtorrent", Duration::from_secs(30), Duration::from_millis(100), || {
            session.process.ensure_running()?;
            Ok(session.last().is_ok())
        })?;
        Ok(session)
    }

    /// Waits until the session has, or a seeder has checked, the whole file.
    ///
    /// # Errors
    /// The client takes longer than `timeout`.
    pub fn wait_complete(&mut self, transfer: &Transfer, timeout: Duration) -> Result<()> {
        wait_for("complete file", timeout, Duration::from_millis(200), || {
            self.process.ensure_running()?;
            Ok(self.last()?["complete"] == true && transfer.arrived(&self.downloads)?)
        })
        .with_context(|| format!("{:?}", self.last()))
    }

    /// Bytes it says it received and sent, without headers. Waits until the numbers rest: they lag behind the transfer.
    ///
    /// # Errors
    /// They never rest.
    pub fn reported(&self) -> Result<Reported> {
        let mut last = None;
        wait_for_some("resting totals of libtorrent", Duration::from_secs(60), Duration::from_secs(3), || {
            let values = self.last()?;
            let number = |name: &str| values[name].as_u64().with_context(|| name.to_owned());
            let now = Reported { received: number("received")?, sent: number("sent")? };
            // Keep-alives and DHT never end: less than a thousandth is rest.
            let resting = last.is_some_and(|last: Reported| now.received - last.received <= now.received / 1000);
            last = Some(now);
            Ok(resting.then_some(now))
        })
    }

    /// uTP packets that it says it sent again.
    ///
    /// # Errors
    /// The client writes nothing.
    pub fn resent_packets(&self) -> Result<u64> {
        self.last()?["resent_packets"].as_u64().context("a number of resent packets")
    }

    fn last(&self) -> Result<serde_json::Value> {
        let log = self.process.log();
        // The line after the last line feed may be half written.
        let (whole, _rest) = log.rsplit_once('\n').context("a line of libtorrent's session")?;
        let line = whole.lines().next_back().context("a line of libtorrent's session")?;
        serde_json::from_str(line).with_context(|| format!("libtorrent's line `{line}`"))
    }
}
