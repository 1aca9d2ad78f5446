//! BitTorrent clients of Debian: opentracker, Transmission, aria2.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    Lab,
    http::http_get,
    netns::Namespace,
    process::{Process, output, run},
    wait::wait_for,
    web::random,
};

/// Port of the tracker, TCP and UDP.
pub const TRACKER_PORT: u16 = 6969;
/// Transmission's control port on 127.0.0.1; each client has a namespace of its own.
const CONTROL: &str = "127.0.0.1:9091";

/// A file and the torrent that describes it.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Folder that holds the file alone: a seeder's download folder.
    pub seed: PathBuf,
    /// The `.torrent` file.
    pub torrent: PathBuf,
    /// Size of the file in bytes.
    pub bytes: u64,
}

/// Name of the file in every [`Transfer`].
const FILE: &str = "image.iso";

/// Makes a file of random bytes and a torrent whose tracker is `announce` (a URL).
///
/// # Errors
/// `transmission-create`'s.
pub fn make_torrent(lab: &Lab, name: &str, bytes: usize, announce: &str) -> Result<Transfer> {
    let seed = lab.subdirectory(&format!("{name}-seed"))?;
    let file = seed.join(FILE);
    fs::write(&file, random(bytes)?)?;
    let torrent = lab.directory().join(format!("{name}.torrent"));
    run(Command::new("transmission-create").arg("-o").arg(&torrent).args(["-t", announce]).arg(&file))?;
    Ok(Transfer { seed, torrent, bytes: bytes as u64 })
}

impl Transfer {
    /// Info hash in upper-case hexadecimal.
    ///
    /// # Errors
    /// `transmission-show`'s.
    pub fn info_hash(&self) -> Result<String> {
        let shown = output(Command::new("transmission-show").arg(&self.torrent))?;
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        let hash = text.lines().find_map(|line| line.trim().strip_prefix("Hash:")).context("a Hash: line")?;
        Ok(hash.trim().to_ascii_uppercase())
    }

    /// Whether `directory` holds the whole file.
    ///
    /// # Errors
    /// The file system's.
    pub fn arrived(&self, directory: &Path) -> Result<bool> {
        let copy = directory.join(FILE);
        if fs::metadata(&copy).map_or(0, |metadata| metadata.len()) != self.bytes {
            return Ok(false);
        }
        Ok(fs::read(copy)? == fs::read(self.seed.join(FILE))?)
    }
}

/// opentracker on the internet host, HTTP and UDP on port [`TRACKER_PORT`].
#[derive(Debug)]
pub struct Tracker {
    process: Process,
}

impl Tracker {
    /// Starts it for `transfers` alone: Debian's build serves what its whitelist names.
    ///
    /// # Errors
    /// It does not start.
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

    /// What it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// A Transmission daemon.
#[derive(Debug)]
pub struct Transmission<'a> {
    namespace: &'a Namespace,
    process: Process,
    downloads: PathBuf,
}

impl<'a> Transmission<'a> {
    /// Starts one with `options` (transmission-daemon(1)) that keeps files in `downloads`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(lab: &Lab, namespace: &'a Namespace, downloads: &Path, options: &[&str]) -> Result<Self> {
        let directory = lab.subdirectory(&format!("transmission-{}", namespace.name()))?;
        let mut command = namespace.command("transmission-daemon");
        command.args(["-f", "-P", "51413", "-p", "9091", "-a", "127.0.0.1", "--no-auth", "--no-portmap", "-g"]);
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
    /// It does not within `timeout`.
    pub fn wait_complete(&mut self, timeout: Duration) -> Result<()> {
        wait_for("complete torrent", timeout, Duration::from_millis(200), || {
            self.process.ensure_running()?;
            Ok(self.remote(&["-t", "1", "-i"])?.contains("Percent Done: 100%"))
        })
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
    /// Its control port's.
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

/// What a client says it transferred, in bytes of payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported {
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
}

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
    /// It does not start.
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
        command.args(["--bt-enable-lpd=false", "--enable-dht6=false", "--disable-ipv6", "--allow-overwrite"]);
        command.arg(format!("--dht-file-path={}", directory.join("dht").display()));
        command.args(options).arg("-d").arg(downloads).arg(&transfer.torrent);
        let process = Process::spawn("aria2", &directory, &mut command)?;
        Ok(Self { process, downloads: downloads.to_owned() })
    }

    /// Waits until the whole file has arrived.
    ///
    /// # Errors
    /// It does not within `timeout`.
    pub fn wait_complete(&mut self, transfer: &Transfer, timeout: Duration) -> Result<()> {
        wait_for("complete file", timeout, Duration::from_millis(200), || {
            self.process.ensure_running()?;
            transfer.arrived(&self.downloads)
        })
    }
}
