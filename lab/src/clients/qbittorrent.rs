//! qBittorrent without a screen (`qbittorrent-nox`): libtorrent with another front end, driven by the web interface.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::super::{
    Lab,
    netns::Namespace,
    process::{Process, output},
    torrent::Transfer,
    wait::wait_for,
};

/// Port for peers and DHT.
const PORT: u16 = 6881;
/// Address of the web interface.
const CONTROL_PORT: u16 = 8091;

/// A qBittorrent client.
#[derive(Debug)]
pub struct Qbittorrent<'a> {
    namespace: &'a Namespace,
    process: Process,
    downloads: PathBuf,
}

impl<'a> Qbittorrent<'a> {
    /// Starts one with `settings` (lines of the section BitTorrent of its configuration file).
    ///
    /// # Errors
    /// The client does not start.
    pub fn start(lab: &Lab, namespace: &'a Namespace, settings: &str) -> Result<Self> {
        let directory = lab.subdirectory(&format!("qbittorrent-{}", namespace.name()))?;
        let downloads = directory.join("downloads");
        fs::create_dir_all(&downloads)?;
        let folder = directory.join("qBittorrent/config");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("qBittorrent.conf"), configuration(&downloads, settings))?;
        let mut command = namespace.command("qbittorrent-nox");
        command.arg(format!("--profile={}", directory.display())).arg(format!("--webui-port={CONTROL_PORT}"));
        command.env("HOME", &directory);
        let process = Process::spawn("qbittorrent", &directory, &mut command)?;
        let mut client = Self { namespace, process, downloads };
        wait_for("qBittorrent", Duration::from_secs(60), Duration::from_millis(200), || {
            client.process.ensure_running()?;
            Ok(client.ask("app/version", &[]).is_ok())
        })?;
        Ok(client)
    }

    /// Adds a torrent.
    ///
    /// # Errors
    /// qBittorrent refuses it.
    pub fn add(&self, transfer: &Transfer) -> Result<()> {
        let form = format!("torrents=@{}", transfer.torrent.display());
        let answer = self.ask("torrents/add", &["-F", &form])?;
        ensure!(answer == "Ok.", "qBittorrent answers {answer}");
        Ok(())
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
        .with_context(|| self.ask("torrents/info", &[]).unwrap_or_default())
    }

    fn ask(&self, path: &str, arguments: &[&str]) -> Result<String> {
        let url = format!("http://127.0.0.1:{CONTROL_PORT}/api/v2/{path}");
        let output = output(self.namespace.command("curl").args(["-s", "-f"]).args(arguments).arg(url))?;
        ensure!(output.status.success(), "{path}: {}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn configuration(downloads: &Path, settings: &str) -> String {
    format!(
        "[LegalNotice]
Accepted=true
[Preferences]
WebUI\\LocalHostAuth=false
WebUI\\Address=127.0.0.1
[Network]
PortForwardingEnabled=false
[BitTorrent]
Session\\Port={PORT}
Session\\DefaultSavePath={}
Session\\LSDEnabled=false
{settings}
",
        downloads.display()
    )
}
