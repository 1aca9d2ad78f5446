//! ncdc: Direct Connect, ADC and NMDC, with and without TLS between peers. It wants a terminal: tmux is one.

use std::{fs, net::IpAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};

use super::super::{
    Lab,
    netns::Namespace,
    process::{Process, output},
    torrent::Transfer,
    wait::wait_for,
};

/// Port for peers, TCP and UDP; each client has a namespace of its own.
const PORT: u16 = 5412;
/// Longest time for what the client does alone.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);

/// An ncdc client.
#[derive(Debug)]
pub struct Ncdc<'a> {
    namespace: &'a Namespace,
    terminal: Process,
    socket: PathBuf,
    downloads: PathBuf,
}

impl<'a> Ncdc<'a> {
    /// Starts one called `nick`, reachable at `address`, with `policy` for TLS between peers (`disabled`, `prefer`),
    /// that shares what is in `shared`.
    ///
    /// # Errors
    /// The client does not start.
    pub fn start(
        lab: &Lab,
        namespace: &'a Namespace,
        nick: &str,
        address: IpAddr,
        policy: &str,
        shared: &std::path::Path,
    ) -> Result<Self> {
        let directory = lab.subdirectory(&format!("ncdc-{}", namespace.name()))?;
        let downloads = directory.join("downloads");
        fs::create_dir_all(&downloads)?;
        let socket = directory.join("tmux");
        let mut command = namespace.command("tmux");
        command.arg("-S").arg(&socket).args(["-f", "/dev/null", "-D"]).env("LC_ALL", "C.UTF-8");
        let terminal = Process::spawn("tmux", &directory, &mut command)?;
        let mut client = Self { namespace, terminal, socket, downloads };
        let state = directory.join("ncdc");
        let session = format!("ncdc -c {}", state.display());
        wait_for("terminal", PATIENCE, PAUSE, || {
            client.terminal.ensure_running()?;
            Ok(client.tmux(&["new-session", "-d", "-x", "200", "-y", "50", &session]).is_ok())
        })?;
        wait_for("ncdc", PATIENCE, PAUSE, || Ok(client.screen()?.contains("Welcome to ncdc")))?;
        client.say(&format!("/set nick {nick}"))?;
        client.say(&format!("/set tls_policy {policy}"))?;
        client.say(&format!("/set active_ip {address}"))?;
        client.say(&format!("/set active_port {PORT}"))?;
        client.say("/set active true")?;
        client.say(&format!("/set download_dir {}", client.downloads.display()))?;
        client.say(&format!("/share shared {}", shared.display()))?;
        wait_for("hashed share", PATIENCE, PAUSE, || {
            Ok(fs::read_to_string(state.join("stderr.log")).is_ok_and(|log| log.contains("Completed hashing")))
        })?;
        Ok(client)
    }

    /// Connects to the hub at `url`.
    ///
    /// # Errors
    /// The client cannot send the command.
    pub fn join(&self, url: &str) -> Result<()> {
        self.say(&format!("/open laboratory {url}"))?;
        self.wait_screen("Connected to")
    }

    /// Searches for `transfer`, and downloads the first result.
    ///
    /// # Errors
    /// Nobody has it, or it does not arrive within `timeout`.
    pub fn download(&mut self, transfer: &Transfer, timeout: Duration) -> Result<()> {
        let word = transfer.file.trim_end_matches(".iso");
        // A search finds nothing until the others have registered at the hub, so it is repeated.
        wait_for("search result", timeout, Duration::from_secs(2), || {
            // Only the hub's tab has a line to type in.
            self.tmux(&["send-keys", "M-2"])?;
            self.say(&format!("/search {word}"))?;
            Ok(wait_for("search result", Duration::from_secs(3), PAUSE, || {
                Ok(self.screen()?.lines().any(|line| line.contains(&transfer.file) && !line.contains("/search")))
            })
            .is_ok())
        })
        .with_context(|| self.screen().unwrap_or_default())?;
        self.tmux(&["send-keys", "d"])?;
        wait_for("complete file", timeout, PAUSE, || {
            self.terminal.ensure_running()?;
            transfer.arrived(&self.downloads)
        })
        .with_context(|| self.screen().unwrap_or_default())
    }

    fn wait_screen(&self, text: &str) -> Result<()> {
        wait_for(text, PATIENCE, PAUSE, || Ok(self.screen()?.contains(text)))
            .with_context(|| self.screen().unwrap_or_default())
    }

    fn say(&self, line: &str) -> Result<()> {
        self.tmux(&["send-keys", "-l", line])?;
        self.tmux(&["send-keys", "Enter"]).map(drop)
    }

    fn screen(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.namespace.command("tmux");
        // -N: a command that is too early must not start a server of its own.
        command.arg("-N").arg("-S").arg(&self.socket).args(arguments);
        // Settings of a terminal that this program may itself run in.
        command.env_remove("TMUX").env("TERM", "xterm").env("LC_ALL", "C.UTF-8");
        let output = output(&mut command)?;
        ensure!(output.status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
