//! Transmission: BitTorrent over TCP and uTP, DHT, message stream encryption.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::super::{
    Lab,
    netns::Namespace,
    process::{Process, output},
    torrent::{Reported, Transfer},
    wait::wait_for,
};

/// Transmission's control port on 127.0.0.1; each client has a namespace of its own.
const CONTROL: &str = "127.0.0.1:9091";
/// Port for peers and DHT; each client has a namespace of its own.
pub(in super::super) const TRANSMISSION_PORT: u16 = 51413;

/// A Transmission daemon.
#[derive(Debug)]
pub struct Transmission<'a> {
    namespace: &'a Namespace,
    process: Process,
    downloads: PathBuf,
}

impl<'a> Transmission<'a> {
    /// Names nodes from which the one that is then started in `namespace` finds its way into the DHT.
    ///
    /// # Errors
    /// The file system's.
    pub fn bootstrap(lab: &Lab, namespace: &Namespace, nodes: &[SocketAddr]) -> Result<()> {
        let lines: String = nodes.iter().map(|node| format!("{} {}\n", node.ip(), node.port())).collect();
        Ok(fs::write(directory(lab, namespace)?.join("dht.bootstrap"), lines)?)
    }

    /// Starts one with `options` (transmission-daemon(1)) that keeps files in `downloads`.
    ///
    /// # Errors
    /// The client does not start.
    pub fn start(lab: &Lab, namespace: &'a Namespace, downloads: &Path, options: &[&str]) -> Result<Self> {
        let directory = directory(lab, namespace)?;
        let port = TRANSMISSION_PORT.to_string();
        let mut command = namespace.command("transmission-daemon");
        command.args(["-f", "-P", &port, "-p", "9091", "-a", "127.0.0.1", "--no-auth", "--no-portmap", "-g"]);
        command.arg(&directory).arg("-w").arg(downloads).args(options);
        let process = Process::spawn("transmission", &directory, &mut command)?;
        let mut client = Self { namespace, process, downloads: downloads.to_owned() };
        wait_for("Transmission", Duration::from_secs(30), Duration::from_millis(100), || {
            client.process.ensure_running()?;
            Ok(client.remote(&["-si"]).is_ok())
        })?;
        Ok(client)
    }

    /// Adds a torrent.
    ///
    /// # Errors
    /// Transmission refuses it.
    pub fn add(&self, transfer: &Transfer) -> Result<()> {
        let torrent = transfer.torrent.to_str().context("a path in UTF-8")?;
        self.remote(&["-a", torrent]).map(drop)
    }

    /// Adds a torrent. The file is in the folder of [`Transfer`] already.
    ///
    /// # Errors
    /// Transmission refuses it.
    pub fn seed(&self, transfer: &Transfer) -> Result<()> {
        let path = |path: &Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
        self.remote(&["-a", &path(&transfer.torrent)?, "-w", &path(&transfer.seed)?]).map(drop)
    }

    /// Limits the rate at which it downloads, in kB/s.
    ///
    /// # Errors
    /// Transmission refuses it.
    pub fn limit_download(&self, rate: &str) -> Result<()> {
        self.remote(&["-d", rate]).map(drop)
    }

    /// Waits until it says that it has all of the file.
    ///
    /// # Errors
    /// The client takes longer than `timeout`.
    pub fn wait_complete(&mut self, timeout: Duration) -> Result<()> {
        wait_for("complete torrent", timeout, Duration::from_millis(200), || {
            self.process.ensure_running()?;
            Ok(self.remote(&["-t", "1", "-i"])?.contains("Percent Done: 100%"))
        })
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
        .with_context(|| self.remote(&["-l"]).unwrap_or_default())
    }

    /// Whether the whole file has arrived.
    ///
    /// # Errors
    /// The file system's.
    pub fn has(&self, transfer: &Transfer) -> Result<bool> {
        transfer.arrived(&self.downloads)
    }

    /// Bytes that the client says it sent and received of torrents' pieces.
    ///
    /// # Errors
    /// Errors of the control port.
    pub fn reported(&self) -> Result<Reported> {
        let rpc = r#"{"method":"session-stats"}"#;
        let url = format!("http://{CONTROL}/transmission/rpc");
        // The first answer is a 409 with the session id that the second request must carry (rpc-spec 2.3.1).
        let first = output(self.namespace.command("curl").args(["-s", "-i", "-d", rpc, &url]))?;
        let text = String::from_utf8_lossy(&first.stdout).into_owned();
        let id = text.lines().find(|line| line.starts_with("X-Transmission-Session-Id:")).context("a session id")?;
        let second = output(self.namespace.command("curl").args(["-s", "-H", id.trim(), "-d", rpc, &url]))?;
        let answer: serde_json::Value = serde_json::from_slice(&second.stdout).context("Transmission's answer")?;
        let number = |name: &str| answer["arguments"]["current-stats"][name].as_u64().with_context(|| name.to_owned());
        Ok(Reported { received: number("downloadedBytes")?, sent: number("uploadedBytes")? })
    }

    fn remote(&self, arguments: &[&str]) -> Result<String> {
        let output = output(self.namespace.command("transmission-remote").arg(CONTROL).args(arguments))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success() && !text.contains("Error:"),
            "transmission-remote {arguments:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }
}

/// Configuration and state of the client in `namespace`.
fn directory(lab: &Lab, namespace: &Namespace) -> Result<PathBuf> {
    lab.subdirectory(&format!("transmission-{}", namespace.name()))
}
